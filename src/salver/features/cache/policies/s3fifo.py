"""S3-FIFO: a small queue on trial, a main queue, and a ghost of what left the small one.

Yang et al., FIFO Queues are All You Need for Cache Eviction, SOSP 2023; the constants are libCacheSim's.
"""

from collections import OrderedDict
from typing import Final

from salver.features.cache.policies.frame import Admission, EvictionPolicy, K

_SMALL: Final = 0.10  # share of the bytes
_GHOST: Final = 0.90
_PROMOTED: Final = 2  # accesses in the small queue that lead to the main one
_MOST: Final = 3  # accesses that count in the main queue


class S3Fifo(EvictionPolicy[K]):
    """See the module."""

    overhead = 384

    def __init__(self, capacity: int, admission: Admission[K] | None = None) -> None:
        super().__init__(capacity, admission)
        self._small: OrderedDict[K, int] = OrderedDict()  # accesses since the entry came, by key
        self._main: OrderedDict[K, int] = OrderedDict()
        self._ghost: OrderedDict[K, int] = OrderedDict()  # sizes
        self._small_used = self._ghost_used = 0
        self._returns = False  # the newcomer was in the ghost

    def _touch(self, key: K) -> None:
        queue = self._small if key in self._small else self._main
        queue[key] += 1

    def _fits(self, key: K, size: int) -> bool:
        ghostly = self._ghost.pop(key, None)
        self._returns = ghostly is not None
        if ghostly is not None:
            self._ghost_used -= ghostly
        return size < int(self.capacity * _SMALL)

    def _place(self, key: K, size: int, cost: float) -> None:
        if self._returns:
            self._main[key] = 0
        else:
            self._small[key] = 0
            self._small_used += size

    def _victim(self) -> K:
        main_share = self.capacity - int(self.capacity * _SMALL)
        while True:
            if self.used - self._small_used > main_share or not self._small:
                key, count = next(iter(self._main.items()))
                if not count:
                    return key
                self._main[key] = min(count, _MOST) - 1
                self._main.move_to_end(key)
            else:
                key, count = next(iter(self._small.items()))
                if count < _PROMOTED:
                    return key
                del self._small[key]
                self._small_used -= self._sizes[key]
                self._main[key] = 0

    def _leave(self, key: K, size: int, *, is_evicted: bool) -> None:
        if key in self._main:
            del self._main[key]
            return
        del self._small[key]
        self._small_used -= size
        if is_evicted:
            self._remember(key, size)

    def _remember(self, key: K, size: int) -> None:
        room = int(self.capacity * _GHOST)
        if size > room:
            return
        while self._ghost_used + size > room:
            self._ghost_used -= self._ghost.popitem(last=False)[1]
        self._ghost[key] = size
        self._ghost_used += size
