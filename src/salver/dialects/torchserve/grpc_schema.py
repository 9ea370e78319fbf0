"""Which protobuf messages does TorchServe speak?

Those of its inference and management services, and of ``google.rpc`` what stands in them, as tables. Its
Open Inference service has the messages of ``grpc_schema.py``. It knows no meaning. A test compares the tables
with TorchServe's files.

Names and numbers follow pytorch/serve and googleapis/googleapis (Apache-2.0).

Pure.
"""

from typing import Any, Final

from google.protobuf import any_pb2

from salver.encoding import protobuf

#: Message of ``org.pytorch.serve.grpc.inference`` -> its fields, one a line.
#: An optional one stands alone in a oneof.
INFERENCE: Final[dict[str, str]] = {
    "PredictionsRequest": """
        string model_name = 1
        string model_version = 2
        map<string,bytes> input = 3
        oneof _sequence_id string sequence_id = 4
    """,
    "PredictionResponse": """
        bytes prediction = 1
        oneof _sequence_id string sequence_id = 2
        oneof _status .google.rpc.Status status = 3
    """,
    "TorchServeHealthResponse": "string health = 1",
}

#: The same of ``org.pytorch.serve.grpc.management``.
MANAGEMENT: Final[dict[str, str]] = {
    "ManagementResponse": "string msg = 1",
    "DescribeModelRequest": """
        string model_name = 1
        string model_version = 2
        bool customized = 3
    """,
    "ListModelsRequest": """
        int32 limit = 1
        int32 next_page_token = 2
    """,
    "RegisterModelRequest": """
        int32 batch_size = 1
        string handler = 2
        int32 initial_workers = 3
        int32 max_batch_delay = 4
        string model_name = 5
        int32 response_timeout = 6
        string runtime = 7
        bool synchronous = 8
        string url = 9
        bool s3_sse_kms = 10
        int32 startup_timeout = 11
    """,
    "ScaleWorkerRequest": """
        string model_name = 1
        string model_version = 2
        int32 max_worker = 3
        int32 min_worker = 4
        int32 number_gpu = 5
        bool synchronous = 6
        int32 timeout = 7
    """,
    "SetDefaultRequest": """
        string model_name = 1
        string model_version = 2
    """,
    "UnregisterModelRequest": """
        string model_name = 1
        string model_version = 2
    """,
}

#: The same of ``google.rpc``.
RPC: Final[dict[str, str]] = {
    "Status": """
        int32 code = 1
        string message = 2
        repeated .google.protobuf.Any details = 3
    """,
    "ErrorInfo": """
        string reason = 1
        string domain = 2
        map<string,string> metadata = 3
    """,
}


def build() -> dict[str, Any]:
    """Message classes by name."""
    return protobuf.build(
        protobuf.Table("google.rpc", RPC, imports=(any_pb2.DESCRIPTOR,)),
        protobuf.Table("org.pytorch.serve.grpc.inference", INFERENCE),
        protobuf.Table("org.pytorch.serve.grpc.management", MANAGEMENT),
    )
