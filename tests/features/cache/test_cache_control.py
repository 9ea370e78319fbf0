"""A cache that sizes itself: by curve and price, off where it does not save, on again where it would."""

import asyncio
import random

import numpy as np
import pytest

from salver.features.cache.cached import CachedModel
from salver.features.cache.caching import Caching
from salver.features.cache.control import TICK_S, CacheControl
from salver.features.cache.local import LocalCache, LocalSettings, local
from salver.words.errors import InvalidInput
from salver.words.messages import InferRequest, InferResponse, ModelId, Timing
from salver.words.tensor import tensor

GIB = 1 << 30


class House:
    """Models before a cache of their own, in a time of their own."""

    def __init__(self, size=1 << 20, price=0.13 / GIB, policy="lru"):
        self.now, self.runs = 0.0, 0
        self.cache = LocalCache(size, LocalSettings(policy, price=price), self.clock)
        self.caching = Caching(self.cache, self.clock, self.cache.overhead)
        self.control = CacheControl(self.caching, self.cache)

    def clock(self):
        """Each look takes two microseconds."""
        self.now += 2e-6
        return self.now

    def model(self, name, run_s=0.01, fingerprint="f"):
        async def infer(request, deadline=None, sender=None, standing=None):
            self.runs += 1
            said = tensor("y", request.inputs[0].array * 2)
            return InferResponse(name, "1", (said,), request.id, {}, Timing(inference=run_s))

        return CachedModel(self.caching, infer, ModelId(name, "1"), fingerprint, sees_parameters=False)

    async def ask(self, model, values):
        """Ask in ten seconds, so that as many requests a second are a tenth of them."""
        for value in values:
            self.now += TICK_S / len(values)
            await model.infer(InferRequest("m", (tensor("x", np.array([value])),)))

    def report(self, name):
        (found,) = self.control.reports(name)
        return found


async def test_a_model_whose_requests_repeat_gets_what_it_needs_and_another_nothing():
    house, chance = House(), random.Random(1)
    often, never = house.model("often"), house.model("never")
    assert [house.report(name).size for name in ("often", "never")] == [1 << 19] * 2
    number = 0
    for _ in range(8):
        await asyncio.gather(
            house.ask(often, [chance.randrange(200) for _ in range(800)]),
            house.ask(never, range(number, number + 800)),
        )
        number += 800
        await house.control.tick()
    good, bad = house.report("often"), house.report("never")
    assert (good.state, bad.state) == ("on", "off")
    assert good.size == pytest.approx(200 * good.entry_bytes, rel=0.05)
    assert (bad.size, bad.used) == (0, 0)
    assert good.best_hit_ratio > 0.95 and good.saves > 0 and good.best_gain > 0
    assert bad.curve == () and bad.best_size == 0
    assert [point.bytes for point in good.curve] == sorted(point.bytes for point in good.curve)


async def test_a_cache_that_was_turned_off_comes_back_when_requests_repeat_again():
    house, chance = House(), random.Random(1)
    model = house.model("m")
    for turn in range(6):
        await house.ask(model, range(turn * 1500, turn * 1500 + 1500))
        await house.control.tick()
    assert house.report("m").state == "off"
    runs = house.runs
    await house.ask(model, [7] * 10)
    assert house.runs == runs + 10  # nothing is looked up
    for _ in range(30):
        await house.ask(model, [chance.randrange(400) for _ in range(3000)])
        await house.control.tick()
        if house.report("m").state == "on":
            break
    assert house.report("m").state == "on"
    for _ in range(3):
        await house.ask(model, [chance.randrange(400) for _ in range(1500)])
        await house.control.tick()
    runs = house.runs
    await house.ask(model, list(range(100)))
    assert house.runs < runs + 20


async def test_cheap_models_and_dear_memory_are_worth_no_cache():
    house, chance = House(price=1.0), random.Random(1)
    model = house.model("m", run_s=1e-6)
    for _ in range(6):
        await house.ask(model, [chance.randrange(100) for _ in range(500)])
        await house.control.tick()
    found = house.report("m")
    assert (found.state, found.best_size, found.used) == ("off", 0, 0)
    assert "cost" in found.why


async def test_all_parts_together_never_exceed_the_whole():
    house, chance = House(size=200_000), random.Random(2)
    models = [house.model(f"m{number}") for number in range(5)]
    for turn in range(8):
        if turn == 4:
            models[0] = house.model("m0", fingerprint="g")  # loaded again
            models.append(house.model("late"))
        for number, model in enumerate(models):
            await house.ask(model, [chance.randrange(50 * (number + 1)) for _ in range(400)])
            assert house.cache.used() <= 200_000
            assert sum(meter.size for meter in house.caching.meters.values()) <= 200_000
        await house.control.tick()
    await models[0].close()
    assert len(house.control.reports()) == 5


async def test_a_fixed_cache_is_only_advised():
    house = House(price=None)
    control = house.control
    model = house.model("m")
    for turn in range(6):
        await house.ask(model, range(turn * 500, turn * 500 + 500))
        await control.tick()
    (found,) = control.reports("m")
    assert (found.state, found.chosen, found.size, found.best_size) == ("on", False, 1 << 20, 0)
    assert found.why == "no size saves more than it costs"
    assert control.reports("other") == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "needs a size"),
        ({"size": "1m", "max": "2m"}, "size=auto"),
        ({"size": "auto", "max": "0"}, "positive"),
        ({"size": "auto", "memory_price": "dear"}, "memory_price"),
        ({"size": "1m", "policy": "mru"}, "lru, fifo, sieve, s3fifo, gdsf"),
        ({"size": "1m", "admission": "some"}, "tinylfu"),
        ({"size": "1m", "ttl_seconds": "-1"}, "ttl_seconds"),
        ({"size": "100"}, "no answer"),
        ({"size": "1m", "colour": "red"}, "no setting"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, text):
    with pytest.raises(InvalidInput) as error:
        local(options)
    assert text in f"{error.value} {error.value.fix}"


async def test_values_expire():
    now = [0.0]
    cache = LocalCache(1 << 16, LocalSettings(ttl=5.0), lambda: now[0])
    await cache.insert(bytes(32), b"x")
    now[0] = 4.9
    assert cache.find(bytes(32)) == b"x"
    now[0] = 5.0
    assert cache.find(bytes(32)) is None
    assert cache.find_stale(bytes(32), 5.0) == b"x"
    assert cache.find_stale(bytes(32), 4.9) is None
    assert cache.find_stale(bytes(31) + b"x", 9.0) is None
    cache.keep(bytes(32), b"y")
    assert cache.find(bytes(32)) == b"y"
    assert (
        local({"size": "auto", "ttl_seconds": "60", "policy": "sieve", "admission": "tinylfu"}).settings.ttl
        == 60
    )
