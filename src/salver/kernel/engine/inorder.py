"""Delivery of answers in the order of their requests.

A completed request waits for the one before it. An error is delivered immediately; later requests still wait
for those before it.
"""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def in_order(ask: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Wrap a coroutine function so that its results arrive in the order of the calls."""
    last: asyncio.Future[None] | None = None

    @functools.wraps(ask)
    async def asked(*args: P.args, **kwargs: P.kwargs) -> T:
        nonlocal last
        before, mine = last, asyncio.get_running_loop().create_future()
        last = mine
        try:
            answer = await ask(*args, **kwargs)
            if before is not None and not before.done():
                await asyncio.wait([before])
            return answer
        finally:
            if before is None or before.done():
                mine.set_result(None)
            else:
                before.add_done_callback(lambda _: mine.set_result(None))

    return asked
