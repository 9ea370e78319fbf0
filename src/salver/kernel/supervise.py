"""Background tasks, periodic ticks, and retries with back-off.

Requests are not supervised here: engines own their tasks, and a request's error goes to its caller.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

from salver.words.errors import SalverError

#: Seconds between two lines about a long operation.
REPORT_S = 10.0
T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]


class Supervisor:
    """Owner of background tasks: it keeps them, logs the error that ends one, and ends all when it closes.

    Args:
        log: Logger for errors.
        failed: Text for the log before the error of a task.
    """

    def __init__(self, log: logging.Logger, failed: str) -> None:
        self._log = log
        self._failed = failed
        self._tasks: set[asyncio.Task[Any]] = set()
        self._single: dict[str, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        return f"<Supervisor of {', '.join(sorted(task.get_name() for task in self._tasks)) or 'nothing'}>"

    def start(self, name: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run in the background; an error is logged."""
        task = self._keep(name, work)
        task.add_done_callback(self._report)
        return task

    def start_unless_running(self, name: str, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run in the background, unless a task started here by this name still runs."""
        running = self._single.get(name)
        if running is None or running.done():
            self._single[name] = self.start(name, make())

    async def finish(self, name: str, work: Coroutine[Any, Any, T]) -> T:
        """Wait for work that goes on if the caller is cancelled; only then is an error logged."""
        task = self._keep(name, work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(self._report)
            raise

    async def join(self) -> None:
        """Wait until all tasks have ended, without cancelling them."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def cancel(self) -> None:
        """Cancel all tasks, without waiting for their end."""
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        """Cancel all tasks and wait for their end."""
        self.cancel()
        await self.join()

    def _keep(self, name: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _report(self, task: asyncio.Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, SalverError):
            self._log.warning("%s: %s", self._failed, error)
        elif error is not None:
            self._log.error("%s", self._failed, exc_info=error)


class Faults:
    """Log of the errors of repeated work: the same one in a row is logged once, and so is its end.

    Args:
        log: Logger.
        failed: Text before an error.
        resumed: Text when the work succeeds again; empty = none.
        level: Level of an error that Salver knows; others are logged with their traceback.
    """

    def __init__(
        self, log: logging.Logger, failed: str, resumed: str = "", level: int = logging.ERROR
    ) -> None:
        self._log = log
        self._failed = failed
        self._resumed = resumed
        self._level = level
        self._last = ""

    async def catch(self, work: Awaitable[object]) -> None:
        """Wait for the work and log its error."""
        try:
            await work
        except SalverError as error:
            if str(error) != self._last:
                self._log.log(self._level, "%s: %s", self._failed, error)
            self._last = str(error)
        except Exception:
            self._log.exception("%s", self._failed)
        else:
            if self._last and self._resumed:
                self._log.info("%s", self._resumed)
            self._last = ""


async def every(
    seconds: float | Callable[[], float],
    tick: Callable[[], Awaitable[object]],
    faults: Faults,
    sleep: Sleep = asyncio.sleep,
) -> None:
    """Call ``tick`` after each pause, until cancelled; an error is logged and the next tick follows.

    Args:
        seconds: The pause, or a function that returns the next one.
    """
    while True:
        await sleep(seconds() if callable(seconds) else seconds)
        await faults.catch(tick())


class Backoff(msgspec.Struct, frozen=True):
    """Exponential back-off. Pure: counts, seconds and the random number are arguments.

    Attributes:
        first_s: Delay after the first failure.
        most_s: Maximum delay.
        factor: Factor by which the delay grows with each failure.
        healthy_s: Time without failure after which the count starts again.
        jitter: Fraction by which a delay varies in either direction, so that what failed together does not
            start together.

    >>> [round(Backoff().delay(n, chance=0.5), 1) for n in (1, 2, 3, 8, 9, 10_000)]
    [0.1, 0.2, 0.4, 12.8, 25.6, 30.0]
    """

    first_s: float = 0.1
    most_s: float = 30.0
    factor: float = 2.0
    healthy_s: float = 5.0
    jitter: float = 0.1

    def count(self, failures: int, healthy_s: float) -> int:
        """Return the number of consecutive failures, including this one, after so long without one."""
        if healthy_s >= self.healthy_s:
            return 1
        return failures + 1

    def delay(self, failures: int, chance: float = 0.5) -> float:
        """Return the seconds to wait after so many consecutive failures; ``chance`` is uniform in [0, 1)."""
        steps = min(max(failures, 1) - 1, 60)
        return min(self.most_s, self.first_s * self.factor**steps) * (1 + self.jitter * (2 * chance - 1))


async def retry(
    call: Callable[[], Awaitable[T]],
    pause: Callable[[Exception, int], float | None],
    sleep: Sleep = asyncio.sleep,
) -> T:
    """Call until it succeeds.

    Args:
        pause: Given an error and the number of failures, return the seconds to wait before the next call, or
            None to give up and raise the error.
    """
    failures = 0
    while True:
        try:
            return await call()
        except Exception as error:
            failures += 1
            seconds = pause(error, failures)
            if seconds is None:
                raise
        await sleep(seconds)


@contextmanager
def reporting(log: logging.Logger, text: Callable[[], str]) -> Iterator[None]:
    """Log the text every ten seconds until the block ends."""
    loop = asyncio.get_running_loop()
    timers: list[asyncio.TimerHandle] = []

    def report() -> None:
        log.info("%s", text())
        timers[:] = [loop.call_later(REPORT_S, report)]

    timers.append(loop.call_later(REPORT_S, report))
    try:
        yield
    finally:
        timers[0].cancel()
