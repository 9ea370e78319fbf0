"""How does a test wait for what comes about in its own time? With one patience for all that must happen."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")
#: Half of what a test may take: a busy machine is slow, and what never comes is still told as that.
PATIENCE_S = 60.0
_LONGEST_S = 0.05


def until(look: Callable[[], T], seen: Callable[[], Any] | None = None) -> T:
    """The first true thing that ``look`` returns; with pauses that grow, for a look may cost something.

    Args:
        look: What is waited for.
        seen: What else to tell where it does not come, for instance a server's output.

    Raises:
        AssertionError: nothing true came in :data:`PATIENCE_S`; with what came last.
    """
    end, pause = time.monotonic() + PATIENCE_S, 0.001
    while not (found := look()):
        assert time.monotonic() < end, _missed(look, found, seen)
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_S)
    return found


async def auntil(
    look: Callable[[], T | Awaitable[T]],
    seen: Callable[[], Any] | None = None,
    patience_s: float = PATIENCE_S,
) -> T:
    """The same on an event loop; ``look`` may be a coroutine function.

    ``patience_s`` is for what takes long on any machine, in tests that may take longer than others.
    """
    end, pause = time.monotonic() + patience_s, 0.001
    while True:
        found = look()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < end, _missed(look, found, seen, patience_s)
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_S)


def _missed(
    look: Callable[[], Any], last: object, seen: Callable[[], Any] | None, patience_s: float = PATIENCE_S
) -> str:
    try:
        wanted = inspect.getsource(look).strip()
    except (TypeError, OSError):  # of what is not written in Python
        wanted = repr(look)
    return f"not within {patience_s:g} s: {wanted}\nlast seen: {last!r}\n{seen() if seen else ''}"
