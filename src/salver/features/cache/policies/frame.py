"""Frame of all eviction policies: sizes in bytes, room for a newcomer, admission.

The rules are those of libCacheSim, so that its published miss counts hold: an object larger than the capacity
is not admitted; otherwise entries are evicted until it fits. A hit never changes a size.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, Protocol, TypeVar

K = TypeVar("K", bound=Hashable)
K_contra = TypeVar("K_contra", bound=Hashable, contravariant=True)


class Admission(Protocol[K_contra]):
    """Choice between a newcomer and the entry that would have to leave for it."""

    def record(self, key: K_contra) -> None:
        """Count an access, whether it hits or misses."""
        ...

    def prefers(self, newcomer: K_contra, victim: K_contra) -> bool:
        """Return whether the newcomer is worth more than the victim."""
        ...


class EvictionPolicy(ABC, Generic[K]):
    """Keys of a cache with their sizes, in the order in which they are to leave.

    The owner keeps the values. It calls :meth:`hit` for a key that is there and :meth:`insert` for one that
    is not, and drops the values of the keys that ``insert`` returns.

    Args:
        capacity: Bytes of all entries.
        admission: None = every newcomer that fits is admitted.

    Attributes:
        used: Bytes of the entries.
        overhead: Bytes that the policy and its owner need for an entry, besides the bytes of key and value
        (64-bit
            CPython; tested).
    """

    overhead = 288

    def __init__(self, capacity: int, admission: Admission[K] | None = None) -> None:
        self.capacity = capacity
        self.used = 0
        self._sizes: dict[K, int] = {}
        self._admission = admission

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self._sizes)} entries, {self.used} of {self.capacity} bytes>"

    def __contains__(self, key: K) -> bool:
        return key in self._sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def hit(self, key: K) -> None:
        """Note an access to an entry."""
        if self._admission is not None:
            self._admission.record(key)
        self._touch(key)

    def hitter(self) -> Callable[[K], object]:
        """Return the quickest function that does what :meth:`hit` does (``benchmarks/cache_hits.py``)."""
        if self._admission is not None:
            return self.hit
        return self._touch

    def insert(self, key: K, size: int, cost: float = 1.0) -> list[K]:
        """Admit a key that is not there, unless it is too large; return the keys that left for it.

        Args:
            size: Bytes, at least 1.
            cost: Cost of computing the value again; only GDSF uses it.
        """
        if self._admission is not None:
            self._admission.record(key)
        evicted: list[K] = []
        if size > self.capacity or not self._fits(key, size):
            return evicted
        while self.used + size > self.capacity:
            victim = self._victim()
            if self._admission is not None and not self._admission.prefers(key, victim):
                return evicted
            self._drop(victim)
            evicted.append(victim)
        self._place(key, size, cost)
        self._sizes[key] = size
        self.used += size
        return evicted

    def remove(self, key: K) -> None:
        """Take an entry out; one that is not there is ignored."""
        size = self._sizes.pop(key, None)
        if size is not None:
            self.used -= size
            self._leave(key, size, is_evicted=False)

    def resize(self, capacity: int) -> list[K]:
        """Change the capacity; return the keys that had to leave."""
        self.capacity = capacity
        evicted = []
        while self.used > capacity:
            victim = self._victim()
            self._drop(victim)
            evicted.append(victim)
        return evicted

    def _drop(self, victim: K) -> None:
        size = self._sizes.pop(victim)
        self.used -= size
        self._leave(victim, size, is_evicted=True)

    def _fits(self, key: K, size: int) -> bool:
        """Return whether a newcomer may enter; called before anything leaves for it."""
        return True

    @abstractmethod
    def _touch(self, key: K) -> None:
        """Note an access."""

    @abstractmethod
    def _place(self, key: K, size: int, cost: float) -> None:
        """Enter a newcomer, for which there is room."""

    @abstractmethod
    def _victim(self) -> K:
        """Return the entry that leaves next; there is one."""

    @abstractmethod
    def _leave(self, key: K, size: int, *, is_evicted: bool) -> None:
        """Forget an entry."""


def replay(
    policy: EvictionPolicy[K], requests: Iterable[tuple[K, int]], cost: float = 1.0
) -> tuple[int, int]:
    """Return the misses, and their bytes, of a trace of keys and sizes."""
    misses = missed = 0
    for key, size in requests:
        if key in policy:
            policy.hit(key)
        else:
            misses += 1
            missed += size
            policy.insert(key, size, cost)
    return misses, missed
