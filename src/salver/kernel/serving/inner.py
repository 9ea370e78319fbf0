"""Requests that the server makes to its own models: the steps of an ensemble, the calls of a model.

They go through the data plane like all others, with a codec that leaves requests and responses unchanged.
"""

from collections.abc import Awaitable, Callable, Hashable, Iterable

from salver.kernel.serving.capabilities import Capabilities
from salver.kernel.serving.dataplane import DataPlane
from salver.kernel.serving.leases import HeldVersions
from salver.kernel.serving.ports import Codec, Inferring
from salver.lazy import lazy_imports
from salver.words.errors import NotReady, SalverError
from salver.words.messages import Call, InferRequest, InferResponse, ModelId, Signature

with lazy_imports():
    from salver.words import traceparent as w3c


#: The data plane as :class:`Inner` uses it.
InnerPlane = DataPlane[InferRequest, InferResponse]


class _Plain(Codec[InferRequest, InferResponse]):
    """Codec that passes records unchanged; an error becomes a response that carries it."""

    protocol = "inner"

    def decode(self, body: InferRequest, signature: Signature) -> InferRequest:
        return body

    def encode(self, request: InferRequest, response: InferResponse) -> InferResponse:
        return response

    def fault(self, error: SalverError) -> InferResponse:
        return InferResponse("", "", (), error=error)


_PLAIN = _Plain()


class Inner:
    """Client of the server's own models.

    Args:
        plane: Returns the data plane, which is created after the loaders.
    """

    def __init__(self, plane: Callable[[], InnerPlane]) -> None:
        self._plane = plane

    def hold(self, models: Iterable[tuple[str, str]]) -> "HeldInner":
        """Return a client of the current versions of these models, which are held until it is released.

        Args:
            models: Names and versions; an empty version means the newest that is ready.

        Raises:
            NotFound, NotReady: a model is not ready.
        """
        return HeldInner(*self._plane().holding(models))

    def signature(self, model: str, version: str = "") -> Signature:
        """Return a model's signature. Raises NotFound or NotReady."""
        return self._plane().signature(model, version)[1]

    def capabilities(self, model: str, version: str = "") -> Capabilities:
        """Return a model's capabilities."""
        return self._plane().capabilities(model, version)

    def find(self, model: str, version: str) -> ModelId:
        """Return the version that would answer now.

        Raises:
            NotFound, NotReady: no version would answer.
        """
        return self._plane().signature(model, version)[0]

    async def infer(self, request: InferRequest, call: Call, sender: Hashable = None) -> InferResponse:
        """Return the answer of ``request.model``.

        Args:
            call: Context of the request: its parent, deadline and span.
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
        """Pass each piece of the answer to ``write`` as soon as it exists; otherwise like ``infer``.

        A piece may carry an ``error``, and others may follow.

        Args:
            write: Receives the pieces; raises Cancelled to cancel the request.

        Raises:
            SalverError: the request failed before the first piece.
        """
        plane = self._spanned(call)
        fault = await plane.stream(_PLAIN, request, request.model, request.version, call, write)
        if fault is not None and fault.error is not None:
            raise fault.error

    def _spanned(self, call: Call) -> InnerPlane:
        """Make a call a child span of its parent, and return the plane for it."""
        plane = self._plane()
        if call.parent and not call.traceparent:
            call.traceparent = w3c.below(call.parent, plane.path.new_id())
        stage = plane.path.stage
        if stage is not None and stage.inherit(call):
            return plane.quiet()
        return plane


class HeldInner(Inner):
    """Client of model versions that are held until it is released."""

    def __init__(self, plane: InnerPlane, held: HeldVersions[Inferring]) -> None:
        super().__init__(lambda: plane)
        self.release = held.release


def _no_plane() -> InnerPlane:
    raise NotReady("other models cannot be asked here", fix="Serve them together: salver serve.")


#: Client without models, for loading outside a server.
ALONE = Inner(_no_plane)
