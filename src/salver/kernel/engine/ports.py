"""What does an engine need from others?

A :class:`Runner` executes whole batches somewhere (a thread, a host process, a device);
the engine decides when and with what.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from salver.backends.callbacks import Meters, Wish
from salver.backends.protocol import Answer
from salver.kernel.engine.pieces import Pieces
from salver.words.errors import SalverError
from salver.words.messages import InferRequest, InferResponse, Signature
from salver.words.tensor import Array


class Runner(Protocol):
    """Runs batches of one loaded model version.

    Attributes:
        slots: Batches that may run at the same time.
        signature: The model's; known once the runner exists.
    """

    slots: int
    signature: Signature

    async def run(self, inputs: Mapping[str, Array]) -> tuple[Mapping[str, Array], float]:
        """Outputs, and the model's own time in seconds.

        Raises:
            ModelFailed: the model raised, answered nonsense, or its host died (said at once).
            SalverError: as the model raised it.
        """
        ...

    def run_inline(self, inputs: Mapping[str, Array]) -> tuple[Mapping[str, Array], float] | None:
        """As ``run``, on the caller's thread and at once; None if this runner never does that
        (or no longer deems the model tiny enough).
        """
        ...

    async def run_each(self, inputs: Mapping[str, Array]) -> Sequence[Mapping[str, Array]]:
        """As ``run``, once on each instance, before there is traffic; their outputs."""
        ...

    async def close(self) -> None:
        """Let the model go, with its memory, threads and processes."""
        ...


@runtime_checkable
class Resizable(Runner, Protocol):
    """Can have more or fewer instances while it runs."""

    async def resize(self, slots: int) -> None:
        """So many from now on. Those that go end their runs first.

        Raises:
            LoadFailed: one more could not be had; all stays as it was.
        """
        ...


@runtime_checkable
class RequestRunner(Runner, Protocol):
    """Runs batches of a model that wants their requests one by one, and answers each by itself."""

    async def answer(self, requests: Sequence[InferRequest]) -> tuple[Sequence[Answer | SalverError], float]:
        """To each request its answer or its own error, in their order; and the model's own time in seconds.

        Raises:
            SalverError: as ``run``; all requests failed.
        """
        ...


#: What a run gave, outputs of the whole batch or each request's answer or error; and the model's own seconds.
Gave = tuple[Mapping[str, Array] | list[Answer | SalverError], float]


@runtime_checkable
class PostRunner(Runner, Protocol):
    """Begins runs without a task, which costs more than a small run does."""

    def post(
        self,
        work: Mapping[str, Array] | Sequence[InferRequest],
        done: Callable[[Gave | SalverError], None],
        is_lone: bool,
    ) -> bool:
        """As ``run``, or as ``answer`` where the model wants requests, begun at once; ``done`` is called
        later, on the event loop. False = not now: ask the other.

        Args:
            is_lone: There is one request.
        """
        ...


@runtime_checkable
class Returning(Runner, Protocol):
    """A runner whose hosts may die, and come back.

    Attributes:
        reruns: A request that was under way when a host died may be run once more.
    """

    reruns: bool

    async def back(self) -> None:
        """Wait until a host lives."""
        ...


@runtime_checkable
class Mortal(Protocol):
    """A runner whose model may end by itself, and forgets then what it knew.

    Attributes:
        deaths: How often it did; another model has taken its place since, or will.
    """

    deaths: int


@runtime_checkable
class StreamRunner(Runner, Protocol):
    """Asks a model that gives any number of responses to a request."""

    async def stream(self, requests: Sequence[InferRequest], free: Callable[[], None]) -> Sequence[Pieces]:
        """Wait for an idle instance, and have it begin with these; the responses to each, as they are sent.

        Whoever does not read them to their end closes them.

        Args:
            free: Called when the instance can begin with others, though responses may be yet to come.

        Raises:
            NotReady: no instance lives.
        """
        ...


class Terms(msgspec.Struct, frozen=True, gc=False):
    """On what terms a model asks another.

    Attributes:
        deadline: Of what it works on, by the server's clock; None = none.
        is_of_run: Its instance waits for the answer, and is not free before.
    """

    deadline: float | None = None
    is_of_run: bool = False


class Asker(Protocol):
    """The server, to the model of one host process (kernel/serving/model_callbacks.py)."""

    async def infer(self, request: InferRequest, terms: Terms) -> InferResponse:
        """The one answer of a model. Raises SalverError, in the words of Triton's Python backend."""
        ...

    async def stream(
        self, request: InferRequest, terms: Terms, write: Callable[[InferResponse], Awaitable[None]]
    ) -> None:
        """The answer in pieces, each of which ``write`` takes. Raises SalverError."""
        ...

    async def manage(self, wish: Wish) -> bool:
        """Load, unload or look at a model. Raises SalverError."""
        ...

    def leave(self) -> None:
        """The host is gone."""
        ...


class Server(Protocol):
    """The server, to the models of one version, from its load to its end
    (kernel/serving/model_callbacks.py).
    """

    @property
    def meters(self) -> Meters:
        """Numbers of the model's own on the metrics page."""
        ...

    def enter(self) -> Asker:
        """A host is there."""
        ...

    def leave(self) -> None:
        """No host comes any more."""
        ...
