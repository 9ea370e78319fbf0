"""How does the server ask its own models: for the steps of an ensemble, for a model that calls others?

By the one door, as every caller does, with a codec that leaves requests and responses as they are.
"""

from collections.abc import Awaitable, Callable, Hashable, Iterable

from salver.features.releases.quiet_calls import is_copy, quiet
from salver.kernel.serving.dataplane import DataPlane, Held
from salver.kernel.serving.ports import Inferring
from salver.words import traceparent as w3c
from salver.words.errors import NotReady, SalverError
from salver.words.messages import Call, InferRequest, InferResponse, ModelId, Signature

#: The door as :class:`Inner` uses it.
InnerDoor = DataPlane[InferRequest, InferResponse]


class _Plain:
    """A codec for those who have the records already; an error is a response that carries it."""

    protocol = "inner"

    def decode(self, body: InferRequest, signature: Signature) -> InferRequest:
        return body

    def encode(self, request: InferRequest, response: InferResponse) -> InferResponse:
        return response

    def fault(self, error: SalverError) -> InferResponse:
        return InferResponse("", "", (), error=error)


_PLAIN = _Plain()


class Inner:
    """Asks loaded models from within.

    Args:
        door: Gives the door, which is made after those who load models.
    """

    def __init__(self, door: Callable[[], InnerDoor]) -> None:
        self._door = door

    def hold(self, models: Iterable[tuple[str, str]]) -> "HeldInner":
        """The same for the very versions of these models that answer now, which stay until it is released.

        Args:
            models: Names and versions; an empty version is the newest that is ready.

        Raises:
            NotFound, NotReady: one of them does not answer.
        """
        return HeldInner(*self._door().holding(models))

    def signature(self, model: str, version: str = "") -> Signature:
        """What it expects and gives; raises NotFound or NotReady."""
        return self._door().signature(model, version)[1]

    def is_decoupled(self, model: str, version: str = "") -> bool:
        """Gives it any number of responses to a request?"""
        return self._door().is_decoupled(model, version)

    def gives_parts(self, model: str, version: str = "") -> bool:
        """Are its responses parts of one answer?"""
        return self._door().gives_parts(model, version)

    def find(self, model: str, version: str) -> ModelId:
        """Which version would answer now.

        Raises:
            NotFound, NotReady: none would.
        """
        return self._door().signature(model, version)[0]

    async def infer(self, request: InferRequest, call: Call, sender: Hashable = None) -> InferResponse:
        """The one answer of ``request.model``; ``call`` says for whom, until when, and in whose span.

        Args:
            sender: Requests of one sender keep their order.

        Raises:
            SalverError: as its caller over a wire would be told.
        """
        door = self._spanned(call)
        response = await door.infer(_PLAIN, request, request.model, request.version, call, sender)
        if response.error is not None:
            raise response.error
        return response

    async def stream(
        self, request: InferRequest, call: Call, write: Callable[[InferResponse], Awaitable[None]]
    ) -> None:
        """As ``infer``, of models that may answer in pieces: each is handed to ``write`` when it is there.

        A piece may carry an ``error``, and others follow.

        Args:
            write: Raises Cancelled once nobody wants more, which gives the request up.

        Raises:
            SalverError: it failed before the first piece.
        """
        door = self._spanned(call)
        fault = await door.stream(_PLAIN, request, request.model, request.version, call, write)
        if fault is not None and fault.error is not None:
            raise fault.error

    def _spanned(self, call: Call) -> InnerDoor:
        """The door; the call is a span below its parent's from now on."""
        door = self._door()
        if call.parent and not call.traceparent:
            call.traceparent = w3c.below(call.parent, door.new_id())
        door.inherit(call)
        return quiet(door) if is_copy(call) else door


class HeldInner(Inner):
    """Asks models that stay as they are meanwhile."""

    def __init__(self, door: InnerDoor, held: Held[Inferring]) -> None:
        super().__init__(lambda: door)
        self.release = held.release


def _no_door() -> InnerDoor:
    raise NotReady("other models cannot be asked here", fix="Serve them together: salver serve.")


#: For those who load models outside a server.
ALONE = Inner(_no_door)
