"""How does a decoupled ``TritonPythonModel`` send its responses, one by one and from whatever thread?

It is asked with one request at a time. The request is over when its sender has said so, or is gone; until
then the instance is busy. Knows no wire and no process but its own.
"""

import threading
from collections.abc import Mapping

from salver.backends.protocol import Answer, Listener
from salver.backends.triton_python import pb_utils
from salver.backends.triton_python.model import Instance
from salver.errors import SalverError
from salver.messages import InferRequest
from salver.tensor import Array


class DecoupledModel(Instance):
    """One instance of the owner's class, which sends its responses."""

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Its first response."""
        first = _First()
        self.stream(self.request(inputs), first)
        if isinstance(first.answer, Answer):
            return first.answer.outputs
        raise first.answer or self.failed("it sent no response")

    def stream(self, request: InferRequest, listener: Listener) -> None:
        """See :class:`~salver.backends.protocol.StreamModel`."""
        outlet = _Outlet(self, request, listener)
        asked = pb_utils.InferenceRequest.given(request, outlet)
        said = self.execute([asked])
        if said is not None:
            raise self.failed(
                "Python model is using the decoupled mode and the execute function must return None"
            )
        wish = self.again(asked, None)
        if wish is None:
            del asked  # a sender that is gone is one that has nothing more to say
            outlet.done.wait()
        else:
            listener.send(wish, True)


class _Outlet:
    """Where the responses to one request go."""

    def __init__(self, model: DecoupledModel, request: InferRequest, listener: Listener) -> None:
        self.done = threading.Event()
        self.is_cancelled = listener.is_cancelled
        self._model = model
        self._request = request
        self._listener = listener

    def put(self, response: pb_utils.InferenceResponse | None, is_last: bool) -> None:
        """Pass a response on; wait until it has been taken."""
        if response is not None:
            self._listener.send(self._model.understand(self._request, response), is_last)
        if is_last:
            self.close()

    def close(self) -> None:
        """No response follows."""
        self.done.set()


class _First:
    """Keeps the first response."""

    answer: Answer | SalverError | None = None

    def send(self, answer: Answer | SalverError, is_last: bool) -> None:
        self.answer = self.answer or answer

    def is_cancelled(self) -> bool:
        return False
