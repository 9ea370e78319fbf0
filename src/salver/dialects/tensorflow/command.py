"""tensorflow_model_server's flags, and the files that they name, as Salver's configuration."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from salver.configuration import ServeConfig, Startup
from salver.dialects.tensorflow import tf_text
from salver.dialects.tensorflow.batching_parameters import batching_of
from salver.dialects.tensorflow.config import NamedModels, TensorFlowConfig
from salver.dialects.tensorflow.flag_files import Platform, metrics_path, naming, parse_file, platform, tls
from salver.dialects.tensorflow.flags import TENSORFLOW
from salver.dialects.tensorflow.metrics import TensorFlowMetricsConfig
from salver.dialects.tensorflow.model_list import PLATFORM, named_models, without_effect
from salver.dialects.tensorflow.reloading import read
from salver.dialects.tensorflow.rules import TfsRules
from salver.kernel.lifecycle.ports import LifecycleConfig
from salver.kernel.repository import NamedModel, NamedModelDefaults, RepositoryConfig
from salver.kernel.repository.named_models import NO_BATCHING
from salver.terminal import otel
from salver.terminal.options import default_state_dir, drain_delay
from salver.terminal.server_flags import ParsedFlags
from salver.transport.access_check import ApiConfig
from salver.transport.server import FrontConfig
from salver.words.errors import InvalidInput

_LOCAL: Final = "127.0.0.1"
_ONLY_HERE: Final = (
    "only this machine can connect; to listen on every address, as tensorflow_model_server does: "
    "--host=0.0.0.0"
)
_NO_MODELS: Final = "Both server_options.model_base_path and server_options.model_config_file are empty!"
_NO_BATCHING: Final = (
    "server_options.batching_parameters_file is set without setting server_options.enable_batching to true."
)
#: By TF_CPP_MIN_LOG_LEVEL.
_LEVELS: Final = {
    "0": "info",
    "1": "warning",
    "2": "error",
    "3": "error",
    "debug": "debug",
    "info": "info",
    "warning": "warning",
    "error": "error",
}
_ACCESS: Final = ("off", "errors", "all")


def configure(words: Sequence[str], environment: Mapping[str, str]) -> Startup:
    """Return the configuration of tensorflow_model_server's flags.

    Args:
        environment: ``MODEL_NAME`` and ``MODEL_BASE_PATH`` count if no flag names a model (TF-F22).

    Raises:
        InvalidInput: A flag, its value or a file is wrong; the text is TensorFlow Serving's if it has one.
    """
    given = ParsedFlags(words, TENSORFLOW)
    first, *more = _fronts(given)
    session = platform(given.text("platform_config_file"))
    poll = given.seconds("file_system_poll_wait_seconds", 1)
    served, unread = _served(given, environment)
    named_defaults, pool = _named_defaults(given, session)
    retries = given.number("max_num_load_retries", 5)
    loads = given.number("num_load_threads", 0) or 4
    interval = given.number("load_retry_interval_micros", 60_000_000) / 1e6
    prefers_tflite = given.is_on("prefer_tflite_model", session.prefers_tflite)
    config = ServeConfig(
        front=first,
        more=tuple(more),
        # As with tensorflow_model_server, everyone who can connect may replace the list of models.
        api=ApiConfig(given.text("api_token_file"), True, given.all("allowed_host")),
        control="poll" if poll else "none",
        poll_seconds=poll or 1.0,
        trust_pickle=given.is_on("trust_pickle", False),
        max_body_mb=given.number("max_body_mb", 64),
        state_dir=given.text("state_dir", default_state_dir()),
        drain_delay=drain_delay(given.text("drain_delay") or None, environment),
        exits_on_error=given.is_on("exit_on_error", False) or None,
        repository=RepositoryConfig(first_filename="model.tflite" if prefers_tflite else ""),
        lifecycle=LifecycleConfig(loads, retries, interval, 1.0),
        named_defaults=named_defaults,
        waits_for_models=True,
        readiness="whole",
        tables={
            "tensorflow": TensorFlowConfig(
                _rules(given),
                TensorFlowMetricsConfig(
                    "all" if given.is_on("tensorflow_metrics", True) else "none",
                    named_defaults.batching != NO_BATCHING,
                    pool,
                ),
                metrics_path(given.text("monitoring_config_file")),
                served,
                given.text("prediction_log"),
            ),
            "twins": {"prefer": _preference(given)},
            "log": _log(given, environment),
            "access": {"keys_file": given.text("keys_file")},
            "identity": {"file": given.text("identity_file")},
            "tracing": otel.from_environment(environment),
        },
    )
    notices = (*given.without_effect(), *session.notices, *unread, *_notices(given))
    return Startup(config, notices, "" if "host" in given else _ONLY_HERE, given.is_on("json", False))


def _preference(given: ParsedFlags) -> Literal["tensorflow", "onnx"]:
    match given.text("prefer", "tensorflow"):
        case "onnx":
            return "onnx"
        case "tensorflow":
            return "tensorflow"
        case other:
            raise InvalidInput(f"--prefer={other} is unknown", fix="Use onnx or tensorflow.")


def _notices(given: ParsedFlags) -> list[str]:
    found = []
    if given.text("model_config_file"):
        found += [
            f"--{name} is ignored, since --model_config_file names the models"
            for name in ("model_name", "model_base_path")
            if name in given
        ]
    if given.text("platform_config_file") and given.is_on("enable_batching", False):
        found.append("--enable_batching is ignored, since --platform_config_file configures batching")
    return found


def _served(given: ParsedFlags, environment: Mapping[str, str]) -> tuple[NamedModels, list[str]]:
    """Return the models by name, and notices about settings without effect."""
    file = given.text("model_config_file")
    allows = given.is_on("allow_version_labels_for_unavailable_models", False)
    if not file:
        return NamedModels((_one(given, environment),), allows_unready_labels=allows), []
    poll = given.seconds("model_config_file_poll_wait_seconds", 0)
    config = tf_text.parse(read(file), "ModelServerConfig", file)
    with naming(file):
        places = named_models(config)
    notices = [f"{file}: {key} is accepted and has no effect here" for key in without_effect(config)]
    if not places:
        notices.append(f"{file} names no models")
    return NamedModels(places, file, poll, allows), notices


def _one(given: ParsedFlags, environment: Mapping[str, str]) -> NamedModel:
    """Return the model of the flags, or of the container's environment."""
    name, path = given.text("model_name"), given.text("model_base_path")
    if not path and not ("MODEL_NAME" in environment or "MODEL_BASE_PATH" in environment):
        raise InvalidInput(_NO_MODELS, fix="Add --model_name=NAME --model_base_path=FOLDER.")
    if not path:
        name = name or environment.get("MODEL_NAME", "model")
        path = f"{environment.get('MODEL_BASE_PATH', '/models').rstrip('/')}/{name}"
    if "://" not in path:
        path = str(Path(path).absolute())
    return NamedModel(name or "default", path, platform=PLATFORM)


def _named_defaults(given: ParsedFlags, session: Platform) -> tuple[NamedModelDefaults, str]:
    """Return the defaults of every model, and the name of the threads that run batches."""
    parameters = session.batching
    if not given.text("platform_config_file") and given.is_on("enable_batching", False):
        parameters = parse_file(given.text("batching_parameters_file"), "BatchingParameters")
    elif given.text("batching_parameters_file"):
        raise InvalidInput(_NO_BATCHING)
    both = given.number("tensorflow_session_parallelism", 0)
    threads = {
        "intra_op_threads": given.number("tensorflow_intra_op_parallelism", 0) or both or session.intra_op,
        "inter_op_threads": given.number("tensorflow_inter_op_parallelism", 0) or both or session.inter_op,
    }
    options = {name: str(number) for name, number in threads.items() if number}
    if tags := given.text("saved_model_tags", session.tags):
        options["tags"] = tags
    replays = 0
    if given.is_on("enable_model_warmup", session.warms_up):
        replays = given.number("num_request_iterations_for_warmup", session.warmups) or 1
    defaults = NamedModelDefaults(
        batching=NO_BATCHING, options={"tensorflow": options} if options else {}, replays=replays
    )
    if parameters is None:
        return defaults, ""
    with naming(given.text("platform_config_file") or given.text("batching_parameters_file")):
        batching = batching_of(parameters)
    has_own = given.is_on("enable_per_model_batching_parameters", session.has_own_batching)
    instances = parameters.num_batch_threads.value
    defaults = msgspec.structs.replace(
        defaults, batching=batching, instances=instances, has_own_batching=has_own
    )
    return defaults, parameters.thread_pool_name.value


def _fronts(given: ParsedFlags) -> list[FrontConfig]:
    """Return the ports of gRPC and REST, and the UNIX socket, that are open."""
    host, grace = given.text("host", _LOCAL), float(given.number("grace_seconds", 30))
    plain = FrontConfig(host, 0, grace_seconds=grace)
    found = []
    rest, port = given.port("rest_api_port", 8501), given.port("port", 8500)
    if rest and rest == port:
        raise InvalidInput(f"--rest_api_port and --port are both {port}; they must differ")
    certificate, key, authority = tls(given.text("ssl_config_file"))
    if port:
        grpc = msgspec.structs.replace(plain, port=port, serves="grpc")
        grpc = msgspec.structs.replace(grpc, tls_cert=certificate, tls_key=key, tls_client_ca=authority)
        found.append(grpc)
    if path := given.text("grpc_socket_path"):
        found.append(msgspec.structs.replace(plain, path=path, serves="grpc"))
    if rest:
        certificate, key = given.text("tls_cert"), given.text("tls_key")
        if bool(certificate) != bool(key):
            raise InvalidInput("--tls_cert and --tls_key need each other")
        found.append(msgspec.structs.replace(plain, port=rest, tls_cert=certificate, tls_key=key))
    if not found:
        raise InvalidInput(
            "At least one of server_options.grpc_port or server_options.grpc_socket_path must be set.",
            fix="Or --rest_api_port.",
        )
    return found


def _rules(given: ParsedFlags) -> TfsRules:
    return TfsRules(
        answers_as_content=given.is_on("enable_serialization_as_tensor_content", False),
        checks_method_names=given.is_on("enable_signature_method_name_check", False),
        timeout_s=given.number("rest_api_timeout_in_ms", 30_000) / 1e3,
        allows_cors=given.is_on("rest_api_enable_cors_support", False),
        tells_no_more=True,
    )


def _log(given: ParsedFlags, environment: Mapping[str, str]) -> dict[str, object]:
    level = given.text("log_level", environment.get("TF_CPP_MIN_LOG_LEVEL", "info"))
    access = given.text("access_log", "off")
    if level not in _LEVELS:
        raise InvalidInput(f"--log_level {level!r} is not known", fix="debug, info, warning or error.")
    if access not in _ACCESS:
        raise InvalidInput(f"--access_log {access!r} is not known", fix=f"One of {', '.join(_ACCESS)}.")
    return {"level": _LEVELS[level], "access_log": access}
