"""Rate limit by the generic cell rate algorithm (ITU-T I.371), in whole nanoseconds.

A limit of N units in D seconds with a burst of B accepts at most B + N/D·T units in any window of T seconds,
under any sequence of arrivals. A unit is a request, a row or a token. Pure: time is an argument.

>>> cell = Cell(Rate(count=2, seconds=1, burst=1))
>>> cell.wait(0), cell.take(0), cell.wait(0)
(0, None, 500000000)
"""

import re
from typing import Final

import msgspec

from salver.words.errors import InvalidInput

_NS: Final = 1_000_000_000
#: Most units a second: the rounding to nanoseconds is then below a thousandth.
_FASTEST: Final = 1_000_000
_MOST_BURST: Final = 1_000_000
_UNITS: Final = {"s": 1, "m": 60, "h": 3600}
_FORM: Final = re.compile(r"([0-9]{1,9})/([smh])(?:\+([0-9]{1,9}))?")


class Rate(msgspec.Struct, frozen=True):
    """Units in a time, and how many may come at once.

    Attributes:
        count: Units in ``seconds``; 0 = none at all.
        burst: Units at once, at least 1.
    """

    count: int
    seconds: int
    burst: int

    @property
    def period_ns(self) -> int:
        """Nanoseconds between two units, rounded up: never more than the rate."""
        return -(-_NS * self.seconds // self.count)

    @property
    def window_s(self) -> int:
        """Seconds in which a whole burst comes back, rounded up."""
        return -(-self.burst * self.seconds // max(self.count, 1))


def parse_rate(text: str, field: str = "requests") -> Rate:
    """Parse a rate such as ``50/s``, ``10/m``, or ``50/s+100`` (with a burst of 100).

    Without a burst, all units of the time may come at once.

    Raises:
        InvalidInput: the text is no rate, or more than this server can count.

    >>> parse_rate("50/s+100")
    Rate(count=50, seconds=1, burst=100)
    >>> parse_rate("10/m")
    Rate(count=10, seconds=60, burst=10)
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise InvalidInput(
            f"{text!r} is no rate", field=field, fix="Write it as 50/s, 50/s+100 (burst) or 10/m."
        )
    count = int(found[1])
    burst = int(found[3]) if found[3] else min(max(count, 1), _MOST_BURST)
    rate = Rate(count, _UNITS[found[2]], burst)
    if rate.count > _FASTEST * rate.seconds or not 1 <= rate.burst <= _MOST_BURST:
        raise InvalidInput(
            f"{text!r} cannot be counted",
            field=field,
            fix=f"At most {_FASTEST} a second, with a burst of 1 to {_MOST_BURST}.",
        )
    return rate


class Cell:
    """State of one limit: the time at which it is empty again.

    Attributes:
        burst: Units that are accepted at once.
        has_units: A request may take several of them, such as rows.
        free_at, before: When it is empty again; the same before the last run was charged.
        period: Nanoseconds between two units; 0 = none is ever accepted.
        burst_ns: Nanoseconds in which a whole burst comes back.
    """

    __slots__ = ("before", "burst", "burst_ns", "free_at", "has_units", "period", "rate")

    def __init__(self, rate: Rate, *, has_units: bool = False) -> None:
        self.rate = rate
        self.burst = rate.burst if rate.count else 0
        self.has_units = has_units
        self.period = rate.period_ns if rate.count else 0
        self.burst_ns = self.period * rate.burst if rate.count else -1
        self.free_at = self.before = 0

    def __repr__(self) -> str:
        return f"<Cell {self.rate}>"

    def wait(self, now: int, count: int = 1) -> int:
        """Return the nanoseconds until so many units are accepted; 0 = now.

        Args:
            now: Monotonic nanoseconds.
            count: More than ``burst`` are never accepted.
        """
        if not self.period:
            return 3600 * _NS
        free_at = self.free_at
        if free_at < now:
            free_at = now
        wait = free_at + self.period * count - now - self.burst_ns
        return wait if wait > 0 else 0

    def left(self, now: int) -> int:
        """Return how many units would be accepted now; those that were taken in debt count as none."""
        if not self.period:
            return 0
        return max(0, self.burst_ns - max(0, self.free_at - now)) // self.period

    def is_full(self, now: int) -> bool:
        """Return whether nothing of it is used, so that a new one would be the same."""
        return self.free_at <= now

    def take(self, now: int, count: int = 1) -> None:
        """Count units that were accepted, or that are known too late to be refused."""
        free_at = self.free_at
        self.free_at = (free_at if free_at > now else now) + self.period * count
