"""Inputs of a model, filled from a request to OpenAI's routes.

The names of a model's inputs tell what it takes: ``text_input`` and ``sampling_parameters`` for Triton's vLLM
backend, ``max_tokens`` and ``stop_words`` for TensorRT-LLM's, ``messages`` for Python models. A parameter
without an input is refused if the answer would differ without it. Pure.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from salver.dialects.openai.requests import ChatRequest, CompletionRequest, conversation
from salver.dialects.openai.resolved_model import ResolvedModel
from salver.encoding.json_text import dumps
from salver.encoding.values import from_json
from salver.words.errors import InvalidInput
from salver.words.messages import Signature, TensorSpec
from salver.words.tensor import DataType, Tensor

#: Parameters that need an input of their own or ``sampling_parameters``.
_BINDING: Final = ("frequency_penalty", "presence_penalty", "min_tokens", "ignore_eos", "stop")
#: Parameters that may have an input of another name.
_OTHER_NAMES: Final = {"stop": "stop_words"}
#: Parameters that need an input of their own.
_UNSAMPLED: Final = ("response_format", "functions", "function_call")
_SAMPLED: Final = (
    "frequency_penalty", "ignore_eos", "n", "presence_penalty", "seed", "stop", "temperature", "top_p",
    "min_tokens",
)  # fmt: skip
#: Fields of a chat that a model may take as they are.
_CHAT: Final = (
    "messages", "tools", "parallel_tool_calls", "response_format", "functions", "function_call",
)  # fmt: skip
_GUIDED: Final = ("sampling_parameters", "guided_decoding_guide")
_NO_TEMPLATE: Final = (
    "Set --chat-template FILE, --tokenizer FOLDER, or chat.template in the model's salver.toml; or give "
    "the model an input `messages`."
)


class FilledInputs(NamedTuple):
    """Inputs of a model and its prompt; None if the model takes the messages."""

    inputs: tuple[Tensor, ...]
    prompt: str | None


def fill(
    signature: Signature, request: ChatRequest | CompletionRequest, resolved: ResolvedModel
) -> FilledInputs:
    """Return a model's inputs for a request.

    Raises:
        InvalidInput: The model cannot do what the request asks; the error names the field.
    """
    specs = {spec.name: spec for spec in signature.inputs}
    name = resolved.model
    if not any(spec.name == "text_output" for spec in signature.outputs):
        raise InvalidInput(f"model '{name}' returns no text: it has no output text_output", field="model")
    _check(specs, request, resolved)
    prompt = _prompt(specs, request, resolved)
    values = _values(specs, request, resolved, prompt)
    return FilledInputs(tensors_of(signature, values, name), prompt)


def tensors_of(signature: Signature, values: Mapping[str, Any], model: str) -> tuple[Tensor, ...]:
    """Return the model's inputs among these values; None counts as missing.

    Raises:
        InvalidInput: A value does not fit, or one is missing.
    """
    found = []
    for spec in signature.inputs:
        value = values.get(spec.name)
        if value is not None:
            found.append(_tensor(spec, value))
        elif not spec.optional:
            raise InvalidInput(
                f"model '{model}' needs the input '{spec.name}', which this request does not have",
                field=spec.name,
            )
    return tuple(found)


def _check(
    specs: Mapping[str, TensorSpec], request: ChatRequest | CompletionRequest, resolved: ResolvedModel
) -> None:
    model = resolved.model
    is_sampled = "sampling_parameters" in specs
    for field in (*_BINDING, *_UNSAMPLED):
        names = {field, _OTHER_NAMES.get(field, field)}
        if _is_asked(request, field) and names.isdisjoint(specs) and (field in _UNSAMPLED or not is_sampled):
            raise InvalidInput(f"model '{model}' has no input for {field}", field=field)
    if request.wanted_logprobs is not None and "return_logprobs" not in specs and "logprobs" not in specs:
        raise InvalidInput(
            f"logprobs are available only of models that give them: '{model}' has no input return_logprobs",
            field="logprobs",
        )
    if resolved.lora and not is_sampled and "lora_name" not in specs:
        raise InvalidInput(f"model '{model}' accepts no LoRA", field="model")
    if isinstance(request, ChatRequest) and request.tools and not _passes_tools(specs):
        _check_tools(specs, request, resolved)


def _check_tools(specs: Mapping[str, TensorSpec], request: ChatRequest, resolved: ResolvedModel) -> None:
    """Check a request with tools to a model whose text is parsed for calls."""
    how = "For one model, set chat.tools in its salver.toml to llama3 or mistral."
    if request.forced_tool and not any(guide in specs for guide in _GUIDED):
        raise InvalidInput(
            f"model '{resolved.model}' cannot be held to a tool: it has no input {' or '.join(_GUIDED)}",
            field="tool_choice",
        )
    if request.may_call_tools and not resolved.settings.tools:
        if request.tool_choice == "auto":
            text = '"auto" tool choice requires --tool-call-parser to be set'
            raise InvalidInput(text, field="tool_choice", fix=how)
        text = "having tools in the request requires --tool-call-parser to be set"
        raise InvalidInput(text, field="tools", fix=how)


def _passes_tools(specs: Mapping[str, TensorSpec]) -> bool:
    return "messages" in specs and "tools" in specs


def _is_asked(request: ChatRequest | CompletionRequest, field: str) -> bool:
    """Return whether a parameter is set to something other than its default effect."""
    value = getattr(request, field, None)
    if field == "response_format":
        return value is not None and value.get("type", "text") != "text"
    return bool(value)


def _prompt(
    specs: Mapping[str, TensorSpec], request: ChatRequest | CompletionRequest, resolved: ResolvedModel
) -> str | None:
    if isinstance(request, CompletionRequest):
        if "text_input" not in specs:
            fix = "POST to /v1/chat/completions." if "messages" in specs else ""
            raise InvalidInput(f"model '{resolved.model}' has no input text_input", field="model", fix=fix)
        return request.text
    if "messages" in specs:
        return None
    if "text_input" not in specs:
        raise InvalidInput(
            f"model '{resolved.model}' accepts no conversation: it has no input text_input or messages",
            field="model",
        )
    template = resolved.settings.template
    if template is None:
        raise InvalidInput(f"model '{resolved.model}' has no chat template", field="model", fix=_NO_TEMPLATE)
    return template.render(conversation(request), request.tools)


def _values(
    specs: Mapping[str, TensorSpec],
    request: ChatRequest | CompletionRequest,
    resolved: ResolvedModel,
    prompt: str | None,
) -> dict[str, Any]:
    """Return every value that a model may take, by the name of the input."""
    probabilities = request.wanted_logprobs
    most = request.most_tokens
    if most is None:
        most = resolved.max_tokens
    sampled: dict[str, Any] = {field: getattr(request, field) for field in _SAMPLED}
    guide = _schema(request)
    sampling = {key: value for key, value in sampled.items() if value is not None} | {"max_tokens": most}
    if probabilities is not None:
        sampling["logprobs"] = probabilities
    if resolved.lora:
        sampling["lora_name"] = resolved.lora
    if guide is not None:
        sampling["structured_outputs"] = dumps({"json": guide}).decode()
    values = sampled | {
        "text_input": prompt,
        "max_tokens": most,
        "stop": request.stops or None,
        "stop_words": request.stops or None,
        "user": request.user,
        "lora_name": resolved.lora or None,
        "stream": bool(request.stream),
        "exclude_input_in_output": True,  # the codec echoes the prompt itself
        "sampling_param_exclude_input_from_output": True,
        "return_num_input_tokens": True,
        "return_num_output_tokens": True,
        "return_finish_reason": True,
        "return_logprobs": probabilities is not None,
        "logprobs": probabilities,
    }
    if "sampling_parameters" in specs:
        values["sampling_parameters"] = dumps(sampling).decode()
    if guide is not None:
        values |= {"guided_decoding_guide_type": "json_schema", "guided_decoding_guide": guide}
    if isinstance(request, ChatRequest):
        values |= {field: getattr(request, field) for field in _CHAT}
        if request.tool_choice is not None:
            values["tool_choice"] = msgspec.to_builtins(request.tool_choice)
    return values


def _schema(request: ChatRequest | CompletionRequest) -> dict[str, Any] | None:
    """Return the schema of the forced tool's arguments; None = no tool is forced."""
    if not isinstance(request, ChatRequest) or not request.forced_tool:
        return None
    functions = {tool["function"]["name"]: tool["function"] for tool in request.tools or ()}
    return functions[request.forced_tool].get("parameters") or {"type": "object"}


def _tensor(spec: TensorSpec, value: Any) -> Tensor:
    values = [value]
    if isinstance(value, list) and spec.name in ("stop", "stop_words"):
        values = value
    if spec.datatype is DataType.BYTES:
        values = [v if isinstance(v, str) else dumps(v).decode() for v in values]
    array = from_json(values, spec.datatype, spec.name)
    shape = [abs(extent) for extent in spec.shape]  # a free extent, -1, becomes 1
    if shape and spec.shape[-1] == -1:
        shape[-1] = len(values)
    if np.prod(shape, dtype=np.int64) != len(values):
        raise InvalidInput(
            f"input '{spec.name}' has the shape {list(spec.shape)}, and does not take {len(values)} values",
            field=spec.name,
        )
    return Tensor(spec.name, spec.datatype, array.reshape(shape))
