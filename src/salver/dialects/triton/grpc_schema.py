"""Protobuf messages of Triton's extensions to the Open Inference Protocol.

Only field numbers and types matter on the wire; a test compares them with ``tritonclient``'s.

Names and numbers follow triton-inference-server/common (BSD-3-Clause).

Pure.
"""

from typing import Any, Final

from salver.dialects.oip.grpc_schema import INFERENCE
from salver.dialects.triton.model_config import ENUMS, MESSAGES
from salver.encoding import protobuf_tables as protobuf

#: Message -> its fields, one a line, in the words of proto3.
EXTENSIONS: Final[dict[str, str]] = {
    "ModelConfigRequest": """
        string name = 1
        string version = 2
    """,
    "ModelConfigResponse": "ModelConfig config = 1",
    "ModelStatisticsRequest": """
        string name = 1
        string version = 2
    """,
    "StatisticDuration": """
        uint64 count = 1
        uint64 ns = 2
    """,
    "InferStatistics": """
        StatisticDuration success = 1
        StatisticDuration fail = 2
        StatisticDuration queue = 3
        StatisticDuration compute_input = 4
        StatisticDuration compute_infer = 5
        StatisticDuration compute_output = 6
        StatisticDuration cache_hit = 7
        StatisticDuration cache_miss = 8
    """,
    "InferResponseStatistics": """
        StatisticDuration compute_infer = 1
        StatisticDuration compute_output = 2
        StatisticDuration success = 3
        StatisticDuration fail = 4
        StatisticDuration empty_response = 5
        StatisticDuration cancel = 6
    """,
    "InferBatchStatistics": """
        uint64 batch_size = 1
        StatisticDuration compute_input = 2
        StatisticDuration compute_infer = 3
        StatisticDuration compute_output = 4
    """,
    "MemoryUsage": """
        string type = 1
        int64 id = 2
        uint64 byte_size = 3
    """,
    "ModelStatistics": """
        string name = 1
        string version = 2
        uint64 last_inference = 3
        uint64 inference_count = 4
        uint64 execution_count = 5
        InferStatistics inference_stats = 6
        repeated InferBatchStatistics batch_stats = 7
        repeated MemoryUsage memory_usage = 8
        map<string,InferResponseStatistics> response_stats = 9
    """,
    "ModelStatisticsResponse": "repeated ModelStatistics model_stats = 1",
    "ModelRepositoryParameter": """
        oneof parameter_choice bool bool_param = 1
        oneof parameter_choice int64 int64_param = 2
        oneof parameter_choice string string_param = 3
        oneof parameter_choice bytes bytes_param = 4
    """,
    "RepositoryIndexRequest": """
        string repository_name = 1
        bool ready = 2
    """,
    "RepositoryIndexResponse": "repeated RepositoryIndexResponse.ModelIndex models = 1",
    "RepositoryIndexResponse.ModelIndex": """
        string name = 1
        string version = 2
        string state = 3
        string reason = 4
    """,
    "RepositoryModelLoadRequest": """
        string repository_name = 1
        string model_name = 2
        map<string,ModelRepositoryParameter> parameters = 3
    """,
    "RepositoryModelLoadResponse": "",
    "RepositoryModelUnloadRequest": """
        string repository_name = 1
        string model_name = 2
        map<string,ModelRepositoryParameter> parameters = 3
    """,
    "RepositoryModelUnloadResponse": "",
    "TraceSettingRequest": """
        map<string,TraceSettingRequest.SettingValue> settings = 1
        string model_name = 2
    """,
    "TraceSettingRequest.SettingValue": "repeated string value = 1",
    "TraceSettingResponse": "map<string,TraceSettingResponse.SettingValue> settings = 1",
    "TraceSettingResponse.SettingValue": "repeated string value = 1",
    "LogSettingsRequest": "map<string,LogSettingsRequest.SettingValue> settings = 1",
    "LogSettingsRequest.SettingValue": """
        oneof parameter_choice bool bool_param = 1
        oneof parameter_choice uint32 uint32_param = 2
        oneof parameter_choice string string_param = 3
    """,
    "LogSettingsResponse": "map<string,LogSettingsResponse.SettingValue> settings = 1",
    "LogSettingsResponse.SettingValue": """
        oneof parameter_choice bool bool_param = 1
        oneof parameter_choice uint32 uint32_param = 2
        oneof parameter_choice string string_param = 3
    """,
    "SystemSharedMemoryStatusRequest": "string name = 1",
    "SystemSharedMemoryStatusResponse": (
        "map<string,SystemSharedMemoryStatusResponse.RegionStatus> regions = 1"
    ),
    "SystemSharedMemoryStatusResponse.RegionStatus": """
        string name = 1
        string key = 2
        uint64 offset = 3
        uint64 byte_size = 4
    """,
    "SystemSharedMemoryRegisterRequest": """
        string name = 1
        string key = 2
        uint64 offset = 3
        uint64 byte_size = 4
    """,
    "SystemSharedMemoryRegisterResponse": "",
    "SystemSharedMemoryUnregisterRequest": "string name = 1",
    "SystemSharedMemoryUnregisterResponse": "",
    "CudaSharedMemoryStatusRequest": "string name = 1",
    "CudaSharedMemoryStatusResponse": "map<string,CudaSharedMemoryStatusResponse.RegionStatus> regions = 1",
    "CudaSharedMemoryStatusResponse.RegionStatus": """
        string name = 1
        uint64 device_id = 2
        uint64 byte_size = 3
    """,
    "CudaSharedMemoryRegisterRequest": """
        string name = 1
        bytes raw_handle = 2
        int64 device_id = 3
        uint64 byte_size = 4
    """,
    "CudaSharedMemoryRegisterResponse": "",
    "CudaSharedMemoryUnregisterRequest": "string name = 1",
    "CudaSharedMemoryUnregisterResponse": "",
}


def build() -> dict[str, Any]:
    """Return message classes by name."""
    return protobuf.build(protobuf.Table("inference", {**MESSAGES, **EXTENSIONS}, ENUMS))


def build_all() -> dict[str, Any]:
    """Return message classes by name, with those of the protocol itself, as one file describes them."""
    return protobuf.build(protobuf.Table("inference", {**MESSAGES, **INFERENCE, **EXTENSIONS}, ENUMS))
