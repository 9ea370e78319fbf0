"""One bound on the memory that the bodies of all requests hold together.

A request takes of it as its body comes and is inflated, and gives all back with its answer. What does
not fit now is refused with the advice to come back; what can never fit is refused for good. Bodies up to
64 KiB are not counted: the number of connections bounds them.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from salver.kernel.lifecycle.memory import memory_bytes
from salver.lazy import lazy_imports
from salver.words.errors import DeadlineExceeded, Overloaded, TooLarge

with lazy_imports():
    from salver.transport.compression import Inflater, ceiling


#: Bytes of a request's head.
MOST_HEAD: Final = 65_536
#: Bytes of a body from which it counts, and from which inflating it at once would keep others waiting.
COUNTED: Final = 1 << 16
_LEAST: Final = 256 << 20
_AT_ONCE: Final = 1  # body that is inflated; the other cores are for those who wait for nothing of the kind
_PAUSE_S: Final = 1.0
_STEP: Final = 1 << 18  # bytes that are received before others have their turns
#: A body has so many seconds, and one more for so many bytes that have come; none has more than the last.
PATIENCE_S: Final = 30.0
LEAST_RATE: Final = 500
LONGEST_S: Final = 3600.0


class Budget:
    """Bytes that all bodies may hold.

    Attributes:
        most: Bytes.
        held: Bytes that they hold now.
        turns: For those that are inflated.

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
    """What one request holds of a budget. Give it back with :meth:`free`, exactly once."""

    __slots__ = ("_budget", "size")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.size = 0

    def take(self, size: int) -> None:
        """Hold so many bytes more.

        Raises:
            TooLarge: they would not fit if nobody else held any.
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
        """Hold so many bytes less."""
        self.size -= size
        self._budget.held -= size

    def free(self) -> None:
        """Hold none."""
        self.give(self.size)

    async def inflate(self, body: bytes, encoding: str, limit: int) -> bytes:
        """A body as it was before it was compressed; other requests have their turns meanwhile.

        Raises:
            InvalidInput: it is not whole, or something follows it.
            TooLarge: it inflates beyond the limit, or more than bodies do.
            Unsupported: the encoding is not known.
            Overloaded: there is no room for it now.
        """
        most = ceiling(len(body), limit)
        self.take(most)
        machine = Inflater(body, encoding, limit)
        if not machine.step():  # most are small, and done
            async with self._budget.turns:
                await asyncio.to_thread(machine.run)
        data = machine.data()
        self.give(most - min(most, len(data)))
        return data


class Pace:
    """When a body has to be there: the more has come, the later."""

    def __init__(self, timer: asyncio.Timeout) -> None:
        self._timer = timer
        self._loop = asyncio.get_running_loop()
        self._begin = self._loop.time()
        self._size = self._unbroken = 0
        self._looking = self._loop.call_later(PATIENCE_S, self._look)

    async def came(self, size: int) -> None:
        """So many bytes more have. Others have their turns, since pieces that are there take no pause."""
        self._size += size
        self._unbroken += size
        if self._unbroken > _STEP:
            self._unbroken = 0
            await asyncio.sleep(0)

    def end(self) -> None:
        """It is there, or nobody waits for it any more."""
        self._looking.cancel()

    def _look(self) -> None:
        end = self._begin + min(PATIENCE_S + self._size / LEAST_RATE, LONGEST_S)
        if end > self._loop.time():
            self._looking = self._loop.call_at(end, self._look)
        else:
            self._timer.reschedule(end)


@contextlib.asynccontextmanager
async def pace() -> AsyncIterator[Pace]:
    """While a body is read: a least rate, and a total time.

    Raises:
        DeadlineExceeded: the body takes more time than it may.
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
