"""What is on an instance, and how do its callers hear of it?"""

import asyncio
from collections.abc import Mapping
from typing import Any

from salver.kernel.engine.turns import Turn
from salver.kernel.engine.waiting import Batch, Waiting
from salver.words.errors import ModelFailed, Overloaded, SalverError
from salver.words.messages import ModelId, Parameter, Timing
from salver.words.tensor import Array

NO_PARAMETERS: Mapping[str, Parameter] = {}


class Dispatch:
    """A batch on an instance, or made ready for one.

    Attributes:
        at: When it began, or is to begin.
        idle_since: Since when an instance had been idle then.
        turn: What it holds of resources that models share; None = they are not counted.
        is_again: Its host died before; it does not run a third time.
    """

    __slots__ = ("at", "batch", "idle_since", "is_again", "turn")

    def __init__(
        self,
        batch: Batch,
        at: float,
        idle_since: float,
        turn: Turn | None = None,
        *,
        is_again: bool = False,
    ) -> None:
        self.is_again = is_again
        self.batch = batch
        self.at = at
        self.idle_since = idle_since
        self.turn = turn


def settle(
    waiting: Waiting,
    outputs: Mapping[str, Array],
    dispatch: Dispatch,
    run: tuple[float, float, float],
    parameters: Mapping[str, Parameter] = NO_PARAMETERS,
) -> None:
    """Wake a caller.

    Args:
        run: Seconds of the model, when the outputs were there, and the seconds to cut them apart.
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


def fail(waiting: Waiting, error: Exception) -> None:
    """Wake a caller with an error."""
    future: asyncio.Future[Any] = waiting.payload[1]
    if not future.done():
        if isinstance(error, SalverError):
            error.is_late = not isinstance(error, Overloaded)
        future.set_exception(error)


def own(error: Exception, id: ModelId) -> Exception:
    """A fresh error for each caller: one exception object must not collect their tracebacks."""
    if isinstance(error, ModelFailed):
        return type(error)(error.message, field=error.field, fix=error.fix)
    return error
