"""Protobuf messages of TensorFlow and TensorFlow Serving.

Some have only the fields that Salver reads or that a file is likely to name; binary messages keep others as
unknown fields. A test compares ``protos/`` with the files of ``tensorflow-serving-api`` and TensorFlow.
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

from salver.encoding import protobuf

#: The names of ``tensorflow.DataType``, numbered from 0.
DATA_TYPES: Final = (
    "DT_INVALID DT_FLOAT DT_DOUBLE DT_INT32 DT_UINT8 DT_INT16 DT_INT8 DT_STRING DT_COMPLEX64 DT_INT64 "
    "DT_BOOL DT_QINT8 DT_QUINT8 DT_QINT32 DT_BFLOAT16 DT_QINT16 DT_QUINT16 DT_UINT16 DT_COMPLEX128 DT_HALF "
    "DT_RESOURCE DT_VARIANT DT_UINT32 DT_UINT64 DT_FLOAT8_E5M2 DT_FLOAT8_E4M3FN DT_FLOAT8_E4M3FNUZ "
    "DT_FLOAT8_E4M3B11FNUZ DT_FLOAT8_E5M2FNUZ DT_INT4 DT_UINT4 DT_INT2 DT_UINT2 DT_FLOAT4_E2M1FN"
)
_NUMBERS: Final = re.compile(r"\w+_val")
_PACKED: Final = frozenset(
    getattr(FieldDescriptorProto, f"TYPE_{name}")
    for name in ("BOOL", "INT32", "INT64", "UINT32", "UINT64", "FLOAT", "DOUBLE")
)


@cache
def build() -> Mapping[str, Any]:
    """Return message classes by name, always the same ones: a message of one pool fits no other.

    >>> build()["ModelSpec"](name="half_plus_two", version={"value": 123}).version.value
    123
    """
    return protobuf.build(__package__)


@cache
def build_unread() -> Mapping[str, Any]:
    """Return the same messages with packed numbers of a TensorProto and whole Examples as ``bytes``.

    Thus they need not become Python objects one by one. Numbers that are not packed, which no usual client
    sends, are unknown fields.

    >>> made = build()["TensorProto"](float_val=[1.0, 2.0]).SerializeToString()
    >>> list(map(len, build_unread()["TensorProto"].FromString(made).float_val))
    [8]
    """
    return protobuf.build(__package__, _leave_unread)


def _leave_unread(file: FileDescriptorProto) -> None:
    """Make large fields bytes; they are the same on the wire."""
    for message in file.message_type:
        _leave_message_unread(message)


def _leave_message_unread(message: DescriptorProto) -> None:
    for field in message.field:
        is_many = field.label == FieldDescriptorProto.LABEL_REPEATED
        is_packed = is_many and field.type in _PACKED and _NUMBERS.fullmatch(field.name)
        if is_packed or field.type_name == ".tensorflow.Example":
            field.type = FieldDescriptorProto.TYPE_BYTES
            field.ClearField("type_name")
    for nested in message.nested_type:
        _leave_message_unread(nested)
