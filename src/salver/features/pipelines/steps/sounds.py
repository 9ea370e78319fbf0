"""Steps on sounds: from files to the numbers that a network takes, and from its letters to texts."""

from pathlib import Path
from typing import ClassVar, Final

import numpy as np

from salver.features.pipelines.ctc import Alphabet, beam_search, read_alphabet, read_tokens
from salver.features.pipelines.directory import inside
from salver.features.pipelines.log_mel import Scaling, log_mel
from salver.features.pipelines.steps.step import OFFSETS, Arrays, Run, Step
from salver.features.pipelines.tasks.scores import object_row
from salver.lazy import lazy_imports
from salver.words.errors import InvalidInput, LoadFailed
from salver.words.tensor import Array

with lazy_imports():
    from salver.backends.installed import is_installed
    from salver.features.pipelines.sounds import load, plain_bytes

#: Longest sound that options allow, in seconds.
MOST_ALLOWED: Final = 36_000
_LEAST: Final = 1e-7
_MOST_RATE: Final = 192_000
_MOST_SIZE: Final = 1 << 16
_MOST_BEAMS: Final = 1000


def unit_variance(samples: Array) -> Array:
    """Return samples with mean 0 and variance 1, as Wav2Vec2's feature extractor gives them.

    >>> unit_variance(np.array([1.0, 3.0], np.float32)).round(3).tolist()
    [-1.0, 1.0]
    """
    scaled: Array = (samples - samples.mean()) / np.sqrt(samples.var() + np.float32(_LEAST))
    return scaled


class Sound(Step, frozen=True):
    """Files of sounds, or their base64, to the samples of one channel, with zeros after the shorter ones.

    ``length`` is the number of samples of each sound without these zeros.

    Attributes:
        rate: Samples a second; files with another rate are resampled.
        seconds: Length of each sound, which is cut or filled up; 0 = that of the longest one of the request.
        normalise: Scale each sound to mean 0 and variance 1, as Wav2Vec2 takes it.
        max_seconds: A longer sound is refused before it is decoded.
    """

    inputs: ClassVar = {"sound": "BYTES[rows]"}
    is_heavy: ClassVar = True

    rate: int = 16_000
    seconds: float = 0.0
    normalise: bool = False
    max_seconds: float = 1800.0

    def described(self, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        extent = str(round(self.seconds * self.rate)) if self.seconds else "samples"
        return {**self.inputs}, {"samples": f"FP32[rows, {extent}]", "length": "INT64[rows]"}

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        if not is_installed("soundfile") or not is_installed("soxr"):
            fix = "Install them with: pip install 'salver[sound]'"
            raise LoadFailed("the step sound needs the packages 'soundfile' and 'soxr'", fix=fix)
        if not 1_000 <= self.rate <= _MOST_RATE:
            raise LoadFailed(f"sound: `rate` must be from 1000 to {_MOST_RATE}")
        if not 0 < self.max_seconds <= MOST_ALLOWED or not 0 <= self.seconds <= MOST_ALLOWED:
            raise LoadFailed(f"sound: `seconds` and `max_seconds` must be from 0 to {MOST_ALLOWED}")
        most = round(self.seconds * self.rate)

        def samples_of(value: bytes | str) -> Array:
            samples = load(plain_bytes(value), self.rate, self.max_seconds)
            if most:
                samples = samples[:most]
            return unit_variance(samples) if self.normalise else samples

        def run(arrays: Arrays) -> Arrays:
            found = [samples_of(value) for value in arrays["sound"].tolist()]
            samples = np.zeros((len(found), most or max(map(len, found), default=0)), np.float32)
            for row, own in enumerate(found):
                samples[row, : len(own)] = own
            return {"samples": samples, "length": np.array([len(own) for own in found], np.int64)}

        return run


class Window(Step, frozen=True):
    """Pieces of equal length of each sound, a list with a row of its own for each piece.

    Attributes:
        size: Samples of a piece.
        hop: Samples from the beginning of one to that of the next; 0 = ``size``.
        partial: Fill up the last piece with zeros; else it is left out.
    """

    inputs: ClassVar = {"samples": "FP32[rows, samples]", "length?": "INT[rows]"}
    is_heavy: ClassVar = True
    quick_bytes: ClassVar = 1 << 16

    size: int = 16_000
    hop: int = 0
    partial: bool = True

    def described(self, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        return {**self.inputs}, {"samples": f"FP32[items, {self.size}]"}

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        size, hop = self.size, self.hop or self.size
        if size < 1 or hop < max(1, size // 64):
            raise LoadFailed("window: `size` must be at least 1, and `hop` at least 1/64 of it")

        def run(arrays: Arrays) -> Arrays:
            samples = arrays["samples"]
            lengths = _lengths("length", arrays, samples)
            pieces: list[Array] = []
            offsets = [0]
            for row, length in enumerate(lengths):
                # A piece that would hold nothing but what the one before it holds is no piece.
                last = length - size + (hop - 1 if self.partial else 0)
                for start in range(0, max(last + 1, int(self.partial and length > 0)), hop):
                    piece = np.zeros(size, np.float32)
                    own = samples[row, start : min(start + size, length)]
                    piece[: len(own)] = own
                    pieces.append(piece)
                offsets.append(len(pieces))
            found = np.stack(pieces) if pieces else np.zeros((0, size), np.float32)
            return {"samples": found, OFFSETS: np.array(offsets, np.int64)}

        return run


class LogMel(Step, frozen=True):
    """Samples to a spectrogram on Slaney's mel scale.

    Attributes:
        rate: Samples a second.
        n_fft: Samples of a frame.
        hop: Samples from one frame to the next.
        bands: Bands of the scale.
        low, high: Lowest and highest frequency in Hz; a ``high`` of 0 is half the rate.
        scaling: ``whisper`` (log10, 8 below the largest at most, scaled, without the last frame), ``ln``,
            ``db`` (at most 80 below the largest) or ``power``.
    """

    inputs: ClassVar = {"samples": "FP32[rows, samples]"}
    is_heavy: ClassVar = True

    rate: int = 16_000
    n_fft: int = 400
    hop: int = 160
    bands: int = 80
    low: float = 0.0
    high: float = 0.0
    scaling: Scaling = "whisper"

    def described(self, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        return {**self.inputs}, {"features": f"FP32[rows, {self.bands}, frames]"}

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        high = self.high or self.rate / 2
        if not 1_000 <= self.rate <= _MOST_RATE or not 0 <= self.low < high <= self.rate / 2:
            raise LoadFailed("log-mel: `low` must be below `high`, and that at most half of `rate`")
        if not 2 <= self.n_fft <= _MOST_SIZE or self.hop < max(1, self.n_fft // 64):
            raise LoadFailed(f"log-mel: `n_fft` must be from 2 to {_MOST_SIZE}, `hop` at least 1/64 of it")
        if not 1 <= self.bands <= self.n_fft // 2:
            raise LoadFailed("log-mel: `bands` must be from 1 to half of `n_fft`")

        def run(arrays: Arrays) -> Arrays:
            samples = arrays["samples"]
            if samples.shape[1] <= self.n_fft // 2:
                raise InvalidInput(
                    f"samples has {samples.shape[1]} samples a row; log-mel takes more than "
                    f"{self.n_fft // 2}",
                    field="samples",
                )
            if not len(samples):
                return {"features": np.zeros((0, self.bands, 0), np.float32)}
            return {"features": np.stack([self._features(row) for row in samples])}

        return run

    def _features(self, row: Array) -> Array:
        return log_mel(row, self.rate, self.n_fft, self.hop, self.bands, self.low, self.high, self.scaling)


class CtcDecode(Step, frozen=True):
    """Scores of letters for each frame of a sound to its text.

    Attributes:
        path: Folder of ``vocab.json`` and the tokenizer's files beside it.
        tokens: The letters in order instead; a space is one of them.
        file: JSON file with a list of them, where they are many.
        blank: Number of the blank among ``tokens`` or those of the file.
        beams: 1 = the best letter of each frame; more = search for the most likely text, of which so many
            beginnings are kept.
    """

    inputs: ClassVar = {"logits": "FLOAT[rows, frames, letters]", "frames?": "INT[rows]"}
    outputs: ClassVar = {"text": "BYTES[rows]"}
    is_heavy: ClassVar = True
    quick_bytes: ClassVar = 1 << 16

    path: str = ""
    tokens: tuple[str, ...] = ()
    file: str = ""
    blank: int = 0
    beams: int = 1

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        alphabet = self._alphabet(folder)
        if not 1 <= self.beams <= _MOST_BEAMS:
            raise LoadFailed(f"ctc-decode: `beams` must be from 1 to {_MOST_BEAMS}")

        def run(arrays: Arrays) -> Arrays:
            logits = arrays["logits"]
            if logits.shape[2] > len(alphabet.letters):
                raise InvalidInput(
                    f"logits has {logits.shape[2]} scores a frame for {len(alphabet.letters)} letters",
                    field="logits",
                )
            lengths = _lengths("frames", arrays, logits)
            texts = [self._text(alphabet, logits[row, :length]) for row, length in enumerate(lengths)]
            return {"text": object_row([text.encode() for text in texts])}

        return run

    def _alphabet(self, folder: Path) -> Alphabet:
        if bool(self.path) + bool(self.tokens) + bool(self.file) != 1:
            raise LoadFailed("ctc-decode: it needs one of `path`, `tokens` and `file`")
        if self.path:
            return read_alphabet(inside(folder, self.path))
        tokens = read_tokens(inside(folder, self.file)) if self.file else self.tokens
        if not 0 <= self.blank < len(tokens):
            raise LoadFailed("ctc-decode: `blank` is the number of one of the letters")
        return Alphabet(tokens, self.blank)

    def _text(self, alphabet: Alphabet, logits: Array) -> str:
        if self.beams == 1:
            return alphabet.text(alphabet.letters_of(logits.argmax(axis=-1)))
        numbers, _ = beam_search(logits.astype(np.float64), alphabet.blank, self.beams)
        letters = np.array([n for number in numbers for n in (number, alphabet.blank)], np.int64)
        return alphabet.text(alphabet.letters_of(letters))


def _lengths(name: str, arrays: Arrays, rows: Array) -> list[int]:
    """Return what is used of each row. Raises InvalidInput if that is more than there is."""
    given = arrays.get(name)
    if given is None:
        return [rows.shape[1]] * len(rows)
    if given.size and not 0 <= given.min() <= given.max() <= rows.shape[1]:
        raise InvalidInput(f"{name} must be from 0 to {rows.shape[1]}", field=name)
    lengths: list[int] = given.tolist()
    return lengths
