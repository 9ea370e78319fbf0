"""Protocols of tasks: from the texts or images of a request to the network, and from there to the answer."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from salver.features.pipelines.generation import DecoderRun
from salver.features.pipelines.texts import Piece
from salver.words.messages import TensorSpec
from salver.words.tensor import Array


class Scored(NamedTuple):
    """One encoded text and what the network gave for it, without padding.

    Attributes:
        encoding: Encoding of tokenizers: ids, offsets, tokens.
        outputs: Outputs of the network, without the batch axis; those of a token are as many as the tokens.
    """

    encoding: Any
    outputs: tuple[Array, ...]


class Columns(NamedTuple):
    """Texts of one request.

    Attributes:
        texts: Rows of each input, by its name; an optional input may be missing.
        rows: Number of rows.
    """

    texts: Mapping[str, Sequence[str]]
    rows: int


class Task(Protocol):
    """A task of one loaded model; subclasses inherit defaults."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs of the model, each with the rows first."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs of the model, each with the rows first."""
        ...

    @property
    def parameters(self) -> type[msgspec.Struct]:
        """Record of the parameters that a request may have."""
        ...

    @property
    def is_per_token(self) -> bool:
        """Whether the network's outputs have an axis of tokens, which padding makes longer."""
        ...

    def pieces(self, columns: Columns, parameters: Any) -> Sequence[Piece]:
        """Return what the network runs on, the same number for each row.

        Raises:
            InvalidInput: a text or a parameter does not fit.
        """
        ...

    def kept(self, encoding: Any, outputs: tuple[Array, ...], parameters: Any) -> tuple[Array, ...]:
        """Return what the answer needs of a text's outputs, soon after the run; the rest is released.

        Raises:
            InvalidInput: the text has no answer.
        """
        return outputs

    def answer(
        self, columns: Columns, parameters: Any, scored: Sequence[Sequence[Scored]]
    ) -> Mapping[str, Array]:
        """Return the outputs of a request.

        Args:
            scored: For each piece its windows, usually one.

        Raises:
            InvalidInput: the texts have no answer.
        """
        ...


class ImageOutputs(NamedTuple):
    """Outputs of the network for one image.

    Attributes:
        outputs: Outputs of the network by name, without the batch axis.
        height, width: Size of the image as it was sent, upright, in pixels.
    """

    outputs: Mapping[str, Array]
    height: int
    width: int


class ImageTask(Protocol):
    """A task of one loaded model that takes images."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs of the model, each with the rows first."""
        ...

    @property
    def parameters(self) -> type[msgspec.Struct]:
        """Record of the parameters that a request may have."""
        ...

    def answer(self, parameters: Any, seen: Sequence[ImageOutputs]) -> Mapping[str, Array]:
        """Return the outputs of a request, with a row for each of its images."""
        ...


class EncoderDecoder(Protocol):
    """Network that reads a text or a sound and makes a text.

    Attributes:
        inputs: Inputs of the encoder.
        vocabulary: Number of tokens; -1 = unknown.
    """

    inputs: tuple[TensorSpec, ...]
    vocabulary: int

    def encode(self, inputs: Mapping[str, Array]) -> Array:
        """Return the encoder's states ``[rows, places, width]``."""
        ...

    def begin(self, states: Array, mask: Array | None, beams: int) -> DecoderRun:
        """Return a run of the decoder with so many rows for each row of states."""
        ...

    def close(self) -> None:
        """Release the network."""
        ...
