"""Speech recognition by networks with connectionist temporal classification, such as Wav2Vec2's."""

from collections import defaultdict
from collections.abc import Sequence
from math import prod
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from salver.backends.protocol import RunnableModel
from salver.features.pipelines.ctc import Alphabet, Letter, words
from salver.features.pipelines.parameters import GenerationParameters, SpeechParameters
from salver.features.pipelines.sound_model import Hearing, Recogniser
from salver.features.pipelines.steps.sounds import unit_variance
from salver.words.errors import InvalidInput, ModelFailed, SalverError
from salver.words.tensor import Array

VALUES: Final = "input_values"
MASK: Final = "attention_mask"
_MOST_SAMPLES: Final = 4 << 20  # of a run
_PARTS: Final = 6  # of a piece; the outer ones on each side are heard twice


class CtcSettings(msgspec.Struct, frozen=True):
    """Settings of a network, by the files of its directory.

    Attributes:
        kernels, strides: Of its convolutions.
        is_scaled: Sounds have mean 0 and variance 1.
    """

    rate: int
    kernels: tuple[int, ...]
    strides: tuple[int, ...]
    is_scaled: bool = True

    @property
    def step(self) -> int:
        """Samples from one frame to the next."""
        return prod(self.strides)

    def frames(self, samples: int) -> int:
        """Return the frames of so many samples.

        >>> CtcSettings(16_000, (10, 3), (5, 2)).frames(16_000)
        1599
        """
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            samples = max(0, (samples - kernel) // stride + 1)
        return samples


class _Piece(NamedTuple):
    """Piece of a sound; ``left`` and ``right`` are samples that its neighbours hear as well."""

    sound: int
    samples: Array
    left: int
    right: int


class CtcRecogniser(Recogniser):
    """Network whose outputs are scores of letters for each frame."""

    def __init__(self, network: RunnableModel, alphabet: Alphabet, settings: CtcSettings) -> None:
        self.rate = settings.rate
        self._network = network
        self._alphabet = alphabet
        self._settings = settings
        self._specs = {spec.name: spec for spec in network.signature.inputs}
        self._output = network.signature.outputs[0].name

    def check(self, parameters: SpeechParameters) -> None:
        """See :class:`~salver.features.pipelines.sound_model.Recogniser`."""
        if parameters.return_timestamps is True:
            raise InvalidInput(
                "parameters.return_timestamps: this network gives times of letters and words",
                field="parameters.return_timestamps",
                fix='Send "char" or "word".',
            )
        others = (*GenerationParameters.__struct_fields__, "language", "task", "prompt")
        for field in msgspec.structs.fields(SpeechParameters):
            if field.name in others and getattr(parameters, field.name) != field.default:
                name = f"parameters.{field.name}"
                raise InvalidInput(f"{name} is for networks that make texts token by token", field=name)

    def hear(self, sounds: Sequence[Hearing]) -> None:
        """See :class:`~salver.features.pipelines.sound_model.Recogniser`."""
        pieces: list[_Piece] = []
        for index, heard in enumerate(sounds):
            try:
                pieces += self._pieces(index, heard)
            except SalverError as error:
                heard.answer = error
        best: defaultdict[int, list[Array]] = defaultdict(list)
        for group in self._groups(pieces):
            alive = [piece for piece in group if not sounds[piece.sound].is_gone()]
            for piece, found in zip(alive, self._best(alive), strict=True):
                best[piece.sound].append(found)
        wanted = [0] * len(sounds)
        for piece in pieces:
            wanted[piece.sound] += 1
        for index, heard in enumerate(sounds):
            if heard.answer is None and len(best[index]) == wanted[index]:
                heard.answer = self._shown(np.concatenate(best[index]), heard.parameters)

    def close(self) -> None:
        """See :class:`~salver.features.pipelines.sound_model.Recogniser`."""
        self._network.close()

    def _pieces(self, index: int, heard: Hearing) -> list[_Piece]:
        samples, parameters = heard.samples, heard.parameters
        if not parameters.chunk_length_s:
            return [_Piece(index, self._fit(samples), 0, 0)]
        size, left, right = self._cut(parameters)
        pieces = []
        for start in range(0, len(samples), size - left - right):
            own = samples[start : start + size]
            is_last = start + size >= len(samples)
            before = left if start else 0
            if len(own) > before and (not start or self._settings.frames(len(own))):
                pieces.append(_Piece(index, self._fit(own), before, 0 if is_last else right))
            if is_last:
                break
        return pieces

    def _cut(self, parameters: SpeechParameters) -> tuple[int, int, int]:
        """Return the samples of a piece, and how many its neighbours on both sides hear as well."""
        seconds, stride = parameters.chunk_length_s or 0.0, parameters.stride_length_s
        if stride is None:
            stride = seconds / _PARTS
        sides = stride if isinstance(stride, tuple) else (stride, stride)
        step = self._settings.step
        size, left, right = (round(each * self.rate / step) * step for each in (seconds, *sides))
        if not 0 < left + right + step <= size or min(left, right) < 0 or not self._settings.frames(size):
            raise InvalidInput(
                f"parameters.chunk_length_s: pieces of {seconds:g} s are too short",
                field="parameters.chunk_length_s",
                fix="Make them longer than stride_length_s on both sides together.",
            )
        return size, left, right

    def _fit(self, samples: Array) -> Array:
        """Return samples as the network takes them."""
        if not self._settings.frames(len(samples)):
            raise InvalidInput(
                f"inputs has a sound of {len(samples)} samples at {self.rate} a second, which is too short "
                "for the network",
                field="inputs",
                fix="Send a longer sound.",
            )
        return unit_variance(samples) if self._settings.is_scaled else samples

    def _groups(self, pieces: Sequence[_Piece]) -> list[list[_Piece]]:
        """Return pieces of equal length together, since padding would change what networks hear."""
        groups: list[list[_Piece]] = []
        for piece in pieces:
            same = groups[-1] if groups and len(groups[-1][0].samples) == len(piece.samples) else None
            if same is not None and (len(same) + 1) * len(piece.samples) <= _MOST_SAMPLES:
                same.append(piece)
            else:
                groups.append([piece])
        return groups

    def _best(self, pieces: Sequence[_Piece]) -> list[Array]:
        """Return the best letter of each frame that is a piece's own."""
        if not pieces:
            return []
        spec = self._specs[VALUES]
        inputs = {VALUES: np.stack([piece.samples for piece in pieces]).astype(spec.datatype.dtype)}
        if MASK in self._specs:
            inputs[MASK] = np.ones(inputs[VALUES].shape, self._specs[MASK].datatype.dtype)
        logits = self._network.run(inputs)[self._output]
        if logits.ndim != 3 or logits.shape[2] > len(self._alphabet.letters):
            raise ModelFailed("the network's logits do not have a score for each letter of vocab.json")
        best = logits.argmax(axis=-1)
        return [self._own(found, piece) for found, piece in zip(best, pieces, strict=True)]

    def _own(self, best: Array, piece: _Piece) -> Array:
        size = len(piece.samples)
        frames = round(size / self._settings.step)
        if not piece.left and not piece.right:
            return best
        left = round(piece.left / size * frames)
        right = round(piece.right / size * frames)
        return best[left : frames - right]

    def _shown(self, best: Array, parameters: SpeechParameters) -> dict[str, Any]:
        letters = self._alphabet.letters_of(best)
        answer: dict[str, Any] = {"text": self._alphabet.text(letters)}
        if parameters.return_timestamps:
            found = letters if parameters.return_timestamps == "char" else words(letters)
            answer["chunks"] = [self._timed(each) for each in found]
        return answer

    def _timed(self, letter: Letter) -> dict[str, Any]:
        step = self._settings.step
        times = [letter.start * step / self.rate, letter.end * step / self.rate]
        return {"text": letter.text, "timestamp": times}
