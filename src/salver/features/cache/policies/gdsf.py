"""GDSF: greedy dual size frequency.

Cherkasova, Improving WWW Proxies Performance with Greedy-Dual-Size-Frequency Caching Policy, HP Labs 1998.
The entry with the lowest ``clock + accesses * cost / size`` leaves, and the clock becomes its priority. Equal
ones leave in the order of their last access.
"""

import heapq
from typing import Generic

from salver.features.cache.policies.frame import Admission, EvictionPolicy, K


class _Rank(Generic[K]):
    __slots__ = ("accesses", "at", "key", "priority", "weight")

    def __init__(self, key: K, weight: float, priority: float, at: int) -> None:
        self.key = key
        self.weight = weight
        self.accesses = 1
        self.priority = priority
        self.at = at


class Gdsf(EvictionPolicy[K]):
    """See the module."""

    overhead = 528

    def __init__(self, capacity: int, admission: Admission[K] | None = None) -> None:
        super().__init__(capacity, admission)
        self._ranks: dict[K, _Rank[K]] = {}
        # A priority only grows, so that an entry of the heap may be too low until it comes to the top.
        self._heap: list[tuple[float, int, _Rank[K]]] = []
        self._clock = 0.0
        self._accesses = 0

    def _touch(self, key: K) -> None:
        rank = self._ranks[key]
        rank.accesses += 1
        rank.priority = self._clock + rank.accesses * rank.weight
        self._accesses += 1
        rank.at = self._accesses

    def _place(self, key: K, size: int, cost: float) -> None:
        self._accesses += 1
        weight = cost / size
        rank = _Rank(key, weight, self._clock + weight, self._accesses)
        self._ranks[key] = rank
        heapq.heappush(self._heap, (rank.priority, rank.at, rank))

    def _victim(self) -> K:
        while True:
            priority, at, rank = self._heap[0]
            if self._ranks.get(rank.key) is not rank:
                heapq.heappop(self._heap)
            elif at != rank.at:
                heapq.heapreplace(self._heap, (rank.priority, rank.at, rank))
            else:
                self._clock = priority
                return rank.key

    def _leave(self, key: K, size: int, *, is_evicted: bool) -> None:
        del self._ranks[key]
        if is_evicted:
            heapq.heappop(self._heap)  # the victim is at the top
        elif len(self._heap) > 64 and len(self._heap) > 2 * len(self._ranks):
            self._heap = [(rank.priority, rank.at, rank) for rank in self._ranks.values()]
            heapq.heapify(self._heap)
