"""Protobuf messages of Triton's extensions to the Open Inference Protocol.

Only field numbers and types matter on the wire; a test compares ``protos/`` with ``tritonclient``'s messages.
Pure.
"""

from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from salver.dialects.oip import grpc_schema as inference
from salver.encoding import protobuf


def build() -> dict[str, Any]:
    """Return message classes by name."""
    return protobuf.build(__package__)


def build_all() -> dict[str, Any]:
    """Return message classes by name, with those of the protocol itself, as one file describes them."""
    whole = FileDescriptorProto()
    next(iter(inference.build().values())).DESCRIPTOR.file.CopyToProto(whole)
    for file in protobuf.descriptors(__package__):
        whole.message_type.extend(file.message_type)
        whole.enum_type.extend(file.enum_type)
    return protobuf.build_files([whole])
