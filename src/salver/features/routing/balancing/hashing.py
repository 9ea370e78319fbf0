"""Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2018; HAProxy has it, too).

Requests with one key go to one instance, for caches and state there, as long as it has at most ``BOUND``
times its share of the requests under way; those beyond go to the next one on the ring. A change of the
instances moves only the keys of those that came or went.
"""

import bisect
import hashlib
import math
from collections.abc import Sequence
from typing import Final

from salver.features.routing.instances import Instance

BOUND: Final = 1.25
#: Points on the ring of an instance of weight 1: its load varies by 1 / sqrt(points).
_POINTS: Final = 160


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


class ConsistentHash:
    """See the module. A request without a key goes to the instance with the fewest."""

    def __init__(self) -> None:
        self._weights: dict[str, float] = {}
        self._ring: list[tuple[int, str]] = []

    def choose(self, among: Sequence[Instance], key: str, now: float) -> Instance:
        """See :class:`~salver.features.routing.ports.Policy`."""
        if not key:
            return min(among, key=lambda each: each.load.pending / each.weight)
        # Those that are away for a moment stay on the ring until a new one comes: it need not be made again.
        if any(self._weights.get(each.url) != each.weight for each in among):
            self._weights = {each.url: each.weight for each in among}
            self._ring = sorted(
                (_hash(f"{url} {point}"), url)
                for url, weight in self._weights.items()
                for point in range(max(1, round(weight * _POINTS)))
            )
        here = {each.url: each for each in among}
        total = sum(each.weight for each in among)
        most = BOUND * (sum(each.load.pending for each in among) + 1) / total
        start = bisect.bisect(self._ring, (_hash(key), ""))
        for step in range(len(self._ring)):
            each = here.get(self._ring[(start + step) % len(self._ring)][1])
            if each is not None and each.load.pending + 1 <= math.ceil(most * each.weight):
                return each
        raise AssertionError("somebody is below the average")

    def answered(self, instance: Instance, seconds: float, under_way: int, now: float) -> None:
        """Do nothing: the requests under way are counted for all policies."""
