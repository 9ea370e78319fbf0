"""Protocols of what the data plane and the control plane need from others."""

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


class Codec(Protocol[BodyT, ReplyT]):
    """Turns a transport's body into a request, and a response into its reply.

    The last two methods have defaults for codecs that name this class as their base.
    """

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

    def takes_long(self, response: InferResponse) -> bool:
        """Return whether encoding the response would hold up the event loop; a thread does it then."""
        return False

    def weigh(self, body: BodyT) -> int:
        """Return how many bytes of a large body are parsed, and not only viewed; 0 = decode it here."""
        return sys.maxsize


class Inferring(Protocol):
    """Something that answers requests for one model version."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do besides."""
        ...

    @property
    def signature(self) -> Signature:
        """Its inputs and outputs."""
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
    """The right to use a loaded version until it is released."""

    @property
    def id(self) -> ModelId:
        """The version."""
        ...

    @property
    def servable(self) -> ServableT:
        """What answers for it."""
        ...

    def release(self) -> None:
        """Give it back, exactly once."""
        ...


class Lessor(Protocol[ServableT]):
    """Hands out leases (``lifecycle/manager.py``)."""

    def acquire(self, name: str, version: str = "") -> Lease[ServableT]:
        """Return a lease. Raises NotFound or NotReady; never waits."""
        ...

    def other(
        self, name: str, version: str, is_wanted: Callable[[ServableT], bool]
    ) -> Lease[ServableT] | None:
        """Return a lease on a copy of which this is true, even one that is being replaced; None = none is."""
        ...


class Observer(Protocol):
    """Counts events, off the request's path."""

    def observe(self, events: Sequence[Event]) -> None:
        """A few hundred events in the order in which they happened; must not raise."""
        ...


class ModelStatistics(Protocol):
    """Statistics of model versions, in Triton's form (TR-R8)."""

    def statistics(self, model: str = "", version: str = "") -> dict[str, Any]:
        """Return those of a version, of a model, or of all."""
        ...


class ConfigSource(Protocol):
    """Configurations of model versions, in Triton's form."""

    def of(self, model: str, version: str = "") -> bytes:
        """Return a whole configuration, a serialised ModelConfig. Raises NotFound or NotReady."""
        ...


class Managing(Protocol):
    """Who loads and unloads models on request (app.py)."""

    async def answers(self, model: str, version: str = "") -> bool:
        """Can that model answer?"""
        ...

    async def load(self, model: str, order: LoadOrder) -> None:
        """Raises what kept it from loading."""
        ...

    async def unload(self, model: str, *, dependents: bool = False) -> None:
        """Raises NotReady where the control mode forbids it."""
        ...


class OwnNumbers(Protocol):
    """Models' own numbers on the metrics page (features/telemetry/own_metrics.py)."""

    def open(self, owner: object, series: Series) -> int:
        """A handle on a series, which may be there already. Raises InvalidInput."""
        ...

    def change(self, owner: object, handle: int, how: Literal["add", "set", "observe"], value: float) -> None:
        """Raises InvalidInput for a handle that is not the owner's."""
        ...

    def value(self, owner: object, handle: int) -> float:
        """Raises InvalidInput for a handle that is not the owner's."""
        ...

    def forget(self, owner: object) -> None:
        """It is gone: its series go, but for those that others have, too."""
        ...
