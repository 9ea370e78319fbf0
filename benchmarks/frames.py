"""How are the benchmark's gRPC messages written and read?

The few messages that the load needs, in a private descriptor pool, so that the harness, the
prototype and the peers' checks share one reading of the wire and depend on no client library.
"""

import struct
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

INFER_PATH = "/inference.GRPCInferenceService/ModelInfer"
TORCHSERVE_PATH = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"

_KIND = descriptor_pb2.FieldDescriptorProto
_ONE, _MANY = _KIND.LABEL_OPTIONAL, _KIND.LABEL_REPEATED
_STRING, _BYTES, _INT64, _FLOAT = _KIND.TYPE_STRING, _KIND.TYPE_BYTES, _KIND.TYPE_INT64, _KIND.TYPE_FLOAT
_CONTENTS, _TENSOR = ".inference.Contents", ".inference.Tensor"

#: message -> (field, number, label, type or message name); numbers as in the protocol's own proto.
_MESSAGES: dict[str, list[tuple[str, int, Any, Any]]] = {
    "Contents": [("fp32_contents", 6, _MANY, _FLOAT)],
    "Tensor": [
        ("name", 1, _ONE, _STRING),
        ("datatype", 2, _ONE, _STRING),
        ("shape", 3, _MANY, _INT64),
        ("contents", 5, _ONE, _CONTENTS),
    ],
    "InferRequest": [
        ("model_name", 1, _ONE, _STRING),
        ("inputs", 5, _MANY, _TENSOR),
        ("raw_input_contents", 7, _MANY, _BYTES),
    ],
    "InferResponse": [
        ("model_name", 1, _ONE, _STRING),
        ("outputs", 5, _MANY, _TENSOR),
        ("raw_output_contents", 6, _MANY, _BYTES),
    ],
    "Entry": [("key", 1, _ONE, _STRING), ("value", 2, _ONE, _BYTES)],
    "PredictionsRequest": [("model_name", 1, _ONE, _STRING), ("input", 3, _MANY, ".inference.Entry")],
    "PredictionResponse": [("prediction", 1, _ONE, _BYTES)],
}


def _build() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="benchmark.proto", package="inference", syntax="proto3")
    for message, fields in _MESSAGES.items():
        added = file.message_type.add(name=message)
        for name, number, label, kind in fields:
            field = added.field.add(name=name, number=number, label=label)
            if isinstance(kind, str):
                field.type, field.type_name = _KIND.TYPE_MESSAGE, kind
            else:
                field.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = {name: pool.FindMessageTypeByName(f"inference.{name}") for name in _MESSAGES}
    return {name: message_factory.GetMessageClass(message) for name, message in found.items()}


_CLASSES = _build()
InferRequest: Any = _CLASSES["InferRequest"]
InferResponse: Any = _CLASSES["InferResponse"]
PredictionsRequest: Any = _CLASSES["PredictionsRequest"]
PredictionResponse: Any = _CLASSES["PredictionResponse"]


def frame(message: bytes) -> bytes:
    """gRPC's length-prefixed message, uncompressed."""
    return b"\0" + struct.pack(">I", len(message)) + message
