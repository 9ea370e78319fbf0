"""How many replicas a model has: what is decided, and what is done about it."""

import itertools
import logging
import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.features.cluster.autoscaling import Autoscaler
from salver.features.cluster.scaling import FULL, PERIOD_S, SPARE, Demand, Scaler, demand
from salver.words.artifacts import Instances, ModelConfig
from salver.words.errors import LoadFailed
from salver.words.messages import Insight, ModelId

LIMITS = Instances(count=1, max_count=8, scale_down_s=30)


@pytest.mark.parametrize(
    ("insight", "queued", "largest", "promise_s", "expected"),
    [
        (Insight(), 5, 64, 0.0, Demand(0.0, 0.0)),  # nothing has been measured
        (Insight(load=0.5, t0=0.1), 3, 1, 0.0, Demand(1.0, 0.3)),
        (Insight(load=0.5, t0=0.04, a=0.01), 0, 16, 0.0, Demand(1.0, 0.0)),
        # 160 rows a second in batches of 6, which take 0.1 s, and not of 16
        (Insight(load=1.0, t0=0.04, a=0.01), 6, 16, 0.2, Demand(160 / 6 * 0.1, 0.1)),
        (Insight(load=1.0, t0=0.04, a=0.01), 0, 16, 9.0, Demand(2.0, 0.0)),  # the largest are in time
        (Insight(load=1.0, t0=0.04, a=0.01), 0, 16, 0.05, Demand(2.0, 0.0)),  # none is
    ],
)
def test_demand(insight: Insight, queued: int, largest: int, promise_s: float, expected: Demand) -> None:
    assert demand(insight, 2, queued, largest, promise_s) == pytest.approx(expected)


@given(
    low=st.floats(0.0, 7.0),
    high=st.floats(0.0, 7.0),
    noise=st.lists(st.floats(-0.1, 0.1), min_size=200, max_size=200),
)
def test_a_step_of_load_goes_up_once_and_down_once(low: float, high: float, noise: list[float]) -> None:
    low, high = min(low, high), max(low, high)
    scaler, counts = Scaler(1, 0.0), []
    for second, each in enumerate(noise):
        level = low
        if 50 <= second < 100:
            level = high
        counts.append(scaler.decide(Demand(level * (1 + each), 0.0), LIMITS, second))
    for first, last in ((0, 50), (50, 100)):
        assert counts[first:last] == sorted(counts[first:last])
    assert counts[100:] == sorted(counts[100:], reverse=True)
    assert counts[130] <= counts[99] == counts[100]  # a window later at the earliest
    assert counts[50] >= (high > counts[49]) * high * 0.9 / FULL  # at once
    assert max(1, math.floor(0.95 * low / FULL)) <= counts[-1] <= max(1, math.ceil(1.05 * low / SPARE))


@given(st.floats(0.0, 4.0), st.floats(0.0, 4.0))
def test_what_waits_is_worked_off_within_a_period(work: float, backlog_s: float) -> None:
    count = Scaler(1, 0.0).decide(Demand(work, backlog_s), LIMITS, 1.0)
    assert count * PERIOD_S >= work * PERIOD_S + backlog_s - 1e-6


def test_the_queue_of_a_step_goes_away() -> None:
    """Replicas take three periods to load; what came meanwhile is worked off, and none is added later."""
    limits = Instances(count=1, max_count=4, scale_down_s=30)
    scaler, counts, backlog, alive, wanted = Scaler(1, 0.0), [], 0.0, 1, [1, 1, 1]
    for second in range(120):
        work = 3.1 if 5 <= second < 60 else 0.1
        backlog = max(0.0, backlog + work - alive)
        counts.append(scaler.decide(Demand(work, backlog), limits, second))
        wanted.append(counts[-1])
        alive = min(counts[-1], wanted.pop(0))
        assert second < 20 or not backlog
    assert [count for count, _ in itertools.groupby(counts)] == [1, 4, 3, 2, 1]


@pytest.mark.parametrize(
    ("limits", "work", "expected"),
    [
        (Instances(max_count=3), 9.0, 3),
        (Instances(count=2, max_count=3), 0.0, 2),
        (Instances(count=3, max_count=2), 9.0, 3),
        (Instances(), 9.0, 1),
        (Instances(max_count=3, scale_down_s=0), 0.5, 1),
    ],
)
def test_bounds(limits: Instances, work: float, expected: int) -> None:
    assert Scaler(1, 0.0).decide(Demand(work, 0.0), limits, 1.0) == expected


class Model:
    """A loaded version with a demand, on a cluster with room for some replicas."""

    def __init__(self, room: int) -> None:
        id = ModelId("m", "1")
        instances = Instances(count=1, max_count=4, scale_down_s=0)
        self.manifest = SimpleNamespace(id=id, config=ModelConfig(instances=instances))
        self.signature = SimpleNamespace(batched=False)
        self.placement = SimpleNamespace(slots=1)
        self.can_resize, self.error = True, ""
        self.engines = [self]
        self.queued, self.work, self.now, self.room = 0, 0.0, 0.0, room
        self.runner = SimpleNamespace(id=id, router=SimpleNamespace(note=""), wanted=0, slots=1, nodes=["n"])
        terms = SimpleNamespace(wish_of=lambda manifest: manifest.config.instances)
        models = SimpleNamespace(servables=lambda: [self])
        kernel: Any = SimpleNamespace(terms=terms, models=models, clock=lambda: self.now)
        self.scaler = Autoscaler(kernel, lambda: {id: self.runner}, self._room)  # type: ignore[arg-type, return-value]

    def insight(self) -> Insight:
        return Insight(load=self.work / self.placement.slots, t0=0.1)

    async def resize(self, slots: int) -> None:
        if self.error:
            raise LoadFailed(self.error)
        self.placement.slots = slots

    async def _room(self, id: ModelId, more: int) -> tuple[int, str]:
        left = max(0, self.room - self.placement.slots)
        return min(more, left), "" if more <= left else "no node has room"

    async def passes(self, seconds: int = 1) -> int:
        for _ in range(seconds):
            self.now += PERIOD_S
            await self.scaler.tick()
            await self.scaler._tasks.join()
        return self.placement.slots


async def test_replicas_follow_the_demand() -> None:
    model = Model(room=9)
    assert await model.passes() == 1
    model.work = 3.0
    assert await model.passes() == 4
    model.work = 0.0
    assert await model.passes(30) == 1 and not model.runner.router.note
    model.can_resize, model.work = False, 3.0
    assert await model.passes() == 1


async def test_what_fits_is_started_and_what_lacks_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    model = Model(room=2)
    model.work = 3.0
    with caplog.at_level(logging.WARNING):
        assert await model.passes(25) == 2
    assert model.runner.router.note == "4 replicas are wanted: no node has room"
    assert [each.message for each in caplog.records] == ["[m:1] 4 replicas are wanted: no node has room"]
    model.room = 9
    assert await model.passes(11) == 4
    model.work = 0.0
    assert await model.passes(30) == 1 and not model.runner.router.note


async def test_a_failed_start_is_tried_again_later() -> None:
    model = Model(room=9)
    model.error, model.work = "it broke", 3.0
    assert await model.passes() == 1 and model.runner.router.note.endswith("it broke")
    model.error = ""
    assert await model.passes() == 1
    assert await model.passes(10) == 4
    (wanted, alive) = model.scaler.collect()
    assert (wanted.samples[0].value, alive.samples[0].value) == (4, 1)
    await model.scaler.close()
