"""Speech recognition by Whisper: windows of a sound to spectrograms, to tokens, to a text with times.

A window of each sound of a run is heard together with those of others that have the same settings. A sound
longer than a window is heard from one window to the next, each beginning where the last whole part ended.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final, NamedTuple

import msgspec
import numpy as np

from salver.features.pipelines.generation import generate
from salver.features.pipelines.generation_files import (
    GenerationConfig,
    bounded,
    length_of,
    merged,
    settings_of,
)
from salver.features.pipelines.parameters import SpeechParameters
from salver.features.pipelines.ports import EncoderDecoder
from salver.features.pipelines.sound_model import Hearing, Recogniser
from salver.features.pipelines.texts import TextEncoder
from salver.features.pipelines.token_rules import GenerationSettings, TimestampRule
from salver.features.pipelines.whisper import LANGUAGES, STRIDE, Prompter, advanced, features, parts, shown
from salver.words.errors import InvalidInput, LoadFailed
from salver.words.tensor import Array

FEATURES: Final = "input_features"
_NO_TIMES: Final = "<|notimestamps|>"
_BEFORE: Final = "<|startofprev|>"
_BEAMS: Final = 5  # as transformers' pipeline and OpenAI's own program have it
_MOST_ROWS: Final = 40  # windows times beams of a run
_ENGLISH_ONLY: Final = (
    51_864  # tokens of the networks for English alone, the largest of which have no languages
)


class Spectrum(NamedTuple):
    """Window of a sound; ``places`` are those of the encoder."""

    rate: int
    n_fft: int
    hop: int
    bands: int
    seconds: int
    places: int

    @property
    def frames(self) -> int:
        """Frames of a window."""
        return self.places * STRIDE

    @property
    def samples(self) -> int:
        """Samples of a window."""
        return self.seconds * self.rate

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether an encoder takes the windows."""
        if min(self.rate, self.n_fft, self.hop, self.bands, self.seconds, self.places) < 1:
            return False
        sizes = (self.bands, self.frames)
        return (
            len(shape) == 3
            and all(a in (-1, b) for a, b in zip(shape[1:], sizes, strict=True))
            and self.samples // self.hop == self.frames
        )


class _Listening:
    """A sound on its way through the windows."""

    __slots__ = ("frames", "has_times", "heard", "language", "seek", "spectrogram", "tokens")

    def __init__(self, heard: Hearing, spectrogram: Array, *, has_times: bool) -> None:
        self.heard = heard
        self.spectrogram = spectrogram
        self.frames = spectrogram.shape[1]
        self.seek = 0
        self.language: int | None = None
        self.tokens: list[int] = []
        self.has_times = has_times

    def window(self, frames: int) -> Array:
        part = self.spectrogram[:, self.seek : self.seek + frames]
        if part.shape[1] == frames:
            return part
        return np.pad(part, ((0, 0), (0, frames - part.shape[1])))


class WhisperRecogniser(Recogniser):
    """Encoder, decoder and tokenizer of a directory.

    Args:
        vocabulary: Number of tokens.
        most_tokens: Most tokens of a window's text, with the prompt.
    """

    def __init__(
        self,
        network: EncoderDecoder,
        encoder: TextEncoder,
        spectrum: Spectrum,
        config: GenerationConfig,
        vocabulary: int,
        most_tokens: int,
    ) -> None:
        self.rate = spectrum.rate
        self._network = network
        self._encoder = encoder
        self._spectrum = spectrum
        self._config = config
        self._vocabulary = vocabulary
        self._most_tokens = most_tokens
        self._special = encoder.special
        never = config.no_timestamps_token_id
        if never is None:
            never = encoder.id_of(_NO_TIMES)
        if never < 0:
            raise LoadFailed(f"tokenizer.json has no {_NO_TIMES}", fix="Export the directory again.")
        if not 0 < never + 1 < vocabulary or not config.eos_token_id:
            raise LoadFailed("the network has no tokens for times, or none that ends a text")
        self._begin = never + 1
        languages, tasks = config.lang_to_id or {}, config.task_to_id or {}
        is_multilingual = config.is_multilingual
        if is_multilingual is None:
            is_multilingual = vocabulary > _ENGLISH_ONLY
        if is_multilingual and not languages:  # an export made anew from config.json has lost them
            languages, tasks = self._known(LANGUAGES.values()), self._known(("transcribe", "translate"))
            tasks = {token.strip("<|>"): number for token, number in tasks.items()}
        if not is_multilingual:
            languages, tasks = {}, {}
        self._prompter = Prompter(config, languages, tasks, never)
        self._settings(SpeechParameters(), next(iter(languages.values()), None), has_times=True)

    def check(self, parameters: SpeechParameters) -> None:
        """See :class:`~salver.features.pipelines.sound_model.Recogniser`."""
        if isinstance(parameters.return_timestamps, str):
            raise InvalidInput(
                "parameters.return_timestamps: this network gives times of parts, not of letters or words",
                field="parameters.return_timestamps",
                fix='Send "return_timestamps": true.',
            )
        heard = next(iter(self._prompter.languages.values()), None)
        self._settings(parameters, heard, has_times=True)

    def hear(self, sounds: Sequence[Hearing]) -> None:
        """See :class:`~salver.features.pipelines.sound_model.Recogniser`."""
        active = [self._listening(heard) for heard in sounds]
        while active:
            beams = [each.heard.parameters.num_beams or self._config.num_beams or _BEAMS for each in active]
            most = max(1, _MOST_ROWS // max(beams))
            for start in range(0, len(active), most):
                self._hear_windows(active[start : start + most])
            active = [each for each in active if each.heard.answer is None and each.seek < each.frames]

    def close(self) -> None:
        """See :class:`~salver.features.pipelines.sound_model.Recogniser`."""
        self._network.close()

    def _listening(self, heard: Hearing) -> _Listening:
        spectrum = self._spectrum
        spectrogram = features(
            heard.samples, spectrum.rate, spectrum.n_fft, spectrum.hop, spectrum.bands, spectrum.samples
        )
        # Without times, nothing would tell where the next window begins.
        has_times = self._shows_times(heard.parameters) or spectrogram.shape[1] > spectrum.frames
        return _Listening(heard, spectrogram, has_times=has_times)

    def _shows_times(self, parameters: SpeechParameters) -> bool:
        return bool(parameters.return_timestamps or self._config.return_timestamps)

    def _hear_windows(self, group: Sequence[_Listening]) -> None:
        frames = self._spectrum.frames
        states = self._network.encode({FEATURES: np.stack([each.window(frames) for each in group])})
        self._find_languages(group, states)
        alike: defaultdict[GenerationSettings, list[int]] = defaultdict(list)
        for index, each in enumerate(group):
            settings = self._settings(each.heard.parameters, each.language, has_times=each.has_times)
            alike[settings].append(index)
        for settings, indices in alike.items():
            run = self._network.begin(states[indices], None, settings.num_beams)
            members = [group[index] for index in indices]
            texts = generate(run, len(members), settings, lambda row, m=members: m[row].heard.is_gone())  # type: ignore[misc]
            for each, text in zip(members, texts, strict=True):
                self._go_on(each, text, settings.ends)

    def _go_on(self, listening: _Listening, text: list[int] | None, ends: Sequence[int]) -> None:
        if text is None:
            listening.seek = listening.frames  # nobody waits
            return
        if text and text[-1] in ends:
            text = text[:-1]
        left = min(self._spectrum.frames, listening.frames - listening.seek)
        kept, step = advanced(text, self._begin, left)
        listening.tokens += kept
        listening.seek += step
        if listening.seek >= listening.frames:
            spectrum = self._spectrum
            decode = partial(self._encoder.decode, skips_special=False)
            precision = spectrum.seconds / spectrum.places
            found = parts(listening.tokens, self._begin, self._special, decode, spectrum.places, precision)
            listening.heard.answer = shown(found, has_times=self._shows_times(listening.heard.parameters))

    def _find_languages(self, group: Sequence[_Listening], states: Array) -> None:
        """Ask the network for the language of sounds that begin, where nobody says it."""
        asking = [
            index
            for index, each in enumerate(group)
            if not each.seek
            and self._prompter.needs_language(each.heard.parameters.language, each.heard.parameters.task)
        ]
        if not asking:
            return
        start = np.full((len(asking), 1), self._config.start, np.int64)
        scores = self._network.begin(states[asking], None, 1).step(start)
        tokens = np.array(list(self._prompter.languages.values()))
        for index, best in zip(asking, scores[:, tokens].argmax(axis=-1), strict=True):
            group[index].language = int(tokens[best])

    def _settings(
        self, parameters: SpeechParameters, heard: int | None, *, has_times: bool
    ) -> GenerationSettings:
        """Return how texts are made. Raises InvalidInput."""
        config = merged(self._config, parameters)
        needs = self._prompter.needs_language(parameters.language, parameters.task)
        prompt = self._prompter.prompt(
            parameters.language, parameters.task, heard if needs else None, has_times=has_times
        )
        length = length_of(config, len(prompt))
        if config.max_new_tokens is not None:
            bounded(length, self._most_tokens, "parameters.max_new_tokens")
        elif length == config.max_length:  # which Whisper's own generate() counts from the prompt
            length += len(prompt)
        before = self._said_before(parameters.prompt or "")
        prompt = (*before, *prompt)
        length = min(length + len(before), self._most_tokens)
        settings = settings_of(config, prompt, length, self._vocabulary, beams=_BEAMS)
        if not has_times:
            return settings
        rule = TimestampRule(
            self._begin, self._begin - 1, settings.ends[0], self._config.max_initial_timestamp_index
        )
        return msgspec.structs.replace(settings, timestamps=rule)

    def _said_before(self, text: str) -> tuple[int, ...]:
        """Return the tokens of what was said before; of a long text, the last. Raises InvalidInput."""
        if not text.strip():
            return ()
        start = self._encoder.id_of(_BEFORE)
        ids = self._encoder.plain_ids(f" {text.strip()}")
        wrong = f"the tokenizer has no {_BEFORE}" if start < 0 else ""
        if max(ids, default=0) >= min(self._special, default=self._begin):  # texts come before them
            wrong = "it has special tokens"
        if wrong:
            raise InvalidInput(f"parameters.prompt: {wrong}", field="parameters.prompt", fix="Leave it out.")
        return (start, *ids[-(self._most_tokens // 2 - 1) :])

    def _known(self, names: Iterable[str]) -> dict[str, int]:
        tokens = (f"<|{name}|>" for name in names)
        return {token: number for token in tokens if (number := self._encoder.id_of(token)) >= 0}
