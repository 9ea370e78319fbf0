"""Limit on what a model writes to the log.

Lines and bytes per second, with a burst of some seconds' worth; dropped lines are counted and reported. Pure:
the time is an argument. All processes of a model version share one.
"""

from typing import Final

LONGEST_LINE: Final = 16 << 10  # maximum logged bytes of a line
_LINES_A_S: Final = 200.0
_BYTES_A_S: Final = 256 << 10
_BURST_S: Final = 10.0


class OutputLimit:
    """Token buckets for lines and for bytes.

    Attributes:
        dropped: Lines dropped and not yet reported; counted by the caller.

    >>> limit = OutputLimit()
    >>> sum(limit.takes(10, now=0.0) for _ in range(5000))
    2000
    >>> sum(limit.takes(10, now=1.0) for _ in range(5000))
    200
    """

    __slots__ = ("_bytes", "_lines", "_now", "dropped")

    def __init__(self) -> None:
        self.dropped = 0
        self._lines = _LINES_A_S * _BURST_S
        self._bytes = _BYTES_A_S * _BURST_S
        self._now = 0.0

    def __repr__(self) -> str:
        return f"<OutputLimit {self._lines:.0f} lines, {self._bytes:.0f} bytes>"

    def takes(self, size: int, now: float) -> bool:
        """Return whether a line of that many bytes may be logged."""
        if now > self._now:
            passed, self._now = now - self._now, now
            self._lines = min(self._lines + passed * _LINES_A_S, _LINES_A_S * _BURST_S)
            self._bytes = min(self._bytes + passed * _BYTES_A_S, _BYTES_A_S * _BURST_S)
        size = min(size, LONGEST_LINE)
        if self._lines < 1 or self._bytes < size:
            return False
        self._lines -= 1
        self._bytes -= size
        return True

    def told(self) -> int:
        """Return the number of dropped lines since the last call."""
        dropped, self.dropped = self.dropped, 0
        return dropped
