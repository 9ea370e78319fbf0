"""tensorflow_model_server's flags under ``--compat tensorflow-serving``, with an effect and without.

Source: the command line of TensorFlow Serving 2.20 and of its main branch of July 2026.
"""

from typing import Final

from salver import __version__
from salver.terminal.server_flags import CommandLine, FlagType

#: Flags with an effect: the type, and a line for --help with the default in brackets.
USED: Final[dict[str, tuple[FlagType, str]]] = {
    "port": ("int", "port of gRPC (8500); 0 = closed"),
    "grpc_socket_path": ("text", "UNIX socket for gRPC, besides the port"),
    "rest_api_port": ("int", "port of REST and of Salver's other protocols (8501); 0 = closed"),
    "rest_api_timeout_in_ms": ("int", "time limit of a call over REST (30000); 0 = none"),
    "rest_api_enable_cors_support": ("bool", "let pages of every origin call over REST (false)"),
    "model_name": ("text", "name of the one model (MODEL_NAME, or default)"),
    "model_base_path": ("text", "folder of its versions, or s3://, gs:// or as:// URL of one"),
    "model_config_file": ("text", "file with text ModelServerConfig: models by name and base path"),
    "model_config_file_poll_wait_seconds": ("seconds", "seconds between two looks at it (0 = read once)"),
    "file_system_poll_wait_seconds": (
        "seconds",
        "seconds between two looks at the base paths (1); 0 = look once",
    ),
    "num_load_threads": ("int", "versions that load at the same time (4)"),
    "max_num_load_retries": ("int", "retries of a version that does not load (5)"),
    "load_retry_interval_micros": ("int", "microseconds before each retry (60000000)"),
    "allow_version_labels_for_unavailable_models": (
        "bool",
        "allow new labels of versions that are not loaded (false)",
    ),
    "enable_batching": ("bool", "run requests in batches (false)"),
    "batching_parameters_file": ("text", "file with text BatchingParameters"),
    "enable_per_model_batching_parameters": (
        "bool",
        "use batching_params.pbtxt of each version; without one, no batching (false)",
    ),
    "enable_model_warmup": ("bool", "run assets.extra/tf_serving_warmup_requests before traffic (true)"),
    "num_request_iterations_for_warmup": ("int", "runs of each warm-up request (1)"),
    "monitoring_config_file": ("text", "file with text MonitoringConfig: path of the metrics page"),
    "ssl_config_file": ("text", "file with text SSLConfig, to encrypt gRPC"),
    "platform_config_file": (
        "text",
        "file with text PlatformConfigMap, instead of the flags of sessions and batching",
    ),
    "tensorflow_session_parallelism": ("int", "default of the next two flags (0 = automatic)"),
    "tensorflow_intra_op_parallelism": ("int", "threads in each operation (0 = automatic)"),
    "tensorflow_inter_op_parallelism": ("int", "operations at the same time (0 = automatic)"),
    "saved_model_tags": ("text", "tags of the meta graph to serve (serve)"),
    "prefer_tflite_model": ("bool", "prefer model.tflite of a version to its SavedModel (false)"),
    "enable_signature_method_name_check": (
        "bool",
        "require signatures of their kind for classify and regress (false)",
    ),
    "enable_serialization_as_tensor_content": ("bool", "answer over gRPC with tensor_content (false)"),
    "version": ("switch", "print the version and exit"),
}

_ALWAYS: Final = "Salver does that by itself"
_FIXED: Final = "the front has limits of its own"
_NO_GPU: Final = "it is about accelerators"
_SESSION: Final = "sessions are Salver's own"

#: Flags without an effect here, with the reason.
IGNORED: Final[dict[str, tuple[FlagType, str]]] = {
    "grpc_max_threads": ("int", _ALWAYS),
    "grpc_channel_arguments": ("text", _FIXED),
    "rest_api_num_threads": ("int", _ALWAYS),
    "num_unload_threads": ("int", _ALWAYS),
    "flush_filesystem_caches": ("bool", "the system's page cache is left to the system"),
    "remove_unused_fields_from_bundle_metagraph": ("bool", "memory of loading is always freed"),
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

#: Flags of ``salver serve`` itself that are also accepted.
OWN: Final[dict[str, tuple[FlagType, str]]] = {
    "host": ("text", "address to listen on (127.0.0.1); 0.0.0.0 = all"),
    "drain_delay": ("seconds", "seconds after SIGTERM, not ready but answering (0 on a terminal, else 5)"),
    "exit_on_error": ("bool", "exit with 1 if a model does not load at the start (false)"),
    "grace_seconds": ("int", "seconds for requests in flight when the server stops (30)"),
    "tls_cert": ("text", "PEM file; encrypts the REST port, with tls_key"),
    "tls_key": ("text", "PEM file"),
    "max_body_mb": ("int", "largest body over REST, in MiB (64)"),
    "trust_pickle": (
        "switch",
        "allow models whose loading runs code, such as pickles, also from requests",
    ),
    "state_dir": ("text", "folder for profiles of models with an objective, and for ONNX graphs"),
    "prefer": (
        "text",
        "framework of SavedModels: tensorflow, or onnx if they can be converted (tensorflow)",
    ),
    "log_level": ("text", "debug, info, warning or error (TF_CPP_MIN_LOG_LEVEL, or info)"),
    "identity_file": ("text", "file of issuers of JWTs, trusted proxies, and rights by claims (none)"),
    "keys_file": ("text", "file of keys (salver keys), one of which every request needs (none)"),
    "api_token_file": ("text", "file with the token that changes need, such as loading a model (none)"),
    "allowed_host": (
        "text",
        "host name, besides localhost, that callers of a local port may use; may be repeated",
    ),
    "access_log": ("text", "off, errors or all (off)"),
    "prediction_log": ("text", "folder for logs of requests and answers, of models with logging_config"),
    "tensorflow_metrics": ("bool", "also metrics under TensorFlow Serving's names (true)"),
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
