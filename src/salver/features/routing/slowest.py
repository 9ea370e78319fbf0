"""Running estimate of a quantile of latencies, in constant memory.

A frugal estimate (Ma, Muthukrishnan and Sandler, 2013), whose steps are relative, so that it follows any
scale. Pure.
"""

from typing import Final

_STEP: Final = 0.05
_LEAST: Final = 100


class LatencyQuantile:
    """Estimate of one quantile.

    Args:
        share: Between 0 and 1.

    Attributes:
        seconds: The estimate.
    """

    __slots__ = ("_count", "_share", "seconds")

    def __init__(self, share: float) -> None:
        self._share = share
        self._count = 0
        self.seconds = 0.0

    def __repr__(self) -> str:
        return f"<LatencyQuantile {self._share:g}: {self.seconds:.4f} s>"

    @property
    def is_known(self) -> bool:
        """Whether enough was measured."""
        return self._count >= _LEAST

    def add(self, seconds: float) -> None:
        """Take a measurement."""
        self._count += 1
        if self._count == 1:
            self.seconds = seconds
        elif seconds > self.seconds:
            self.seconds *= 1 + _STEP * self._share
        else:
            self.seconds *= 1 - _STEP * (1 - self._share)
