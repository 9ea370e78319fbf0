"""In front of an engine: hits do not reach it, misses are kept, and a cache that fails costs no answers."""

import asyncio
import logging

import numpy as np
import pytest

from salver.features.cache.cached import CachedModel
from salver.features.cache.caching import Caching
from salver.features.cache.local import LocalCache
from salver.words.errors import ModelFailed
from salver.words.messages import InferRequest, InferResponse, ModelId, Timing
from salver.words.tensor import tensor

ID = ModelId("m", "7")


class Model:
    """Doubles, and counts how often; each look at the clock takes a second."""

    def __init__(self, error=None):
        self.runs, self.now, self.error = 0, 0.0, error

    def clock(self):
        self.now += 1.0
        return self.now

    async def infer(self, request, deadline=None, sender=None, standing=None):
        self.runs += 1
        if self.error:
            raise self.error
        doubled = tensor("y", request.inputs[0].array * 2)
        return InferResponse("m", "7", (doubled,), request.id, {"k": 1}, Timing(queue=0.5, inference=2.0))


class Broken:
    max_bytes = 1 << 20

    async def lookup(self, key):
        raise OSError("gone")

    insert = forget = lookup

    async def close(self):
        pass


def ask(value, id=""):
    return InferRequest("m", (tensor("x", np.array([value])),), id=id)


def cached(model, cache=None, **more):
    caching = Caching(cache or LocalCache(1 << 16), model.clock)
    return caching, CachedModel(caching, model.infer, ID, "f", **{"sees_parameters": False, **more})


@pytest.mark.clause("TR-S10")
async def test_the_second_equal_request_does_not_reach_the_model():
    model = Model()
    caching, front = cached(model)
    first = await front.infer(ask(3, "a"))
    again = await front.infer(ask(3, "b"))
    other = await front.infer(ask(4))
    assert model.runs == 2
    assert (first.id, again.id, again.version, again.parameters) == ("a", "b", "7", {"k": 1})
    assert [r.outputs[0].array.tolist() for r in (first, again, other)] == [[6], [6], [8]]
    assert first.timing == Timing(queue=0.5, inference=2.0, cache="miss", cache_seconds=2.0)
    assert again.timing == Timing(cache="hit", cache_seconds=1.0)
    use = caching.use()
    assert (use.hits, use.misses, use.lookup_seconds, use.insert_seconds) == (1, 2, 3.0, 2.0)
    assert use.facts is not None and use.facts.entries == 2


@pytest.mark.clause("TR-S10")
async def test_errors_and_answers_that_are_too_large_are_not_kept():
    model = Model(ModelFailed("no"))
    caching, front = cached(model)
    for _ in range(2):
        with pytest.raises(ModelFailed):
            await front.infer(ask(1))
    assert model.runs == 2
    small = Model()
    caching, front = cached(small, LocalCache(400))
    for _ in range(2):
        await front.infer(InferRequest("m", (tensor("x", np.zeros(100)),)))
    assert small.runs == 2
    assert caching.use().facts.entries == 0


async def test_large_inputs_are_digested_off_the_loop_with_the_same_outcome():
    model = Model()
    _, front = cached(model, LocalCache(1 << 24))
    big = InferRequest("m", (tensor("x", np.ones(1 << 18)),))
    await front.infer(big)
    assert (await front.infer(big)).timing.cache == "hit"


async def test_a_version_that_goes_is_forgotten():
    model = Model()
    caching, front = cached(model)
    await front.infer(ask(1))
    await front.close()
    assert caching.use().facts.entries == 0


async def test_a_cache_that_fails_is_a_miss_and_is_complained_of_once_a_minute(caplog):
    model = Model()
    caching, front = cached(model, Broken())
    with caplog.at_level(logging.WARNING, "salver.cache"):
        for _ in range(3):
            assert (await front.infer(ask(1))).timing.cache == "miss"
        await front.close()
        assert len(caplog.records) == 1
        model.now += 60
        await front.infer(ask(1))
        assert len(caplog.records) == 2
    use = caching.use()
    assert (use.hits, use.misses, use.facts) == (0, 4, None)
    assert model.runs == 4


async def test_a_cache_that_failed_is_not_asked_for_a_while():
    model, broken = Model(), Broken()
    asked = []

    async def lookup(key):
        asked.append(key)
        raise OSError("gone")

    broken.lookup = broken.insert = lookup
    now = 100.0
    front = CachedModel(Caching(broken, lambda: now), model.infer, ID, "f", sees_parameters=False)
    for _ in range(5):
        await front.infer(ask(1))
    assert (len(asked), model.runs) == (1, 5)
    now += 2
    await front.infer(ask(1))
    assert len(asked) == 2


async def test_what_is_kept_is_no_view_of_what_others_may_change():
    kept = np.arange(4)

    async def infer(request, deadline=None, sender=None, standing=None):
        return InferResponse("m", "7", (tensor("y", kept),))

    caching = Caching(LocalCache(1 << 16), Model().clock)
    front = CachedModel(caching, infer, ID, "f", sees_parameters=False)
    await front.infer(ask(1))
    kept[:] = 9
    assert (await front.infer(ask(1))).outputs[0].array.tolist() == [0, 1, 2, 3]


async def test_equal_requests_at_one_time_are_each_answered():
    model = Model()
    _, front = cached(model)
    answers = await asyncio.gather(*(front.infer(ask(2, str(n))) for n in range(5)))
    assert [a.id for a in answers] == list("01234")
    assert {int(a.outputs[0].array[0]) for a in answers} == {4}
