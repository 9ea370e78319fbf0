"""Which protobuf messages do TensorFlow and TensorFlow Serving speak?

Tensors, examples and signatures of ``tensorflow``; requests, answers, configuration files and the records of
``tensorflow.serving``, as tables. It knows no meaning. A message of ``PARTIAL`` has only the fields that
somebody here reads or that a file is likely to name: the others are kept, unread, when it is binary. A test
compares the tables with ``tensorflow-serving-api``'s and TensorFlow's.

Names and numbers follow tensorflow/tensorflow and tensorflow/serving (Apache-2.0).

Pure.
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from google.protobuf import any_pb2, wrappers_pb2

from salver.encoding import protobuf

#: Message of the package ``tensorflow`` -> its fields, one a line.
TENSORFLOW: Final[dict[str, str]] = {
    "TensorShapeProto": """
        repeated TensorShapeProto.Dim dim = 2
        bool unknown_rank = 3
    """,
    "TensorShapeProto.Dim": """
        int64 size = 1
        string name = 2
    """,
    "ResourceHandleProto": """
        string device = 1
        string container = 2
        string name = 3
        uint64 hash_code = 4
        string maybe_type_name = 5
        repeated ResourceHandleProto.DtypeAndShape dtypes_and_shapes = 6
    """,
    "ResourceHandleProto.DtypeAndShape": """
        DataType dtype = 1
        TensorShapeProto shape = 2
    """,
    "TensorProto": """
        DataType dtype = 1
        TensorShapeProto tensor_shape = 2
        int32 version_number = 3
        bytes tensor_content = 4
        repeated int32 half_val = 13
        repeated float float_val = 5
        repeated double double_val = 6
        repeated int32 int_val = 7
        repeated bytes string_val = 8
        repeated float scomplex_val = 9
        repeated int64 int64_val = 10
        repeated bool bool_val = 11
        repeated double dcomplex_val = 12
        repeated ResourceHandleProto resource_handle_val = 14
        repeated VariantTensorDataProto variant_val = 15
        repeated uint32 uint32_val = 16
        repeated uint64 uint64_val = 17
        bytes float8_val = 18
    """,
    "VariantTensorDataProto": """
        string type_name = 1
        bytes metadata = 2
        repeated TensorProto tensors = 3
    """,
    "NamedTensorProto": """
        string name = 1
        TensorProto tensor = 2
    """,
    "BytesList": "repeated bytes value = 1",
    "FloatList": "repeated float value = 1",
    "Int64List": "repeated int64 value = 1",
    "Feature": """
        oneof kind BytesList bytes_list = 1
        oneof kind FloatList float_list = 2
        oneof kind Int64List int64_list = 3
    """,
    "Features": "map<string,Feature> feature = 1",
    "FeatureList": "repeated Feature feature = 1",
    "FeatureLists": "map<string,FeatureList> feature_list = 1",
    "Example": "Features features = 1",
    "SequenceExample": """
        Features context = 1
        FeatureLists feature_lists = 2
    """,
    "TensorInfo": """
        oneof encoding string name = 1
        oneof encoding TensorInfo.CooSparse coo_sparse = 4
        oneof encoding TensorInfo.CompositeTensor composite_tensor = 5
        DataType dtype = 2
        TensorShapeProto tensor_shape = 3
    """,
    "TensorInfo.CooSparse": """
        string values_tensor_name = 1
        string indices_tensor_name = 2
        string dense_shape_tensor_name = 3
    """,
    "TensorInfo.CompositeTensor": "repeated TensorInfo components = 2",
    "SignatureDef": """
        map<string,TensorInfo> inputs = 1
        map<string,TensorInfo> outputs = 2
        string method_name = 3
        map<string,TensorProto> defaults = 4
    """,
    "AssetFileDef": """
        TensorInfo tensor_info = 1
        string filename = 2
    """,
    "MetaGraphDef": """
        MetaGraphDef.MetaInfoDef meta_info_def = 1
        map<string,SignatureDef> signature_def = 5
        repeated AssetFileDef asset_file_def = 6
    """,
    "MetaGraphDef.MetaInfoDef": """
        string meta_graph_version = 1
        repeated string tags = 4
        string tensorflow_version = 5
        string tensorflow_git_version = 6
        bool stripped_default_attrs = 7
        map<string,string> function_aliases = 8
    """,
    "SavedModel": """
        int64 saved_model_schema_version = 1
        repeated MetaGraphDef meta_graphs = 2
    """,
    "GPUOptions": """
        double per_process_gpu_memory_fraction = 1
        bool allow_growth = 4
        string allocator_type = 2
        int64 deferred_deletion_bytes = 3
        string visible_device_list = 5
        int32 polling_active_delay_usecs = 6
        int32 polling_inactive_delay_msecs = 7
        bool force_gpu_compatible = 8
    """,
    "GraphOptions": """
        bool enable_recv_scheduling = 2
        int64 build_cost_model = 4
        int64 build_cost_model_after = 9
        bool infer_shapes = 5
        bool place_pruned_graph = 6
        bool enable_bfloat16_sendrecv = 7
        int32 timeline_step = 8
    """,
    "ThreadPoolOptionProto": """
        int32 num_threads = 1
        string global_name = 2
    """,
    "ConfigProto": """
        map<string,int32> device_count = 1
        int32 intra_op_parallelism_threads = 2
        int32 inter_op_parallelism_threads = 5
        bool use_per_session_threads = 9
        repeated ThreadPoolOptionProto session_inter_op_thread_pool = 12
        int32 placement_period = 3
        repeated string device_filters = 4
        GPUOptions gpu_options = 6
        bool allow_soft_placement = 7
        bool log_device_placement = 8
        GraphOptions graph_options = 10
        int64 operation_timeout_in_ms = 11
        bool isolate_session_state = 15
        bool share_cluster_devices_in_session = 17
    """,
    "RunOptions": """
        int64 timeout_in_ms = 2
        int32 inter_op_thread_pool = 3
    """,
    "RunMetadata": "",
}

#: Message of the package ``tensorflow.serving`` -> its fields: those of requests and answers.
REQUESTS: Final[dict[str, str]] = {
    "ModelSpec": """
        string name = 1
        oneof version_choice .google.protobuf.Int64Value version = 2
        oneof version_choice string version_label = 4
        string signature_name = 3
    """,
    "PredictStreamedOptions": """
        PredictStreamedOptions.RequestState request_state = 1
        map<string,int32> split_dimensions = 2
        bool return_single_response = 3
    """,
    "PredictRequest": """
        ModelSpec model_spec = 1
        map<string,.tensorflow.TensorProto> inputs = 2
        repeated string output_filter = 3
        PredictStreamedOptions predict_streamed_options = 5
        oneof _client_id bytes client_id = 6
        oneof _request_options PredictRequest.RequestOptions request_options = 7
    """,
    "PredictRequest.RequestOptions": """
        oneof _client_id bytes client_id = 1
        oneof _deterministic_mode PredictRequest.RequestOptions.DeterministicMode deterministic_mode = 2
        oneof _return_additional_arrays_from_prefill bool return_additional_arrays_from_prefill = 3
        repeated int64 return_stoptokens = 4
        oneof _return_all_stoptokens bool return_all_stoptokens = 9
        oneof _max_cache_length int64 max_cache_length = 6
        oneof _handshake PredictRequest.RequestOptions.Handshake handshake = 13
    """,
    "PredictRequest.RequestOptions.Handshake": "int64 estimated_payload_bytes = 1",
    "PredictResponse": """
        ModelSpec model_spec = 2
        map<string,.tensorflow.TensorProto> outputs = 1
    """,
    "ExampleList": "repeated .tensorflow.Example examples = 1",
    "ExampleListWithContext": """
        repeated .tensorflow.Example examples = 1
        .tensorflow.Example context = 2
    """,
    "Input": """
        oneof kind ExampleList example_list = 1
        oneof kind ExampleListWithContext example_list_with_context = 2
    """,
    "Class": """
        string label = 1
        float score = 2
    """,
    "Classifications": "repeated Class classes = 1",
    "ClassificationResult": "repeated Classifications classifications = 1",
    "ClassificationRequest": """
        ModelSpec model_spec = 1
        Input input = 2
    """,
    "ClassificationResponse": """
        ModelSpec model_spec = 2
        ClassificationResult result = 1
    """,
    "Regression": "float value = 1",
    "RegressionResult": "repeated Regression regressions = 1",
    "RegressionRequest": """
        ModelSpec model_spec = 1
        Input input = 2
    """,
    "RegressionResponse": """
        ModelSpec model_spec = 2
        RegressionResult result = 1
    """,
    "InferenceTask": """
        ModelSpec model_spec = 1
        string method_name = 2
    """,
    "InferenceResult": """
        ModelSpec model_spec = 1
        oneof result ClassificationResult classification_result = 2
        oneof result RegressionResult regression_result = 3
    """,
    "MultiInferenceRequest": """
        repeated InferenceTask tasks = 1
        Input input = 2
    """,
    "MultiInferenceResponse": "repeated InferenceResult results = 1",
    "SignatureDefMap": "map<string,.tensorflow.SignatureDef> signature_def = 1",
    "GetModelMetadataRequest": """
        ModelSpec model_spec = 1
        repeated string metadata_field = 2
    """,
    "GetModelMetadataResponse": """
        ModelSpec model_spec = 1
        map<string,.google.protobuf.Any> metadata = 2
    """,
    "StatusProto": """
        .tensorflow.error.Code error_code = 1
        string error_message = 2
    """,
    "GetModelStatusRequest": "ModelSpec model_spec = 1",
    "ModelVersionStatus": """
        int64 version = 1
        ModelVersionStatus.State state = 2
        StatusProto status = 3
    """,
    "GetModelStatusResponse": "repeated ModelVersionStatus model_version_status = 1",
    "ReloadConfigRequest": """
        ModelServerConfig config = 1
        repeated string metric_names = 2
    """,
    "Metric": """
        string name = 1
        oneof value_increase int64 int64_value_increase = 2
    """,
    "ReloadConfigResponse": """
        StatusProto status = 1
        repeated Metric metric = 2
    """,
    "SessionRunRequest": """
        ModelSpec model_spec = 1
        repeated .tensorflow.NamedTensorProto feed = 2
        repeated string fetch = 3
        repeated string target = 4
        bool tensor_name_is_alias = 6
        .tensorflow.RunOptions options = 5
    """,
    "SessionRunResponse": """
        ModelSpec model_spec = 3
        repeated .tensorflow.NamedTensorProto tensor = 1
        .tensorflow.RunMetadata metadata = 2
    """,
}

#: The same of configuration files (TF-C1 to TF-C11).
CONFIGURATION: Final[dict[str, str]] = {
    "FileSystemStoragePathSourceConfig": """
        repeated FileSystemStoragePathSourceConfig.ServableToMonitor servables = 5
        int64 file_system_poll_wait_seconds = 3
        bool fail_if_zero_versions_at_startup = 4
        bool servable_versions_always_present = 6
    """,
    "FileSystemStoragePathSourceConfig.ServableVersionPolicy": """
        oneof policy_choice FileSystemStoragePathSourceConfig.ServableVersionPolicy.Latest latest = 100
        oneof policy_choice FileSystemStoragePathSourceConfig.ServableVersionPolicy.All all = 101
        oneof policy_choice FileSystemStoragePathSourceConfig.ServableVersionPolicy.Specific specific = 102
    """,
    "FileSystemStoragePathSourceConfig.ServableVersionPolicy.Latest": "uint32 num_versions = 1",
    "FileSystemStoragePathSourceConfig.ServableVersionPolicy.All": "",
    "FileSystemStoragePathSourceConfig.ServableVersionPolicy.Specific": "repeated int64 versions = 1",
    "FileSystemStoragePathSourceConfig.ServableToMonitor": """
        string servable_name = 1
        string base_path = 2
        FileSystemStoragePathSourceConfig.ServableVersionPolicy servable_version_policy = 4
    """,
    "LogCollectorConfig": """
        string type = 1
        string filename_prefix = 2
    """,
    "PerTaskSamplingConfig": """
        string dc = 1
        oneof _task_index int32 task_index = 2
        double sampling_rate = 3
    """,
    "SamplingConfig": """
        double sampling_rate = 1
        repeated PerTaskSamplingConfig per_task_sampling_configs = 3
        int32 attributes = 2
    """,
    "LoggingConfig": """
        LogCollectorConfig log_collector_config = 1
        SamplingConfig sampling_config = 2
        .google.protobuf.Any custom_logging_config = 3
    """,
    "ModelConfig": """
        string name = 1
        string base_path = 2
        ModelType model_type = 3
        string model_platform = 4
        FileSystemStoragePathSourceConfig.ServableVersionPolicy model_version_policy = 7
        map<string,int64> version_labels = 8
        LoggingConfig logging_config = 6
    """,
    "ModelConfigList": "repeated ModelConfig config = 1",
    "ModelServerConfig": """
        oneof config ModelConfigList model_config_list = 1
        oneof config .google.protobuf.Any custom_model_config = 2
    """,
    "PlatformConfig": ".google.protobuf.Any source_adapter_config = 1",
    "PlatformConfigMap": "map<string,PlatformConfig> platform_configs = 1",
    "BatchingParameters": """
        .google.protobuf.Int64Value max_batch_size = 1
        .google.protobuf.Int64Value batch_timeout_micros = 2
        .google.protobuf.Int64Value max_enqueued_batches = 3
        .google.protobuf.Int64Value num_batch_threads = 4
        .google.protobuf.StringValue thread_pool_name = 5
        repeated int64 allowed_batch_sizes = 6
        bool pad_variable_length_inputs = 7
        .google.protobuf.BoolValue enable_large_batch_splitting = 8
        .google.protobuf.Int64Value max_execution_batch_size = 9
    """,
    "MonitoringConfig": "PrometheusConfig prometheus_config = 1",
    "PrometheusConfig": """
        bool enable = 1
        string path = 2
    """,
    "SSLConfig": """
        string server_key = 1
        string server_cert = 2
        string custom_ca = 3
        bool client_verify = 4
    """,
    # Written in text only, so that the numbers from 5 on need not be TensorFlow Serving's.
    "ModelWarmupOptions": """
        .google.protobuf.Int32Value num_request_iterations = 1
        .google.protobuf.Int32Value num_model_warmup_threads = 2
        string model_name = 3
        int64 model_version = 4
        bool enable_all_batch_sizes_warmup = 5
    """,
    "SessionBundleConfig": """
        string session_target = 1
        .tensorflow.ConfigProto session_config = 2
        BatchingParameters batching_parameters = 3
        .google.protobuf.Int32Value session_run_load_threadpool_index = 4
        uint64 experimental_transient_ram_bytes_during_load = 5
        repeated string saved_model_tags = 6
        BatchingParameters in_graph_batching_parameters = 7
        repeated .tensorflow.NamedTensorProto experimental_fixed_input_tensors = 778
        bool enable_model_warmup = 779
        ModelWarmupOptions model_warmup_options = 780
        bool enable_session_metadata = 781
        bool remove_unused_fields_from_bundle_metagraph = 782
        bool prefer_tflite_model = 783
        bool resource_estimation_uses_validation_result = 784
        int32 num_tflite_pools = 785
        int32 num_tflite_interpreters_per_pool = 786
        int32 num_tflite_interpreters = 787
        bool wrap_session_with_no_threading_params = 788
        bool enable_per_model_batching_params = 789
        bool enable_saved_model_config = 790
        string mixed_precision = 791
    """,
    "SavedModelBundleSourceAdapterConfig": "SessionBundleConfig legacy_config = 1000",
    "SessionBundleSourceAdapterConfig": "SessionBundleConfig config = 1",
    "SessionOverrides": """
        bytes remote_op_remap_config = 1
        bytes batch_op_rewriter_config = 2
        bool disable_meta_optimizer = 3
    """,
    "SavedModelConfig": """
        SessionOverrides session_overrides = 1
        bytes tfrt_runtime_config = 2
        bool critical = 3
    """,
}

#: The same of the prediction log (TF-G18).
LOG: Final[dict[str, str]] = {
    "LogMetadata": """
        ModelSpec model_spec = 1
        SamplingConfig sampling_config = 2
        repeated string saved_model_tags = 3
        int64 timestamp_secs = 4
        string dc = 5
        string request_origin = 6
        string request_criticality = 7
        int64 safe_aggregation_privacy_key = 8
    """,
    "ClassifyLog": """
        ClassificationRequest request = 1
        ClassificationResponse response = 2
    """,
    "RegressLog": """
        RegressionRequest request = 1
        RegressionResponse response = 2
    """,
    "PredictLog": """
        PredictRequest request = 1
        PredictResponse response = 2
    """,
    "PredictStreamedLog": """
        repeated PredictRequest request = 1
        repeated PredictResponse response = 2
    """,
    "MultiInferenceLog": """
        MultiInferenceRequest request = 1
        MultiInferenceResponse response = 2
    """,
    "SessionRunLog": """
        SessionRunRequest request = 1
        SessionRunResponse response = 2
    """,
    "PredictionLog": """
        LogMetadata log_metadata = 1
        oneof log_type ClassifyLog classify_log = 2
        oneof log_type RegressLog regress_log = 3
        oneof log_type PredictLog predict_log = 6
        oneof log_type PredictStreamedLog predict_streamed_log = 7
        oneof log_type MultiInferenceLog multi_inference_log = 4
        oneof log_type SessionRunLog session_run_log = 5
    """,
}

SERVING: Final[dict[str, str]] = {**REQUESTS, **CONFIGURATION, **LOG}

#: Those that lack fields which nobody here reads.
PARTIAL: Final = frozenset(
    (
        "TensorInfo.CompositeTensor",
        "MetaGraphDef",
        "MetaGraphDef.MetaInfoDef",
        "GPUOptions",
        "GraphOptions",
        "ConfigProto",
        "RunOptions",
        "RunMetadata",
    )
)

#: The names of ``tensorflow.DataType``, numbered from 0; each also as a reference, numbered from 100.
DATA_TYPES: Final = (
    "DT_INVALID DT_FLOAT DT_DOUBLE DT_INT32 DT_UINT8 DT_INT16 DT_INT8 DT_STRING DT_COMPLEX64 DT_INT64 "
    "DT_BOOL DT_QINT8 DT_QUINT8 DT_QINT32 DT_BFLOAT16 DT_QINT16 DT_QUINT16 DT_UINT16 DT_COMPLEX128 DT_HALF "
    "DT_RESOURCE DT_VARIANT DT_UINT32 DT_UINT64 DT_FLOAT8_E5M2 DT_FLOAT8_E4M3FN DT_FLOAT8_E4M3FNUZ "
    "DT_FLOAT8_E4M3B11FNUZ DT_FLOAT8_E5M2FNUZ DT_INT4 DT_UINT4 DT_INT2 DT_UINT2 DT_FLOAT4_E2M1FN"
)

#: ``tensorflow.error.Code``, which numbers as gRPC does.
CODES: Final = (
    "OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED "
    "RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE "
    "DATA_LOSS UNAUTHENTICATED DO_NOT_USE_RESERVED_FOR_FUTURE_EXPANSION_USE_DEFAULT_IN_SWITCH_INSTEAD_=20"
)
#: Enum of the package ``tensorflow.serving`` -> its values.
ENUMS: Final[dict[str, str]] = {
    "ModelVersionStatus.State": "UNKNOWN START=10 LOADING=20 AVAILABLE=30 UNLOADING=40 END=50",
    "PredictStreamedOptions.RequestState": "NONE SPLIT END_SPLIT CANCEL",
    "PredictRequest.RequestOptions.DeterministicMode": "DETERMINISTIC_MODE_UNSPECIFIED FIXED_DECODER_SLOT",
    "SamplingConfig.Attributes": "ATTR_DEFAULT ATTR_REQUEST_ORIGIN ATTR_REQUEST_CRITICALITY",
    "ModelType": "MODEL_TYPE_UNSPECIFIED TENSORFLOW OTHER",
}


#: How a message looks whose large parts are left as the bytes that they are: packed numbers, each run of them
#: one element, and whole examples. It lies the same on the wire.
_UNREAD: Final = (
    (
        re.compile(r"repeated (?:bool|int32|int64|uint32|uint64|float|double) (?=\w+_val = )"),
        "repeated bytes ",
    ),
    (re.compile(r"\.tensorflow\.Example (?=\w+ = )"), "bytes "),
)


@cache
def build() -> Mapping[str, Any]:
    """Message classes by name, the same ones for everybody: a message of one pool fits no other.

    >>> build()["ModelSpec"](name="half_plus_two", version={"value": 123}).version.value
    123
    """
    return _build(TENSORFLOW, SERVING)


@cache
def build_unread() -> Mapping[str, Any]:
    """The same messages, but packed numbers of a TensorProto and whole Examples are ``bytes``.

    So they need not become Python objects one by one. Numbers that came one by one, as no usual client sends
    them, are unknown fields.

    >>> made = build()["TensorProto"](float_val=[1.0, 2.0]).SerializeToString()
    >>> list(map(len, build_unread()["TensorProto"].FromString(made).float_val))
    [8]
    """

    def unread(messages: Mapping[str, str]) -> dict[str, str]:
        changed = dict(messages)
        for pattern, instead in _UNREAD:
            changed = {name: pattern.sub(instead, fields) for name, fields in changed.items()}
        return changed

    return _build(unread(TENSORFLOW), unread(SERVING))


def _build(tensorflow: Mapping[str, str], serving: Mapping[str, str]) -> Mapping[str, Any]:
    references = [f"{name}_REF={number}" for number, name in enumerate(DATA_TYPES.split()[1:], 101)]
    types = {"DataType": " ".join([DATA_TYPES, *references])}
    return protobuf.build(
        protobuf.Table("tensorflow.error", {}, {"Code": CODES}),
        protobuf.Table("tensorflow", tensorflow, types),
        protobuf.Table(
            "tensorflow.serving", serving, ENUMS, imports=(any_pb2.DESCRIPTOR, wrappers_pb2.DESCRIPTOR)
        ),
    )
