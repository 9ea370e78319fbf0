"""Use of the response cache in front of a model's engine.

A request that has been answered before is answered from the cache, without reaching the model. Others go to
the engine, equal ones together, and their answers are stored. A cache that fails costs time, but no answers.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Protocol

import msgspec

from salver.features.cache.flights import Flights
from salver.features.cache.meter import Counts, ModelMeter, seconds_of
from salver.features.cache.packing import pack, size_of
from salver.features.cache.ports import KEY_BYTES, MeasuredCache, NearCache, ResponseCache
from salver.kernel.serving.present import CacheUse
from salver.words.messages import ANYBODY, InferRequest, InferResponse, ModelId, Standing

_LOG = logging.getLogger("salver.cache")
_SILENCE_S = 60.0  # seconds between two log lines about a failing cache
_MOST_GONE = 16
_REST_S = 1.0  # seconds for which a failed cache is not used


class Infer(Protocol):
    """Method that answers a request; the engine's."""

    def __call__(
        self,
        request: InferRequest,
        deadline: float | None = None,
        sender: Hashable = None,
        standing: Standing = ANYBODY,
    ) -> Awaitable[InferResponse]:
        """See :meth:`salver.kernel.engine.engine.Engine.infer`."""
        ...


class Computed(msgspec.Struct, frozen=True, gc=False):
    """Answer to all equal requests in flight.

    Attributes:
        inserting: Seconds to store it.
        is_hit: It was in a cache that had to be waited for.
    """

    response: InferResponse
    inserting: float = 0.0
    is_hit: bool = False


class Caching:
    """The single cache of a server.

    Args:
        cache: Store of the answers; closed by its creator.
        clock: Monotonic seconds.
        overhead: Bytes of an entry besides its value.

    Attributes:
        now: Returns the current time.
        near: The store, if it never waits.
        has_failed: The store has failed at least once.
        flights: Requests that are being computed.
        meters: What each version's cache has done.
        arrived: Called with the meter of each version that is loaded, and the prefix of the keys of the copy
            that it replaces; empty = it replaces none.
    """

    def __init__(self, cache: ResponseCache, clock: Callable[[], float], overhead: int = KEY_BYTES) -> None:
        self._cache = cache
        self.near = cache if isinstance(cache, NearCache) else None
        self.now = clock
        self._overhead = overhead
        self._silent_until = self._resting_until = float("-inf")
        self.has_failed = False
        self.flights: Flights[bytes, Computed] = Flights(
            lambda call: asyncio.get_running_loop().call_soon(call)
        )
        self.meters: dict[ModelId, ModelMeter] = {}
        self.arrived: Callable[[ModelMeter, bytes], None] = lambda meter, before: None
        self._gone = [Counts()]  # of versions that are gone; the first is the sum of the oldest

    def __repr__(self) -> str:
        return f"<Caching in {self._cache!r}>"

    def use(self) -> CacheUse:
        """Return the use and content of the cache."""
        facts = None
        if isinstance(self._cache, MeasuredCache):
            facts = self._cache.facts()
        every = [*(meter.counts for meter in self.meters.values()), *self._gone]
        return CacheUse(
            sum(counts.hits + counts.joined for counts in every),
            sum(counts.misses for counts in every),
            sum(counts.looking for counts in every),
            sum(counts.inserting for counts in every),
            facts,
        )

    def meter(self, id: ModelId, owner: bytes) -> ModelMeter:
        """Return the meter of a version that is loaded; a version that is loaded again keeps its own."""
        meter = self.meters.get(id)
        if meter is None:
            meter = self.meters[id] = ModelMeter(id, owner)
        before = meter.owner if meter.owner != owner else b""
        meter.owner = owner
        self.arrived(meter, before)
        return meter

    def find(self, key: bytes) -> bytes | None:
        """Return the value of a near cache or None; never raises."""
        assert self.near is not None
        if self.has_failed and self.now() < self._resting_until:
            return None
        try:
            return self.near.find(key)
        except Exception as error:
            self._complain(error)
            return None

    async def lookup(self, key: bytes) -> bytes | None:
        """Return the cached value or None; never raises."""
        if self.has_failed and self.now() < self._resting_until:
            return None
        try:
            return await self._cache.lookup(key)
        except Exception as error:
            self._complain(error)
            return None

    def keep(self, key: bytes, request: InferRequest, response: InferResponse) -> int:
        """Store a value in a near cache unless it is too large; return its entry's bytes. Never raises."""
        assert self.near is not None
        packed = self._packed(response)
        if packed is None:
            return size_of(response) + self._overhead
        try:
            self.near.keep(key, packed, seconds_of(request, response.timing))
        except Exception as error:
            self._complain(error)
        return len(packed) + self._overhead

    async def insert(self, key: bytes, response: InferResponse) -> int:
        """Store a value unless it is too large; return its entry's bytes. Never raises."""
        packed = self._packed(response)
        if packed is None:
            return size_of(response) + self._overhead
        try:
            await self._cache.insert(key, packed)
        except Exception as error:
            self._complain(error)
        return len(packed) + self._overhead

    async def forget(self, owner: bytes, meter: ModelMeter) -> None:
        """Remove the values of an unloaded version; never raises."""
        if meter.owner == owner and self.meters.get(meter.id) is meter:
            del self.meters[meter.id]
            self._retire(meter.counts)
        try:
            await self._cache.forget(owner)
        except Exception as error:
            self._complain(error)

    def _retire(self, counts: Counts) -> None:
        """Keep the counts of a version that is gone; its last requests may still be answered."""
        self._gone.append(counts)
        if len(self._gone) > _MOST_GONE:
            self._gone[:2] = [self._gone[0].plus(self._gone[1])]

    def _packed(self, response: InferResponse) -> bytes | None:
        if self.has_failed and self.now() < self._resting_until:
            return None
        try:
            if size_of(response) > self._cache.max_bytes:
                return None
            packed = pack(response)
        except Exception as error:
            self._complain(error)
            return None
        return packed if len(packed) <= self._cache.max_bytes else None

    def _complain(self, error: Exception) -> None:
        now = self.now()
        self.has_failed, self._resting_until = True, now + _REST_S
        if now >= self._silent_until:
            self._silent_until = now + _SILENCE_S
            _LOG.warning("the response cache fails; requests go to the models: %s", error or repr(error))
