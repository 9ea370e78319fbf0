"""Tensor names in a LiteRT model's metadata, as TensorFlow Serving reads them.

``signature_defs_metadata`` of the flatbuffer is a FlexBuffer: a map from names to serialised SignatureDefs.
"""

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from salver.words.errors import LoadFailed

_METADATA: Final = b"signature_defs_metadata"
_DEFAULT: Final = "serving_default"
_MOST_BYTES: Final = 1 << 20
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
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        if mapped.find(_METADATA) < 0:  # the usual case, without a copy
            return None
    from flatbuffers import flexbuffers

    try:
        content = _metadata(model.read_bytes())
        if content is None:
            return None
        root = flexbuffers.GetRoot(bytearray(content)).AsMap
        keys = [key.AsKey for key in root.Keys]
        place = keys.index(_DEFAULT) if _DEFAULT in keys else 0
        return _signature(bytes(root.Values[place].AsStringBytes))
    except Exception as error:  # flatbuffers raises its own and Python's exceptions for broken content
        raise LoadFailed(
            f"{_METADATA.decode()} of {model.name} cannot be read: {error}", fix="Convert the model again."
        ) from error


def _metadata(whole: bytes) -> bytes | None:
    """Return the FlexBuffer; None if the name occurs only elsewhere in the file.

    Raises:
        ValueError: it is too large.
    """
    from ai_edge_litert import schema_py_generated as schema

    root = schema.Model.GetRootAsModel(whole, 0)
    for index in range(root.MetadataLength()):
        entry = root.Metadata(index)
        if entry.Name() == _METADATA:
            buffer = root.Buffers(entry.Buffer())
            if buffer.DataLength() > _MOST_BYTES:
                raise ValueError(f"it is larger than {_MOST_BYTES >> 20} MiB")
            if buffer.DataLength():
                return bytes(buffer.DataAsNumpy())
            return None
    return None


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
