"""Message class of Triton's ModelConfig, and the names in it.

``protos/model_config.proto`` is the whole of Triton's; a test compares it with ``tritonclient``'s. Pure.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from salver.dialects.triton.datatypes import datatype_named
from salver.encoding import protobuf
from salver.words.tensor import DataType

Syntax = Literal["proto2", "proto3"]


def model_config_class(syntax: Syntax = "proto2") -> Any:
    """Return the message class of ModelConfig; with proto2, its messages know which fields are set."""
    return _classes(syntax)["ModelConfig"]


@cache
def _classes(syntax: Syntax) -> Mapping[str, Any]:
    def change(file: FileDescriptorProto) -> None:
        file.syntax = syntax

    return protobuf.build(__package__, change)


def field_names(message: str) -> Sequence[str] | None:
    """Return the fields of a message such as ``ModelWarmup.Input``; None if there is no such message."""
    found = _classes("proto2").get(message)
    if found is None:
        return None
    return [field.name for field in found.DESCRIPTOR.fields]


@cache
def enum_values(name: str) -> Sequence[str]:
    """Return the values of an enum such as ``BatchInput.Kind``, by number; none if there is no such enum."""
    outer, _, inner = name.rpartition(".")
    if not outer:
        enums = model_config_class().DESCRIPTOR.file.enum_types_by_name
    elif outer in _classes("proto2"):
        enums = _classes("proto2")[outer].DESCRIPTOR.enum_types_by_name
    else:
        return ()
    if inner in enums:
        return [value.name for value in enums[inner].values]
    return ()


def datatype_numbered(number: int) -> DataType | None:
    """Return the datatype of a number in a message; None if there is none."""
    return datatype_named(enum_values("DataType")[number])
