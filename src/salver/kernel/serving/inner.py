"""Requests that the server makes to its own models: the steps of an ensemble, the calls of a model.

They go through the data plane as everybody's do, with a codec that leaves requests and responses as they are.
"""

from collections.abc import Awaitable, Callable, Hashable, Iterable

from salver.kernel.serving.capabilities import Capabilities
from salver.kernel.serving.dataplane import DataPlane
from salver.kernel.serving.leases import Held
from salver.kernel.serving.ports import Codec, Inferring
from salver.lazy import lazy_imports
from salver.words.errors import NotReady, SalverError
from salver.words.messages import Call, InferRequest, InferResponse, ModelId, Signature

with lazy_imports():
    from salver.words import traceparent as w3c


#: The data plane as :class:`Inner` uses it.
InnerPlane = DataPlane[InferRequest, InferResponse]


class _Plain(Codec[InferRequest, InferResponse]):
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
        plane: Gives the data plane, which is made after those who load models.
    """

    def __init__(self, plane: Callable[[], InnerPlane]) -> None:
        self._plane = plane

    def hold(self, models: Iterable[tuple[str, str]]) -> "HeldInner":
        """Return the same for the versions of these models that answer now, which stay until it is released.

        Args:
            models: Names and versions; an empty version is the newest that is ready.

        Raises:
            NotFound, NotReady: one of them does not answer.
        """
        return HeldInner(*self._plane().holding(models))

    def signature(self, model: str, version: str = "") -> Signature:
        """Return what a model expects and gives; raises NotFound or NotReady."""
        return self._plane().signature(model, version)[1]

    def capabilities(self, model: str, version: str = "") -> Capabilities:
        """Return what a model can do besides giving one response to a request."""
        return self._plane().capabilities(model, version)

    def find(self, model: str, version: str) -> ModelId:
        """Return the version that would answer now.

        Raises:
            NotFound, NotReady: there is none.
        """
        return self._plane().signature(model, version)[0]

    async def infer(self, request: InferRequest, call: Call, sender: Hashable = None) -> InferResponse:
        """Return the one answer of ``request.model``.

        Args:
            call: For whom the request is made, until when, and in which span.
            sender: Requests of one sender keep their order.

        Raises:
            SalverError: the error that a caller over a wire would get.
        """
        plane = self._spanned(call)
        response = await plane.infer(_PLAIN, request, request.model, request.version, call, sender)
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
        plane = self._spanned(call)
        fault = await plane.stream(_PLAIN, request, request.model, request.version, call, write)
        if fault is not None and fault.error is not None:
            raise fault.error

    def _spanned(self, call: Call) -> InnerPlane:
        """Return the plane for a call, which is a span below its parent's from now on."""
        plane = self._plane()
        if call.parent and not call.traceparent:
            call.traceparent = w3c.below(call.parent, plane.path.new_id())
        stage = plane.path.stage
        return plane.quiet() if stage is not None and stage.inherit(call) else plane


class HeldInner(Inner):
    """Asks models that stay as they are meanwhile."""

    def __init__(self, plane: InnerPlane, held: Held[Inferring]) -> None:
        super().__init__(lambda: plane)
        self.release = held.release


def _no_plane() -> InnerPlane:
    raise NotReady("other models cannot be asked here", fix="Serve them together: salver serve.")


#: For those who load models outside a server.
ALONE = Inner(_no_plane)
