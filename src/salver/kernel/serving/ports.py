"""What do the planes need from others?"""

from collections.abc import AsyncGenerator, Hashable, Sequence
from typing import Literal, Protocol, TypeVar, runtime_checkable

from salver.backends.callbacks import Series
from salver.words.artifacts import LoadOrder
from salver.words.errors import SalverError
from salver.words.events import Event
from salver.words.messages import ANYBODY, InferRequest, InferResponse, Signature, Standing

BodyT = TypeVar("BodyT", contravariant=True)
ReplyT = TypeVar("ReplyT", covariant=True)


class Codec(Protocol[BodyT, ReplyT]):
    """Turns a transport's body into a request, and a response into its reply.

    It may have a method ``takes_long``: true says of a response that others would wait while it is encoded,
    so that another thread shall do it.
    """

    protocol: str

    def decode(self, body: BodyT, signature: Signature) -> InferRequest:
        """Raises InvalidInput, TooLarge or Unsupported."""
        ...

    def encode(self, request: InferRequest, response: InferResponse) -> ReplyT:
        """Raises Unsupported where the format cannot carry the answer."""
        ...

    def fault(self, error: SalverError) -> ReplyT:
        """The protocol's own form of an error; never raises."""
        ...


class Inferring(Protocol):
    """Something that answers requests for one model version.

    It may have the attribute ``asks_others``: true says that its requests shall bring their ``trace`` and
    ``request_id``, for what is asked in their service. Where it has ``sequences``, those say of a request
    whether it goes on with one (:meth:`salver.kernel.engine.sequence_engine.SequenceEngine.knows`).

    It may have ``post`` (:meth:`salver.dialects.torchserve.engine.engine.HandlerEngine.post`), where it
    calls back, and
    ``logging`` (:class:`~salver.dialects.tensorflow.recording.Sampling`), which says of each request
    whether it is written down with its answer.
    """

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


@runtime_checkable
class Streaming(Protocol):
    """Something that answers in pieces, besides being :class:`Inferring`: Triton's decoupled models.

    It has this method exactly if its model is decoupled; ``infer`` then raises Unsupported. Where it says
    ``gives_parts``, the pieces are parts of one answer, as tokens are of a text.
    """

    def stream(
        self, request: InferRequest, deadline: float | None = None, standing: Standing = ANYBODY
    ) -> AsyncGenerator[InferResponse, None]:
        """None, one or many responses, each asked for when the one before it has left.

        A response may carry an ``error``; the next one is asked for all the same. ``is_last`` says that
        none follows, where the model knows. Closing the iterator early gives the request up.

        Raises:
            SalverError: the request does not fit, or the model failed and gives no more.
        """
        ...


class Observer(Protocol):
    """Counts events, off the request's path."""

    def observe(self, events: Sequence[Event]) -> None:
        """A few hundred events in the order in which they happened; must not raise."""
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
