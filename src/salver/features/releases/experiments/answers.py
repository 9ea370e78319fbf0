"""Comparable form of an answer, whether it arrived whole, in pieces or from a handler.

Pieces are concatenated within a memory limit; JSON written by a handler becomes numbers and text. Pure.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import numpy as np

from salver.words.handlers import BODY
from salver.words.messages import InferResponse
from salver.words.tensor import DataType, Tensor, as_bytes, size_of

#: Maximum bytes kept of one answer, and the overhead counted per piece.
MOST_BYTES: Final = 4 << 20
_PIECE_BYTES: Final = 1024
#: Maximum bytes of a body parsed as JSON, because parsing delays other requests.
_MOST_JSON: Final = 1 << 17


class AnswerPieces:
    """Pieces of one answer, up to a limit.

    Attributes:
        kept: None = the limit was exceeded and all were dropped.
    """

    __slots__ = ("_bytes", "kept")

    def __init__(self) -> None:
        self.kept: list[InferResponse] | None = []
        self._bytes = 0

    def add(self, piece: InferResponse) -> None:
        """Add a piece."""
        if self.kept is not None:
            self._bytes += size_of(piece.outputs) + _PIECE_BYTES
            self.kept.append(piece)
            if self._bytes > MOST_BYTES:
                self.kept = None


def strung(pieces: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """Return the outputs of an answer, one per name: texts are concatenated, rows of others appended.

    >>> from salver.words.tensor import tensor
    >>> strung([tensor("t", [b"he"]), tensor("t", [b"llo"])])[0].array.tolist()
    [b'hello']
    """
    parts: dict[str, list[Tensor]] = {}
    for tensor in pieces:
        parts.setdefault(tensor.name, []).append(tensor)
    return tuple(same[0] if len(same) == 1 else _strung(name, same) for name, same in parts.items())


def _strung(name: str, tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate rows if the shapes match, else all elements in one row."""
    datatype, shape = tensors[0].datatype, tensors[0].shape
    if any(tensor.datatype is not datatype for tensor in tensors):
        texts = [tensor.array.tobytes() for tensor in tensors]  # the model changes the type between pieces
        return Tensor(name, DataType.BYTES, as_bytes([b"".join(texts)]))
    arrays = [tensor.array for tensor in tensors]
    if datatype is DataType.BYTES:
        if all(tensor.shape == shape for tensor in tensors):
            columns = zip(*(array.ravel().tolist() for array in arrays), strict=True)
            return Tensor(name, datatype, as_bytes([b"".join(column) for column in columns]).reshape(shape))
    elif shape and all(tensor.shape[1:] == shape[1:] and tensor.shape for tensor in tensors):
        return Tensor(name, datatype, np.concatenate(arrays))
    return Tensor(name, datatype, np.concatenate([array.ravel() for array in arrays]))


def read(outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the content of a handler's bodies: numbers in JSON as ``body.numbers``, the rest as text.

    >>> body = Tensor(BODY, DataType.UINT8, np.frombuffer(b'{"p": [0.5, 2], "of": "cat"}', np.uint8))
    >>> [(tensor.name, tensor.array.tolist()) for tensor in read([body])]
    [('body', [b'{"of":"cat","p":[0,0]}']), ('body.numbers', [0.5, 2.0])]
    """
    found: list[Tensor] = []
    for tensor in outputs:
        if tensor.name != BODY or tensor.datatype is not DataType.UINT8:
            found.append(tensor)
            continue
        text = tensor.array.tobytes()
        numbers: list[float] = []
        if len(text) <= _MOST_JSON:
            try:
                text = msgspec.json.encode(_without(msgspec.json.decode(text), numbers))
            except (msgspec.MsgspecError, UnicodeDecodeError, OverflowError, RecursionError):
                numbers = []
        found.append(Tensor(BODY, DataType.BYTES, as_bytes([text])))
        if numbers:
            found.append(Tensor(f"{BODY}.numbers", DataType.FP64, np.array(numbers, np.float64)))
    return tuple(found)


def _without(value: object, numbers: list[float]) -> object:
    """Return a JSON value with its numbers replaced by zeros; collect the numbers in order."""
    match value:
        case bool() | None | str():
            return value
        case int() | float():
            numbers.append(float(value))
            return 0
        case list():
            return [_without(each, numbers) for each in value]
        case dict():
            return {key: _without(each, numbers) for key, each in sorted(value.items())}
    return value
