"""Is PostgreSQL still there, while a statement waits for its answer?

Whoever is between may keep a connection open and pass nothing on: the system's own time-outs never end that.
So a server that says nothing for long is asked by another connection, and the first one is given up if that
does not come about. A statement that is only slow goes on.
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
    """A connection of psycopg's, of which each wait ends while its server cannot be reached.

    It is given up, with what the attempt of another connection raised (``psycopg.OperationalError``), some
    twice as long after the server was heard last as a connection may take to come about.

    Args:
        args, kwargs: As of ``psycopg.connect``; ``connect_timeout`` in seconds, 0 = for ever.
    """
    import psycopg  # which those who have SQLite need not have

    seconds = float(kwargs.get("connect_timeout", 0))
    most_silent = seconds if seconds > 0 else math.inf

    class Watched(psycopg.Connection[Any]):
        def wait(self, gen: "PQGen[_T]", interval: float = _LOOK_SECONDS, *rest: Any) -> _T:
            """Which psycopg calls for all that a server is asked."""
            return super().wait(_heard(gen, most_silent, self._knock), interval, *rest)

        def _knock(self) -> None:
            try:
                psycopg.connect(*args, **kwargs).close()
            except psycopg.Error:
                self.close()
                raise

    return Watched.connect(*args, **kwargs)


def _heard(gen: "PQGen[_T]", most_silent: float, knock: Callable[[], None]) -> "PQGen[_T]":
    """The same, with a knock after each so many seconds of silence, which may raise."""
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
