"""Protocols that the engine calls.

A :class:`Runner` executes whole batches (on a thread, a host process, a device); the engine decides when and
with which inputs.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from salver.backends.protocol import Answer
from salver.lazy import lazy_imports
from salver.words.errors import SalverError
from salver.words.messages import InferRequest, InferResponse, Signature
from salver.words.tensor import Array

with lazy_imports():
    from salver.backends.callbacks import Meters, ModelCommand
    from salver.kernel.engine.pieces import ResponseStream


class Runner(Protocol):
    """Runner of batches of one loaded model version.

    Attributes:
        slots: Maximum concurrent batches.
        signature: Signature of the model, known once the runner exists.
    """

    slots: int
    signature: Signature

    async def run(self, inputs: Mapping[str, Array]) -> tuple[Mapping[str, Array], float]:
        """Run a batch; return the outputs and the seconds in the model.

        Raises:
            ModelFailed: the model raised, returned invalid outputs, or its host died (reported immediately).
            SalverError: raised by the model.
        """
        ...

    def run_inline(self, inputs: Mapping[str, Array]) -> tuple[Mapping[str, Array], float] | None:
        """Run a batch on the caller's thread; return None if this runner does not do that (any more)."""
        ...

    async def run_each(self, inputs: Mapping[str, Array]) -> Sequence[Mapping[str, Array]]:
        """Run once on each instance, before there is traffic; return their outputs."""
        ...

    async def close(self) -> None:
        """Release the model with its memory, threads and processes."""
        ...


@runtime_checkable
class Resizable(Runner, Protocol):
    """Runner whose number of instances can change while it runs."""

    async def resize(self, slots: int) -> None:
        """Set the number of instances. Removed ones finish their runs first.

        Raises:
            LoadFailed: an instance could not be added; nothing was changed.
        """
        ...


@runtime_checkable
class RequestRunner(Runner, Protocol):
    """Runner of a model that takes the requests of a batch one by one and answers each by itself."""

    async def answer(self, requests: Sequence[InferRequest]) -> tuple[Sequence[Answer | SalverError], float]:
        """Return the answer or error of each request, in order, and the seconds in the model.

        Raises:
            SalverError: as ``run``; all requests failed.
        """
        ...


@runtime_checkable
class InlineRequestRunner(RequestRunner, Protocol):
    """Request runner that may answer short requests on the caller's thread."""

    def short_size(self, requests: Sequence[InferRequest]) -> int:
        """Return the size with which ``answer_inline`` may be called for these requests; 0 = it may not."""
        ...

    def answer_inline(
        self, requests: list[InferRequest], size: int
    ) -> tuple[list[Answer | SalverError], float]:
        """Answer requests, as ``answer`` does."""
        ...


#: Result of a run: outputs of the whole batch or each request's answer or error, and the seconds in the
#: model.
Gave = tuple[Mapping[str, Array] | list[Answer | SalverError], float]


@runtime_checkable
class PostRunner(Runner, Protocol):
    """Runner that starts runs without a task, which would cost more than a small run."""

    def post(
        self,
        work: Mapping[str, Array] | Sequence[InferRequest],
        done: Callable[[Gave | SalverError], None],
        is_lone: bool,
    ) -> bool:
        """Start ``run``, or ``answer`` for a model that takes requests one by one, immediately.

        ``done`` is called later, on the event loop. False = not possible now; use the other method.

        Args:
            is_lone: The batch has one request.
        """
        ...


@runtime_checkable
class RestartingRunner(Runner, Protocol):
    """Runner whose hosts may die and be restarted.

    Attributes:
        reruns: Requests that were running when a host died may be run once more.
    """

    reruns: bool

    async def back(self, seconds: float) -> None:
        """Wait until a host is alive, at most this long."""
        ...


@runtime_checkable
class VolatileRunner(Protocol):
    """Runner whose model may die and lose its state.

    Attributes:
        deaths: Number of deaths; each was or will be followed by a restart.
    """

    deaths: int


@runtime_checkable
class StreamRunner(Runner, Protocol):
    """Runner of a model that returns any number of responses per request."""

    async def stream(
        self, requests: Sequence[InferRequest], free: Callable[[], None]
    ) -> Sequence[ResponseStream]:
        """Wait for an idle instance and start these requests; return a stream of responses for each.

        A reader that stops before the end must close its stream.

        Args:
            free: Called when the instance accepts other requests, even if responses are still to come.

        Raises:
            NotReady: no instance is alive.
        """
        ...


class Place(msgspec.Struct, frozen=True):
    """Node of a cluster that a replica of a model runs on, and why.

    Attributes:
        replica: Its name among the instances of the model.
        memory: Bytes that it is taken to need.
        others: What was against each other node when this one was chosen.
    """

    replica: str
    node: str
    why: str
    memory: int = 0
    others: Mapping[str, str] = {}


@runtime_checkable
class PlacedRunner(Runner, Protocol):
    """Runner on the nodes of a cluster."""

    @property
    def places(self) -> Sequence[Place]:
        """Return where its replicas are."""
        ...

    @property
    def lacking(self) -> str:
        """Return why it has fewer replicas than it needs; empty = it does not."""
        ...


class CallTerms(msgspec.Struct, frozen=True, gc=False):
    """Terms of a request that a model sends to another model.

    Attributes:
        deadline: Deadline of the request that it is working on, by the server's clock; None = none.
        is_of_run: Its instance waits for the answer and is busy until then.
    """

    deadline: float | None = None
    is_of_run: bool = False


class ModelCaller(Protocol):
    """The server, as seen by the model of one host process (kernel/serving/model_callbacks.py)."""

    async def infer(self, request: InferRequest, terms: CallTerms) -> InferResponse:
        """Return the single answer of a model. Raises SalverError with Triton's texts."""
        ...

    async def stream(
        self, request: InferRequest, terms: CallTerms, write: Callable[[InferResponse], Awaitable[None]]
    ) -> None:
        """Pass each piece of the answer to ``write``. Raises SalverError."""
        ...

    async def manage(self, wish: ModelCommand) -> bool:
        """Load, unload or describe a model. Raises SalverError."""
        ...

    def leave(self) -> None:
        """Note that the host is gone."""
        ...


class CallbackProvider(Protocol):
    """The server, as seen by the models of one version (kernel/serving/model_callbacks.py)."""

    @property
    def meters(self) -> Meters:
        """Return the model's own series on the metrics page."""
        ...

    def enter(self) -> ModelCaller:
        """Register a host."""
        ...

    def leave(self) -> None:
        """Note that no further host will be registered."""
        ...
