"""``parameters`` of a Triton model configuration (TR-C12). Pure."""

from collections.abc import Mapping
from typing import Any, Final

from salver.words.artifacts import Chat, Environment
from salver.words.errors import InvalidInput

#: Backends whose models do not read parameters themselves; "" = by the file.
PLAIN: Final = frozenset(("", "onnx", "torch", "tensorflow", "openvino"))
#: Parameters that become options, by backend.
_OPTIONS: Final[Mapping[str, frozenset[str]]] = {
    "onnx": frozenset(
        (
            "inter_op_thread_count",
            "execution_mode",
            "enable_mem_arena",
            "enable_mem_pattern",
            "memory.enable_memory_arena_shrinkage",
        )
    ),
    "torch": frozenset(("disable_optimized_execution", "inference_mode", "num_interop_threads")),
    "fil": frozenset(("output_class", "predict_proba", "threshold", "model_type", "trusted")),
}
_THREADS: Final = ("intra_op_thread_count", "num_threads")
#: Levels of ``optimization.graph`` in ONNX Runtime's backend.
_GRAPH_LEVELS: Final[Mapping[int, str]] = {-1: "basic", 1: "extended", 2: "disabled"}
#: Parameters for chats -> keys of ``chat``.
_CHAT: Final = {
    "salver_chat_template": "template",
    "salver_tokenizer": "tokenizer",
    "salver_tool_call_parser": "tools",
}
_ENVIRONMENT: Final = "EXECUTION_ENV_PATH"
_MODEL_FOLDER: Final = "$$TRITON_MODEL_DIRECTORY/"
_PARSERS: Final = ("", "llama3", "mistral")


def chat_of(message: Any, origin: str) -> Chat:
    """Return the settings of a model for OpenAI's routes.

    Raises:
        InvalidInput: The parser of tool calls is unknown.
    """
    settings = {
        key: message.parameters[name].string_value
        for name, key in _CHAT.items()
        if name in message.parameters
    }
    if settings.get("tools", "") not in _PARSERS:
        raise InvalidInput(
            f"{origin}: parameter salver_tool_call_parser is llama3 or mistral, not {settings['tools']!r}",
            field="parameters",
        )
    return Chat(**settings)


def environment_of(message: Any, backend: str, origin: str) -> Environment:
    """Return the Python environment that a program names (TR-A4).

    Raises:
        InvalidInput: its path is relative.
    """
    if backend in PLAIN or _ENVIRONMENT not in message.parameters:
        return Environment()
    path = message.parameters[_ENVIRONMENT].string_value
    inside = path.removeprefix(_MODEL_FOLDER)
    if path and inside == path and not path.startswith("/"):
        raise InvalidInput(
            f"{origin}: {_ENVIRONMENT} '{path}' is no path of a file or folder",
            field=f"parameters.{_ENVIRONMENT}",
            fix=f"Write an absolute path, or one that starts with {_MODEL_FOLDER}.",
        )
    return Environment(inside)


def parameters_of(message: Any, backend: str, notices: list[str]) -> tuple[int, dict[str, str]]:
    """Return the threads of a run, 0 if unset, and options for the backend.

    Args:
        message: The ``ModelConfig``.
        backend: Salver's name of the backend; empty = by content.
        notices: Gets a notice for each parameter without effect.
    """
    threads = 0
    options: dict[str, str] = {}
    is_fil = message.backend == "fil"
    known = _OPTIONS.get(message.backend if is_fil else backend, frozenset())
    if is_fil:
        options["interface"] = "fil"
    for key, parameter in message.parameters.items():
        name, value = key.lower(), parameter.string_value
        if name in _THREADS and value.isascii() and value.isdecimal():
            threads = int(value[:18])  # bounds are checked with those of other numbers
        elif is_fil and name == "is_classifier":
            options.setdefault("output_class", value.lower())
        elif name == "trusted" and name in known:
            options[name] = value
        elif name in known:
            options[name] = value.lower()
        elif backend in PLAIN and name not in _CHAT:  # programs read their parameters themselves
            notices.append(f"config.pbtxt: field `parameters` {key} has no effect yet")
    if backend == "torch" and message.runtime.endswith(".py"):
        options["module"] = message.runtime
    elif message.runtime:
        notices.append("config.pbtxt: field `runtime` has no effect: a backend has one runtime here")
    level = message.optimization.graph.level
    if backend == "onnx" and level in _GRAPH_LEVELS:
        options["graph_optimization_level"] = _GRAPH_LEVELS[level]
    elif level:
        notices.append("config.pbtxt: field `optimization` is accepted, and has no effect here")
    return threads, options
