"""Variables of SageMaker and Vertex AI, as tritonserver's flags and as ports (TR-V3, TR-V4). Pure."""

import re
import shlex
from collections.abc import Mapping
from typing import Any, Final

from salver.dialects.triton.flags import IGNORED
from salver.terminal.server_flags import YES
from salver.words.errors import InvalidInput

_PREFIX: Final = "SAGEMAKER_TRITON_"
#: Variable -> the flag of the same meaning.
_FLAGS: Final = {
    "SAGEMAKER_BIND_TO_PORT": "sagemaker-port",
    "SAGEMAKER_SAFE_PORT_RANGE": "sagemaker-safe-port-range",
    f"{_PREFIX}LOG_VERBOSE": "log-verbose",
    f"{_PREFIX}LOG_INFO": "log-info",
    f"{_PREFIX}LOG_WARNING": "log-warning",
    f"{_PREFIX}LOG_ERROR": "log-error",
    f"{_PREFIX}ALLOW_GRPC": "allow-grpc",
    f"{_PREFIX}GRPC_PORT": "grpc-port",
    f"{_PREFIX}ALLOW_METRICS": "allow-metrics",
    f"{_PREFIX}METRICS_PORT": "metrics-port",
    f"{_PREFIX}THREAD_COUNT": "sagemaker-thread-count",
    f"{_PREFIX}BUFFER_MANAGER_THREAD_COUNT": "buffer-manager-thread-count",
    f"{_PREFIX}MODEL_LOAD_GPU_LIMIT": "model-load-gpu-limit",
}
#: Variables without an effect here, with the reason.
_SILENT: Final = {
    f"{_PREFIX}SHM_DEFAULT_BYTE_SIZE": "memory for Python models grows with the requests",
    f"{_PREFIX}SHM_GROWTH_BYTE_SIZE": "memory for Python models grows with the requests",
    f"{_PREFIX}TENSORFLOW_VERSION": "the installed TensorFlow is used",
}
_SINGLE_MODELS: Final = "/opt/ml/model"
_TYPES: Final = ("infer", "generate", "generate_stream")
_PINGS: Final = ("ready", "live")


def from_sagemaker(environment: Mapping[str, str], *, has_repository: bool) -> tuple[list[str], list[str]]:
    """Return the flags that SageMaker's variables stand for, and warnings for the log."""
    words, notices = [], []
    for variable, flag in _FLAGS.items():
        if value := environment.get(variable):
            if flag in IGNORED:
                notices.append(_no_effect(variable, IGNORED[flag][1]))
                continue
            if flag == "log-verbose":  # SageMaker's images have a boolean
                value = {"true": "1", "false": "0"}.get(value.lower(), value)
            words.append(f"--{flag}={value}")
    notices += [_no_effect(variable, why) for variable, why in _SILENT.items() if environment.get(variable)]
    if namespacing := environment.get(f"{_PREFIX}DISABLE_MODEL_NAMESPACING"):
        words.append(f"--model-namespacing={str(namespacing.lower() not in YES).lower()}")
    if _brings(environment):
        words.append("--model-control-mode=explicit")
    elif not has_repository:
        words.append(f"--model-repository={_SINGLE_MODELS}")
    words += shlex.split(environment.get(f"{_PREFIX}ADDITIONAL_ARGS", ""))
    return words, notices


def sagemaker(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the options of SageMaker's port.

    Raises:
        InvalidInput: The value of a variable is not allowed.
    """
    kind = environment.get(f"{_PREFIX}INFERENCE_TYPE", "infer")
    if kind not in _TYPES:
        raise InvalidInput(
            f"Server has invalid inference type '{kind}'. Must be one of: {', '.join(_TYPES)}",
            field=f"{_PREFIX}INFERENCE_TYPE",
        )
    brings = _brings(environment)
    ping = environment.get(f"{_PREFIX}OVERRIDE_PING_MODE") or environment.get(f"{_PREFIX}PING_MODE")
    ping = ping or ("live" if brings else "ready")
    if ping not in _PINGS:
        raise InvalidInput(f"the ping mode is ready or live, not '{ping}'", field=f"{_PREFIX}PING_MODE")
    model = environment.get(f"{_PREFIX}DEFAULT_MODEL_NAME", "")
    return {"model": model, "inference": kind, "ping": ping, "brings_models": brings}


def from_vertex(environment: Mapping[str, str], *, has_repository: bool) -> list[str]:
    """Return the flags that Vertex AI's variables stand for; by default its port is the only one."""
    words = ["--allow-http=false", "--allow-grpc=false"]
    if port := environment.get("AIP_HTTP_PORT"):
        words.append(f"--vertex-ai-port={port}")
    if not has_repository and (uri := environment.get("AIP_STORAGE_URI")):
        words.append(f"--model-repository={uri}")
    return words


def is_on_vertex(environment: Mapping[str, str]) -> bool:
    """Return whether this is a container for predictions on Vertex AI."""
    return environment.get("AIP_MODE") == "PREDICTION"


def vertex(environment: Mapping[str, str], model: str) -> dict[str, Any]:
    """Return the options of Vertex AI's port.

    Raises:
        InvalidInput: A route is missing.
    """
    for variable in ("AIP_PREDICT_ROUTE", "AIP_HEALTH_ROUTE"):
        if not environment.get(variable, "").startswith("/"):
            raise InvalidInput(
                f"{variable} is not defined for Vertex AI endpoint",
                fix=f"Set {variable} to a path such as /predict.",
            )
    predict, health = environment["AIP_PREDICT_ROUTE"], environment["AIP_HEALTH_ROUTE"]
    return {"model": model, "predict": predict, "health": health}


def check_ports(ports: Mapping[str, int], safe: str) -> None:
    """Check that ports are in the range that SageMaker leaves to a container.

    Args:
        safe: Range such as ``8081-9000``; empty = all.

    Raises:
        InvalidInput: A port is outside of it.
    """
    if not safe:
        return
    found = re.fullmatch(r"(\d{1,5})-(\d{1,5})", safe)
    if found is None or int(found[1]) > int(found[2]):
        raise InvalidInput(
            f"--sagemaker-safe-port-range {safe!r} is not a range", fix="Write 8081-9000, for example."
        )
    low, high = int(found[1]), int(found[2])
    for name, port in ports.items():
        if not low <= port <= high:
            raise InvalidInput(
                f"The server cannot listen to {name} requests at port {port}, "
                f"allowed port range is [{low}, {high}]"
            )


def _brings(environment: Mapping[str, str]) -> bool:
    return environment.get("SAGEMAKER_MULTI_MODEL", "").lower() in YES


def _no_effect(variable: str, why: str) -> str:
    return f"{variable} is accepted and has no effect here: {why}"
