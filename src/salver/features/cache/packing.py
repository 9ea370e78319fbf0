"""Serialisation of cached answers.

Pure. A msgpack head with names, datatypes and shapes, then each tensor in wire format, aligned to 16 bytes,
so that a restored answer is a view of the bytes.
"""

import math
import struct

import msgspec

from salver.encoding.raw import from_raw, to_raw
from salver.words.errors import InvalidInput
from salver.words.messages import InferResponse, Parameter
from salver.words.tensor import DATATYPES, Tensor

_ALIGNMENT = 16
_LENGTH = struct.Struct("<I")
_Fact = tuple[str, str, tuple[int, ...], int]
#: Parameters; then name, datatype, shape and size of each output.
_Head = tuple[dict[str, Parameter], tuple[_Fact, ...]]
_HEAD = msgspec.msgpack.Decoder(_Head)


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
    view = memoryview(packed)
    try:
        (length,) = _LENGTH.unpack_from(packed)
        at = _LENGTH.size + length
        parameters, facts = _HEAD.decode(view[_LENGTH.size : at])
        outputs = []
        for name, kind, shape, size in facts:
            at += -at % _ALIGNMENT
            array = from_raw(view[at : at + size], DATATYPES[kind], shape, math.prod(shape), name)
            outputs.append(Tensor(name, DATATYPES[kind], array))
            at += size
    except (struct.error, msgspec.DecodeError, KeyError, ValueError, InvalidInput):
        return None
    return tuple(outputs), parameters
