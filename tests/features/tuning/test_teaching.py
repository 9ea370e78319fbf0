"""A rule gets its table once the law is known, another when the law moves, and lessons from live runs."""

import asyncio

import numpy as np
import pytest

from salver.features.tuning.online_training import TableProcess, TableRequest, TableTrainer, TableUpdater
from salver.features.tuning.simulator import poisson, simulate
from salver.kernel.engine.learned import LearnedRule
from salver.stats import batch_table
from salver.stats.batch_law import BatchLaw, LiveLaw
from salver.words.artifacts import Batching, LearnedPolicy
from salver.words.errors import InvalidInput

LAW = BatchLaw(a=0.3051e-3, t0=1.0524e-3)
PRICED = LearnedPolicy(energy_weight=1.0, joules_per_row=19.899e-3, joules_per_run=19.603e-3)
EXACT = Batching(max_rows=8, learned=PRICED)
TRAINED = Batching(
    max_rows=8, learned=LearnedPolicy("trained", 1.0, 1.0, joules_per_row=19.899e-3, joules_per_run=19.603e-3)
)


class Here:
    """Thinks at once, and remembers what it was asked."""

    def __init__(self) -> None:
        self.pupil = TableTrainer()
        self.lessons: list[TableRequest] = []
        self.is_closed = False

    async def ask(self, lesson):
        self.lessons.append(lesson)
        return self.pupil.learn(lesson)

    async def close(self):
        self.is_closed = True


def seen_law(law: BatchLaw, runs: int = 200) -> LiveLaw:
    live = LiveLaw()
    for run in range(runs):
        rows = 1 << run % 4
        live.observe(rows, law.seconds(rows))
    return live


async def test_no_table_is_asked_for_until_the_law_is_worth_one():
    rule, thinking = LearnedRule(None, EXACT), Here()
    teacher = TableUpdater(rule, LiveLaw(), EXACT, thinking)
    assert not await teacher.tick()
    assert rule.mode == "greedy"
    assert thinking.lessons == []


async def test_a_law_that_was_measured_when_the_model_loaded_is_worth_a_table_at_once():
    rule, thinking = LearnedRule(None, EXACT), Here()
    assert await TableUpdater(rule, LiveLaw(LAW), EXACT, thinking).tick()
    assert rule.mode == "learned"
    assert thinking.is_closed  # until there is another law


async def test_a_process_that_goes_on_learning_stays():
    thinking = Here()
    assert await TableUpdater(LearnedRule(None, TRAINED), LiveLaw(LAW), TRAINED, thinking).tick()
    assert not thinking.is_closed


async def test_a_table_of_yesterday_is_not_given_up_for_a_few_runs():
    """Whose sizes say too little of a law."""
    kept = TableTrainer().learn(TableRequest(EXACT, LAW))
    live, thinking = LiveLaw(LAW), Here()
    teacher = TableUpdater(LearnedRule(None, EXACT), live, EXACT, thinking, kept)
    for _ in range(10):
        live.observe(1, 3 * LAW.seconds(1))
    assert not await teacher.tick()
    assert thinking.lessons == []


async def test_a_table_comes_once_is_saved_and_serves_the_next_day():
    saved: list[bytes] = []
    rule, thinking = LearnedRule(None, EXACT), Here()
    teacher = TableUpdater(rule, seen_law(LAW), EXACT, thinking, save=saved.append)
    assert await teacher.tick()
    assert rule.mode == "learned"
    assert not await teacher.tick()  # nothing has changed since
    tomorrow, idle = LearnedRule(None, EXACT), Here()
    kept = batch_table.from_bytes(saved[0])
    assert not await TableUpdater(tomorrow, LiveLaw(), EXACT, idle, kept).tick()
    assert (tomorrow.mode, idle.lessons) == ("learned", [])
    other = Batching(max_rows=8, learned=LearnedPolicy(energy_weight=2.0, joules_per_row=0.1))
    dearer = LearnedRule(None, other)
    TableUpdater(dearer, LiveLaw(), other, idle, kept)
    assert dearer.mode == "greedy"  # made for another price


async def test_a_law_that_moved_gets_another_table():
    live = seen_law(LAW)
    rule, thinking = LearnedRule(None, EXACT), Here()
    teacher = TableUpdater(rule, live, EXACT, thinking)
    await teacher.tick()
    for _ in range(60):
        for rows in (1, 2, 4, 8):
            for _ in range(16):
                live.observe(rows, LAW.scaled(2).seconds(rows))
        live.law()
    assert await teacher.tick()
    assert thinking.lessons[1].law.seconds(8) == pytest.approx(LAW.scaled(2).seconds(8), rel=0.05)


async def test_a_trained_table_is_refined_by_live_runs():
    rng = np.random.default_rng(1)
    rule, thinking = LearnedRule(None, TRAINED), Here()
    teacher = TableUpdater(rule, seen_law(LAW), TRAINED, thinking)
    assert await teacher.tick()
    times = poisson(0.4 * LAW.rate(8), 3_000, rng).tolist()
    simulate(TRAINED, times, LAW.seconds, rule=rule)
    assert await teacher.tick()
    assert len(thinking.lessons[1].transitions) >= 500
    assert rule.mode == "learned"


async def test_a_process_thinks_and_says_why_it_cannot():
    thinking = TableProcess()
    try:
        table = await thinking.ask(TableRequest(EXACT, LAW))
        assert table == TableTrainer().learn(TableRequest(EXACT, LAW))
        with pytest.raises(InvalidInput, match="no time"):
            await thinking.ask(TableRequest(EXACT, BatchLaw(0.0, 0.0)))
        process = thinking._process
        process.kill()
        await process.wait()
        assert (
            await thinking.ask(TableRequest(EXACT, LAW))
        ).largest == table.largest  # a new one was started
    finally:
        await thinking.close()
    assert thinking._process is None


async def test_the_watch_outlives_failures_and_ends_when_told():
    class Failing(Here):
        async def ask(self, lesson):
            self.lessons.append(lesson)
            raise ConnectionResetError if len(self.lessons) == 1 else InvalidInput("no table for this law")

    naps = 0

    async def nap(seconds: float) -> None:
        nonlocal naps
        naps += 1
        await asyncio.sleep(0)

    thinking = Failing()
    teacher = TableUpdater(LearnedRule(None, EXACT), seen_law(LAW), EXACT, thinking)
    teacher.start(nap)
    while len(thinking.lessons) < 3:
        await asyncio.sleep(0)
    await teacher.close()
    after = naps
    await asyncio.sleep(0)
    assert (naps, thinking.is_closed) == (after, True)
