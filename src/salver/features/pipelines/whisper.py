"""Prompts, languages, tokens for times, and windows over long sounds, as Whisper has them.

Pure.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from salver.features.pipelines.generation_files import GenerationConfig
from salver.features.pipelines.log_mel import log_mel
from salver.words.errors import InvalidInput
from salver.words.tensor import Array

#: Frames of a spectrogram for each place of the encoder.
STRIDE: Final = 2
_TASKS: Final = ("transcribe", "translate")
_NAMES: Final = """
en english, zh chinese, de german, es spanish, ru russian, ko korean, fr french, ja japanese, pt
portuguese, tr turkish, pl polish, ca catalan, nl dutch, ar arabic, sv swedish, it italian, id
indonesian, hi hindi, fi finnish, vi vietnamese, he hebrew, uk ukrainian, el greek, ms malay, cs czech,
ro romanian, da danish, hu hungarian, ta tamil, no norwegian, th thai, ur urdu, hr croatian, bg
bulgarian, lt lithuanian, la latin, mi maori, ml malayalam, cy welsh, sk slovak, te telugu, fa persian,
lv latvian, bn bengali, sr serbian, az azerbaijani, sl slovenian, kn kannada, et estonian, mk
macedonian, br breton, eu basque, is icelandic, hy armenian, ne nepali, mn mongolian, bs bosnian, kk
kazakh, sq albanian, sw swahili, gl galician, mr marathi, pa punjabi, si sinhala, km khmer, sn shona, yo
yoruba, so somali, af afrikaans, oc occitan, ka georgian, be belarusian, tg tajik, sd sindhi, gu
gujarati, am amharic, yi yiddish, lo lao, uz uzbek, fo faroese, ht haitian creole, ps pashto, tk
turkmen, nn nynorsk, mt maltese, sa sanskrit, lb luxembourgish, my myanmar, bo tibetan, tl tagalog, mg
malagasy, as assamese, tt tatar, haw hawaiian, ln lingala, ha hausa, ba bashkir, jw javanese, su
sundanese, yue cantonese
"""
#: Codes of languages by their English names.
LANGUAGES: Final = {
    name: code for code, _, name in (pair.strip().partition(" ") for pair in _NAMES.split(","))
}


def features(samples: Array, rate: int, n_fft: int, hop: int, bands: int, size: int) -> Array:
    """Return the spectrogram of a sound, filled up with silence to so many samples.

    >>> features(np.zeros(100, np.float32), 16_000, 400, 160, 80, 16_000).shape
    (80, 100)
    """
    heard = len(samples) + n_fft + hop  # frames beyond hear only silence
    padded = np.zeros(max(len(samples), min(size, heard)), np.float32)
    padded[: len(samples)] = samples
    frames = max(size, len(samples)) // hop
    own = log_mel(padded, rate, n_fft, hop, bands)
    if own.shape[1] >= frames:
        return own
    whole = np.empty((bands, frames), np.float32)
    whole[:, : own.shape[1]] = own
    # The last frame of the padded sound hears no sample.
    whole[:, own.shape[1] :] = own[:, -1:]
    return whole


class Prompter(NamedTuple):
    """Prompts of a directory."""

    config: GenerationConfig
    languages: dict[str, int]
    tasks: dict[str, int]
    no_times: int | None

    def language(self, wished: str) -> int:
        """Return the token of a language, given by its code, its English name or its token.

        Raises:
            InvalidInput: the network does not know it.
        """
        lower = wished.lower()
        code = LANGUAGES.get(lower, lower)
        for name in (lower, f"<|{code}|>"):
            if name in self.languages:
                return self.languages[name]
        known = (
            ", ".join(sorted(token.strip("<|>") for token in self.languages)) or "none, it is English only"
        )
        raise InvalidInput(
            f"parameters.language {wished[:40]!r} is unknown to this network",
            field="parameters.language",
            fix=f"It knows: {known}.",
        )

    def needs_language(self, language: str | None, task: str | None) -> bool:
        """Return whether the language has to be heard from the sound."""
        if not self.languages or (language or self.config.language):
            return False
        forced = self.config.forced_decoder_ids if not (task or self.config.task) else None
        return not forced or forced[0][1] is None

    def prompt(
        self, language: str | None, task: str | None, heard: int | None, *, has_times: bool
    ) -> tuple[int, ...]:
        """Return the tokens that a text begins with.

        Args:
            heard: Token of the language that was heard, if it was needed.
        """
        tokens = [self.config.start]
        language, task = language or self.config.language, task or self.config.task
        forced = self.config.forced_decoder_ids
        if task is None and language is None and forced and forced[0][0] == 1:
            tokens += [token for _, token in forced if token is not None]
        if (language or heard is not None) and not self.languages:
            self.language(language or "")
        spoken = self.language(language) if language else heard
        if spoken is not None:
            if len(tokens) > 1 and tokens[1] in self.languages.values():
                del tokens[1]
            tokens.insert(1, spoken)
        if task is not None or language is not None:
            self._put_task(tokens, task or "transcribe", is_asked=task is not None)
        if has_times:
            tokens = [token for token in tokens if token != self.no_times]
        elif self.no_times is not None and tokens[-1] != self.no_times:
            tokens.append(self.no_times)
        return tuple(tokens)

    def _put_task(self, tokens: list[int], task: str, *, is_asked: bool) -> None:
        if is_asked and (task not in _TASKS or task not in self.tasks):
            raise InvalidInput(
                f"parameters.task {task[:40]!r} is unknown to this network",
                field="parameters.task",
                fix=f"It knows: {', '.join(self.tasks) or 'none, it is English only'}.",
            )
        if task in self.tasks:
            tokens[:] = [token for token in tokens if token not in self.tasks.values()]
            tokens.append(self.tasks[task])


def advanced(tokens: Sequence[int], begin: int, frames: int) -> tuple[list[int], int]:
    """Return what is kept of the text of a window, and the frames to go on.

    A window goes on where the last whole part ended, as the next one may be cut off.

    Args:
        begin: First token for a time.
        frames: Frames of the window.

    >>> advanced([100, 7, 105, 105, 8], 100, 3000), advanced([100, 7, 105], 100, 3000)
    (([100, 7, 105, 105], 10), ([100, 7, 105], 3000))
    """
    are_times = [token >= begin for token in tokens]
    pairs = [i + 1 for i in range(len(tokens) - 1) if are_times[i] and are_times[i + 1]]
    if not pairs or are_times[-2:] == [False, True]:
        return list(tokens), frames
    end = pairs[-1] + 1
    step = (tokens[end - 2] - begin) * STRIDE
    return list(tokens[:end]), step if 0 < step <= frames else frames


class Part(NamedTuple):
    """Part of a text with its times in seconds; None = unknown."""

    text: str
    begin: float | None
    end: float | None


def parts(
    tokens: Sequence[int],
    begin: int,
    special: Collection[int],
    decode: Callable[[Sequence[int]], str],
    places: int,
    precision: float,
) -> list[Part]:
    """Return the parts of a text, which the tokens for times separate, as transformers finds them.

    Args:
        begin: First token for a time.
        special: Tokens that are no text.
        places: Places of the encoder, that is, of a window.
        precision: Seconds of a place.
    """
    found: list[Part] = []
    own: list[int] = []
    first: float | None = None
    latest = before = passed = 0.0
    for i, token in enumerate(tokens):
        if token in special:
            continue
        if token < begin:
            own.append(token)
            continue
        time = (token - begin) * precision
        if time < latest:  # of the next window
            if i >= 2 and not (tokens[i - 1] >= begin and tokens[i - 2] >= begin):
                passed += precision * places
            else:
                latest = before
                passed += before
        before, latest = latest, time
        seconds = round(time + passed, 2)
        if first is None:
            first = seconds
        elif seconds != first:
            found.append(Part(decode(own), first, seconds))
            own, first = [], None
    if own:
        found.append(Part(decode(own), first, None))
    return found


def shown(found: Sequence[Part], *, has_times: bool) -> dict[str, Any]:
    """Return the answer."""
    answer: dict[str, Any] = {"text": "".join(part.text for part in found)}
    if has_times:
        answer["chunks"] = [{"timestamp": [part.begin, part.end], "text": part.text} for part in found]
    return answer
