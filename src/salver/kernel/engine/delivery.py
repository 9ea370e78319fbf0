"""Delivery of results to the callers of queued requests."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from salver.kernel.engine.batcher import Batcher
from salver.kernel.engine.refusals import full
from salver.kernel.engine.waiting import Dispatch, QueuedRequest
from salver.words.errors import ModelFailed, Overloaded, Refusal, SalverError
from salver.words.messages import InferResponse, ModelId, Parameter, Timing
from salver.words.tensor import Array

#: Takes the answer of a request that was posted: the error, or its first piece and the pieces that follow.
ReplyCallback = Callable[[InferResponse | Exception, AsyncGenerator[InferResponse, None] | None], None]
NO_PARAMETERS: Mapping[str, Parameter] = {}
_Result = TypeVar("_Result")


def settle(
    waiting: QueuedRequest,
    outputs: Mapping[str, Array],
    dispatch: Dispatch,
    run: tuple[float, float, float],
    parameters: Mapping[str, Parameter] = NO_PARAMETERS,
) -> None:
    """Complete a request with its outputs.

    Args:
        run: Seconds in the model, time of the outputs, and seconds to split them.
    """
    future: asyncio.Future[Any] = waiting.payload[1]
    if not future.done():
        at, batch = dispatch.at, dispatch.batch
        # Time before an instance was idle is queueing; after that, the rule waited for company.
        idle_from = min(max(waiting.arrived, dispatch.idle_since), at)
        arrived = waiting.arrived
        seconds, ended, split = run
        timing = Timing(
            idle_from - arrived,
            at - idle_from,
            seconds,
            batch.rows,
            waiting.ahead,
            batch.reason,
            arrived,
            ended,
            split,
        )
        future.set_result((outputs, timing, parameters))


def fail(waiting: QueuedRequest, error: Exception) -> None:
    """Complete a request with an error."""
    future: asyncio.Future[Any] = waiting.payload[1]
    if not future.done():
        if isinstance(error, SalverError):
            error.is_late = not isinstance(error, Overloaded)
        future.set_exception(error)


def abandon(batcher: Batcher, waiting: QueuedRequest) -> None:
    """Take a request whose caller has gone out of the queue; an active run continues."""
    batcher.discard(waiting)
    waiting.payload[1].cancel()


def crowd_out(evicted: QueuedRequest, bound: Refusal) -> None:
    """Fail a request that made room for another one."""
    error = full("It made room for others; retry later.", bound)
    error.about = evicted.payload[0].request.id
    fail(evicted, error)


def end_after(
    loop: asyncio.AbstractEventLoop,
    seconds: float,
    end: Callable[[QueuedRequest], None],
    waiting: QueuedRequest,
) -> None:
    """Call ``end`` with a request that has no answer after so many seconds."""
    # A timer each, not one for the queue: most are cancelled long before they are due.
    timer = loop.call_later(seconds, end, waiting)
    waiting.payload[1].add_done_callback(lambda _: timer.cancel())


def own(error: Exception, id: ModelId) -> Exception:
    """Copy an error for each caller: a shared exception object would collect their tracebacks."""
    if isinstance(error, ModelFailed):
        return type(error)(error.message, field=error.field, fix=error.fix)
    return error


class Ticket:
    """A future's interface that calls back at once, and not in the event loop's next turn.

    Args:
        told: Takes the result or the error, once.
    """

    __slots__ = ("_callbacks", "_is_done", "_told")

    def __init__(self, told: Callable[[Any, Exception | None], None]) -> None:
        self._told: Callable[[Any, Exception | None], None] | None = told
        self._is_done = False
        self._callbacks: list[Callable[[Ticket], None]] | None = None

    def done(self) -> bool:
        """Return whether the request is over."""
        return self._is_done

    def add_done_callback(self, callback: Callable[["Ticket"], None]) -> None:
        """Call this when the request is over, before its caller is told."""
        if self._callbacks is None:
            self._callbacks = []
        self._callbacks.append(callback)

    def set_result(self, result: Any) -> None:
        """Tell the caller."""
        if (told := self._end()) is not None:
            told(result, None)

    def set_exception(self, error: Exception) -> None:
        """Tell the caller that the request has failed."""
        if (told := self._end()) is not None:
            told(None, error)

    def cancel(self) -> None:
        """Drop the result: the caller has gone."""
        self._end()

    def _end(self) -> Callable[[Any, Exception | None], None] | None:
        told, self._told = self._told, None  # it holds the request
        self._is_done = True
        # Dropped before they run: they refer to timers that refer to the request.
        callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            callback(self)
        return told


def run(
    told: Callable[[_Result | Exception, None], None], work: Coroutine[Any, Any, _Result]
) -> Callable[[], None]:
    """Run a coroutine as a task whose result is passed on; return what cancels it."""

    def tell(task: asyncio.Task[_Result]) -> None:
        if not task.cancelled():
            error = task.exception()
            told(error if isinstance(error, Exception) else task.result(), None)

    def cancel() -> None:
        task.cancel()

    task = asyncio.get_running_loop().create_task(work)
    task.add_done_callback(tell)
    return cancel


def nothing() -> None:
    """Give up a request that has not begun, or has its answer already."""
