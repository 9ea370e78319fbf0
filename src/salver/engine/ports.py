"""What does an engine need from others?

A :class:`Runner` executes whole batches somewhere (a thread, a host process, a device);
the engine decides when and with what.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from salver.backends.protocol import Answer
from salver.errors import SalverError
from salver.messages import InferRequest, Signature
from salver.tensor import Array


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

    async def close(self) -> None:
        """Let the model go, with its memory, threads and processes."""
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


@runtime_checkable
class PostRunner(RequestRunner, Protocol):
    """The same, begun without a task, which costs more than a small run does."""

    def post(
        self,
        requests: Sequence[InferRequest],
        done: Callable[[tuple[list[Answer | SalverError], float] | SalverError], None],
    ) -> bool:
        """As ``answer``, begun at once; ``done`` is called later, on the event loop. False = not now: ask
        ``answer``.
        """
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

    def stream(
        self, request: InferRequest, begin: Callable[[], None]
    ) -> AsyncGenerator[tuple[Answer | SalverError, bool], None]:
        """The responses as they are sent, each with whether it is known to be the last.

        Closing the iterator early tells the model that nobody listens; the slot is free when it has ended.

        Args:
            begin: Called when the request has a slot.

        Raises:
            SalverError: as ``run``; no response follows.
        """
        ...
