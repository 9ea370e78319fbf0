"""Coroutines that begin without a task.

Not compiled: asyncio looks closely at the coroutines that it gets.
"""

import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

from salver.kernel.engine.delivery import nothing, run

_Result = TypeVar("_Result")


def begin(
    told: Callable[[_Result | Exception, None], None], work: Coroutine[Any, Any, _Result]
) -> Callable[[], None]:
    """Run a coroutine at once until it waits, and the rest as a task; return what cancels it.

    Args:
        work: Needs no task of its own, as ``TaskGroup`` does, before it has waited.
    """
    try:
        waited = work.send(None)
    except StopIteration as end:
        told(end.value, None)
    except Exception as error:
        told(error, None)
    else:
        rest = _rest(work, waited)
        rest.send(None)  # a task that is cancelled before it begins would not end the work
        return run(told, rest)
    return nothing


async def _rest(work: Coroutine[Any, Any, _Result], waited: Any) -> _Result:
    return await _resumed(work, waited)


@types.coroutine
def _resumed(work: Coroutine[Any, Any, _Result], waited: Any) -> Generator[Any, None, _Result]:
    """Go on with a coroutine that waits for this."""
    result: _Result
    pauses = [None, waited]  # the first one until there is a task
    while True:
        try:
            yield from pauses
            break
        except BaseException as error:  # above all, the task is cancelled
            try:
                pauses = [work.throw(error)]
            except StopIteration as end:
                result = end.value
                return result
    result = yield from work
    return result
