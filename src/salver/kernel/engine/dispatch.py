"""Batches on instances, and the delivery of results to their callers."""

import asyncio
from collections.abc import Mapping
from typing import Any

from salver.kernel.engine.turns import ResourceTurn
from salver.kernel.engine.waiting import Batch, QueuedRequest
from salver.words.errors import ModelFailed, Overloaded, SalverError
from salver.words.messages import ModelId, Parameter, Timing
from salver.words.tensor import Array

NO_PARAMETERS: Mapping[str, Parameter] = {}


class Dispatch:
    """A batch that runs on an instance, or is prepared for one.

    Attributes:
        at: Time at which it started, or is planned to start.
        idle_since: Time since which an instance had been idle.
        turn: Shared resources that it holds; None = not counted.
        is_again: Its host died before; it is not run a third time.
    """

    __slots__ = ("at", "batch", "idle_since", "is_again", "turn")

    def __init__(
        self,
        batch: Batch,
        at: float,
        idle_since: float,
        turn: ResourceTurn | None = None,
        *,
        is_again: bool = False,
    ) -> None:
        self.is_again = is_again
        self.batch = batch
        self.at = at
        self.idle_since = idle_since
        self.turn = turn


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


def own(error: Exception, id: ModelId) -> Exception:
    """Copy an error for each caller: a shared exception object would collect their tracebacks."""
    if isinstance(error, ModelFailed):
        return type(error)(error.message, field=error.field, fix=error.fix)
    return error
