"""Set of the units seen in a release, and of their events, in bounded memory.

Whether a unit was seen before is answered by filters of fixed size, whose errors depend only on a hash that
is independent of the arm and its salt.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from salver.stats.bloom import Bloom
from salver.words.releases import ARMS, first_in, kept_in

#: Derives a unit's number within an arm from its number.
_MARKS: Final = np.uint64(0x9E3779B97F4A7C15) * np.arange(1, len(ARMS) + 1, dtype=np.uint64)
_AT_ONCE: Final = 8192  # units restored in one step

_Numbers = npt.NDArray[np.int64]
_Places = npt.NDArray[np.uint8]
_Flags = npt.NDArray[np.bool_]


class CollectorConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of the collector.

    Attributes:
        units: Number of units of a release that are distinguished reliably; beyond it errors grow.
        error: Probability that a new unit is taken for a known one, at that number; equal in every arm.
        most_pending: First exposures and events after which a bucket is closed early, to limit memory.
        most_requests: The same of requests, whose units are kept until the bucket is closed.
    """

    units: int = 10_000_000
    error: float = 0.001
    most_pending: int = 65_536
    most_requests: int = 262_144


class SeenUnits:
    """Units seen in one release, and their events.

    Args:
        keeps_arms: Also store the arms of a unit, which may change.
    """

    def __init__(self, config: CollectorConfig, *, keeps_arms: bool) -> None:
        self._units = Bloom(config.units, config.error)
        self._arms = Bloom(config.units, config.error) if keeps_arms else None
        # by field of a bucket, the filter of its latest number
        self._happenings: dict[str, tuple[int, Bloom]] = {}
        self._most, self._error = config.units, config.error

    def exposed(self, units: _Numbers, places: _Places) -> tuple[_Flags, _Flags]:
        """Return masks of the units that are new, and new in their arm if arms are stored."""
        numbers = units.view(np.uint64)
        is_new = self._units.add(numbers)
        return is_new, is_new if self._arms is None else self._arms.add(numbers ^ _MARKS[places])

    def know(self, units: Sequence[int] | _Numbers) -> None:
        """Add units that were seen before, in any arm."""
        numbers = np.asarray(units, np.int64).view(np.uint64)
        for first in range(0, len(numbers), _AT_ONCE):
            self._units.add(numbers[first : first + _AT_ONCE])

    def happened(self, units: _Numbers, name: str) -> _Flags:
        """Return a mask of the units for which this event (:func:`first_in`) is the first."""
        _, field, number = kept_in(name)
        known = self._happenings.get(field)
        # One filter for each kind is enough, because stages only go forward.
        if known is None or number > known[0]:  # a new stage: earlier ones no longer count
            capacity = self._most
            if field != "events":
                capacity = self._most // 2
            known = self._happenings[field] = number, Bloom(capacity, self._error)
        return known[1].add((units ^ np.int64(hash(name))).view(np.uint64))

    def met(self, units: _Numbers, stage: int) -> _Flags:
        """Return a mask of the units that are new in a stage."""
        return self.happened(units, first_in("", "met", stage))

    @property
    def is_over(self) -> bool:
        """Return whether it has seen more units than it can distinguish well."""
        return len(self._units) > self._most
