"""Serialisation of cached answers.

Pure. A msgpack head with names, datatypes and shapes, then each tensor in wire format, aligned to 16 bytes,
so that a restored answer is a view of the bytes.
"""

import functools
import math
import struct

import msgspec
import numpy as np

from salver.encoding.raw import SWAP, from_raw, to_raw
from salver.words.errors import InvalidInput
from salver.words.messages import InferResponse, Parameter
from salver.words.tensor import DATATYPES, DataType, Tensor

_ALIGNMENT = 16
_LENGTH = struct.Struct("<I")
_Fact = tuple[str, str, tuple[int, ...], int]
#: Parameters; then name, datatype, shape and size of each output.
_Head = tuple[dict[str, Parameter], tuple[_Fact, ...]]
_HEAD = msgspec.msgpack.Decoder(_Head)
#: Name, datatype, shape, offset from the first output, and size; -1 - size = it is checked and converted.
_Place = tuple[str, DataType, tuple[int, ...], int, int]
_SMALL = 2048  # bytes of answers whose unpacked form is kept
_SHORT = 512  # bytes of heads whose decoded form is kept


def size_of(response: InferResponse) -> int:
    """Return the minimum packed size; for BYTES only the elements' pointers are counted."""
    return sum(tensor.array.nbytes for tensor in response.outputs)


def pack(response: InferResponse) -> bytes:
    """Pack outputs and parameters, without id and timing."""
    raws = [to_raw(tensor) for tensor in response.outputs]
    facts = [
        (tensor.name, tensor.datatype.name, tensor.array.shape, len(raw))
        for tensor, raw in zip(response.outputs, raws, strict=True)
    ]
    head = msgspec.msgpack.encode((dict(response.parameters), facts))
    parts: list[bytes | memoryview] = [_LENGTH.pack(len(head)), head]
    at = _LENGTH.size + len(head)
    for raw in raws:
        padding = -at % _ALIGNMENT
        parts += (bytes(padding), raw)
        at += padding + len(raw)
    return b"".join(parts)


def unpack(packed: bytes) -> tuple[tuple[Tensor, ...], dict[str, Parameter]] | None:
    """Unpack outputs (read-only arrays) and parameters; return None for other data."""
    if len(packed) > _SMALL:
        return _unpacked(packed)
    found = _unpacked_small(packed)
    if found is None:
        return None
    outputs, parameters = found
    return outputs, dict(parameters) if parameters else {}


def _unpacked(packed: bytes) -> tuple[tuple[Tensor, ...], dict[str, Parameter]] | None:
    try:
        (length,) = _LENGTH.unpack_from(packed)
        end = _LENGTH.size + length
        read = _read_short if length <= _SHORT else _read
        parameters, plan = read(packed[_LENGTH.size : end])
        outputs = []
        for name, datatype, shape, offset, size in plan:
            at = end + -end % _ALIGNMENT + offset
            if size >= 0:
                array = np.ndarray(shape, datatype.dtype, packed, at)
            else:
                raw = memoryview(packed)[at : at - size - 1]
                array = from_raw(raw, datatype, shape, math.prod(shape), name)
            outputs.append(Tensor(name, datatype, array))
    except (struct.error, msgspec.DecodeError, KeyError, TypeError, ValueError, InvalidInput):
        return None
    return tuple(outputs), parameters


#: What is asked for most often is unpacked already: a dict finds bytes whose hash is known in a tenth of the
#: time.
_unpacked_small = functools.lru_cache(1024)(_unpacked)


def _read(head: bytes) -> tuple[dict[str, Parameter], tuple[_Place, ...]]:
    """Return parameters, and where each output lies.

    Raises:
        ValueError: an output has another size than its shape and datatype ask for.
    """
    parameters, facts = _HEAD.decode(head)
    plan, at = [], 0
    for name, kind, shape, size in facts:
        datatype = DATATYPES[kind]
        at += -at % _ALIGNMENT
        is_view = datatype not in (DataType.BYTES, DataType.BOOL) and not SWAP
        if is_view and (size != math.prod(shape) * datatype.itemsize or min(shape, default=0) < 0):
            raise ValueError(f"{name} has another size")
        plan.append((name, datatype, shape, at, size if is_view else -size - 1))
        at += size
    return parameters, tuple(plan)


#: Answers of one model mostly have the same head.
_read_short = functools.lru_cache(256)(_read)
