"""Response cache in this process's memory, with a size limit.

Which entries leave is up to a policy. All models share one part; with ``size=auto`` each has a part of its
own, whose size is set from outside.
"""

import os
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from salver.features.cache.options import byte_size, number, only
from salver.features.cache.policies.frame import EvictionPolicy
from salver.features.cache.policies.gdsf import Gdsf
from salver.features.cache.policies.queues import Fifo, Lru
from salver.features.cache.policies.s3fifo import S3Fifo
from salver.features.cache.policies.sieve import Sieve
from salver.features.cache.policies.tinylfu import TinyLfu
from salver.features.cache.ports import KEY_BYTES, OWNER_BYTES
from salver.kernel.serving.present import CacheFacts
from salver.machine import memory_bytes
from salver.words.errors import InvalidInput

POLICIES: Final[Mapping[str, type[EvictionPolicy[bytes]]]] = {
    "lru": Lru,
    "fifo": Fifo,
    "sieve": Sieve,
    "s3fifo": S3Fifo,
    "gdsf": Gdsf,
}
_OPTIONS: Final = ("size", "policy", "admission", "ttl_seconds", "max", "memory_price")
#: Size of an entry of the default policy in addition to its value.
OVERHEAD: Final = KEY_BYTES + Lru.overhead
#: Cores that a GiB of memory is worth: the ratio of the prices of clouds.
PRICE: Final = 0.13
_GIB: Final = 1 << 30


class LocalSettings(NamedTuple):
    """Settings of a local cache.

    Attributes:
        policy: Name of the eviction policy.
        is_choosy: TinyLFU decides who is admitted.
        ttl: Seconds for which a value is kept; 0 = until it is evicted.
        price: Cores per byte, for caches that size themselves; None = the size is fixed.
    """

    policy: str = "lru"
    is_choosy: bool = False
    ttl: float = 0.0
    price: float | None = None


class _Part:
    """Entries that share a policy."""

    __slots__ = ("expiries", "hit", "overhead", "policy", "values")

    def __init__(self, size: int, settings: LocalSettings) -> None:
        kind = POLICIES[settings.policy]
        admission = None
        if settings.is_choosy:  # about as many counters in a row as entries of 1 KiB
            admission = TinyLfu(1 << min(18, max(10, (size >> 10).bit_length())))
        self.policy = kind(size, admission)
        self.hit = self.policy.hitter()
        self.overhead = KEY_BYTES + kind.overhead
        self.values: dict[bytes, bytes] = {}
        self.expiries: dict[bytes, float] = {}

    def drop(self, key: bytes) -> None:
        """Take an entry out."""
        self.policy.remove(key)
        self.values.pop(key, None)
        self.expiries.pop(key, None)


_FIXED: Final = LocalSettings()


class LocalCache:
    """Cache in memory.

    Args:
        size: Maximum bytes of all entries, including their overhead.
        clock: Monotonic seconds.

    Attributes:
        size: Maximum bytes.
        settings: Policy and expiry.
        overhead: Bytes of an entry besides its value.
    """

    def __init__(
        self, size: int, settings: LocalSettings = _FIXED, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.size = size
        self.settings = settings
        self._clock = clock
        self._evictions = 0
        self._common = _Part(self._shared_size, settings)
        self._parts: dict[bytes, _Part] = {}
        self.overhead = self._common.overhead
        self.max_bytes = size - self.overhead

    def __repr__(self) -> str:
        held = f"{self.facts().entries} entries, {self.used()} of {self.size} bytes"
        return f"<LocalCache {self.settings.policy}, {held}>"

    @property
    def _shared_size(self) -> int:
        """Bytes that models share; none if each has a part of its own."""
        return self.size if self.settings.price is None else 0

    def find(self, key: bytes) -> bytes | None:
        """See :class:`~salver.features.cache.ports.NearCache`."""
        part = self._common
        if self._parts:
            part = self._parts.get(key[:OWNER_BYTES], part)
        value = part.values.get(key)
        if value is None:
            return None
        if part.expiries and part.expiries.get(key, float("inf")) <= self._clock():
            return None  # it stays for ``find_stale`` until it is replaced or evicted
        part.hit(key)
        return value

    def find_stale(self, key: bytes, max_age_s: float) -> bytes | None:
        """Return a value of at most this age, even if its time to live has passed; else None."""
        part = self._parts.get(key[:OWNER_BYTES], self._common)
        stored = part.expiries.get(key, 0.0) - self.settings.ttl
        if self._clock() - stored > max_age_s:
            return None
        return part.values.get(key)

    def keep(self, key: bytes, value: bytes, cost: float = 1.0) -> None:
        """See :class:`~salver.features.cache.ports.NearCache`."""
        part = self._parts.get(key[:OWNER_BYTES], self._common)
        if len(value) > self.max_bytes:
            return
        if key in part.values:
            part.drop(key)
        gone = part.policy.insert(key, len(value) + part.overhead, cost)
        self._evict(part, gone)
        if key in part.policy:
            part.values[key] = value
            if self.settings.ttl:
                part.expiries[key] = self._clock() + self.settings.ttl

    async def lookup(self, key: bytes) -> bytes | None:
        """See :class:`~salver.features.cache.ports.ResponseCache`."""
        return self.find(key)

    async def insert(self, key: bytes, value: bytes) -> None:
        """See :class:`~salver.features.cache.ports.ResponseCache`."""
        self.keep(key, value)

    async def forget(self, owner: bytes) -> None:
        """See :class:`~salver.features.cache.ports.ResponseCache`."""
        if self._parts.pop(owner, None) is None:
            for key in [key for key in self._common.values if key.startswith(owner)]:
                self._common.drop(key)

    async def close(self) -> None:
        """See :class:`~salver.features.cache.ports.ResponseCache`."""
        self._parts.clear()
        self._common = _Part(self._shared_size, self.settings)

    def allot(self, owner: bytes, size: int) -> None:
        """Give the keys of an owner a part of their own of so many bytes, or change its size."""
        part = self._parts.get(owner)
        if part is None:
            self._parts[owner] = _Part(size, self.settings)
        elif part.policy.capacity != size:
            self._evict(part, part.policy.resize(size))

    def used(self, owner: bytes = b"") -> int:
        """Return the bytes of all entries, or of an owner's part."""
        if owner:
            part = self._parts.get(owner)
            return part.policy.used if part else 0
        return sum(part.policy.used for part in (self._common, *self._parts.values()))

    def facts(self) -> CacheFacts:
        """See :class:`~salver.features.cache.ports.MeasuredCache`."""
        entries = sum(len(part.values) for part in (self._common, *self._parts.values()))
        used = self.used()
        return CacheFacts(entries, used / self.size, self._evictions, used)

    def _evict(self, part: _Part, keys: list[bytes]) -> None:
        self._evictions += len(keys)
        for key in keys:
            del part.values[key]
            part.expiries.pop(key, None)


def local(options: Mapping[str, str]) -> LocalCache:
    """Return the cache for ``local,size=N``, or ``local,size=auto``.

    Raises:
        InvalidInput: the size is missing, or an option is invalid.
    """
    only(options, "local", _OPTIONS)
    if "size" not in options:
        raise InvalidInput("the cache 'local' needs a size", fix="As local,size=64m, or local,size=auto.")
    is_automatic = options["size"] == "auto"
    most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    price = None
    if is_automatic:
        size = memory_bytes() // 16
        if "max" in options:
            size = byte_size(options["max"], "max of the cache 'local'")
        price = number(options, "memory_price", PRICE, "local") / _GIB
    else:
        for name in ("max", "memory_price"):
            if name in options:
                raise InvalidInput(
                    f"the setting {name!r} of the cache 'local' is for size=auto",
                    fix=f"Write size=auto, or leave {name} out.",
                )
        size = byte_size(options["size"], "size of the cache 'local'")
    if size > most:
        raise InvalidInput(f"the cache 'local' is to have {size} bytes, and this machine has {most}")
    policy = options.get("policy", "lru")
    if policy not in POLICIES:
        raise InvalidInput(
            f"the cache 'local' has no policy {policy!r}", fix=f"There are: {', '.join(POLICIES)}."
        )
    admission = options.get("admission", "all")
    if admission not in ("all", "tinylfu"):
        raise InvalidInput(
            f"the cache 'local' has no admission {admission!r}",
            fix="Write admission=all or admission=tinylfu.",
        )
    if size <= KEY_BYTES + POLICIES[policy].overhead:
        raise InvalidInput(f"a cache of {size} bytes holds no answer", fix="As local,size=64m.")
    ttl = number(options, "ttl_seconds", 0.0, "local")
    return LocalCache(size, LocalSettings(policy, admission == "tinylfu", ttl, price))
