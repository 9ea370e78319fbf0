"""Decoupled ``TritonPythonModel``: it sends its responses one by one, from any thread.

It may return from ``execute`` with responses still to come and then gets the next requests. A request ends
when its sender says so or is deleted.
"""

import threading
from collections.abc import Mapping, Sequence

from salver.backends.protocol import Answer, Listener
from salver.dialects.triton.python_backend import pb_utils
from salver.dialects.triton.python_backend.model import Instance
from salver.words.errors import SalverError
from salver.words.messages import InferRequest
from salver.words.tensor import Array


class DecoupledModel(Instance):
    """Instance of the owner's class that sends responses, each with some of the outputs."""

    _may_omit = True

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return the first response."""
        first = _FirstResponse()
        self.stream([self.request(inputs)], [first])
        first.ended.wait()
        if isinstance(first.answer, Answer):
            return first.answer.outputs
        raise first.answer or self.failure("it sent no response")

    def stream(self, requests: Sequence[InferRequest], listeners: Sequence[Listener]) -> None:
        """See :class:`~salver.backends.protocol.StreamModel`."""
        outlets = [_ListenerOutlet(self, *pair) for pair in zip(requests, listeners, strict=True)]
        executed = list(map(pb_utils.InferenceRequest.from_server, requests, outlets))
        if self.execute(list(executed)) is not None:
            raise self.failure(
                "Python model is using the decoupled mode and the execute function must return None"
            )
        for request, listener in zip(executed, listeners, strict=True):
            if (again := self.reschedule(request, None)) is not None:
                listener.send(again, True)
                listener.end()
        # On return the requests are deleted, and with them senders that the model has not kept: those end.


class _ListenerOutlet:
    """Outlet for the responses to one request."""

    def __init__(self, model: DecoupledModel, request: InferRequest, listener: Listener) -> None:
        self.is_cancelled = listener.is_cancelled
        self.close = listener.end
        self._model = model
        self._request = request
        self._listener = listener

    def put(self, response: pb_utils.InferenceResponse | None, is_last: bool) -> None:
        """Send a response and wait until it has been taken."""
        if response is not None:
            self._listener.send(self._model.interpret(self._request, response), is_last)
        if is_last:
            self._listener.end()


class _FirstResponse:
    """Listener that keeps the first response."""

    answer: Answer | SalverError | None = None

    def __init__(self) -> None:
        self.ended = threading.Event()

    def send(self, answer: Answer | SalverError, is_last: bool) -> None:
        self.answer = self.answer or answer

    def is_cancelled(self) -> bool:
        return False

    def end(self) -> None:
        self.ended.set()
