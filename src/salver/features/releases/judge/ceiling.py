"""Absolute ceilings on the rates of canary and control.

Evidence compares two versions, so that a canary as broken as its control looks harmless. Above its ceiling
nothing is promoted. Counts are forgotten exponentially, with a mean age of five minutes. Pure.
"""

import math
from typing import Final, Self

import msgspec

_MEMORY_SECONDS: Final = 300.0
_CLEARLY: Final = 3.0  # standard deviations above the ceiling
_LEAST_REQUESTS: Final = 20.0


class Recent(msgspec.Struct, frozen=True):
    """Requests and events of an arm in the last minutes; plain data, updated by copying.

    >>> Recent().add(60, 100, 10.0).is_above(0.1), Recent().add(12, 100, 10.0).is_above(0.1)
    (True, False)
    """

    events: float = 0.0
    requests: float = 0.0

    def add(self, events: int, requests: int, seconds: float) -> Self:
        """Add a bucket."""
        kept = math.exp(-seconds / _MEMORY_SECONDS)
        return type(self)(kept * self.events + events, kept * self.requests + requests)

    @property
    def rate(self) -> float:
        """Return the fraction of requests with the event."""
        return self.events / self.requests if self.requests else 0.0

    def is_above(self, ceiling: float) -> bool:
        """Return whether the rate is clearly above the ceiling."""
        if self.requests < _LEAST_REQUESTS:
            return False
        return self.events - ceiling * self.requests > _CLEARLY * math.sqrt(
            ceiling * (1 - ceiling) * self.requests
        )
