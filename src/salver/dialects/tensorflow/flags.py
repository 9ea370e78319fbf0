"""Which flags has tensorflow_model_server, and what becomes of each under ``--compat tensorflow-serving``?

Those that do here what they do there, and those that are accepted and have no effect. Facts: the command line
of TensorFlow Serving 2.20 and of its main branch of July 2026.
"""

from typing import Final

from salver import __version__
from salver.terminal.server_flags import CommandLine, FlagType

#: Flags with an effect: what they take, and a line for --help.
USED: Final[dict[str, tuple[FlagType, str]]] = {
    "port": ("int", "gRPC (8500); 0 = not"),
    "grpc_socket_path": ("text", "UNIX socket that answers gRPC, too"),
    "rest_api_port": ("int", "REST, and all else that Salver speaks (8501); 0 = not"),
    "rest_api_timeout_in_ms": ("int", "for a whole call over REST (30000); 0 = as long as it takes"),
    "rest_api_enable_cors_support": ("bool", "pages of every origin may ask over REST (false)"),
    "model_name": ("text", "of the one model (MODEL_NAME, or default)"),
    "model_base_path": ("text", "folder of its versions, or s3://, gs:// or as:// URL of one"),
    "model_config_file": ("text", "text ModelServerConfig: models by name and base path"),
    "model_config_file_poll_wait_seconds": ("seconds", "between two looks at it (0 = it is read once)"),
    "file_system_poll_wait_seconds": ("seconds", "between two looks at the base paths (1); 0 = one look"),
    "num_load_threads": ("int", "versions that load at the same time (4)"),
    "max_num_load_retries": ("int", "further tries of a version that does not load (5)"),
    "load_retry_interval_micros": ("int", "before each of them (60000000)"),
    "allow_version_labels_for_unavailable_models": (
        "bool",
        "a new label may mean a version that is not up yet (false)",
    ),
    "enable_batching": ("bool", "requests share runs (false)"),
    "batching_parameters_file": ("text", "text BatchingParameters: how"),
    "enable_per_model_batching_parameters": (
        "bool",
        "batching_params.pbtxt of a version says how; without one it has no batching (false)",
    ),
    "enable_model_warmup": ("bool", "run assets.extra/tf_serving_warmup_requests before traffic (true)"),
    "num_request_iterations_for_warmup": ("int", "how often each of them (1)"),
    "monitoring_config_file": ("text", "text MonitoringConfig: path of the metrics page"),
    "ssl_config_file": ("text", "text SSLConfig: encrypts gRPC"),
    "platform_config_file": ("text", "text PlatformConfigMap: stands for the flags of sessions and batching"),
    "tensorflow_session_parallelism": ("int", "threads, in operations and of them (0 = automatic)"),
    "tensorflow_intra_op_parallelism": ("int", "threads in an operation (0 = automatic)"),
    "tensorflow_inter_op_parallelism": ("int", "operations at the same time (0 = automatic)"),
    "saved_model_tags": ("text", "of the meta graph that is served (serve)"),
    "prefer_tflite_model": ("bool", "model.tflite of a version goes before its SavedModel (false)"),
    "enable_signature_method_name_check": ("bool", "classify and regress need signatures of them (false)"),
    "enable_serialization_as_tensor_content": ("bool", "answers over gRPC have tensor_content (false)"),
    "version": ("switch", "tell the version, and end"),
}

_ALWAYS: Final = "Salver does that by itself"
_FIXED: Final = "the front has limits of its own"
_NO_GPU: Final = "it is about accelerators"
_SESSION: Final = "sessions are Salver's own"

#: Flags without an effect here, and why.
IGNORED: Final[dict[str, tuple[FlagType, str]]] = {
    "grpc_max_threads": ("int", _ALWAYS),
    "grpc_channel_arguments": ("text", _FIXED),
    "rest_api_num_threads": ("int", _ALWAYS),
    "num_unload_threads": ("int", _ALWAYS),
    "flush_filesystem_caches": ("bool", "the system's page cache is left to the system"),
    "remove_unused_fields_from_bundle_metagraph": ("bool", "memory of loading is given back in any case"),
    "tensorflow_session_config_file": ("text", _SESSION),
    "use_alts_credentials": ("bool", "ALTS is for Google's own machines; --ssl_config_file encrypts"),
    "per_process_gpu_memory_fraction": ("text", _NO_GPU),
    "xla_cpu_compilation_enabled": ("bool", _SESSION),
    "xla_gpu_compilation_enabled": ("bool", _NO_GPU),
    "mixed_precision": ("text", _NO_GPU),
    "skip_initialize_tpu": ("bool", _NO_GPU),
    "num_tflite_pools": ("int", _ALWAYS),
    "num_tflite_interpreters_per_pool": ("int", _ALWAYS),
    "enable_grpc_healthcheck_service": ("bool", "grpc.health.v1 is always served"),
    "enable_profiler": ("bool", "there is no ProfilerService; see OpenTelemetry and `salver explain`"),
    "thread_pool_factory_config_file": ("text", _SESSION),
}

#: Flags of ``salver serve`` itself that go with them.
OWN: Final[dict[str, tuple[FlagType, str]]] = {
    "host": ("text", "address to listen on (127.0.0.1); 0.0.0.0 for every one"),
    "drain_delay": ("seconds", "after SIGTERM, not ready and answering (0 on a terminal, else 5)"),
    "exit_on_error": ("bool", "end with 1 where a model does not load at the start (false)"),
    "grace_seconds": ("int", "for requests in flight when the server stops (30)"),
    "tls_cert": ("text", "PEM file; encrypts the REST port, with tls_key"),
    "tls_key": ("text", "PEM file"),
    "max_body_mb": ("int", "most MiB of a body over REST (64)"),
    "trust_pickle": (
        "switch",
        "allow pickle and joblib files, and requests to bring models of any format",
    ),
    "state_dir": ("text", "where profiles of models with an objective, and ONNX graphs, are kept"),
    "prefer": (
        "text",
        "who runs SavedModels: tensorflow, or onnx as far as they can be converted (tensorflow)",
    ),
    "log_level": ("text", "debug, info, warning or error (by TF_CPP_MIN_LOG_LEVEL, or info)"),
    "api_token_file": ("text", "file of the token that changes need: loads, unloads, settings (none)"),
    "allowed_host": (
        "text",
        "name besides localhost by which a port of this machine alone may be asked; may be repeated",
    ),
    "access_log": ("text", "off, errors or all (off)"),
    "prediction_log": ("text", "folder that takes requests with their answers, as logging_config wants them"),
    "tensorflow_metrics": ("bool", "metrics under TensorFlow Serving's names, too (true)"),
    "json": ("switch", "print the start-up block as a JSON object"),
}

TENSORFLOW: Final = CommandLine(
    "tensorflow-serving",
    "tensorflow_model_server",
    USED,
    IGNORED,
    OWN,
    "Models are named by --model_base_path or --model_config_file.",
    "--model_name=NAME --model_base_path=FOLDER",
    f"TensorFlow ModelServer: none; Salver {__version__} with its flags",
)
