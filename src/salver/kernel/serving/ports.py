"""Protocols that the data plane and the control plane call."""

import sys
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal, Protocol, TypeVar

from salver.kernel.serving.capabilities import Capabilities
from salver.lazy import lazy_imports
from salver.words.artifacts import LoadOrder
from salver.words.errors import SalverError
from salver.words.events import Event
from salver.words.messages import ANYBODY, InferRequest, InferResponse, ModelId, Signature, Standing

with lazy_imports():
    from salver.backends.callbacks import Series


BodyT = TypeVar("BodyT", contravariant=True)
ReplyT = TypeVar("ReplyT", covariant=True)
ServableT = TypeVar("ServableT", covariant=True)


class CodingCost(Protocol[BodyT]):
    """Work of a codec, with defaults for those that inherit from this class."""

    __slots__ = ()

    def takes_long(self, response: InferResponse) -> bool:
        """Return whether encoding the response would block the event loop and needs a thread."""
        return False

    def weigh(self, body: BodyT) -> int:
        """Return the bytes of a large body that must be parsed, not only viewed; 0 = decode it in place."""
        return sys.maxsize


class Codec(CodingCost[BodyT], Protocol[BodyT, ReplyT]):
    """Conversion of a transport's body into a request, and of a response into a reply."""

    __slots__ = ()

    protocol: str

    def decode(self, body: BodyT, signature: Signature) -> InferRequest:
        """Return the request. Raises InvalidInput, TooLarge or Unsupported."""
        ...

    def encode(self, request: InferRequest, response: InferResponse) -> ReplyT:
        """Return the reply. Raises Unsupported where the format cannot carry the answer."""
        ...

    def fault(self, error: SalverError) -> ReplyT:
        """Return the protocol's own form of an error. Never raises."""
        ...


class Inferring(Protocol):
    """Servable that answers requests for one model version."""

    @property
    def capabilities(self) -> Capabilities:
        """Capabilities of the servable."""
        ...

    @property
    def signature(self) -> Signature:
        """Inputs and outputs."""
        ...

    async def infer(
        self,
        request: InferRequest,
        deadline: float | None = None,
        sender: Hashable = None,
        standing: Standing = ANYBODY,
    ) -> InferResponse:
        """See :meth:`salver.kernel.engine.engine.Engine.infer`."""
        ...


class Lease(Protocol[ServableT]):
    """Right to use a loaded version until it is released."""

    @property
    def id(self) -> ModelId:
        """Leased version."""
        ...

    @property
    def servable(self) -> ServableT:
        """Servable of the version."""
        ...

    def release(self) -> None:
        """Release the lease; call it exactly once."""
        ...


class Lessor(Protocol[ServableT]):
    """Source of leases (``lifecycle/manager.py``)."""

    def acquire(self, name: str, version: str = "") -> Lease[ServableT]:
        """Return a lease. Raises NotFound or NotReady; never waits."""
        ...

    def other(
        self, name: str, version: str, is_wanted: Callable[[ServableT], bool]
    ) -> Lease[ServableT] | None:
        """Return a lease on a servable that passes a test, even one being replaced; None = there is none."""
        ...


class Observer(Protocol):
    """Receiver of events, off the request's path."""

    def observe(self, events: Sequence[Event]) -> None:
        """Receive up to a few hundred events in order; must not raise."""
        ...


class ModelStatistics(Protocol):
    """Statistics of model versions, in Triton's form (TR-R8)."""

    def statistics(self, model: str = "", version: str = "") -> dict[str, Any]:
        """Return the statistics of a version, of a model, or of all models."""
        ...


class ConfigSource(Protocol):
    """Configurations of model versions, in Triton's form."""

    def of(self, model: str, version: str = "") -> bytes:
        """Return a whole configuration, a serialised ModelConfig. Raises NotFound or NotReady."""
        ...


class Managing(Protocol):
    """Loading and unloading of models on request (``control.py``)."""

    async def answers(self, model: str, version: str = "") -> bool:
        """Return whether a model can answer."""
        ...

    async def load(self, model: str, order: LoadOrder) -> None:
        """Load a model. Raises the error that prevented it."""
        ...

    async def unload(self, model: str, *, dependents: bool = False) -> None:
        """Unload a model. Raises NotReady where the control mode forbids it."""
        ...


class OwnNumbers(Protocol):
    """Models' own metrics (features/telemetry/own_metrics.py)."""

    def open(self, owner: object, series: Series) -> int:
        """Return a handle on a new or existing series. Raises InvalidInput."""
        ...

    def change(self, owner: object, handle: int, how: Literal["add", "set", "observe"], value: float) -> None:
        """Change a value. Raises InvalidInput for a handle that is not the owner's."""
        ...

    def value(self, owner: object, handle: int) -> float:
        """Return a value. Raises InvalidInput for a handle that is not the owner's."""
        ...

    def forget(self, owner: object) -> None:
        """Remove the series that no other owner has."""
        ...
