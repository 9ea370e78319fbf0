"""Answers of OpenAI's routes, made from a model's responses.

One object for a whole answer, or a series of chunks as Server-Sent Events, of responses that come one after
the other: texts, reasons to end, counts, probabilities, calls of tools. Pure; time and chance are
arguments.

Pure.
"""

import codecs
from collections.abc import Callable
from typing import Any, Final

import msgspec

from salver.dialects.openai.logprobs import of_chat, of_completion
from salver.dialects.openai.requests import ChatRequest, CompletionRequest
from salver.dialects.openai.tools import ToolCall, ToolCalls, call_id
from salver.dialects.openai.voice import Spoken
from salver.encoding.json_text import dumps, loads
from salver.words.errors import InvalidInput, ModelFailed
from salver.words.messages import InferResponse
from salver.words.tensor import Tensor

#: Models' own words for why an answer ended -> OpenAI's; others mean ``stop``.
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

    def told(self) -> dict[str, int]:
        """As OpenAI has it."""
        total = self.prompt_tokens + self.completion_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": total,
        }


class Answer:
    """The answer to one request, as its responses come.

    Args:
        id: Of the answer.
        created: Unix seconds.
        new_id: Makes ids of calls: 16 characters or more.

    Attributes:
        usage: As the model counts it; None where it does not.
    """

    def __init__(
        self,
        request: ChatRequest | CompletionRequest,
        spoken: Spoken,
        id: str,
        created: int,
        new_id: Callable[[], str],
    ) -> None:
        self._request = request
        self._is_chat = isinstance(request, ChatRequest)
        self._parser = spoken.voice.tools
        self._new_id = new_id
        self._head = {"id": id, "created": created, "model": request.model, "system_fingerprint": None}
        self._echo = request.text if isinstance(request, CompletionRequest) and request.echo else ""
        self._forced = request.forced_tool if isinstance(request, ChatRequest) else ""
        self._calls: ToolCalls | None = None
        if isinstance(request, ChatRequest) and request.may_call_tools and self._parser:
            self._calls = ToolCalls(self._parser, spoken.max_call_bytes)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._has_begun = False
        self._reason = ""
        self._texts: list[str] = []
        self._plain: list[str] = []
        self._told: list[dict[str, Any]] = []  # calls
        self._probabilities: list[Any] = []
        self._length = 0  # characters
        self.usage: Usage | None = None

    @property
    def text(self) -> str:
        """All of it, as the model wrote it."""
        return "".join(self._texts)

    def take(self, response: InferResponse) -> list[bytes]:
        """A response; the events that it is in a stream.

        Raises:
            ModelFailed: it is not of the form that such models answer in.
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
            probabilities = _json(text_in(outputs.get("logprobs")))
        return self._say(text, calls, probabilities)

    def whole(self, usage: Usage | None) -> bytes:
        """The answer as one object, when no response follows."""
        self._rest()
        plain, reason = "".join(self._plain), self._finish()
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason, "logprobs": None}
        if self._is_chat:
            message: dict[str, Any] = {"role": "assistant", "content": "" if self._forced else plain}
            if self._forced:
                message["tool_calls"] = [self._as_call(ToolCall(self._forced, plain))]
            elif self._told:
                message["tool_calls"] = self._told
            choice["message"] = message
            if self._probabilities:
                choice["logprobs"] = {"content": of_chat(self._probabilities)}
        else:
            choice["text"] = plain
            if self._probabilities:
                choice["logprobs"] = of_completion(self._probabilities, 0)
        kind = "chat.completion" if self._is_chat else "text_completion"
        told = usage and usage.told()
        return dumps({**self._head, "object": kind, "choices": [choice], "usage": told})

    def end(self, usage: Usage | None) -> list[bytes]:
        """The events that end a stream: why it ended, the counts where they are wanted, and its mark."""
        events = self._rest()
        if self._is_chat:
            events += self._begin()
            events.append(self._chunk({"delta": {}}, self._finish()))
        else:
            events.append(self._chunk({"text": "" if self._has_begun else self._echo}, self._finish()))
        if usage is not None and self._request.wants_usage:
            events.append(_event({**self._head, "object": self._kind, "choices": [], "usage": usage.told()}))
        return [*events, DONE]

    def _rest(self) -> list[bytes]:
        """What was held back."""
        text = self._decoder.decode(b"", final=True)
        events = self._say(text, [], None) if text else []
        if self._calls is not None and (left := self._calls.rest()):
            events += self._said(left, None)
        return events

    def _finish(self) -> str:
        if self._told and not self._forced and self._reason in ("", "stop"):
            return "tool_calls"
        return self._reason or "stop"

    def _count(self, response: InferResponse, outputs: dict[str, Tensor]) -> None:
        """The engine's counts; or the model's: the prompt's each time, and what is new of the answer."""
        if response.tokens is not None:
            self.usage = Usage(*response.tokens)
            return
        prompt, answer = (number_in(outputs.get(f"num_{side}_tokens")) for side in ("input", "output"))
        if prompt is None or answer is None:
            return
        if self.usage is None:
            self.usage = Usage(prompt, 0)
        self.usage.completion_tokens += answer

    def _say(self, text: str, calls: list[dict[str, Any]], probabilities: Any) -> list[bytes]:
        """What is new, whatever it is."""
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
            events += self._said(text, probabilities)
        for call in calls:
            events.append(self._chunk({"delta": {"tool_calls": [{"index": len(self._told), **call}]}}))
            self._told.append(call)
        return events

    def _said(self, text: str, probabilities: Any) -> list[bytes]:
        self._plain.append(text)
        logprobs = {"content": of_chat(probabilities)} if probabilities else None
        return [self._chunk({"delta": {"content": text}}, None, logprobs)]

    def _complete(self, text: str, probabilities: Any) -> list[bytes]:
        if not self._has_begun:
            self._has_begun = True
            text = self._echo + text
        logprobs = of_completion(probabilities, self._length) if probabilities else None
        self._plain.append(text)
        self._length += len(text)
        return [self._chunk({"text": text}, None, logprobs)]

    def _begin(self) -> list[bytes]:
        """The first chunk of a conversation's answer tells who speaks."""
        if self._has_begun:
            return []
        self._has_begun = True
        return [self._chunk({"delta": {"role": "assistant", "content": ""}})]

    def _force(self, text: str) -> bytes:
        """The text is the arguments of the call that had to be."""
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
        return "chat.completion.chunk" if self._is_chat else "text_completion"

    def _chunk(self, said: dict[str, Any], reason: str | None = None, logprobs: Any = None) -> bytes:
        """An event, where a stream was asked for."""
        if not self._request.stream:
            return b""
        choice = {"index": 0, **said, "logprobs": logprobs, "finish_reason": reason}
        return _event({**self._head, "object": self._kind, "choices": [choice], "usage": None})


def _event(told: dict[str, Any]) -> bytes:
    return b"data: %s\n\n" % dumps(told)


def _bytes(tensor: Tensor | None) -> bytes:
    if tensor is None or not tensor.array.size:
        return b""
    if tensor.array.size > 1:
        raise ModelFailed(f"Expected to find 1 string in the output, found {tensor.array.size} instead.")
    value = tensor.array.ravel()[0]
    return value if isinstance(value, bytes) else str(value).encode()


def text_in(tensor: Tensor | None) -> str:
    """The one text of an output; empty where it is not there.

    Raises:
        ModelFailed: there are several.
    """
    return _bytes(tensor).decode("utf-8", "replace")


def number_in(tensor: Tensor | None) -> int | None:
    """The first whole number of an output; None where there is none."""
    if tensor is None or not tensor.array.size or not tensor.datatype.is_integer:
        return None
    return int(tensor.array.ravel()[0])


def _json(text: str) -> Any:
    if not text or text == "null":
        return None
    try:
        return loads(text.encode())
    except InvalidInput as error:
        raise ModelFailed(f"the model gave probabilities that are not JSON: {error}") from error


def _calls(text: str) -> list[dict[str, Any]]:
    """Calls that the model itself gives as OpenAI has them."""
    if not text or text == "null":
        return []
    try:
        calls = loads(text.encode())
    except InvalidInput as error:
        raise ModelFailed(f"the model gave tool_calls that are not JSON: {error}") from error
    if not isinstance(calls, list) or not all(
        isinstance(call, dict) and isinstance(call.get("function"), dict) for call in calls
    ):
        raise ModelFailed("the model gave tool_calls that are no list of calls")
    return calls
