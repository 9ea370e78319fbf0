"""Progress log of long operations."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LOG = logging.getLogger("salver.lifecycle")
#: Seconds between two lines.
SECONDS = 10.0


@contextmanager
def reporting(text: Callable[[], str]) -> Iterator[None]:
    """Log the text every ten seconds until the block ends."""
    loop = asyncio.get_running_loop()
    timers: list[asyncio.TimerHandle] = []

    def report() -> None:
        _LOG.info("%s", text())
        timers[:] = [loop.call_later(SECONDS, report)]

    timers.append(loop.call_later(SECONDS, report))
    try:
        yield
    finally:
        timers[0].cancel()
