"""How does a decoupled ``TritonPythonModel`` send its responses, one by one and from whatever thread?

It may return from ``execute`` with responses still to come, and is then asked the next requests. A request is
over when its sender has said so, or is gone. Knows no wire and no process but its own.
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
    """One instance of the owner's class, which sends its responses; each may have some of the outputs."""

    _may_omit = True

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Its first response."""
        first = _First()
        self.stream([self.request(inputs)], [first])
        first.ended.wait()
        if isinstance(first.answer, Answer):
            return first.answer.outputs
        raise first.answer or self.failed("it sent no response")

    def stream(self, requests: Sequence[InferRequest], listeners: Sequence[Listener]) -> None:
        """See :class:`~salver.backends.protocol.StreamModel`."""
        outlets = [_Outlet(self, *pair) for pair in zip(requests, listeners, strict=True)]
        asked = list(map(pb_utils.InferenceRequest.given, requests, outlets))
        said = self.execute(list(asked))
        if said is not None:
            raise self.failed(
                "Python model is using the decoupled mode and the execute function must return None"
            )
        for request, listener in zip(asked, listeners, strict=True):
            if (wish := self.again(request, None)) is not None:
                listener.send(wish, True)
                listener.end()
        # here the requests go, and with them senders that nobody keeps: those have nothing more to say


class _Outlet:
    """Where the responses to one request go."""

    def __init__(self, model: DecoupledModel, request: InferRequest, listener: Listener) -> None:
        self.is_cancelled = listener.is_cancelled
        self.close = listener.end
        self._model = model
        self._request = request
        self._listener = listener

    def put(self, response: pb_utils.InferenceResponse | None, is_last: bool) -> None:
        """Pass a response on; wait until it has been taken."""
        if response is not None:
            self._listener.send(self._model.understand(self._request, response), is_last)
        if is_last:
            self._listener.end()


class _First:
    """Keeps the first response."""

    answer: Answer | SalverError | None = None

    def __init__(self) -> None:
        self.ended = threading.Event()

    def send(self, answer: Answer | SalverError, is_last: bool) -> None:
        self.answer = self.answer or answer

    def is_cancelled(self) -> bool:
        return False

    def end(self) -> None:
        self.ended.set()
