"""SIEVE: a queue that is searched by a hand.

Zhang et al., SIEVE is Simpler than LRU, NSDI 2024. A hit sets a mark and moves nothing. The hand walks from
the tail towards the head, clears marks, and evicts the first entry without one.
"""

from typing import Generic

from salver.features.cache.policies.frame import Admission, EvictionPolicy, K


class _Node(Generic[K]):
    __slots__ = ("is_visited", "key", "newer", "older")

    def __init__(self, key: K, older: "_Node[K] | None") -> None:
        self.key = key
        self.is_visited = False
        self.older = older
        self.newer: _Node[K] | None = None


class Sieve(EvictionPolicy[K]):
    """See the module."""

    overhead = 368

    def __init__(self, capacity: int, admission: Admission[K] | None = None) -> None:
        super().__init__(capacity, admission)
        self._nodes: dict[K, _Node[K]] = {}
        self._head: _Node[K] | None = None
        self._tail: _Node[K] | None = None
        self._hand: _Node[K] | None = None

    def _touch(self, key: K) -> None:
        self._nodes[key].is_visited = True

    def _place(self, key: K, size: int, cost: float) -> None:
        node = _Node(key, self._head)
        if self._head is None:
            self._tail = node
        else:
            self._head.newer = node
        self._head = self._nodes[key] = node

    def _victim(self) -> K:
        node = self._hand or self._tail
        while node is not None and node.is_visited:
            node.is_visited = False
            node = node.newer or self._tail
        assert node is not None
        self._hand = node
        return node.key

    def _leave(self, key: K, size: int, *, is_evicted: bool) -> None:
        node = self._nodes.pop(key)
        if self._hand is node:
            self._hand = node.newer
        if node.older is None:
            self._tail = node.newer
        else:
            node.older.newer = node.newer
        if node.newer is None:
            self._head = node.older
        else:
            node.newer.older = node.older
