"""Requests that a Triton Python model answers or sends to other models.

Business-logic scripting (TR-S7): a model executes an :class:`InferenceRequest`, which the server answers
(:mod:`salver.backends.callbacks`).
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
_LOOK_S: Final = 0.1  # interval of checks whether the caller has hung up


def _is_reserved(name: str) -> bool:
    return name in _RESERVED or name.startswith("triton_")


def _names(given: Iterable[str]) -> list[str]:
    """Return the names of outputs without repetitions."""
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
    """Return a parameter in Python's own types, which messages can carry."""
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
    """Memory of a tensor, numbered as in Triton's Python backend."""

    TRITONSERVER_MEMORY_GPU = 0
    TRITONSERVER_MEMORY_CPU = 1


class PreferredMemory:
    """Preferred memory of another model's outputs; ignored, since all tensors are in the CPU's."""

    def __init__(self, preferred_memory_type: int, preferred_device_id: int = 0) -> None:
        self.preferred_memory_type = MemoryType(preferred_memory_type)
        self.preferred_device_id = preferred_device_id


class InferenceTrace:
    """Span of a request; requests to other models are below it."""

    def __init__(self, span: str = "") -> None:
        self.span = text_of(span, "a trace")

    def get_context(self) -> str | None:
        """Return a JSON object with W3C's ``traceparent``; None if the request is not traced."""
        if self.span:
            return json.dumps({"traceparent": self.span})
        return None


class _Options(TypedDict, total=False):
    """Rare arguments of a request to another model."""

    flags: int
    timeout: int
    preferred_memory: PreferredMemory
    trace: InferenceTrace
    parameters: Mapping[str, Any] | None


class InferenceRequest:
    """Request that ``execute`` gets, or one to another model.

    Args:
        inputs: Inputs of the other model.
        requested_output_names: Outputs that are wanted; none = all.
        model_version: Version; -1 = the server's choice.
        more: ``flags`` (Triton's bits for the start and end of a sequence), ``timeout`` (microseconds),
            ``preferred_memory`` (ignored), ``trace`` (span of the request that this one serves) and
            ``parameters`` (texts, numbers and booleans).
    """

    def __init__(
        self,
        request_id: str = "",
        correlation_id: int | str = 0,
        inputs: Iterable[Tensor] = (),
        requested_output_names: Iterable[str] = (),
        model_name: str = "",
        model_version: int = -1,
        **more: Unpack[_Options],
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
        if unknown := set(more) - set(_Options.__annotations__):
            raise TypeError(f"InferenceRequest has no argument {', '.join(sorted(unknown))}")
        parameters = dict(map(_parameter, dict(more.get("parameters") or {}).items()))
        self._parameters = parameters
        if sequence := _correlation(correlation_id):
            parameters["sequence_id"] = sequence
        if timeout := number_of(more.get("timeout", 0), "timeout"):
            if timeout < 0:
                raise TypeError(f"timeout is {timeout}, and must not be negative")
            parameters["timeout"] = timeout
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
    def from_server(cls, request: InferRequest, outlet: "Outlet | None" = None) -> "InferenceRequest":
        """Return a request for ``execute``.

        Args:
            outlet: Outlet for the responses of a decoupled model.
        """
        # Without the checks of __init__, which are for a model's own requests.
        own = cls.__new__(cls)
        own._inputs = [Tensor.from_server(tensor) for tensor in request.inputs]
        own._id = request.id
        own._outputs = [output.name for output in request.outputs]
        own._parameters = request.parameters
        own._model = (request.model, request.version)
        own._trace = InferenceTrace(request.trace)
        own._sender = InferenceResponseSender(outlet) if outlet else None
        own._is_gone = request.is_gone
        own.release_flags = TRITONSERVER_REQUEST_RELEASE_ALL
        return own

    _inputs: list[Tensor]
    _id: str
    _outputs: list[str]
    _parameters: Mapping[str, Any]
    _model: tuple[str, str]
    _trace: InferenceTrace
    _sender: "InferenceResponseSender | None"
    _is_gone: Callable[[], bool] | None
    release_flags: int
    single: "SingleResponse | None" = None

    def inputs(self) -> list[Tensor]:
        """Return the inputs that were sent."""
        return self._inputs

    def request_id(self) -> str:
        """Return the caller's id of the request; empty = none."""
        return self._id

    def correlation_id(self) -> int | str:
        """Return the id of its sequence, unsigned if it is a number; 0 = none."""
        id: int | str = self._parameters.get("sequence_id", 0)
        return id & _MASK if isinstance(id, int) else id

    def requested_output_names(self) -> set[str]:
        """Return the outputs that the caller wants, by default all."""
        return set(self._outputs)

    def flags(self) -> int:
        """Return Triton's bits for the start and end of a sequence."""
        flags = 0
        if self._parameters.get("sequence_start"):
            flags |= TRITONSERVER_REQUEST_FLAG_SEQUENCE_START
        if self._parameters.get("sequence_end"):
            flags |= TRITONSERVER_REQUEST_FLAG_SEQUENCE_END
        return flags

    def set_flags(self, flags: int) -> None:
        """Set Triton's bits for the start and end of a sequence."""
        flags = number_of(flags, "flags")
        sequence = {
            "sequence_start": bool(flags & TRITONSERVER_REQUEST_FLAG_SEQUENCE_START),
            "sequence_end": bool(flags & TRITONSERVER_REQUEST_FLAG_SEQUENCE_END),
        }
        others = {name: value for name, value in self._parameters.items() if name not in sequence}
        self._parameters = others | {name: True for name, is_set in sequence.items() if is_set}

    def timeout(self) -> int:
        """Return the caller's timeout in microseconds; 0 = none."""
        return int(self._parameters.get("timeout", 0))

    def parameters(self) -> str:
        """Return the caller's own parameters as JSON text."""
        own = {k: v for k, v in self._parameters.items() if not _is_reserved(k)}
        return json.dumps(own, separators=(",", ":"))

    def trace(self) -> InferenceTrace:
        """Return the span for requests to other models."""
        return self._trace

    def is_cancelled(self) -> bool:
        """Return whether the caller has stopped waiting."""
        if self._sender is not None:
            return self._sender.is_cancelled()
        return self._is_gone is not None and self._is_gone()

    def get_response_sender(self) -> "InferenceResponseSender":
        """Return the request's sender; without decoupled mode, it sends the only response."""
        if self._sender is None:
            self.single = SingleResponse(self._is_gone)
            self._sender = InferenceResponseSender(self.single)
        return self._sender

    def set_release_flags(self, flags: int) -> None:
        """Set whether the request ends with this run, or runs again (iterative sequences)."""
        if flags not in (TRITONSERVER_REQUEST_RELEASE_ALL, TRITONSERVER_REQUEST_RELEASE_RESCHEDULE):
            raise TritonModelException(
                "set_release_flags takes TRITONSERVER_REQUEST_RELEASE_ALL or "
                f"TRITONSERVER_REQUEST_RELEASE_RESCHEDULE, not {flags!r}"
            )
        self.release_flags = flags

    def exec(self, decoupled: bool = False) -> "InferenceResponse | ResponseIterator":
        """Send the request to the other model and wait for the response.

        Args:
            decoupled: Return an iterator over any number of responses. If the model ends without a response,
                the last one has no outputs.
        """
        if decoupled:
            return ResponseIterator(self._plain())
        answer: SimpleQueue[InferResponse | None] = SimpleQueue()
        server().infer(self._plain(), False, lambda response, _: answer.put(response))
        return _from_server(answer.get())

    def async_exec(self, decoupled: bool = False) -> "asyncio.Future[Any]":
        """Start :meth:`exec`; of a decoupled model, the future waits for the first response."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def settle(response: InferResponse | ResponseIterator | None) -> None:
            if not future.done():
                future.set_result(
                    response if isinstance(response, ResponseIterator) else _from_server(response)
                )

        def receive(response: InferResponse | ResponseIterator | None) -> None:
            with suppress(RuntimeError):  # the loop is closed, and with it the future's waiter
                loop.call_soon_threadsafe(settle, response)

        if decoupled:
            give_up = ResponseIterator(self._plain(), receive).cancel
        else:
            give_up = server().infer(self._plain(), False, lambda response, _: receive(response)).give_up
        future.add_done_callback(lambda done: give_up() if done.cancelled() else None)
        return future

    def _plain(self) -> InferRequest:
        """Return the request in the server's form."""
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


def _from_server(response: InferResponse | None) -> InferenceResponse:
    """Return a response as the model sees it; an end without a response has no outputs."""
    if response is None:
        return InferenceResponse()
    if response.error is not None:
        return InferenceResponse(error=error_of(response.error))
    return InferenceResponse(map(Tensor.from_server, response.outputs), parameters=dict(response.parameters))


class ResponseIterator:
    """Responses of another model to one request, as they arrive; a second pass repeats them.

    Deleting it before the last response cancels the request.

    Args:
        on_first: Called with this iterator, on another thread, when there is a response.
    """

    def __init__(
        self, request: InferRequest, on_first: "Callable[[ResponseIterator], None] | None" = None
    ) -> None:
        self._coming: SimpleQueue[tuple[InferResponse | None, bool]] = SimpleQueue()
        self._left: deque[InferenceResponse] = deque()
        self._past: list[InferenceResponse] = []
        self._is_over = False
        coming = self._coming  # not self: the server's reference must not keep the iterator alive
        waiting = [(self, on_first)] if on_first else []

        def receive(response: InferResponse | None, is_end: bool) -> None:
            coming.put((response, is_end))
            if waiting:
                responses, call = waiting.pop()
                call(responses)

        self._pending: PendingAnswer = server().infer(request, True, receive)

    def __del__(self) -> None:
        if not self._is_over and hasattr(self, "_pending"):
            self._pending.give_up()

    def __iter__(self) -> Iterator[InferenceResponse]:
        """Continue, or start again after the end."""
        if self._is_over and not self._left:
            self._left.extend(self._past)
        return self

    def __next__(self) -> InferenceResponse:
        """Wait for the next response."""
        if self._is_over:
            if not self._left:
                raise StopIteration
            return self._left.popleft()
        received, is_end = self._coming.get()
        self._is_over = is_end or received is None or received.is_last
        if not self._is_over:
            self._pending.more()
        response = _from_server(received)
        self._past.append(response)
        return response

    def cancel(self) -> None:
        """Cancel the request, so that the model sends no more."""
        self._pending.give_up()


class Outlet(Protocol):
    """Destination of a sender's responses."""

    def put(self, response: InferenceResponse | None, is_last: bool) -> None:
        """Deliver a response, if there is one, and wait until it has been taken."""
        ...

    def is_cancelled(self) -> bool:
        """Return whether the caller has stopped waiting."""
        ...

    def close(self) -> None:
        """End the responses."""
        ...


class SingleResponse:
    """Outlet for the only response of a model that is not decoupled."""

    response: InferenceResponse | None = None

    def __init__(self, is_gone: Callable[[], bool] | None) -> None:
        self._ended = Event()
        self._is_gone = is_gone

    def put(self, response: InferenceResponse | None, is_last: bool) -> None:
        """Keep the response.

        Raises:
            TritonModelException: It is not the first, or the sender ended without one.
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
        """Return whether the caller has stopped waiting."""
        return self._is_gone is not None and self._is_gone()

    def close(self) -> None:
        """End the responses."""
        self._ended.set()

    def wait(self) -> InferenceResponse | None:
        """Wait until the sender ends or is deleted, or the caller hangs up; return what was sent."""
        while not self._ended.wait(_LOOK_S) and not self.is_cancelled():
            pass
        return self.response


class InferenceResponseSender:
    """Sends responses from any thread: any number in decoupled mode, else one.

    The request ends when the sender says so or is deleted.
    """

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self._is_closed = False

    def __del__(self) -> None:
        self._outlet.close()

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        """Send a response, or the end, or both; wait until it has been taken."""
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
        """Return whether the caller has stopped waiting."""
        return self._outlet.is_cancelled()
