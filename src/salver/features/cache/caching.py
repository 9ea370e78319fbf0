"""Use of the response cache in front of a model's engine.

A request that has been answered before is answered from the cache, without reaching the model. Others go to
the engine, and their answers are stored. A cache that fails costs time, but no answers.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Protocol

import msgspec

from salver.features.cache.key import key_of, owner_of
from salver.features.cache.packing import pack, size_of, unpack
from salver.features.cache.ports import MeasuredCache, ResponseCache
from salver.kernel.serving.present import CacheUse
from salver.words.messages import ANYBODY, InferRequest, InferResponse, ModelId, Standing, Timing

_LOG = logging.getLogger("salver.cache")
#: Inputs of this many bytes are hashed on another thread: about a millisecond of work.
_MANY_BYTES = 1 << 20
_SILENCE_S = 60.0  # seconds between two log lines about a failing cache
_REST_S = 1.0  # seconds for which a failed cache is not used


class _Infer(Protocol):
    """The engine's interface."""

    def __call__(
        self,
        request: InferRequest,
        deadline: float | None = None,
        sender: Hashable = None,
        standing: Standing = ANYBODY,
    ) -> Awaitable[InferResponse]: ...


class Caching:
    """The single cache of a server.

    Args:
        cache: Store of the answers; closed by its creator.
        clock: Monotonic seconds.
    """

    def __init__(self, cache: ResponseCache, clock: Callable[[], float]) -> None:
        self._cache = cache
        self._clock = clock
        self._silent_until = self._resting_until = float("-inf")
        self._has_failed = False
        self._hits = self._misses = 0
        self._looking = self._inserting = 0.0

    def __repr__(self) -> str:
        return f"<Caching in {self._cache!r}>"

    def use(self) -> CacheUse:
        """Return the use and content of the cache."""
        facts = None
        if isinstance(self._cache, MeasuredCache):
            facts = self._cache.facts()
        return CacheUse(self._hits, self._misses, self._looking, self._inserting, facts)

    def count(self, *, is_hit: bool, looking: float, inserting: float = 0.0) -> None:
        """Count a request; durations in seconds."""
        self._hits += is_hit
        self._misses += not is_hit
        self._looking += looking
        self._inserting += inserting

    def before(self, infer: _Infer, id: ModelId, fingerprint: str, *, sees_parameters: bool) -> "CachedModel":
        """Wrap a model with cached answers.

        Args:
            infer: The model itself.
            sees_parameters: The model receives the requests' parameters.
        """
        return CachedModel(self, infer, id, owner_of(id, fingerprint), sees_parameters=sees_parameters)

    def now(self) -> float:
        """Return the current time."""
        return self._clock()

    async def lookup(self, key: bytes) -> bytes | None:
        """Return the cached value or None; never raises."""
        if self._has_failed and self._clock() < self._resting_until:
            return None
        try:
            return await self._cache.lookup(key)
        except Exception as error:
            self._complain(error)
            return None

    async def insert(self, key: bytes, response: InferResponse) -> None:
        """Store a value unless it is too large; never raises."""
        if self._has_failed and self._clock() < self._resting_until:
            return
        try:
            if size_of(response) <= self._cache.max_bytes:
                packed = pack(response)
                if len(packed) <= self._cache.max_bytes:
                    await self._cache.insert(key, packed)
        except Exception as error:
            self._complain(error)

    async def forget(self, owner: bytes) -> None:
        """Remove the values of an unloaded version; never raises."""
        try:
            await self._cache.forget(owner)
        except Exception as error:
            self._complain(error)

    def _complain(self, error: Exception) -> None:
        now = self._clock()
        self._has_failed, self._resting_until = True, now + _REST_S
        if now >= self._silent_until:
            self._silent_until = now + _SILENCE_S
            _LOG.warning("the response cache fails; requests go to the models: %s", error or repr(error))


class CachedModel:
    """A version with cached answers. Created by :meth:`Caching.before`."""

    def __init__(
        self, caching: Caching, infer: _Infer, id: ModelId, owner: bytes, *, sees_parameters: bool
    ) -> None:
        self.id = id
        self._caching = caching
        self._infer = infer
        self._owner = owner
        self._sees_parameters = sees_parameters

    def __repr__(self) -> str:
        return f"<CachedModel {self.id}>"

    async def infer(
        self,
        request: InferRequest,
        deadline: float | None = None,
        sender: Hashable = None,
        standing: Standing = ANYBODY,
    ) -> InferResponse:
        """See :meth:`salver.kernel.serving.ports.Inferring.infer`."""
        caching = self._caching
        began = caching.now()
        key = await self._key(request)
        packed = await caching.lookup(key)
        answer = None if packed is None else self._answer(packed, request)
        took = caching.now() - began
        if answer is not None:
            caching.count(is_hit=True, looking=took)
            return msgspec.structs.replace(answer, timing=Timing(cache="hit", cache_seconds=took))
        response = await self._infer(request, deadline, sender, standing)
        began = caching.now()
        await caching.insert(key, response)
        inserting = caching.now() - began
        caching.count(is_hit=False, looking=took, inserting=inserting)
        timing = msgspec.structs.replace(response.timing, cache="miss", cache_seconds=took + inserting)
        return msgspec.structs.replace(response, timing=timing)

    async def close(self) -> None:
        """Note that the version is unloaded."""
        await self._caching.forget(self._owner)

    async def _key(self, request: InferRequest) -> bytes:
        if sum(tensor.array.nbytes for tensor in request.inputs) < _MANY_BYTES:
            return key_of(request, self._owner, sees_parameters=self._sees_parameters)
        return await asyncio.to_thread(key_of, request, self._owner, sees_parameters=self._sees_parameters)

    def _answer(self, packed: bytes, request: InferRequest) -> InferResponse | None:
        found = unpack(packed)
        if found is None:
            return None
        outputs, parameters = found
        return InferResponse(request.model, self.id.version, outputs, request.id, parameters)
