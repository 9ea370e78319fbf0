"""What requests does a Triton Python model handle: those that it answers, and those to other models?

Business-logic scripting (TR-S7): a model makes an :class:`InferenceRequest` and has it executed. The server
around it answers (:mod:`salver.backends.callbacks`).
"""

import asyncio
import enum
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from queue import SimpleQueue
from threading import Event
from typing import Any, Final, Protocol, TypedDict, Unpack

from salver.backends.callbacks import PendingAnswer
from salver.dialects.triton.python_backend.host_server import server
from salver.dialects.triton.python_backend.values import (
    InferenceResponse,
    Tensor,
    TritonModelException,
    error_of,
    number_of,
    text_of,
)
from salver.words.messages import InferRequest, InferResponse, Parameter, RequestedOutput

TRITONSERVER_REQUEST_FLAG_SEQUENCE_START: Final = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_END: Final = 2
TRITONSERVER_RESPONSE_COMPLETE_FINAL: Final = 1
TRITONSERVER_REQUEST_RELEASE_ALL: Final = 1
TRITONSERVER_REQUEST_RELEASE_RESCHEDULE: Final = 2

_RESERVED: Final = frozenset(
    {"sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "binary_data_output"}
)


_MASK: Final = (1 << 64) - 1
_LOOK_S: Final = 0.1  # how often a caller who is gone is looked for


def _is_reserved(name: str) -> bool:
    return name in _RESERVED or name.startswith("triton_")


def _names(given: Iterable[str]) -> list[str]:
    """Of outputs, each once."""
    if isinstance(given, str | bytes):
        raise TypeError("requested_output_names must be a list of texts, not one of them")
    return list(dict.fromkeys([text_of(name, "the name of an output") for name in given]))


def _correlation(id: Any) -> int | str:
    if isinstance(id, str | bytes):
        return text_of(id, "correlation_id")
    if not hasattr(id, "__index__"):
        raise TritonModelException("Correlation ID must be integer or string")
    return number_of(id, "correlation_id")


def _parameter(pair: tuple[Any, Any]) -> tuple[str, Parameter]:
    """As messages carry it, in Python's own types."""
    key, value = pair
    name = text_of(key, "the name of a parameter")
    if hasattr(value, "item"):  # numpy's
        value = value.item()
    if isinstance(value, bool | float):
        return name, value
    if isinstance(value, int):
        return name, number_of(value, f"parameter {name!r}")
    if isinstance(value, str | bytes):
        return name, text_of(value, f"parameter {name!r}")
    raise TritonModelException("Unsupported value type on parameters")


class MemoryType(enum.IntEnum):
    """Where a tensor may lie, numbered as in Triton's Python backend."""

    TRITONSERVER_MEMORY_GPU = 0
    TRITONSERVER_MEMORY_CPU = 1


class PreferredMemory:
    """Where another model's outputs should lie; here it is the CPU's memory in any case."""

    def __init__(self, preferred_memory_type: int, preferred_device_id: int = 0) -> None:
        self.preferred_memory_type = MemoryType(preferred_memory_type)
        self.preferred_device_id = preferred_device_id


class InferenceTrace:
    """The span that a request is, so that those which it leads to are below it."""

    def __init__(self, span: str = "") -> None:
        self.span = text_of(span, "a trace")

    def get_context(self) -> str | None:
        """As a JSON object with W3C's ``traceparent``; None if the request is not traced."""
        return json.dumps({"traceparent": self.span}) if self.span else None


class _More(TypedDict, total=False):
    """What seldom goes with a request to another model."""

    flags: int
    timeout: int
    preferred_memory: PreferredMemory
    trace: InferenceTrace
    parameters: Mapping[str, Any] | None


class InferenceRequest:
    """One request: as ``execute`` gets it, or for another model.

    Args:
        inputs: Of the other model.
        requested_output_names: Those of its outputs that are wanted; none = all.
        model_version: -1 leaves the choice to the server.
        more: ``flags``, ``timeout``, ``preferred_memory``, ``trace`` and ``parameters``, as below.

    Among them:
        flags: Whether it starts or ends a sequence, in Triton's bits.
        timeout: Microseconds; 0 = none.
        trace: Of the request in whose service it is.
        parameters: For the other model; texts, whole numbers and booleans.
    """

    def __init__(
        self,
        request_id: str = "",
        correlation_id: int | str = 0,
        inputs: Iterable[Tensor] = (),
        requested_output_names: Iterable[str] = (),
        model_name: str = "",
        model_version: int = -1,
        **more: Unpack[_More],
    ) -> None:
        name = text_of(model_name, "model_name")
        if not name:
            raise TritonModelException("an InferenceRequest for another model needs its model_name")
        self._inputs = list(inputs)
        for tensor in self._inputs:
            if not isinstance(tensor, Tensor):
                raise TypeError(f"an input must be a pb_utils.Tensor, not {type(tensor).__name__}")
        self._id = text_of(request_id, "request_id")
        self._outputs = _names(requested_output_names)
        if unknown := set(more) - set(_More.__annotations__):
            raise TypeError(f"InferenceRequest has no argument {', '.join(sorted(unknown))}")
        said = dict(map(_parameter, dict(more.get("parameters") or {}).items()))
        self._parameters = said
        if sequence := _correlation(correlation_id):
            said["sequence_id"] = sequence
        if timeout := number_of(more.get("timeout", 0), "timeout"):
            if timeout < 0:
                raise TypeError(f"timeout is {timeout}, and must not be negative")
            said["timeout"] = timeout
        self.set_flags(more.get("flags", 0))
        version = number_of(model_version, "model_version")
        self._model = (name, "" if version < 0 else str(version))
        trace = more.get("trace") or InferenceTrace()
        if not isinstance(trace, InferenceTrace):
            raise TypeError(f"trace must be a pb_utils.InferenceTrace, not {type(trace).__name__}")
        self._trace = trace
        self._sender = None
        self._is_gone = None
        self.release_flags = TRITONSERVER_REQUEST_RELEASE_ALL

    @classmethod
    def given(cls, request: InferRequest, outlet: "Outlet | None" = None) -> "InferenceRequest":
        """One to be executed.

        Args:
            outlet: Where the responses of a decoupled model go.
        """
        made = cls.__new__(cls)
        made._inputs = [Tensor.given(tensor) for tensor in request.inputs]
        made._id = request.id
        made._outputs = [output.name for output in request.outputs]
        made._parameters = request.parameters
        made._model = (request.model, request.version)
        made._trace = InferenceTrace(request.trace)
        made._sender = InferenceResponseSender(outlet) if outlet else None
        made._is_gone = request.is_gone
        made.release_flags = TRITONSERVER_REQUEST_RELEASE_ALL
        return made

    _inputs: list[Tensor]
    _id: str
    _outputs: list[str]
    _parameters: Mapping[str, Any]
    _model: tuple[str, str]
    _trace: InferenceTrace
    _sender: "InferenceResponseSender | None"
    _is_gone: Callable[[], bool] | None
    release_flags: int
    only: "OnlyResponse | None" = None

    def inputs(self) -> list[Tensor]:
        """Those that were sent."""
        return self._inputs

    def request_id(self) -> str:
        """The caller's mark, or empty."""
        return self._id

    def correlation_id(self) -> int | str:
        """Of its sequence; 0 for none. A number has no sign."""
        id: int | str = self._parameters.get("sequence_id", 0)
        return id & _MASK if isinstance(id, int) else id

    def requested_output_names(self) -> set[str]:
        """What the caller wants; all outputs if it did not say."""
        return set(self._outputs)

    def flags(self) -> int:
        """Whether it starts or ends a sequence, in Triton's bits."""
        start = TRITONSERVER_REQUEST_FLAG_SEQUENCE_START if self._parameters.get("sequence_start") else 0
        return start | (TRITONSERVER_REQUEST_FLAG_SEQUENCE_END if self._parameters.get("sequence_end") else 0)

    def set_flags(self, flags: int) -> None:
        """Start or end a sequence, in Triton's bits."""
        flags = number_of(flags, "flags")
        sequence = {
            "sequence_start": bool(flags & TRITONSERVER_REQUEST_FLAG_SEQUENCE_START),
            "sequence_end": bool(flags & TRITONSERVER_REQUEST_FLAG_SEQUENCE_END),
        }
        others = {name: value for name, value in self._parameters.items() if name not in sequence}
        self._parameters = others | {name: True for name, is_set in sequence.items() if is_set}

    def timeout(self) -> int:
        """The caller's, in microseconds; 0 for none."""
        return int(self._parameters.get("timeout", 0))

    def parameters(self) -> str:
        """The caller's own parameters, as JSON text."""
        own = {k: v for k, v in self._parameters.items() if not _is_reserved(k)}
        return json.dumps(own, separators=(",", ":"))

    def trace(self) -> InferenceTrace:
        """For requests to other models in its service."""
        return self._trace

    def is_cancelled(self) -> bool:
        """True once nobody waits for what the model says to it."""
        if self._sender is not None:
            return self._sender.is_cancelled()
        return self._is_gone is not None and self._is_gone()

    def get_response_sender(self) -> "InferenceResponseSender":
        """Always the same. Of a model that is not decoupled, it sends the one response."""
        if self._sender is None:
            self.only = OnlyResponse(self._is_gone)
            self._sender = InferenceResponseSender(self.only)
        return self._sender

    def set_release_flags(self, flags: int) -> None:
        """Whether the request is over with this run, or is to run again (sequences that iterate)."""
        if flags not in (TRITONSERVER_REQUEST_RELEASE_ALL, TRITONSERVER_REQUEST_RELEASE_RESCHEDULE):
            raise TritonModelException(
                "set_release_flags takes TRITONSERVER_REQUEST_RELEASE_ALL or "
                f"TRITONSERVER_REQUEST_RELEASE_RESCHEDULE, not {flags!r}"
            )
        self.release_flags = flags

    def exec(self, decoupled: bool = False) -> "InferenceResponse | ResponseIterator":
        """Ask the other model, and wait.

        Args:
            decoupled: Any number of responses may come: the answer is an iterator over them. Its last one has
                no outputs, where the model ends without one.
        """
        if decoupled:
            return ResponseIterator(self._asked())
        answer: SimpleQueue[InferResponse | None] = SimpleQueue()
        server().infer(self._asked(), False, lambda said, _: answer.put(said))
        return _seen(answer.get())

    def async_exec(self, decoupled: bool = False) -> "asyncio.Future[Any]":
        """As ``exec``, to be awaited; the request is under way when this returns.

        The responses of a decoupled model are awaited until the first is there.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def settle(said: InferResponse | ResponseIterator | None) -> None:
            if not future.done():
                future.set_result(said if isinstance(said, ResponseIterator) else _seen(said))

        def pass_on(said: InferResponse | ResponseIterator | None) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(settle, said)

        if decoupled:
            give_up = ResponseIterator(self._asked(), pass_on).cancel
        else:
            give_up = server().infer(self._asked(), False, lambda said, _: pass_on(said)).give_up
        future.add_done_callback(lambda done: give_up() if done.cancelled() else None)
        return future

    def _asked(self) -> InferRequest:
        name, version = self._model
        names = [tensor.name() for tensor in self._inputs]
        if twice := next((n for n in names if names.count(n) > 1), None):
            raise TritonModelException(f"input '{twice}' already exists in request")
        return InferRequest(
            name,
            tuple(tensor.plain() for tensor in self._inputs),
            version,
            self._id,
            tuple(map(RequestedOutput, self._outputs)),
            self._parameters,
            self._trace.span,
        )


def _seen(said: InferResponse | None) -> InferenceResponse:
    """A response as the model sees it; nothing but the end is one without outputs."""
    if said is None:
        return InferenceResponse()
    if said.error is not None:
        return InferenceResponse(error=error_of(said.error))
    return InferenceResponse(map(Tensor.given, said.outputs), parameters=dict(said.parameters))


class ResponseIterator:
    """The responses to one request to another model, as they come; a second pass gives them again.

    Who drops it before the last one gives the request up.

    Args:
        on_first: Told of this iterator, on another thread, when there is a response.
    """

    def __init__(
        self, request: InferRequest, on_first: "Callable[[ResponseIterator], None] | None" = None
    ) -> None:
        self._coming: SimpleQueue[tuple[InferResponse | None, bool]] = SimpleQueue()
        self._left: deque[InferenceResponse] = deque()
        self._past: list[InferenceResponse] = []
        self._is_over = False
        coming = self._coming  # not self: what the server holds must not keep the iterator alive
        waiting = [(self, on_first)] if on_first else []

        def hear(said: InferResponse | None, is_end: bool) -> None:
            coming.put((said, is_end))
            if waiting:
                responses, tell = waiting.pop()
                tell(responses)

        self._asked: PendingAnswer = server().infer(request, True, hear)

    def __del__(self) -> None:
        if not self._is_over and hasattr(self, "_asked"):
            self._asked.give_up()

    def __iter__(self) -> Iterator[InferenceResponse]:
        """Go on; from the beginning, once it has ended."""
        if self._is_over and not self._left:
            self._left.extend(self._past)
        return self

    def __next__(self) -> InferenceResponse:
        """The next one; waits for it."""
        if self._is_over:
            if not self._left:
                raise StopIteration
            return self._left.popleft()
        said, is_end = self._coming.get()
        self._is_over = is_end or said is None or said.is_last
        if not self._is_over:
            self._asked.more()
        response = _seen(said)
        self._past.append(response)
        return response

    def cancel(self) -> None:
        """Nobody wants more of them; the model is told."""
        self._asked.give_up()


class Outlet(Protocol):
    """Where a sender's responses go."""

    def put(self, response: InferenceResponse | None, is_last: bool) -> None:
        """Pass one on, if there is one; wait until it has been taken."""
        ...

    def is_cancelled(self) -> bool:
        """Nobody waits for them."""
        ...

    def close(self) -> None:
        """None follows."""
        ...


class OnlyResponse:
    """Where the one response goes of a model that is not decoupled, if its execute returns None."""

    response: InferenceResponse | None = None

    def __init__(self, is_gone: Callable[[], bool] | None) -> None:
        self._ended = Event()
        self._is_gone = is_gone

    def put(self, response: InferenceResponse | None, is_last: bool) -> None:
        """Keep it.

        Raises:
            TritonModelException: it is not the first, or there was none.
        """
        if response is not None and self.response is not None:
            raise TritonModelException(
                "Unable to send response. Non-decoupled model cannot send more than one response."
            )
        if response is None and self.response is None:
            raise TritonModelException(
                "Unable to send response. Non-decoupled model cannot send complete final before sending a "
                "response."
            )
        self.response = response or self.response
        if is_last:
            self._ended.set()

    def is_cancelled(self) -> bool:
        """Nobody waits for it."""
        return self._is_gone is not None and self._is_gone()

    def close(self) -> None:
        """None follows."""
        self._ended.set()

    def wait(self) -> InferenceResponse | None:
        """What was sent, when the sender has said that it is all, or is gone, or the caller is."""
        while not self._ended.wait(_LOOK_S) and not self.is_cancelled():
            pass
        return self.response


class InferenceResponseSender:
    """Sends responses, from any thread: any number of a decoupled model, one of another.

    The request is over when the sender says so, or is gone.
    """

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self._is_closed = False

    def __del__(self) -> None:
        self._outlet.close()

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        """Send a response, or say that none follows, or both; waits until it has been taken."""
        if self._is_closed:
            raise TritonModelException("Unable to send response. Response sender has been closed.")
        if response is not None and not isinstance(response, InferenceResponse):
            raise TypeError(f"a response must be a pb_utils.InferenceResponse, not {type(response).__name__}")
        if flags not in (0, TRITONSERVER_RESPONSE_COMPLETE_FINAL):
            raise TritonModelException("Unable to send response. Unsupported flag provided.")
        if response is None and not flags:
            raise TritonModelException(
                "Inference Response object must be provided when the response flags is set to zero."
            )
        self._is_closed = bool(flags)
        self._outlet.put(response, self._is_closed)

    def is_cancelled(self) -> bool:
        """True once nobody waits for more."""
        return self._outlet.is_cancelled()
