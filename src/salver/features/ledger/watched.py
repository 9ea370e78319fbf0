"""Detection of a lost PostgreSQL server while a statement waits for its answer.

A middlebox may keep a connection open and forward nothing, which the system's time-outs never end. So a
server that is silent for long is probed with another connection, and the first one is given up if that fails.
A slow statement continues.
"""

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import psycopg
    from psycopg.abc import PQGen

_T = TypeVar("_T")
_LOOK_SECONDS = 0.1


def connect(*args: Any, **kwargs: Any) -> "psycopg.Connection[Any]":
    """Return a psycopg connection whose waits end if its server cannot be reached.

    It fails with the error of the other connection attempt (``psycopg.OperationalError``), after about twice
    the connect time-out since the last sign of life.

    Args:
        args, kwargs: Arguments of ``psycopg.connect``; ``connect_timeout`` in seconds, 0 = no limit.
    """
    import psycopg  # not needed with SQLite

    seconds = float(kwargs.get("connect_timeout", 0))
    most_silent = math.inf
    if seconds > 0:
        most_silent = seconds

    class WatchedConnection(psycopg.Connection[Any]):
        """Connection with watched waits."""

        def wait(self, gen: "PQGen[_T]", interval: float = _LOOK_SECONDS, *rest: Any) -> _T:
            """Wait for an answer; called by psycopg for every operation."""
            return super().wait(_heard(gen, most_silent, self._knock), interval, *rest)

        def _knock(self) -> None:
            try:
                psycopg.connect(*args, **kwargs).close()
            except psycopg.Error:
                self.close()
                raise

    return WatchedConnection.connect(*args, **kwargs)


def _heard(gen: "PQGen[_T]", most_silent: float, knock: Callable[[], None]) -> "PQGen[_T]":
    """Wrap a wait; call the probe, which may raise, after each period of silence."""
    heard = time.monotonic()
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if ready:
                heard = time.monotonic()
            elif time.monotonic() - heard > most_silent:
                knock()
                heard = time.monotonic()
            wanted = gen.send(ready)
    except StopIteration as end:
        result: _T = end.value
        return result
