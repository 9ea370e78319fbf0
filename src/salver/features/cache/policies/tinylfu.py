"""TinyLFU: admit a newcomer only if it is asked for more often than what would leave for it.

Einziger et al., TinyLFU: A Highly Efficient Cache Admission Policy, ACM ToS 2017. A count-min sketch of four
rows counts accesses up to 15; after each window all counts are halved, so that old popularity fades.
"""

from collections.abc import Hashable
from typing import Final

_MOST: Final = 15
_HALVED: Final = bytes(count // 2 for count in range(256))
_MULTIPLIERS: Final = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)
_WORD: Final = (1 << 64) - 1


class TinyLfu:
    """Admission by the frequency of recent accesses.

    Args:
        width: Counters in each row, a power of two: about as many as there are entries, or more.
        window: Accesses between two halvings; 0 = ten times the width.
    """

    def __init__(self, width: int, window: int = 0) -> None:
        self._rows = [bytearray(width) for _ in _MULTIPLIERS]
        self._shift = 64 - (width.bit_length() - 1)
        self._window = window or 10 * width
        self._accesses = 0

    def record(self, key: Hashable) -> None:
        """Count an access."""
        hashed = hash(key)
        for row, multiplier in zip(self._rows, _MULTIPLIERS, strict=True):
            at = (hashed * multiplier & _WORD) >> self._shift
            if row[at] < _MOST:
                row[at] += 1
        self._accesses += 1
        if self._accesses >= self._window:
            self._accesses //= 2
            self._rows = [row.translate(_HALVED) for row in self._rows]

    def frequency(self, key: Hashable) -> int:
        """Return about how often a key was accessed; never too low within a window, at most 15."""
        hashed = hash(key)
        return min(
            row[(hashed * multiplier & _WORD) >> self._shift]
            for row, multiplier in zip(self._rows, _MULTIPLIERS, strict=True)
        )

    def prefers(self, newcomer: Hashable, victim: Hashable) -> bool:
        """Return whether the newcomer is accessed more often than the victim."""
        return self.frequency(newcomer) > self.frequency(victim)
