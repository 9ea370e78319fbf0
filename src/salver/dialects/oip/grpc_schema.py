"""Protobuf messages of the Open Inference Protocol, ``inference.GRPCInferenceService``.

Only field numbers and types matter on the wire; a test compares them with ``tritonclient``'s. The messages of
Triton's extensions are in ``dialects/triton/grpc_schema.py``.

Names and numbers follow kserve/open-inference-protocol (Apache-2.0) and
triton-inference-server/common (BSD-3-Clause).

Pure.
"""

from typing import Any, Final

from salver.encoding import protobuf_tables as protobuf

#: Fields of each message, one per line, in proto3 syntax.
INFERENCE: Final[dict[str, str]] = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "bool live = 1",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready = 1",
    "ModelReadyRequest": """
        string name = 1
        string version = 2
    """,
    "ModelReadyResponse": "bool ready = 1",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": """
        string name = 1
        string version = 2
        repeated string extensions = 3
    """,
    "ModelMetadataRequest": """
        string name = 1
        string version = 2
    """,
    "ModelMetadataResponse": """
        string name = 1
        repeated string versions = 2
        string platform = 3
        repeated ModelMetadataResponse.TensorMetadata inputs = 4
        repeated ModelMetadataResponse.TensorMetadata outputs = 5
    """,
    "ModelMetadataResponse.TensorMetadata": """
        string name = 1
        string datatype = 2
        repeated int64 shape = 3
    """,
    "InferParameter": """
        oneof parameter_choice bool bool_param = 1
        oneof parameter_choice int64 int64_param = 2
        oneof parameter_choice string string_param = 3
        oneof parameter_choice double double_param = 4
        oneof parameter_choice uint64 uint64_param = 5
    """,
    "InferTensorContents": """
        repeated bool bool_contents = 1
        repeated int32 int_contents = 2
        repeated int64 int64_contents = 3
        repeated uint32 uint_contents = 4
        repeated uint64 uint64_contents = 5
        repeated float fp32_contents = 6
        repeated double fp64_contents = 7
        repeated bytes bytes_contents = 8
    """,
    "ModelInferRequest": """
        string model_name = 1
        string model_version = 2
        string id = 3
        map<string,InferParameter> parameters = 4
        repeated ModelInferRequest.InferInputTensor inputs = 5
        repeated ModelInferRequest.InferRequestedOutputTensor outputs = 6
        repeated bytes raw_input_contents = 7
    """,
    "ModelInferRequest.InferInputTensor": """
        string name = 1
        string datatype = 2
        repeated int64 shape = 3
        map<string,InferParameter> parameters = 4
        InferTensorContents contents = 5
    """,
    "ModelInferRequest.InferRequestedOutputTensor": """
        string name = 1
        map<string,InferParameter> parameters = 2
    """,
    "ModelInferResponse": """
        string model_name = 1
        string model_version = 2
        string id = 3
        map<string,InferParameter> parameters = 4
        repeated ModelInferResponse.InferOutputTensor outputs = 5
        repeated bytes raw_output_contents = 6
    """,
    "ModelInferResponse.InferOutputTensor": """
        string name = 1
        string datatype = 2
        repeated int64 shape = 3
        map<string,InferParameter> parameters = 4
        InferTensorContents contents = 5
    """,
    "ModelStreamInferResponse": """
        string error_message = 1
        ModelInferResponse infer_response = 2
    """,
}


def build() -> dict[str, Any]:
    """Return message classes by name."""
    return protobuf.build(protobuf.Table("inference", INFERENCE))
