"""How does an answer become bytes, and again an answer?

Pure. A head of msgpack with names, datatypes and shapes, then each tensor as it lies on the wire, from a
multiple of 16 bytes on, so that an answer that comes back is a view of the bytes.
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
#: Parameters; then name, datatype, shape and bytes of each output.
_Head = tuple[dict[str, Parameter], tuple[_Fact, ...]]
_HEAD = msgspec.msgpack.Decoder(_Head)


def size_of(response: InferResponse) -> int:
    """Bytes that it takes at least, without packing it; of BYTES their places alone are counted."""
    return sum(tensor.array.nbytes for tensor in response.outputs)


def pack(response: InferResponse) -> bytes:
    """Outputs and parameters; neither its id nor its times."""
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
    """Outputs, whose arrays cannot be written to, and parameters; None where nothing was packed so."""
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
