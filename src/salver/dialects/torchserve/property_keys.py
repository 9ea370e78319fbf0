"""Keys of TorchServe's config.properties, and their effect under ``--compat torchserve``.

Some have TorchServe's effect; the others are accepted without one. Facts: TorchServe 0.12.0, its
earlier releases, and the files that KServe writes. ``settings.py`` reads the files.
"""

from typing import Final, Literal, NamedTuple

Kind = Literal["text", "flag", "number", "float", "address", "json", "pattern", "mode", "envelope"]


class Key(NamedTuple):
    """A key of config.properties.

    Attributes:
        about: Its effect, or why it has none.
        least, most: Range of a number.
        variable: Environment variable that overrides the file; empty = none.
    """

    kind: Kind
    default: str
    about: str
    least: int = 0
    most: int = (1 << 31) - 1
    variable: str = ""


_AGES: Final = (1, (1 << 63) - 1)


def _used() -> dict[str, Key]:
    port = (1, 65535)
    return {
        "inference_address": Key("address", "http://127.0.0.1:8080", "predictions over REST"),
        "management_address": Key("address", "http://127.0.0.1:8081", "management over REST"),
        "metrics_address": Key("address", "http://127.0.0.1:8082", "the metrics page"),
        "grpc_inference_address": Key("text", "127.0.0.1", "predictions over gRPC"),
        "grpc_management_address": Key("text", "127.0.0.1", "management over gRPC"),
        "grpc_inference_port": Key("number", "7070", "predictions over gRPC", *port),
        "grpc_management_port": Key("number", "7071", "management over gRPC", *port),
        "model_store": Key("text", "", "folder of archives"),
        "workflow_store": Key("text", "", "folder of workflow archives (model_store)"),
        "load_models": Key("text", "", "all, or files and name=file, with commas: loaded at the start"),
        "models": Key("json", "", "settings by model and version"),
        "model_snapshot": Key("json", "", "models to load, as in a snapshot; overrides load_models"),
        "default_service_handler": Key("text", "", "handler of archives that name none"),
        "service_envelope": Key("envelope", "", "body, json, kserve or kservev2: how bodies are wrapped"),
        "install_py_dep_per_model": Key("flag", "false", "install the requirements.txt of archives"),
        "allowed_urls": Key("pattern", "file://.*|http(s)?://.*", "where archives may come from"),
        "use_env_allowed_urls": Key("flag", "false", "read TS_ALLOWED_URLS"),
        "default_workers_per_model": Key("number", "0", "workers of a model; 0 = one for each GPU or CPU"),
        "number_of_gpu": Key("number", str((1 << 31) - 1), "most GPUs that workers use"),
        "default_response_timeout": Key("number", "120", "seconds that a run may take", 1),
        "default_startup_timeout": Key("number", "120", "seconds that a worker may take to start", 1),
        "unregister_model_timeout": Key("number", "120", "seconds that a model may take to unload", 1),
        "job_queue_size": Key("number", "100", "requests of a model that may wait", 1),
        "initial_worker_port": Key("number", "9000", "number of the first worker", 0, 65535),
        "blacklist_env_vars": Key("pattern", "", "variables that are hidden from workers"),
        "max_request_size": Key("number", "6553500", "most bytes of a request", 1),
        "max_response_size": Key("number", "6553500", "most bytes of a reply", 1),
        "limit_max_image_pixels": Key("flag", "true", "keep Pillow's limit of an image's pixels"),
        "decode_input_request": Key("flag", "true", "decode JSON and text before the handler"),
        "keystore": Key("text", "", "PKCS #12 file with key and certificate, for https:// addresses"),
        "keystore_pass": Key("text", "changeit", "its password"),
        "keystore_type": Key("text", "PKCS12", "its type"),
        "certificate_file": Key("text", "", "PEM certificate, for https:// addresses"),
        "private_key_file": Key("text", "", "PEM key, for https:// addresses"),
        "enable_grpc_ssl": Key("flag", "false", "encrypt gRPC, with certificate_file and private_key_file"),
        "disable_token_authorization": Key("flag", "false", "require no tokens"),
        "token_expiration_min": Key("float", "60", "minutes until tokens expire"),
        "enable_model_api": Key("flag", "false", "allow requests to register and unregister models"),
        "cors_allowed_origin": Key("text", "", "Access-Control-Allow-Origin"),
        "cors_allowed_methods": Key("text", "", "Access-Control-Allow-Methods"),
        "cors_allowed_headers": Key("text", "", "Access-Control-Allow-Headers"),
        "enable_metrics_api": Key("flag", "true", "serve the metrics page"),
        "metrics_mode": Key("mode", "log", "log, prometheus or legacy"),
        "metrics_config": Key("text", "", "YAML file that declares metrics"),
        "metric_time_interval": Key("number", "60", "seconds between metrics of the machine", 1),
        "model_metrics_auto_detect": Key("flag", "false", "count models' metrics that are not in the file"),
        "disable_system_metrics": Key("flag", "false", "no metrics of the machine"),
        "ts_header_key_sequence_id": Key("text", "ts_request_sequence_id", "header of a sequence's id"),
        "ts_header_key_sequence_start": Key("text", "ts_request_sequence_start", "header of its start"),
        "ts_header_key_sequence_end": Key("text", "ts_request_sequence_end", "header of its end"),
        "ts_open_inference_protocol": Key("flag", "false", "serve Open Inference routes on the port, too"),
        "enable_envvars_config": Key("flag", "false", "TS_ variables override this file"),
        "debug": Key("flag", "false", "one worker for each model"),
    }


_ALWAYS: Final = "Salver does that by itself"
_JAVA: Final = "Salver does not use Java"
_NO_GPU: Final = "it is for accelerators"
_INTEL: Final = "Intel's extension for PyTorch and its launcher are not used"
_AGE: Final = "connections have no maximum age"
_ORIGIN: Final = "it only says what wrote the file"


def _ignored() -> dict[str, Key]:
    return {
        "number_of_netty_threads": Key("number", "0", _ALWAYS),
        "netty_client_threads": Key("number", "0", _ALWAYS),
        "use_native_io": Key("flag", "true", _ALWAYS),
        "io_ratio": Key("number", "50", _ALWAYS),
        "prefer_direct_buffer": Key("flag", "false", _ALWAYS),
        "async_logging": Key("flag", "false", "lines are written off the requests' path in any case"),
        "initial_distribution_port": Key("number", "29500", _NO_GPU, 0, 65535),
        "ipex_enable": Key("flag", "false", _INTEL),
        "ipex_gpu_enable": Key("flag", "false", _INTEL),
        "cpu_launcher_enable": Key("flag", "false", _INTEL),
        "cpu_launcher_args": Key("text", "", _INTEL),
        "system_metrics_cmd": Key("text", "", "metrics of the machine are Salver's own"),
        "grpc_inference_max_connection_age_ms": Key("number", "", _AGE, *_AGES),
        "grpc_inference_max_connection_age_grace_ms": Key("number", "", _AGE, *_AGES),
        "grpc_management_max_connection_age_ms": Key("number", "", _AGE, *_AGES),
        "grpc_management_max_connection_age_grace_ms": Key("number", "", _AGE, *_AGES),
        "cpp_log_config": Key("text", "", "there is no C++ backend"),
        "vmargs": Key("text", "", _JAVA),
        "plugins_path": Key("text", "", _JAVA),
        "model_server_home": Key("text", "", "Salver needs no files of TorchServe"),
        # Of releases before 0.12, and of KServe's files.
        "metrics_format": Key("text", "prometheus", "metrics_mode replaces it"),
        "snapshot_store": Key("text", "FS", "snapshots are files"),
        "NUM_WORKERS": Key("text", "", "default_workers_per_model replaces it"),
        # Added by TorchServe when it writes a snapshot.
        "version": Key("text", "", _ORIGIN),
        "tsConfigFile": Key("text", "", _ORIGIN),
        "python": Key("text", "", _ORIGIN),
    }


#: Keys without an environment variable.
_ONLY_IN_FILES: Final = frozenset({
    "use_native_io", "io_ratio", "metric_time_interval", "enable_envvars_config", "model_snapshot", "models",
    "version", "system_metrics_cmd", "use_env_allowed_urls", "vmargs", "plugins_path", "metrics_format",
    "NUM_WORKERS", "tsConfigFile", "python",
})  # fmt: skip
#: Keys of a snapshot that are no reason for a notice.
OF_SNAPSHOTS: Final = frozenset({"version", "tsConfigFile", "python"})


def _named(keys: dict[str, Key]) -> dict[str, Key]:
    """Return the keys with their variables."""
    variables = {name: key._replace(variable=_variable(name)) for name, key in keys.items()}
    return variables | {name: keys[name] for name in _ONLY_IN_FILES & keys.keys()}


def _variable(name: str) -> str:
    """Return the environment variable of a key.

    >>> _variable("job_queue_size"), _variable("ts_header_key_sequence_id")
    ('TS_JOB_QUEUE_SIZE', 'TS_HEADER_KEY_SEQUENCE_ID')
    """
    if name == "token_expiration_min":
        return "TS_TOKEN_EXPIRATION_TIME_MIN"
    return f"TS_{name.removeprefix('ts_').upper()}"


#: Keys with an effect.
USED: Final = _named(_used())
#: Keys without one.
IGNORED: Final = _named(_ignored())
KEYS: Final = {**USED, **IGNORED}
