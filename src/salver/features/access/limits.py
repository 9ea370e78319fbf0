"""Limits of one key: requests in a time, and requests at once.

Every request for a model counts, whether it succeeds or not: over any protocol, each message of a stream, and
each of several in one call. Pure: time is an argument.
"""

from collections.abc import Iterator
from typing import Annotated, Final

import msgspec

from salver.features.access.gcra import Cell, parse_rate
from salver.words.errors import InvalidInput, RateLimited, ReachedLimit

_NS = 1e9
_REQUESTS: Final = "key-requests"
_AT_ONCE: Final = "key-concurrent-requests"
#: Seconds after which to try again while too many requests run: nobody knows when one ends.
_SOON_S = 1.0


class LimitRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Limits as they stand in the file.

    Attributes:
        requests: Rate of requests, as ``50/s+100``; empty = no limit.
        at_once: Most requests that run at a time; 0 = no limit.
    """

    requests: str = ""
    at_once: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0


class LimitState(msgspec.Struct, frozen=True):
    """A limit, and what is left of it.

    Attributes:
        name: ``key-requests`` or ``key-concurrent-requests``, as in the field ``RateLimit`` of answers.
        most: Most requests in the window.
        window_seconds: Time in which all of them come back; 0 = so many may run at a time.
    """

    name: str
    most: int
    window_seconds: int
    left: int


class Limits:
    """Limits of one key, and what it has used of them.

    Raises:
        InvalidInput: the rules are wrong.
    """

    __slots__ = ("_cell", "_running", "rules")

    def __init__(self, rules: LimitRules) -> None:
        if rules == LimitRules():
            raise InvalidInput("limits that limit nothing", field="limits", fix="Give requests or at_once.")
        self.rules = rules
        self._cell = Cell(parse_rate(rules.requests)) if rules.requests else None
        self._running = 0

    def __repr__(self) -> str:
        return f"<Limits {self.rules}, {self._running} running>"

    def refusal(self, now: int) -> RateLimited | None:
        """Return why a request is refused now; None = it is accepted.

        Args:
            now: Monotonic nanoseconds.
        """
        most = self.rules.at_once
        if most and self._running >= most:
            return RateLimited(
                f"{most} requests with this key run already",
                limit=ReachedLimit(_AT_ONCE, most),
                retry_after=_SOON_S,
            )
        wait = 0 if self._cell is None else self._cell.wait(now)
        if wait and self._cell is not None:
            rate = self._cell.rate
            return RateLimited(
                f"this key has its limit of {self.rules.requests} requests",
                limit=ReachedLimit(_REQUESTS, rate.burst, rate.window_s),
                retry_after=wait / _NS,
            )
        return None

    def states(self, now: int) -> Iterator[LimitState]:
        """Return each limit with what is left of it.

        Args:
            now: Monotonic nanoseconds.
        """
        if self._cell is not None:
            rate = self._cell.rate
            yield LimitState(_REQUESTS, rate.burst, rate.window_s, self._cell.left(now))
        if most := self.rules.at_once:
            yield LimitState(_AT_ONCE, most, 0, max(0, most - self._running))

    def enter(self, now: int) -> None:
        """Count a request that begins."""
        self._running += 1
        if self._cell is not None:
            self._cell.take(now)

    def leave(self) -> None:
        """Count a request that has ended."""
        self._running -= 1
