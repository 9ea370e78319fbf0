"""Tensor names in a LiteRT model's metadata, as TensorFlow Serving reads them.

``signature_defs_metadata`` of the flatbuffer is a FlexBuffer: a map from names to serialised SignatureDefs.
"""

import itertools
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec
from flatbuffers import encode
from flatbuffers import number_types as types
from flatbuffers.table import Table

from salver.words.errors import LoadFailed

_METADATA: Final = b"signature_defs_metadata"
_DEFAULT: Final = "serving_default"
_MOST_BYTES: Final = 1 << 20
# Offsets in the vtables of Model, Metadata and Buffer (LiteRT's schema.fbs).
_MODEL_BUFFERS, _MODEL_METADATA = 12, 16
_METADATA_NAME, _METADATA_BUFFER = 4, 6
_BUFFER_DATA = 4
# Fields of SignatureDef, of an entry of its maps, and of TensorInfo.
_INPUTS, _OUTPUTS = 1, 2
_KEY, _VALUE = 1, 2
_NAME: Final = 1


class NamedSignature(msgspec.Struct, frozen=True):
    """Signature from the metadata.

    Attributes:
        inputs, outputs: Map from name to the tensor's own name.
    """

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


def read_signature(model: Path) -> NamedSignature | None:
    """Return the default signature of the metadata, else its only or first one, or None.

    Raises:
        LoadFailed: the metadata cannot be parsed.
    """
    try:
        # Not searched for, and not by LiteRT's own schema module: a look at each byte of the file, or an
        # import of a tenth of a second, is longer than all the rest.
        with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            content = _metadata(mapped)
        if content is None:
            return None
        from flatbuffers import flexbuffers

        root = flexbuffers.GetRoot(bytearray(content)).AsMap
        keys = [key.AsKey for key in root.Keys]
        place = keys.index(_DEFAULT) if _DEFAULT in keys else 0
        return _signature(bytes(root.Values[place].AsStringBytes))
    except Exception as error:  # flatbuffers raises its own and Python's exceptions for broken content
        raise LoadFailed(
            f"{_METADATA.decode()} of {model.name} cannot be read: {error}", fix="Convert the model again."
        ) from error


def _metadata(whole: mmap.mmap) -> bytes | None:
    """Return the FlexBuffer; None if the model has none.

    Raises:
        ValueError: it is too large.
    """
    model = Table(whole, encode.Get(types.UOffsetTFlags.packer_type, whole, 0))
    for entry in _tables(model, _MODEL_METADATA):
        name, number = entry.Offset(_METADATA_NAME), entry.Offset(_METADATA_BUFFER)
        if not name or entry.String(entry.Pos + name) != _METADATA:
            continue
        index = entry.Get(types.Uint32Flags, entry.Pos + number) if number else 0
        buffer = next(itertools.islice(_tables(model, _MODEL_BUFFERS), index, None))
        data = buffer.Offset(_BUFFER_DATA)
        size = buffer.VectorLen(data) if data else 0
        if size > _MOST_BYTES:
            raise ValueError(f"it is larger than {_MOST_BYTES >> 20} MiB")
        start = buffer.Vector(data) if size else 0
        return whole[start : start + size] or None
    return None


def _tables(parent: Table, field: int) -> Iterator[Table]:
    """Return the tables of a field that is a vector of them."""
    if at := parent.Offset(field):
        start = parent.Vector(at)
        for index in range(parent.VectorLen(at)):
            yield Table(parent.Bytes, parent.Indirect(start + 4 * index))


def _signature(content: bytes) -> NamedSignature:
    maps: dict[int, dict[str, str]] = {_INPUTS: {}, _OUTPUTS: {}}
    for field, value in _fields(content):
        if field in maps:
            entry = dict(_fields(value))
            maps[field][entry[_KEY].decode()] = dict(_fields(entry[_VALUE]))[_NAME].decode()
    return NamedSignature(maps[_INPUTS], maps[_OUTPUTS])


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Return the length-delimited fields of a protobuf message."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        match key & 7:
            case 0:
                _, at = _varint(message, at)
            case 1:
                at += 8
            case 2:
                size, at = _varint(message, at)
                if at + size > len(message):
                    raise ValueError("a field ends behind its message")
                yield key >> 3, message[at : at + size]
                at += size
            case 5:
                at += 4
            case kind:
                raise ValueError(f"a field of kind {kind}")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number has no end")
