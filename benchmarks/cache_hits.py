"""Claim: a cached answer costs a few microseconds in process, and less than the smallest model over HTTP.

    python benchmarks/cache_hits.py

CPU time of one hit and its parts, in this process. For requests over HTTP, with all around them, run
``python benchmarks/prices.py --only plain,cache``.
"""

import asyncio
import time
from collections.abc import Callable

import numpy as np

from salver.features.cache.cached import CachedModel
from salver.features.cache.caching import Caching
from salver.features.cache.key import KeyMaker, key_of, owner_of
from salver.features.cache.local import POLICIES, LocalCache, LocalSettings
from salver.features.cache.packing import unpack
from salver.features.cache.reuse import ReuseSampler
from salver.words.messages import InferRequest, InferResponse, ModelId, Timing
from salver.words.tensor import tensor

ID = ModelId("m", "1")
CALLS, ROUNDS = 20_000, 5


def cost(call: Callable[[], object]) -> float:
    """Return microseconds of CPU time of a call, the best of some rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(CALLS):
            call()
        best = min(best, time.process_time() - began)
    return best / CALLS * 1e6


async def infer(request: InferRequest, *terms: object) -> InferResponse:
    said = tensor("y", np.ones((1, 10), np.float32))
    return InferResponse("m", "1", (said,), request.id, {}, Timing(inference=1e-4))


async def main() -> None:
    request = InferRequest("m", (tensor("x", np.ones((1, 16), np.float32)),))
    rows = {}
    for policy in POLICIES:
        cache = LocalCache(1 << 20, LocalSettings(policy))
        caching = Caching(cache, time.monotonic, cache.overhead)
        model = CachedModel(caching, infer, ID, "f", sees_parameters=False)
        await model.infer(request)
        key = key_of(request, owner_of(ID, "f"), sees_parameters=False)
        rows[f"find in the store, {policy}"] = cost(lambda cache=cache, key=key: cache.find(key))
        rows[f"whole hit, {policy}"] = cost(lambda model=model: model.post(request, None, lambda *said: None))
    packed = cache.find(key)
    maker, sampler = KeyMaker(owner_of(ID, "f"), sees_parameters=False), ReuseSampler()
    rows["key"] = cost(lambda: maker.key(request))
    rows["key without what is kept of it"] = cost(lambda: key_of(request, maker.owner, sees_parameters=False))
    rows["unpack"] = cost(lambda: unpack(packed))
    rows["sampler"] = cost(lambda: sampler.record(7, 100.0))
    for name, micros in rows.items():
        print(f"{name:32} {micros:6.2f} µs")


if __name__ == "__main__":
    asyncio.run(main())
