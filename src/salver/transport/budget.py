"""Memory budget shared by the bodies of all requests.

A request reserves memory while its body arrives and is inflated, and releases all of it with its answer. A
body that does not fit now is refused with a hint to retry; one that can never fit is refused as too large.
Bodies up to 64 KiB are not counted: the number of connections bounds them.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from salver.lazy import lazy_imports
from salver.machine import memory_bytes
from salver.words.errors import DeadlineExceeded, Overloaded, TooLarge

with lazy_imports():
    from salver.transport.compression import Inflater, ceiling


#: Bytes of a request's head.
MOST_HEAD: Final = 65_536
#: Bytes from which a body counts, and from which inflating it in one go would block the event loop.
COUNTED: Final = 1 << 16
_LEAST: Final = 256 << 20
_AT_ONCE: Final = 1  # bodies inflated at the same time; the other cores stay free for ordinary requests
_PAUSE_S: Final = 1.0
#: Most bytes of a body whose memory is reserved before it has come.
MOST_RESERVED: Final = 8 << 20
#: Seconds in which it must come; else it is passed on in pieces, with a deadline for slow callers.
RESERVED_S: Final = 1.0
_STEP: Final = 1 << 18  # bytes received between two yields to the event loop
#: Seconds that every body may take.
PATIENCE_S: Final = 30.0
#: Bytes that add a second to that, up to the longest time.
LEAST_RATE: Final = 500
LONGEST_S: Final = 3600.0


class Budget:
    """Bytes that all bodies may hold.

    Attributes:
        most: The limit.
        held: Bytes in use.
        turns: Semaphore for bodies that are being inflated.

    Args:
        most: Bytes; 0 = a quarter of the machine's memory, but at least 256 MiB.
    """

    def __init__(self, most: int = 0) -> None:
        self.most = most or max(memory_bytes() // 4, _LEAST)
        self.held = 0
        self.turns = asyncio.Semaphore(_AT_ONCE)

    def __repr__(self) -> str:
        return f"<Budget {self.held} of {self.most} bytes>"


class Share:
    """One request's share of a budget. Release it with :meth:`free`, exactly once."""

    __slots__ = ("_budget", "size")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.size = 0

    def take(self, size: int) -> None:
        """Reserve more bytes.

        Raises:
            TooLarge: they would not fit into an empty budget.
            Overloaded: they do not fit now.
        """
        budget = self._budget
        if self.size + size > budget.most:
            raise TooLarge(
                f"the request needs more than the {budget.most} bytes that bodies may hold together",
                fix="Raise --max-bodies-mb.",
            )
        if budget.held + size > budget.most:
            raise Overloaded(
                f"the bodies of other requests hold {budget.held} of {budget.most} bytes",
                fix="Try again in a moment, or raise --max-bodies-mb.",
                retry_after=_PAUSE_S,
            )
        self.size += size
        budget.held += size

    def give(self, size: int) -> None:
        """Release some bytes."""
        self.size -= size
        self._budget.held -= size

    def reserve(self, size: int) -> bool:
        """Reserve memory for bytes that may never come, and return True, unless half of the budget is in use.

        Callers who only announce large bodies then leave half of it to those who send them.
        """
        budget = self._budget
        if 2 * (budget.held + size) > budget.most:
            return False
        self.take(size)
        return True

    def free(self) -> None:
        """Release everything."""
        self.give(self.size)

    async def inflate(self, body: bytes, encoding: str, limit: int) -> bytes:
        """Return a body inflated; yield to other requests meanwhile.

        Raises:
            InvalidInput: the body is truncated, or bytes follow its end.
            TooLarge: it inflates beyond the limit, or by an implausible factor.
            Unsupported: the encoding is unknown.
            Overloaded: the budget has no room for it now.
        """
        most = ceiling(len(body), limit)
        self.take(most)
        machine = Inflater(body, encoding, limit)
        if not machine.step():  # most bodies are small and need one step only
            async with self._budget.turns:
                await asyncio.to_thread(machine.run)
        data = machine.data()
        self.give(most - min(most, len(data)))
        return data


class Pace:
    """Deadline of a body that moves as bytes arrive."""

    def __init__(self, timer: asyncio.Timeout) -> None:
        self._timer = timer
        self._loop = asyncio.get_running_loop()
        self._begin = self._loop.time()
        self._size = self._unbroken = 0
        self._looking = self._loop.call_later(PATIENCE_S, self._look)

    async def came(self, size: int) -> None:
        """Count received bytes; yield to other requests, since reading buffered pieces never suspends."""
        self._size += size
        self._unbroken += size
        if self._unbroken > _STEP:
            self._unbroken = 0
            await asyncio.sleep(0)

    def end(self) -> None:
        """Stop the timer."""
        self._looking.cancel()

    def _look(self) -> None:
        end = self._begin + min(PATIENCE_S + self._size / LEAST_RATE, LONGEST_S)
        if end > self._loop.time():
            self._looking = self._loop.call_at(end, self._look)
        else:
            self._timer.reschedule(end)


@contextlib.asynccontextmanager
async def pace() -> AsyncIterator[Pace]:
    """Enforce a minimum rate and a total time while a body is read.

    Raises:
        DeadlineExceeded: the body arrives too slowly.
    """
    try:
        async with asyncio.timeout(None) as timer:
            found = Pace(timer)
            try:
                yield found
            finally:
                found.end()
    except TimeoutError:
        raise DeadlineExceeded(
            f"the body comes too slowly: at least {LEAST_RATE} bytes a second after {PATIENCE_S:g} s"
        ) from None
