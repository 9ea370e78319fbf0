"""Requests to OpenAI's routes.

Bodies of ``/v1/chat/completions``, ``/v1/completions`` and ``/v1/embeddings`` as records, checked: keys
that are not known are refused, and so is what Triton's front end refuses of every model (TR-V6), whose
schema and defaults these are. It knows no model.

Pure.
"""

import math
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from salver.encoding.json_text import loads
from salver.words.errors import InvalidInput

#: OpenAI's own limits.
MOST_MESSAGES: Final = 2048
MOST_TOOLS: Final = 128
MOST_TEXTS: Final = 2048

_Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_Object = dict[str, Any]


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a stream tells besides: its tokens' counts, in a last event of their own."""

    include_usage: bool | None = False


class Generation(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What both kinds of generation may ask; None is as if it were not there."""

    model: str
    frequency_penalty: _Penalty | None = 0.0
    ignore_eos: bool | None = False
    logit_bias: _Object | None = None
    max_tokens: _Count | None = None
    min_tokens: _Count | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = 1
    presence_penalty: _Penalty | None = 0.0
    seed: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = 1.0
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = 1.0
    user: str | None = None

    @property
    def stops(self) -> list[str]:
        """Texts that end the answer."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def wants_usage(self) -> bool:
        """A stream is to end with its counts."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class CompletionRequest(Generation, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/completions``."""

    prompt: str | list[Any]
    best_of: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = 1
    echo: bool | None = False
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=5)] | None = None
    suffix: str | None = None

    @property
    def text(self) -> str:
        """The prompt, which is a text once it has been checked."""
        return self.prompt if isinstance(self.prompt, str) else ""

    @property
    def wanted_logprobs(self) -> int | None:
        """Likeliest tokens to tell at each place; None = no probabilities at all."""
        return self.logprobs or None

    @property
    def most_tokens(self) -> int | None:
        """Of the answer."""
        return self.max_tokens


class Function(msgspec.Struct, frozen=True):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: _Object | None = None


class Tool(msgspec.Struct, frozen=True):
    """A tool of which only functions are known."""

    type: Literal["function"]
    function: Function


class Named(msgspec.Struct, frozen=True):
    """Its name."""

    name: str


class NamedTool(msgspec.Struct, frozen=True):
    """The tool that has to be called."""

    type: Literal["function"]
    function: Named


class ResponseFormat(msgspec.Struct, frozen=True):
    """In which form the answer is to be; models get the request's own object."""

    type: Literal["text", "json_object", "json_schema"] = "text"


class ChatRequest(Generation, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[_Object], msgspec.Meta(min_length=1, max_length=MOST_MESSAGES)]
    function_call: str | _Object | None = None
    functions: list[_Object] | None = None
    logprobs: bool | None = False
    max_completion_tokens: _Count | None = None
    parallel_tool_calls: bool | None = None
    response_format: _Object | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = 0.7
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    tools: Annotated[list[_Object], msgspec.Meta(max_length=MOST_TOOLS)] | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None

    @property
    def wanted_logprobs(self) -> int | None:
        """Likeliest tokens to tell at each place; None = no probabilities at all."""
        if not self.logprobs:
            return None
        return 1 if self.top_logprobs is None else self.top_logprobs

    @property
    def most_tokens(self) -> int | None:
        """Of the answer."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def forced_tool(self) -> str:
        """Name of the function that has to be called; empty = none has to."""
        if isinstance(self.tool_choice, NamedTool):
            return self.tool_choice.function.name
        if self.tool_choice == "required" and self.tools:
            name: str = self.tools[0]["function"]["name"]
            return name
        return ""

    @property
    def may_call_tools(self) -> bool:
        """The model chooses whether it calls one."""
        return bool(self.tools) and self.tool_choice in (None, "auto")


class EmbeddingRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/embeddings``."""

    model: str
    input: str | list[Any]
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] | None = "float"
    user: str | None = None

    @property
    def texts(self) -> list[str | list[int]]:
        """Texts, or lists of tokens, of which each has an embedding."""
        if isinstance(self.input, str) or type(self.input[0]) is int:
            return [self.input]
        return self.input


class Message(msgspec.Struct, frozen=True):
    """One message of a conversation, as far as it is looked at."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[_Object] | None = None
    name: str | None = None
    tool_calls: list[_Object] | None = None
    tool_call_id: str | None = None


KindT = TypeVar("KindT")


def parse_chat(body: bytes) -> ChatRequest:
    """A request, checked as far as it can be without knowing the model; so are the others.

    Raises:
        InvalidInput: naming the field.
    """
    asked = _converted(_root(body), ChatRequest, "")
    _check_chat(asked)
    return asked


def parse_completion(body: bytes) -> CompletionRequest:
    """Raises InvalidInput."""
    asked = _converted(_root(body), CompletionRequest, "")
    _check_completion(asked)
    return asked


def parse_embedding(body: bytes) -> EmbeddingRequest:
    """Raises InvalidInput."""
    asked = _converted(_root(body), EmbeddingRequest, "")
    _check_texts(asked)
    return asked


def conversation(request: ChatRequest) -> list[_Object]:
    """The messages as chat templates take them: contents are texts, and arguments of calls are objects.

    Raises:
        InvalidInput: a message holds something else than text, or arguments that are not JSON.
    """
    found = []
    for at, message in enumerate(request.messages):
        told = msgspec.convert(message, Message)
        plain: _Object = {"role": "system" if told.role == "developer" else told.role}
        plain["content"] = _text(told.content, f"messages[{at}].content")
        if told.name is not None:
            plain["name"] = told.name
        if told.tool_call_id is not None:
            plain["tool_call_id"] = told.tool_call_id
        if told.tool_calls is not None:
            plain["tool_calls"] = [
                _call(call, f"messages[{at}].tool_calls[{index}]")
                for index, call in enumerate(told.tool_calls)
            ]
        found.append(plain)
    return found


def _root(body: bytes) -> _Object:
    root = loads(body)
    if type(root) is not dict:
        raise InvalidInput("the request must be a JSON object")
    if b"NaN" in body or b"Infinity" in body:
        _refuse_nonfinite(root)
    return root


def _converted(value: Any, kind: type[KindT], prefix: str) -> KindT:
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        text, _, path = str(error).partition(" - at `$")
        if "unknown field" in text:
            name = text.rpartition(" field ")[2].strip("`")
            path = f"{path}.{name}"
            text = "unknown field: no request of this kind has it"
        elif "missing required field" in text:
            name = text.rpartition(" field ")[2].strip("`")
            path, text = f"{path}.{name}", "it is missing"
        field = f"{prefix}{path.replace('`', '')}".strip(".")
        raise InvalidInput(f"{field}: {text[:1].lower()}{text[1:]}", field=field) from None


def _refuse_nonfinite(value: Any) -> None:
    stack = [value]
    while stack:
        value = stack.pop()
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidInput("the request holds NaN or Infinity, which are not JSON")
        if isinstance(value, dict | list):
            stack += value.values() if isinstance(value, dict) else value


def _check_common(asked: CompletionRequest | ChatRequest) -> None:
    if asked.stream_options is not None and not asked.stream:
        raise InvalidInput("`stream_options` can only be used when `stream` is True", field="stream_options")
    if asked.n is not None and asked.n > 1:
        raise InvalidInput(
            f"Received n={asked.n}, but only single choice (n=1) is currently supported", field="n"
        )
    if asked.logit_bias is not None:
        raise InvalidInput("logit bias is not supported", field="logit_bias")


def _check_completion(asked: CompletionRequest) -> None:
    if asked.suffix is not None:
        raise InvalidInput("suffix is not currently supported", field="suffix")
    if not asked.prompt:
        raise InvalidInput("prompt must be non-empty", field="prompt")
    if not isinstance(asked.prompt, str):
        raise InvalidInput("only single string input is supported", field="prompt")
    if asked.best_of is not None and asked.best_of > 1:
        raise InvalidInput(
            f"Received best_of={asked.best_of}, but only single choice (best_of=1) is currently supported",
            field="best_of",
        )
    _check_common(asked)


def _check_chat(asked: ChatRequest) -> None:
    for at, message in enumerate(asked.messages):
        told = _converted(message, Message, f"messages[{at}]")
        if told.content is None and told.role != "assistant":
            raise InvalidInput(
                f"messages[{at}].content: a message of this role needs it", field=f"messages[{at}].content"
            )
    for at, tool in enumerate(asked.tools or ()):
        _converted(tool, Tool, f"tools[{at}]")
    if asked.response_format is not None:
        _converted(asked.response_format, ResponseFormat, "response_format")
    if asked.top_logprobs and not asked.logprobs:
        raise InvalidInput("`top_logprobs` can only be used when `logprobs` is True", field="top_logprobs")
    _check_common(asked)
    choice = asked.tool_choice
    if choice == "required" and not asked.tools:
        raise InvalidInput(
            '"required" tool choice requires CreateChatCompletionRequest.tools to be provided', field="tools"
        )
    if isinstance(choice, NamedTool):
        if not asked.tools:
            raise InvalidInput(
                "Named tool choice requires CreateChatCompletionRequest.tools to be provided", field="tools"
            )
        if choice.function.name not in {tool["function"]["name"] for tool in asked.tools}:
            raise InvalidInput(
                f"Tool '{choice.function.name}' has not been passed in `tools`.", field="tool_choice"
            )


def _check_texts(asked: EmbeddingRequest) -> None:
    given = asked.input
    if not given:
        raise InvalidInput("input must be non-empty", field="input")
    if isinstance(given, str):
        return
    kinds = {type(value) for value in given}
    if kinds == {int}:
        return
    if len(given) > MOST_TEXTS:
        raise InvalidInput(f"input holds more than {MOST_TEXTS} texts", field="input")
    if kinds == {str}:
        if not all(given):
            raise InvalidInput("input holds an empty text", field="input")
        return
    if kinds == {list} and all(row and {type(token) for token in row} == {int} for row in given):
        return
    raise InvalidInput(
        "input must be a text, a list of texts, a list of tokens, or a list of those", field="input"
    )


def _text(content: str | list[_Object] | None, field: str) -> str | None:
    if content is None or isinstance(content, str):
        return content
    texts = []
    for at, part in enumerate(content):
        kind, text = part.get("type"), part.get("text")
        if kind != "text" or not isinstance(text, str):
            shown = kind if isinstance(kind, str) and kind != "text" else "a part without a text"
            raise InvalidInput(
                f"only text message is supported, but got {shown[:64]}", field=f"{field}[{at}]"
            )
        texts.append(text)
    return "\n".join(texts)


def _call(call: _Object, field: str) -> _Object:
    """A call of a tool, whose arguments come as text."""
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidInput(f"{field}.function must be an object with a name", field=f"{field}.function")
    arguments = function.get("arguments", "{}")
    if isinstance(arguments, str):
        try:
            arguments = loads(arguments.encode() or b"{}")
        except (InvalidInput, UnicodeEncodeError):
            raise InvalidInput(
                f"{field}.function.arguments must be JSON", field=f"{field}.function.arguments"
            ) from None
    return {**call, "function": {**function, "arguments": arguments}}
