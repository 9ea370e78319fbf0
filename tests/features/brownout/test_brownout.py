"""Levels of the brown-out, and what they switch."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.features import BrownoutConfig
from salver.features.brownout.building import BrownoutSwitch
from salver.features.brownout.levels import Brownout, strain
from salver.words.artifacts import Batching, ModelConfig, Objective
from salver.words.errors import InvalidInput
from salver.words.messages import Insight

PLAIN = ModelConfig(batching=Batching(max_queue=100, max_rows=10))
PROMISE = ModelConfig(batching=Batching(max_queue=100, max_rows=10), objective=Objective(latency_p99_ms=100))
#: A full run takes 40 ms; a row alone 13 ms, which leaves 87 of the objective.
LAW = {"a": 0.003, "t0": 0.01}


@pytest.mark.parametrize(
    ("config", "queued", "slots", "insight", "found"),
    [
        (PLAIN, 0, 1, Insight(), 0),
        (PLAIN, 50, 1, Insight(**LAW), 0.5),
        (PLAIN, 50, 1, Insight(limit=60), 50 / 60),
        (PLAIN, 0, 1, Insight(load=0.9), 0.9),
        (PROMISE, 20, 1, Insight(), 0.2),  # nothing is measured yet
        (PROMISE, 20, 1, Insight(**LAW), 0.08 / 0.087),
        (PROMISE, 20, 2, Insight(**LAW), 0.04 / 0.087),
        (PROMISE, 20, 0, Insight(a=0.2), 0.2),  # a row alone takes longer than the objective allows
    ],
)
def test_strain(config: ModelConfig, queued: int, slots: int, insight: Insight, found: float) -> None:
    assert strain(config, queued, slots, insight) == pytest.approx(found)


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0.01, 20)), max_size=60))
def test_one_step_at_a_time_and_never_too_early(events: list[tuple[float, float]]) -> None:
    config = BrownoutConfig(("a", "b", "c"), raise_s=2, lower_s=9)
    brownout, now, changed = Brownout(config, 3), 0.0, 0.0
    for strained, pause in events:
        now += pause
        before = brownout.level
        level = brownout.observe(strained, now)
        assert 0 <= level <= 3
        if level > before:
            assert level == before + 1 and brownout.strain >= config.enter
        if level < before:
            assert level == before - 1 and brownout.strain <= config.leave and now - changed >= 9
        if level != before:
            changed = now


def test_between_the_thresholds_it_stays() -> None:
    brownout = Brownout(BrownoutConfig(("a",)), 1)
    assert [brownout.observe(1.0, now / 4) for now in range(20)][-1] == 1
    assert {brownout.observe(0.6, now) for now in range(5, 500)} == {1}
    assert brownout.observe(0.1, 500) == 1  # the calm has only begun
    assert brownout.observe(0.1, 531) == 0


class Server:
    """Kernel with one model, and two features that may go without something."""

    def __init__(self) -> None:
        self.now, self.queued = 0.0, 0
        self.switched: list[tuple[str, bool]] = []
        self.clock = lambda: self.now
        self.parts = [
            SimpleNamespace(optional={name: lambda is_on, name=name: self.switched.append((name, is_on))})
            for name in ("shadows", "traces")
        ]
        placement = SimpleNamespace(slots=1)
        self.models = SimpleNamespace(
            servables=lambda: [SimpleNamespace(manifest=self, placement=placement, engines=[self])]
        )
        self.config = PLAIN

    def insight(self) -> Insight:
        return Insight()

    async def run(self, switch: BrownoutSwitch, queued: int, seconds: int) -> None:
        self.queued = queued
        for _ in range(4 * seconds):
            self.now += 0.25
            await switch.tick()


async def test_the_work_named_first_goes_first_and_comes_back_last() -> None:
    server: Any = Server()
    switch = BrownoutSwitch(server, BrownoutConfig(("traces", "shadows"), lower_s=5))
    await switch.prepare()
    await server.run(switch, 100, 10)
    assert server.switched == [("traces", False), ("shadows", False)]
    assert [family.samples[0].value for family in switch.collect()] == [2]
    await server.run(switch, 0, 30)
    assert server.switched[2:] == [("shadows", True), ("traces", True)]
    assert [family.samples[0].value for family in switch.collect()] == [0]


async def test_unknown_work_is_refused_at_the_start() -> None:
    switch = BrownoutSwitch(Server(), BrownoutConfig(("shadow",)))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="nothing here is called 'shadow'") as error:
        await switch.prepare()
    assert error.value.fix == "This server may go without: shadows, traces."


@pytest.mark.parametrize(
    "wrong",
    [{"enter": 0.5}, {"leave": -1}, {"raise_s": -1}, {"lower_s": float("nan")}, {"off": ("a", "a")}],
)
def test_settings_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        BrownoutConfig(**wrong)
