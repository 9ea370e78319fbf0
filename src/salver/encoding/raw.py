"""Tensors as raw bytes.

The layout that the binary tensor extension (TR-R24) and gRPC's ``raw_*_contents`` share: little-endian,
row-major elements; a BYTES element is a four-byte little-endian length and its data.

Pure.
"""

import struct
import sys
from collections.abc import Iterable, Sequence

import numpy as np

from salver.encoding.values import MAX_STRINGS
from salver.words.errors import InvalidInput, TooLarge
from salver.words.tensor import Array, DataType, Tensor

_LENGTH = struct.Struct("<I")
#: Bytes up to which copying is quicker than making a view.
_SMALL = 65_536
#: Bytes that take a millisecond to copy, and those that are copied in one go then.
_MANY = 1 << 20
_PIECE = 1 << 17
SWAP = sys.byteorder == "big"


def from_raw(
    raw: "bytes | memoryview", datatype: DataType, shape: Sequence[int], count: int, field: str
) -> Array:
    """Return an array over the bytes: a view if they are aligned, else (and for BYTES) a copy.

    Args:
        count: Product of ``shape``.

    Raises:
        InvalidInput: more or fewer bytes than the shape and datatype ask for.
    """
    size = datatype.itemsize
    if not size:
        return _unpack_strings(raw, count, field).reshape(shape)
    if len(raw) != count * size:
        raise InvalidInput(
            f"{field} has {len(raw)} bytes, but {datatype.name}{list(shape)} needs {count * size}",
            field=field,
        )
    array = np.frombuffer(raw, datatype.dtype)
    if datatype is DataType.BOOL and count and int(array.view(np.uint8).max()) > 1:
        raise InvalidInput(f"{field} holds a BOOL byte other than 0 and 1", field=field)
    if size > 1:
        if SWAP:
            array = array.byteswap()
        elif not array.flags.aligned:
            array = array.copy()  # some frameworks refuse, or misread, unaligned memory
    return array.reshape(shape)


def joined(parts: Iterable["bytes | memoryview"]) -> bytes:
    """Return the parts in one; many bytes in pieces, so that other threads run meanwhile."""
    parts = list(parts)
    if sum(map(len, parts)) > _MANY:
        parts = [bytes(part[at : at + _PIECE]) for part in parts for at in range(0, len(part), _PIECE)]
    return b"".join(parts)


def to_raw(tensor: Tensor) -> "bytes | memoryview":
    """Return the elements in wire format; large numeric arrays are not copied."""
    array = tensor.array
    if tensor.datatype is DataType.BYTES:
        return _pack_strings(array)
    if SWAP and array.dtype.itemsize > 1:
        return array.byteswap().tobytes()
    if array.nbytes > _SMALL and array.flags.c_contiguous and array.ndim:
        return array.reshape(-1).view(np.uint8).data
    return array.tobytes()


def _unpack_strings(raw: "bytes | memoryview", count: int, field: str) -> Array:
    if count * 4 > len(raw):  # before anything is allocated for the declared count
        raise InvalidInput(f"{field} has {len(raw)} bytes, too few for {count} BYTES elements", field=field)
    if count > MAX_STRINGS:
        raise TooLarge(f"{field} has {count} BYTES elements; at most {MAX_STRINGS} are allowed", field=field)
    out = np.empty(count, dtype=object)
    at, end = 0, len(raw)
    for index in range(count):
        if at + 4 > end:
            raise InvalidInput(f"{field} ends inside the length of BYTES element {index}", field=field)
        (length,) = _LENGTH.unpack_from(raw, at)
        at += 4
        if length > end - at:
            raise InvalidInput(
                f"{field}: BYTES element {index} says {length} bytes, {end - at} are left", field=field
            )
        out[index] = bytes(raw[at : at + length])
        at += length
    if at != end:
        raise InvalidInput(f"{field} has {end - at} bytes after its {count} BYTES elements", field=field)
    return out


def _pack_strings(array: Array) -> bytes:
    parts: list[bytes] = []
    for value in array.ravel().tolist():
        parts += (_LENGTH.pack(len(value)), value)
    return b"".join(parts)
