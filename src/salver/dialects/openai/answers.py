"""Answers of OpenAI's routes, made from a model's responses.

Responses come one after the other with texts, finish reasons, token counts, log probabilities and tool calls.
They become one object, or chunks as Server-Sent Events. Pure: time and chance are arguments.
"""

import codecs
from collections.abc import Callable
from typing import Any, Final

import msgspec

from salver.dialects.openai.logprobs import of_chat, of_completion
from salver.dialects.openai.requests import ChatRequest, CompletionRequest
from salver.dialects.openai.resolved_model import ResolvedModel
from salver.dialects.openai.tools import ToolCall, ToolCalls, call_id
from salver.encoding.json_text import dumps, loads
from salver.words.errors import InvalidInput, ModelFailed
from salver.words.messages import InferResponse
from salver.words.tensor import Tensor

#: Finish reasons of models -> OpenAI's; all others mean ``stop``.
_REASONS: Final = {
    "length": "length",
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
}
DONE: Final = b"data: [DONE]\n\n"


class Usage(msgspec.Struct):
    """Tokens of the prompt and of the answer."""

    prompt_tokens: int
    completion_tokens: int

    def as_object(self) -> dict[str, int]:
        """Return OpenAI's object for it."""
        total = self.prompt_tokens + self.completion_tokens
        return {**msgspec.structs.asdict(self), "total_tokens": total}


class Answer:
    """Answer to one request, built up from its responses.

    Args:
        id: Id of the answer.
        created: Unix seconds.
        new_id: Makes ids of tool calls, of 16 characters or more.

    Attributes:
        usage: Counts of the model; None if it does not count.
    """

    def __init__(
        self,
        request: ChatRequest | CompletionRequest,
        resolved: ResolvedModel,
        id: str,
        created: int,
        new_id: Callable[[], str],
    ) -> None:
        self._request = request
        self._is_chat = isinstance(request, ChatRequest)
        self._parser = resolved.settings.tools
        self._new_id = new_id
        self._head = {"id": id, "created": created, "model": request.model, "system_fingerprint": None}
        self._echo, self._forced = "", ""
        self._calls: ToolCalls | None = None
        if isinstance(request, ChatRequest):
            self._forced = request.forced_tool
            if request.may_call_tools and self._parser:
                self._calls = ToolCalls(self._parser, resolved.max_call_bytes)
        elif request.echo:
            self._echo = request.text
        # A character may be split between two responses.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._has_begun = False
        self._reason = ""
        self._texts: list[str] = []
        self._plain: list[str] = []  # without tool calls
        self._sent_calls: list[dict[str, Any]] = []
        self._probabilities: list[Any] = []
        self._length = 0  # characters
        self.usage: Usage | None = None

    @property
    def text(self) -> str:
        """Return the whole text, as the model wrote it."""
        return "".join(self._texts)

    def take(self, response: InferResponse) -> list[bytes]:
        """Add a response and return its events in a stream.

        Raises:
            ModelFailed: The response has an unexpected form.
        """
        outputs = {tensor.name: tensor for tensor in response.outputs}
        reason = response.parameters.get("finish_reason") or text_in(outputs.get("finish_reason"))
        if reason and reason != "None":
            self._reason = _REASONS.get(str(reason), "stop")
        self._count(response, outputs)
        text = self._decoder.decode(_bytes(outputs.get("text_output")))
        calls = _calls(text_in(outputs.get("tool_calls")))
        probabilities = None
        if self._request.wanted_logprobs is not None:
            probabilities = _json(text_in(outputs.get("logprobs")), "probabilities")
        return self._add(text, calls, probabilities)

    def whole(self, usage: Usage | None) -> bytes:
        """Return the answer as one object, after the last response."""
        self._rest()
        plain, reason = "".join(self._plain), self._finish()
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason, "logprobs": None}
        if self._is_chat:
            message: dict[str, Any] = {"role": "assistant", "content": plain}
            if self._forced:
                message |= {"content": "", "tool_calls": [self._as_call(ToolCall(self._forced, plain))]}
            elif self._sent_calls:
                message["tool_calls"] = self._sent_calls
            choice["message"] = message
            if self._probabilities:
                choice["logprobs"] = {"content": of_chat(self._probabilities)}
        else:
            choice["text"] = plain
            if self._probabilities:
                choice["logprobs"] = of_completion(self._probabilities, 0)
        kind = "chat.completion" if self._is_chat else "text_completion"
        counts = usage and usage.as_object()
        return dumps({**self._head, "object": kind, "choices": [choice], "usage": counts})

    def end(self, usage: Usage | None) -> list[bytes]:
        """Return the last events of a stream: finish reason, counts if they are wanted, end mark."""
        events = self._rest()
        if self._is_chat:
            events += self._begin()
            events.append(self._chunk({"delta": {}}, self._finish()))
        else:
            echo = "" if self._has_begun else self._echo
            events.append(self._chunk({"text": echo}, self._finish()))
        if usage is not None and self._request.wants_usage:
            counts = {"object": self._kind, "choices": [], "usage": usage.as_object()}
            events.append(_event({**self._head, **counts}))
        return [*events, DONE]

    def _rest(self) -> list[bytes]:
        """Return events for the text that was held back."""
        events: list[bytes] = []
        if text := self._decoder.decode(b"", final=True):
            events = self._add(text, [], None)
        if self._calls is not None and (left := self._calls.rest()):
            events += self._add_plain(left, None)
        return events

    def _finish(self) -> str:
        if self._sent_calls and not self._forced and self._reason in ("", "stop"):
            return "tool_calls"
        return self._reason or "stop"

    def _count(self, response: InferResponse, outputs: dict[str, Tensor]) -> None:
        """Keep the engine's counts, or add up those that the model gives for each piece of its answer."""
        if response.tokens is not None:
            self.usage = Usage(*response.tokens)
            return
        prompt, answer = (number_in(outputs.get(f"num_{side}_tokens")) for side in ("input", "output"))
        if prompt is None or answer is None:
            return
        if self.usage is None:
            self.usage = Usage(prompt, 0)
        self.usage.completion_tokens += answer

    def _add(self, text: str, calls: list[dict[str, Any]], probabilities: Any) -> list[bytes]:
        """Return the events for a piece of an answer."""
        self._texts.append(text)
        if probabilities and not self._request.stream:
            self._probabilities += probabilities
        if not self._is_chat:
            return self._complete(text, probabilities)
        events = self._begin()
        if self._forced:
            return [*events, self._force(text)]
        is_quiet = False
        if self._calls is not None:
            plain, found = self._calls.read(text)
            calls = [*calls, *map(self._as_call, found)]
            is_quiet = not plain and bool(text)
            text = plain
        if not is_quiet or probabilities:
            events += self._add_plain(text, probabilities)
        for call in calls:
            events.append(self._chunk({"delta": {"tool_calls": [{"index": len(self._sent_calls), **call}]}}))
            self._sent_calls.append(call)
        return events

    def _add_plain(self, text: str, probabilities: Any) -> list[bytes]:
        self._plain.append(text)
        logprobs = None
        if probabilities:
            logprobs = {"content": of_chat(probabilities)}
        return [self._chunk({"delta": {"content": text}}, None, logprobs)]

    def _complete(self, text: str, probabilities: Any) -> list[bytes]:
        if not self._has_begun:
            self._has_begun = True
            text = self._echo + text
        logprobs = None
        if probabilities:
            logprobs = of_completion(probabilities, self._length)
        self._plain.append(text)
        self._length += len(text)
        return [self._chunk({"text": text}, None, logprobs)]

    def _begin(self) -> list[bytes]:
        """Return the first chunk of a conversation's answer, which holds the role."""
        if self._has_begun:
            return []
        self._has_begun = True
        return [self._chunk({"delta": {"role": "assistant", "content": ""}})]

    def _force(self, text: str) -> bytes:
        """Return the chunk of a forced tool call, whose arguments are the text."""
        call: dict[str, Any] = {"index": 0, "function": {"arguments": text}}
        if not self._plain:
            call |= self._as_call(ToolCall(self._forced, text))
        self._plain.append(text)
        return self._chunk({"delta": {"tool_calls": [call]}})

    def _as_call(self, call: ToolCall) -> dict[str, Any]:
        function = {"name": call.name, "arguments": call.arguments}
        return {"id": call_id(self._parser, self._new_id), "type": "function", "function": function}

    @property
    def _kind(self) -> str:
        if self._is_chat:
            return "chat.completion.chunk"
        return "text_completion"

    def _chunk(self, content: dict[str, Any], reason: str | None = None, logprobs: Any = None) -> bytes:
        """Return an event; empty unless the request asks for a stream."""
        if not self._request.stream:
            return b""
        choice = {"index": 0, **content, "logprobs": logprobs, "finish_reason": reason}
        return _event({**self._head, "object": self._kind, "choices": [choice], "usage": None})


def _event(document: dict[str, Any]) -> bytes:
    return b"data: %s\n\n" % dumps(document)


def _bytes(tensor: Tensor | None) -> bytes:
    if tensor is None or not tensor.array.size:
        return b""
    if tensor.array.size > 1:
        raise ModelFailed(f"Expected to find 1 string in the output, found {tensor.array.size} instead.")
    value = tensor.array.ravel()[0]
    if isinstance(value, bytes):
        return value
    return str(value).encode()


def text_in(tensor: Tensor | None) -> str:
    """Return the text of an output; empty without the output.

    Raises:
        ModelFailed: The output holds several.
    """
    return _bytes(tensor).decode("utf-8", "replace")


def number_in(tensor: Tensor | None) -> int | None:
    """Return the first integer of an output; None if it has none."""
    if tensor is None or not tensor.array.size or not tensor.datatype.is_integer:
        return None
    return int(tensor.array.ravel()[0])


def _json(text: str, what: str) -> Any:
    if not text or text == "null":
        return None
    try:
        return loads(text.encode())
    except InvalidInput as error:
        raise ModelFailed(f"the model gave {what} that are not JSON: {error}") from error


def _calls(text: str) -> list[dict[str, Any]]:
    """Parse tool calls that the model gives in OpenAI's form."""
    calls = _json(text, "tool_calls")
    if calls is None:
        return []
    if not isinstance(calls, list) or not all(
        isinstance(call, dict) and isinstance(call.get("function"), dict) for call in calls
    ):
        raise ModelFailed("the model gave tool_calls that are not a list of calls")
    return calls
