"""Rate limit by the generic cell rate algorithm (ITU-T I.371), in whole nanoseconds.

A limit of N requests in D seconds with a burst of B accepts at most B + N/D·T requests in any window of T
seconds, under any sequence of arrivals. Pure: time is an argument.

>>> cell = Cell(Rate(count=2, seconds=1, burst=1))
>>> cell.wait(0), cell.take(0), cell.wait(0)
(0, None, 500000000)
"""

import re
from typing import Final

import msgspec

from salver.words.errors import InvalidInput

_NS: Final = 1_000_000_000
#: Most requests a second: the rounding to nanoseconds is then below a thousandth.
_FASTEST: Final = 1_000_000
_MOST_BURST: Final = 1_000_000
_UNITS: Final = {"s": 1, "m": 60, "h": 3600}
_FORM: Final = re.compile(r"([0-9]{1,9})/([smh])(?:\+([0-9]{1,9}))?")


class Rate(msgspec.Struct, frozen=True):
    """Requests in a time, and how many may come at once.

    Attributes:
        count: Requests in ``seconds``; 0 = none at all.
        burst: Requests at once, at least 1.
    """

    count: int
    seconds: int
    burst: int

    @property
    def period_ns(self) -> int:
        """Nanoseconds between two requests, rounded up: never more than the rate."""
        return -(-_NS * self.seconds // self.count)

    @property
    def window_s(self) -> int:
        """Seconds in which a whole burst comes back, rounded up."""
        return -(-self.burst * self.seconds // max(self.count, 1))


def parse_rate(text: str) -> Rate:
    """Parse a rate such as ``50/s``, ``50/s+100`` (with a burst of 100) or ``10/m``.

    Raises:
        InvalidInput: the text is no rate, or more than this server can count.

    >>> parse_rate("50/s+100")
    Rate(count=50, seconds=1, burst=100)
    >>> parse_rate("10/m")
    Rate(count=10, seconds=60, burst=1)
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise InvalidInput(
            f"{text!r} is no rate", field="requests", fix="Write it as 50/s, 50/s+100 (burst) or 10/m."
        )
    rate = Rate(int(found[1]), _UNITS[found[2]], int(found[3] or 1))
    if rate.count > _FASTEST * rate.seconds or not 1 <= rate.burst <= _MOST_BURST:
        raise InvalidInput(
            f"{text!r} cannot be counted",
            field="requests",
            fix=f"At most {_FASTEST} a second, with a burst of 1 to {_MOST_BURST}.",
        )
    return rate


class Cell:
    """State of one limit: the time at which it is empty again."""

    __slots__ = ("_burst_ns", "_free_at", "_period", "rate")

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._period = rate.period_ns if rate.count else 0
        self._burst_ns = self._period * rate.burst
        self._free_at = 0

    def __repr__(self) -> str:
        return f"<Cell {self.rate}>"

    def wait(self, now: int) -> int:
        """Return the nanoseconds until a request is accepted; 0 = now.

        Args:
            now: Monotonic nanoseconds.
        """
        if not self._period:
            return 3600 * _NS
        return max(0, max(self._free_at, now) + self._period - now - self._burst_ns)

    def left(self, now: int) -> int:
        """Return how many requests would be accepted now, one after the other."""
        if not self._period:
            return 0
        return (self._burst_ns - max(0, self._free_at - now)) // self._period

    def take(self, now: int) -> None:
        """Count a request that was accepted."""
        self._free_at = max(self._free_at, now) + self._period
