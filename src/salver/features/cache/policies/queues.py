"""FIFO and LRU: one queue, whose end leaves.

>>> from salver.features.cache.policies.frame import replay
>>> replay(Lru(2), [(key, 1) for key in "abacab"])
(4, 4)
"""

from collections import OrderedDict
from collections.abc import Callable

from salver.features.cache.policies.frame import Admission, EvictionPolicy, K


class Fifo(EvictionPolicy[K]):
    """First in, first out: a hit changes nothing."""

    def __init__(self, capacity: int, admission: Admission[K] | None = None) -> None:
        super().__init__(capacity, admission)
        # Not a dict: the first key of one that lost many keys at its beginning takes long to find.
        self._sizes: OrderedDict[K, int] = OrderedDict()

    def _touch(self, key: K) -> None:
        pass

    def _place(self, key: K, size: int, cost: float) -> None:
        pass

    def _victim(self) -> K:
        return next(iter(self._sizes))

    def _leave(self, key: K, size: int, *, is_evicted: bool) -> None:
        pass


class Lru(Fifo[K]):
    """Least recently used: the entry leaves that was not asked for the longest."""

    def hitter(self) -> Callable[[K], object]:
        """See the base class."""
        if self._admission is not None:
            return self.hit
        return self._sizes.move_to_end

    def _touch(self, key: K) -> None:
        self._sizes.move_to_end(key)
