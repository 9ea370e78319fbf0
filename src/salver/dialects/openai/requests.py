"""Request bodies of OpenAI's routes as records, parsed and checked.

Schema, defaults and refusals are those of Triton's OpenAI front end (TR-V6); unknown keys are refused. Pure.
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
    """Options of a stream: whether a last event holds the token counts."""

    include_usage: bool | None = False


class Generation(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Parameters of both kinds of generation; None counts as missing."""

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
        """Return the texts that end the answer."""
        if isinstance(self.stop, str):
            return [self.stop]
        return self.stop or []

    @property
    def wants_usage(self) -> bool:
        """Return whether a stream shall end with its counts."""
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
        """Return the prompt, which :func:`parse_completion` has checked to be a text."""
        return self.prompt if isinstance(self.prompt, str) else ""

    @property
    def wanted_logprobs(self) -> int | None:
        """Number of likeliest tokens to return at each position; None = no probabilities."""
        return self.logprobs or None

    @property
    def most_tokens(self) -> int | None:
        """Return the limit of the answer in tokens; None = not given."""
        return self.max_tokens


class Function(msgspec.Struct, frozen=True):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: _Object | None = None


class Tool(msgspec.Struct, frozen=True):
    """A tool; functions are the only type."""

    type: Literal["function"]
    function: Function


class FunctionName(msgspec.Struct, frozen=True):
    """Reference to a function."""

    name: str


class NamedTool(msgspec.Struct, frozen=True):
    """The tool that has to be called."""

    type: Literal["function"]
    function: FunctionName


class ResponseFormat(msgspec.Struct, frozen=True):
    """Form of the answer; used to check the request's object, which models get as it is."""

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
        """Number of likeliest tokens to return at each position; None = no probabilities."""
        if not self.logprobs:
            return None
        if self.top_logprobs is None:
            return 1
        return self.top_logprobs

    @property
    def most_tokens(self) -> int | None:
        """Return the limit of the answer in tokens; None = not given."""
        if self.max_completion_tokens is None:
            return self.max_tokens
        return self.max_completion_tokens

    @property
    def forced_tool(self) -> str:
        """Name of the function that has to be called; empty = none."""
        if isinstance(self.tool_choice, NamedTool):
            return self.tool_choice.function.name
        if self.tool_choice == "required" and self.tools:
            name: str = self.tools[0]["function"]["name"]
            return name
        return ""

    @property
    def may_call_tools(self) -> bool:
        """Return whether the model may choose to call a tool."""
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
        """Return the texts or lists of tokens, each of which gets an embedding."""
        if isinstance(self.input, str) or type(self.input[0]) is int:
            return [self.input]
        return self.input


class Message(msgspec.Struct, frozen=True):
    """Fields of a message in a conversation that are checked."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[_Object] | None = None
    name: str | None = None
    tool_calls: list[_Object] | None = None
    tool_call_id: str | None = None


KindT = TypeVar("KindT")


def parse_chat(body: bytes) -> ChatRequest:
    """Parse a chat and check it as far as is possible without the model.

    Raises:
        InvalidInput: A field is wrong; the error names it.
    """
    request = _converted(_root(body), ChatRequest, "")
    _check_chat(request)
    return request


def parse_completion(body: bytes) -> CompletionRequest:
    """Parse a completion request, as :func:`parse_chat` does a chat."""
    request = _converted(_root(body), CompletionRequest, "")
    _check_completion(request)
    return request


def parse_embedding(body: bytes) -> EmbeddingRequest:
    """Parse a request for embeddings, as :func:`parse_chat` does a chat."""
    request = _converted(_root(body), EmbeddingRequest, "")
    _check_texts(request)
    return request


def conversation(request: ChatRequest) -> list[_Object]:
    """Return the messages for a chat template, with texts as contents and objects as arguments of calls.

    Raises:
        InvalidInput: A message holds something other than text, or arguments that are not JSON.
    """
    found = []
    for at, value in enumerate(request.messages):
        message = msgspec.convert(value, Message)
        plain: _Object = {"role": message.role, "content": _text(message.content, f"messages[{at}].content")}
        if message.role == "developer":  # templates know its older name
            plain["role"] = "system"
        if message.name is not None:
            plain["name"] = message.name
        if message.tool_call_id is not None:
            plain["tool_call_id"] = message.tool_call_id
        if message.tool_calls is not None:
            plain["tool_calls"] = [
                _call(call, f"messages[{at}].tool_calls[{index}]")
                for index, call in enumerate(message.tool_calls)
            ]
        found.append(plain)
    return found


def _root(body: bytes) -> _Object:
    root = loads(body)
    if type(root) is not dict:
        raise InvalidInput("the request must be a JSON object")
    # The fallback parser accepts NaN and Infinity, for which OpenAI's fields have no use.
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
        if isinstance(value, dict):
            stack += value.values()
        elif isinstance(value, list):
            stack += value


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
            shown = "a part without a text"
            if isinstance(kind, str) and kind != "text":
                shown = kind
            raise InvalidInput(
                f"only text message is supported, but got {shown[:64]}", field=f"{field}[{at}]"
            )
        texts.append(text)
    return "\n".join(texts)


def _call(call: _Object, field: str) -> _Object:
    """Return a tool call with its arguments parsed."""
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
