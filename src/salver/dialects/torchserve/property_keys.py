"""Which keys has config.properties of TorchServe, and what becomes of each under ``--compat torchserve``?

Those that do here what they do there, and those that are accepted and have no effect (X-29). Facts:
TorchServe 0.12.0, its releases before, and the files that KServe writes. What a file says is read in
``torchserve_settings.py``.
"""

from typing import Final, Literal, NamedTuple

Kind = Literal["text", "flag", "number", "float", "address", "json", "pattern", "mode"]


class Key(NamedTuple):
    """A key of config.properties.

    Attributes:
        about: A line on what it does, or why it has no effect.
        least, most: Of a number.
        variable: Environment variable that goes before the file; empty = none does.
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
        "model_snapshot": Key("json", "", "models to load, as a snapshot has them; goes before load_models"),
        "default_service_handler": Key("text", "", "handler of archives that name none"),
        "service_envelope": Key("text", "", "body, json, kserve or kservev2: how bodies are wrapped"),
        "install_py_dep_per_model": Key("flag", "false", "install the requirements.txt of archives"),
        "allowed_urls": Key("pattern", "file://.*|http(s)?://.*", "where archives may come from"),
        "use_env_allowed_urls": Key("flag", "false", "TS_ALLOWED_URLS counts"),
        "default_workers_per_model": Key(
            "number", "0", "workers of a model at the start; 0 = one a GPU, or a CPU"
        ),
        "number_of_gpu": Key("number", str((1 << 31) - 1), "most GPUs that workers use"),
        "default_response_timeout": Key("number", "120", "seconds that a run may take", 1),
        "default_startup_timeout": Key("number", "120", "seconds that a worker may take to start", 1),
        "unregister_model_timeout": Key("number", "120", "seconds that a model may take to go", 1),
        "job_queue_size": Key("number", "100", "requests of a model that may wait", 1),
        "initial_worker_port": Key("number", "9000", "number of the first worker", 0, 65535),
        "blacklist_env_vars": Key("pattern", "", "variables that workers do not see"),
        "max_request_size": Key("number", "6553500", "most bytes of a request", 1),
        "max_response_size": Key("number", "6553500", "most bytes of a reply", 1),
        "limit_max_image_pixels": Key("flag", "true", "Pillow's limit of an image's pixels holds"),
        "decode_input_request": Key("flag", "true", "bodies become objects and text before the handler"),
        "keystore": Key("text", "", "PKCS #12 file with key and certificate, for https:// addresses"),
        "keystore_pass": Key("text", "changeit", "its password"),
        "keystore_type": Key("text", "PKCS12", "its type"),
        "certificate_file": Key("text", "", "PEM certificate, for https:// addresses"),
        "private_key_file": Key("text", "", "PEM key, for https:// addresses"),
        "enable_grpc_ssl": Key("flag", "false", "encrypt gRPC, with certificate_file and private_key_file"),
        "disable_token_authorization": Key("flag", "false", "ask for no tokens"),
        "token_expiration_min": Key("float", "60", "minutes that tokens live"),
        "enable_model_api": Key("flag", "false", "models may be registered and unregistered"),
        "cors_allowed_origin": Key("text", "", "Access-Control-Allow-Origin"),
        "cors_allowed_methods": Key("text", "", "Access-Control-Allow-Methods"),
        "cors_allowed_headers": Key("text", "", "Access-Control-Allow-Headers"),
        "enable_metrics_api": Key("flag", "true", "serve the metrics page"),
        "metrics_mode": Key("mode", "log", "log, prometheus or legacy"),
        "metrics_config": Key("text", "", "YAML file: which metrics there are"),
        "metric_time_interval": Key("number", "60", "seconds between metrics of the machine", 1),
        "model_metrics_auto_detect": Key("flag", "false", "models' metrics count without being in the file"),
        "disable_system_metrics": Key("flag", "false", "no metrics of the machine"),
        "ts_header_key_sequence_id": Key("text", "ts_request_sequence_id", "header of a sequence's id"),
        "ts_header_key_sequence_start": Key("text", "ts_request_sequence_start", "header of its start"),
        "ts_header_key_sequence_end": Key("text", "ts_request_sequence_end", "header of its end"),
        "ts_open_inference_protocol": Key("flag", "false", "serve Open Inference routes on the port, too"),
        "enable_envvars_config": Key("flag", "false", "TS_ variables go before this file"),
        "debug": Key("flag", "false", "one worker a model"),
    }


_ALWAYS: Final = "Salver does that by itself"
_JAVA: Final = "there is no Java"
_NO_GPU: Final = "it is about accelerators"
_INTEL: Final = "Intel's extension for PyTorch and its launcher are not used"
_AGE: Final = "connections are not closed for their age"
_TOLD: Final = "it only tells what wrote the file"


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
        "metrics_format": Key("text", "prometheus", "metrics_mode says it"),
        "snapshot_store": Key("text", "FS", "snapshots are files"),
        "NUM_WORKERS": Key("text", "", "default_workers_per_model says it"),
        # What TorchServe itself adds when it writes a snapshot.
        "version": Key("text", "", _TOLD),
        "tsConfigFile": Key("text", "", _TOLD),
        "python": Key("text", "", _TOLD),
    }


#: Set by no environment variable.
_ONLY_IN_FILES: Final = frozenset(
    {
        "use_native_io",
        "io_ratio",
        "metric_time_interval",
        "enable_envvars_config",
        "model_snapshot",
        "models",
        "version",
        "system_metrics_cmd",
        "use_env_allowed_urls",
        "vmargs",
        "plugins_path",
        "metrics_format",
        "NUM_WORKERS",
        "tsConfigFile",
        "python",
    }
)
#: Keys of a snapshot that the next start need not hear of.
OF_SNAPSHOTS: Final = frozenset({"version", "tsConfigFile", "python"})


def _named(keys: dict[str, Key]) -> dict[str, Key]:
    """With their variables."""
    return {
        name: key if name in _ONLY_IN_FILES else key._replace(variable=_variable(name))
        for name, key in keys.items()
    }


def _variable(name: str) -> str:
    """The variable of a key.

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
