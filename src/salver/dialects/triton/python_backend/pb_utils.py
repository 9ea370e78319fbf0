"""Module that Triton Python models import as ``triton_python_backend_utils``.

Its names behave as those of Triton's Python backend (TR-A3).
"""

import enum
import logging
import sys
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final

from salver.backends.callbacks import ModelCommand
from salver.dialects.triton.python_backend import host_server
from salver.dialects.triton.python_backend.config import ModelConfig
from salver.dialects.triton.python_backend.metrics import Metric, MetricFamily, MetricKind
from salver.dialects.triton.python_backend.requests import (
    TRITONSERVER_REQUEST_FLAG_SEQUENCE_END,
    TRITONSERVER_REQUEST_FLAG_SEQUENCE_START,
    TRITONSERVER_REQUEST_RELEASE_ALL,
    TRITONSERVER_REQUEST_RELEASE_RESCHEDULE,
    TRITONSERVER_RESPONSE_COMPLETE_FINAL,
    InferenceRequest,
    InferenceResponseSender,
    InferenceTrace,
    MemoryType,
    PreferredMemory,
    ResponseIterator,
)
from salver.dialects.triton.python_backend.values import (
    TRITON_STRING_TO_NUMPY,
    InferenceResponse,
    Tensor,
    TritonError,
    TritonErrorCode,
    TritonModelException,
    deserialize_bytes_tensor,
    numpy_to_triton_type,
    serialize_byte_tensor,
    text_of,
    triton_string_to_numpy,
    triton_to_numpy_type,
)
from salver.words.artifacts import LoadOrder

TRITONSERVER_MEMORY_GPU: Final = MemoryType.TRITONSERVER_MEMORY_GPU
TRITONSERVER_MEMORY_CPU: Final = MemoryType.TRITONSERVER_MEMORY_CPU


class LogLevel(enum.IntEnum):
    """Level of a line in the log, numbered as in Triton."""

    INFO = 0
    WARNING = 1
    ERROR = 2
    VERBOSE = 3


_LONGEST_LINE: Final = 16 << 10  # characters; the server writes no longer ones
_LEVELS: Final[Mapping[LogLevel, int]] = {
    LogLevel.INFO: logging.INFO,
    LogLevel.WARNING: logging.WARNING,
    LogLevel.ERROR: logging.ERROR,
    LogLevel.VERBOSE: logging.DEBUG,
}


class Logger:
    """Logger that writes to the server's log, with the model's name and the log's settings."""

    LogLevel: ClassVar = LogLevel
    INFO: ClassVar = LogLevel.INFO
    WARNING: ClassVar = LogLevel.WARNING
    ERROR: ClassVar = LogLevel.ERROR
    VERBOSE: ClassVar = LogLevel.VERBOSE

    @staticmethod
    def log(message: str, level: int = LogLevel.INFO) -> None:
        """Log a line."""
        kind = LogLevel(level)
        line = text_of(message, "a line of the log")[:_LONGEST_LINE]
        if host_server.is_connected():
            host_server.server().log(_LEVELS[kind], line)
        elif kind is not LogLevel.VERBOSE:
            sys.stderr.write(f"{kind.name}: {line}\n")

    @classmethod
    def log_info(cls, message: str) -> None:
        """Log information."""
        cls.log(message, LogLevel.INFO)

    @classmethod
    def log_warn(cls, message: str) -> None:
        """Log a warning."""
        cls.log(message, LogLevel.WARNING)

    @classmethod
    def log_error(cls, message: str) -> None:
        """Log an error."""
        cls.log(message, LogLevel.ERROR)

    @classmethod
    def log_verbose(cls, message: str) -> None:
        """Log a detail."""
        cls.log(message, LogLevel.VERBOSE)


def get_model_dir() -> str:
    """Return the folder of the model's program."""
    return host_server.folder()


def _content(value: object, path: str) -> bytes:
    """Return the content of a file; a text becomes UTF-8."""
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"the content of {path!r} must be bytes, not {type(value).__name__}")
    return bytes(value)


def load_model(model_name: str, config: str = "", files: Mapping[str, bytes] | None = None) -> None:
    """Make the server load or reload a model.

    Args:
        config: Model configuration as JSON, in place of the file.
        files: Contents by path (``file:1/model.onnx``), in place of the model's folder; they need ``config``.
    """
    name, text = text_of(model_name, "model_name"), text_of(config, "config")
    named = [(text_of(path, "the path of a file"), content) for path, content in (files or {}).items()]
    contents = {path.removeprefix("file:"): _content(content, path) for path, content in named}
    with host_server.triton_errors():
        host_server.server().manage(ModelCommand("load", name, order=LoadOrder(text, contents)))


def unload_model(model_name: str, unload_dependents: bool = False) -> None:
    """Make the server unload a model."""
    name = text_of(model_name, "model_name")
    with host_server.triton_errors():
        host_server.server().manage(ModelCommand("unload", name, dependents=bool(unload_dependents)))


def is_model_ready(model_name: str, model_version: str = "") -> bool:
    """Return whether a model can answer."""
    command = ModelCommand(
        "is_ready", text_of(model_name, "model_name"), text_of(model_version, "model_version")
    )
    with host_server.triton_errors():
        return host_server.server().manage(command)


def get_input_tensor_by_name(inference_request: InferenceRequest, name: str) -> Tensor | None:
    """Return the input of that name; None if the request has none."""
    return _named(inference_request.inputs(), name)


def get_output_tensor_by_name(inference_response: InferenceResponse, name: str) -> Tensor | None:
    """Return the output of that name; None if the response has none."""
    return _named(inference_response.output_tensors(), name)


def _named(tensors: list[Tensor], name: str) -> Tensor | None:
    wanted = text_of(name, "the name of a tensor")
    return next((tensor for tensor in tensors if tensor.name() == wanted), None)


def get_input_config_by_name(model_config: Mapping[str, Any], name: str) -> Any:
    """Return an input's part of a configuration; None if there is no such input."""
    return _part(model_config.get("input", ()), name)


def get_output_config_by_name(model_config: Mapping[str, Any], name: str) -> Any:
    """Return an output's part of a configuration; None if there is no such output."""
    return _part(model_config.get("output", ()), name)


def _part(parts: Iterable[Mapping[str, Any]], name: str) -> Any:
    wanted = text_of(name, "the name of a tensor")
    return next((part for part in parts if part["name"] == wanted), None)


def using_decoupled_model_transaction_policy(model_config: Mapping[str, Any]) -> bool:
    """Return whether the model sends its responses one by one."""
    return bool(model_config.get("model_transaction_policy", {}).get("decoupled", False))


__all__ = [
    "TRITONSERVER_MEMORY_CPU",
    "TRITONSERVER_MEMORY_GPU",
    "TRITONSERVER_REQUEST_FLAG_SEQUENCE_END",
    "TRITONSERVER_REQUEST_FLAG_SEQUENCE_START",
    "TRITONSERVER_REQUEST_RELEASE_ALL",
    "TRITONSERVER_REQUEST_RELEASE_RESCHEDULE",
    "TRITONSERVER_RESPONSE_COMPLETE_FINAL",
    "TRITON_STRING_TO_NUMPY",
    "InferenceRequest",
    "InferenceResponse",
    "InferenceResponseSender",
    "InferenceTrace",
    "LogLevel",
    "Logger",
    "MemoryType",
    "Metric",
    "MetricFamily",
    "MetricKind",
    "ModelConfig",
    "PreferredMemory",
    "ResponseIterator",
    "Tensor",
    "TritonError",
    "TritonErrorCode",
    "TritonModelException",
    "deserialize_bytes_tensor",
    "get_input_config_by_name",
    "get_input_tensor_by_name",
    "get_model_dir",
    "get_output_config_by_name",
    "get_output_tensor_by_name",
    "is_model_ready",
    "load_model",
    "numpy_to_triton_type",
    "serialize_byte_tensor",
    "triton_string_to_numpy",
    "triton_to_numpy_type",
    "unload_model",
    "using_decoupled_model_transaction_policy",
]
