"""The rule that looks batches up: what it does with a table, when it mistrusts it, and what it costs."""

import asyncio
import functools
import math
from collections.abc import Mapping

import msgspec
import numpy as np
import pytest
from clairvoyant import Clairvoyant, Line
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.backends.protocol import Traits
from salver.features.tuning.mdp import Chain, Problem, Traffic
from salver.features.tuning.qlearning import Agent
from salver.features.tuning.simulator import SimulationResult, gamma, poisson, simulate
from salver.features.tuning.simulator import Traffic as Requests
from salver.features.tuning.training import Learner, solved_table
from salver.kernel.engine.batcher import Batcher
from salver.kernel.engine.engine import Engine
from salver.kernel.engine.learned import Guard, LearnedRule, TrainingRule
from salver.kernel.engine.meter import ArrivalMeter, DecisionMeter
from salver.kernel.engine.rules import Choice
from salver.kernel.engine.schedule import PriorKnowledge
from salver.kernel.engine.thread import ThreadRunner
from salver.kernel.engine.waiting import QueuedRequest
from salver.stats.batch_law import BatchLaw
from salver.stats.batch_price import Price
from salver.stats.batch_table import Table, Transition
from salver.words.artifacts import Batching, LearnedPolicy, ModelConfig
from salver.words.messages import InferRequest, ModelId, Signature, TensorSpec
from salver.words.tensor import Array, DataType, tensor

LAW = BatchLaw(a=0.3051e-3, t0=1.0524e-3)
PRICE = Price(1.0, 1.0, 19.899e-3, 19.603e-3)
LARGEST = 32
FULL_RATE = LAW.rate(LARGEST)
POLICY = Batching(max_rows=LARGEST, max_queue=1 << 30)
TABLE = solved_table(LAW, PRICE, LARGEST)
#: Below 150 rows/s nobody waits, around 200 for two, around 400 for three.
SMALL = Table(
    LAW, PRICE, 4, (200.0, 400.0), ((0, 0, 2, 3, 4), (0, 0, 0, 3, 4)), (1.0, 1.0), (1.0, 1.0), (1.0, 1.0),
    "exact",
)  # fmt: skip


def line(count: int, arrived: float = 0.0, rows: int = 1) -> Line:
    return Line([QueuedRequest(None, rows, None, arrived) for _ in range(count)])


def fed(rule: LearnedRule, rate: float, count: int = 200, start: float = 0.0, rows: int = 1) -> float:
    """Tell a rule of evenly spaced arrivals; the time of the last."""
    for n in range(count):
        rule.arrived(rows, start + n * rows / rate)
    return start + (count - 1) * rows / rate


# -- look-up ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "rows"),
    [
        (50, [1, 2, 3, 4, 5, 8]),  # slower than the table knows: nobody waits
        (180, [0, 2, 3, 4, 5, 8]),
        (290, [0, 2, 3, 4, 5, 8]),
        (310, [0, 0, 3, 4, 5, 8]),
        (9000, [0, 0, 3, 4, 5, 8]),  # faster than it knows: its fastest
    ],
)
def test_rows_are_looked_up_by_queue_and_rate(rate: float, rows: list[int]) -> None:
    rule = LearnedRule(SMALL, Batching(max_rows=8))
    fed(rule, rate)
    assert rule.rate == pytest.approx(rate)
    assert [rule.rows_for(n) for n in (1, 2, 3, 4, 5, 20)] == rows


def test_without_a_table_it_drains_until_there_is_one() -> None:
    rule = LearnedRule(None, Batching(max_rows=8))
    now = fed(rule, 400)
    assert (rule.mode, rule.why) == ("greedy", "there is no table yet")
    assert rule.due(line(1, now), now) == now
    assert rule.choose(line(1, now), now) == Choice(1, "drain")
    rule.ran(1, 0.01, now + 0.01)
    rule.adopt(SMALL)
    assert (rule.mode, rule.rows_for(1)) == ("learned", 0)


def test_several_slots_share_the_arrivals() -> None:
    rule = LearnedRule(SMALL, Batching(max_rows=8), slots=2)
    fed(rule, 700)
    assert rule.rate == pytest.approx(350)
    assert rule.rows_for(2) == 0
    rule.ran(2, LAW.seconds(2), 1.0)
    assert not rule.transitions  # they are of one instance's decisions only


def test_rows_count_and_not_requests() -> None:
    rule = LearnedRule(SMALL, Batching(max_rows=8))
    now = fed(rule, 400, rows=4)
    assert rule.rate == pytest.approx(400)
    assert rule.choose(line(1, now, rows=3), now) == Choice(3, "learned")


def test_until_the_rate_is_known_nobody_waits() -> None:
    rule = LearnedRule(SMALL, Batching())
    for n in range(10):
        assert rule.due(line(1), n / 200) == n / 200
        rule.arrived(1, n / 200)


def test_a_wait_ends_with_the_next_arrival_or_the_bound() -> None:
    rule = LearnedRule(SMALL, Batching(learned=LearnedPolicy(max_wait_ms=20.0)))
    now = fed(rule, 200)
    assert rule.due(line(1, now), now) == pytest.approx(now + 0.020)
    assert rule.choose(line(1, now), now) == Choice(0, "learned")
    assert rule.due(line(2, now), now + 0.01) == now + 0.01
    assert rule.choose(line(1, now), now + 0.021) == Choice(1, "time")


def test_the_usual_bound_is_four_full_runs() -> None:
    rule = LearnedRule(SMALL, Batching())
    now = fed(rule, 200)
    assert rule.due(line(1, now), now) == pytest.approx(now + 4 * LAW.seconds(4))


def test_nobody_waits_past_a_deadline_or_target() -> None:
    rule = LearnedRule(SMALL, Batching(learned=LearnedPolicy(max_wait_ms=1000.0)))
    now = fed(rule, 200)
    with_deadline = Line([QueuedRequest(None, 1, None, now, now + 0.05)])
    assert rule.due(with_deadline, now) == pytest.approx(now + 0.05 - LAW.seconds(1))
    assert rule.choose(with_deadline, now + 0.05 - LAW.seconds(1) + 1e-6).rows == 1
    with_deadline.waiting[0].target = now + 0.03
    assert rule.due(with_deadline, now) == pytest.approx(now + 0.03 - LAW.seconds(1))


# -- in the simulator, with the real batcher ---------------------------------------------------------


def cost(done: SimulationResult, span: float, price: Price = PRICE) -> float:
    joules = sum(price.joules(int(rows)) for rows in done.rows)
    return price.of(float(done.latencies.mean()), joules / span)


@pytest.mark.parametrize("load", [0.3, 0.5, 0.7])
def test_the_rule_costs_what_the_table_says(load: float) -> None:
    rng = np.random.default_rng(1)
    times = np.sort(rng.uniform(0, 30_000 / (load * FULL_RATE), 30_000))
    rule = LearnedRule(TABLE, POLICY)
    done = simulate(POLICY, times.tolist(), LAW.seconds, rule=rule)
    expected = TABLE.costs[TABLE.rates.index(pytest.approx(load * FULL_RATE))]
    assert cost(done, times[-1]) == pytest.approx(expected, rel=0.02)
    assert (rule.mode, rule.why) == ("learned", "")
    assert cost(simulate(POLICY, times.tolist(), LAW.seconds), times[-1]) > 1.02 * expected


@functools.cache
def taught(weight: float) -> Table:
    """A table that was learned in the simulator, from transitions alone."""
    rng = np.random.default_rng(11)
    price = msgspec.structs.replace(PRICE, energy_weight=weight)
    learner = Learner(LAW, price, LARGEST, rng, loads=(0.3, 0.5, 0.7))

    def play(agent: Agent, rate: float) -> None:
        simulate(POLICY, poisson(rate, 6_000, rng).tolist(), LAW.seconds, rule=TrainingRule(agent))

    learner.train(play, rounds=4)
    return learner.table()


@pytest.mark.parametrize("weight", [0.2, 1.0])
@pytest.mark.parametrize(("before", "after"), [(0.3, 0.7), (0.7, 0.3)])
def test_across_a_load_step_the_rule_stays_within_two_per_cent_of_clairvoyance(
    weight: float, before: float, after: float
) -> None:
    price = msgspec.structs.replace(PRICE, energy_weight=weight)
    best = [
        Chain(Problem(LAW, price, Traffic((load * FULL_RATE,)), LARGEST)).solve()[0][0].tolist()
        for load in (before, after)
    ]
    rng = np.random.default_rng(2)
    first = poisson(before * FULL_RATE, 3_000, rng)
    times = np.concatenate([first, first[-1] + poisson(after * FULL_RATE, 6_000, rng)])
    rule = LearnedRule(taught(weight), POLICY)
    costs = []
    for each in (rule, Clairvoyant(best, float(first[-1]))):
        done = simulate(POLICY, times.tolist(), LAW.seconds, rule=each)
        # The clairvoyant leaves the last few waiting for one more: NaN.
        halves = [np.nanmean(done.by_request[: len(first)]), np.nanmean(done.by_request[len(first) :])]
        joules = sum(price.joules(int(rows)) for rows in done.rows)
        costs.append(price.of(float(np.mean(halves)), joules / times[-1]))
    assert costs[0] <= 1.02 * costs[1]
    assert rule.mode == "learned"


@settings(max_examples=40)
@given(
    gaps=st.lists(st.floats(0, 0.05), min_size=1, max_size=80),
    rows=st.lists(st.integers(1, 6), min_size=80, max_size=80),
    slots=st.integers(1, 3),
    wait=st.floats(0.1, 50),
)
def test_everybody_is_served_and_nobody_waits_beyond_the_bound(
    gaps: list[float], rows: list[int], slots: int, wait: float
) -> None:
    policy = Batching(max_rows=8, learned=LearnedPolicy(max_wait_ms=wait))
    rule = LearnedRule(SMALL, policy, slots)
    traffic = Requests(rows=rows[: len(gaps)])
    done = simulate(policy, np.cumsum(gaps), lambda b: 0.0, slots=slots, rule=rule, traffic=traffic)
    assert len(done.waits) == len(gaps)
    assert done.waits.max() <= wait / 1e3 + 1e-9


def test_two_slots_serve_everybody() -> None:
    times = poisson(0.5 * 2 * FULL_RATE, 5_000, np.random.default_rng(3))
    rule = LearnedRule(TABLE, POLICY, slots=2)
    done = simulate(POLICY, times.tolist(), LAW.seconds, slots=2, rule=rule)
    assert len(done.latencies) == 5_000
    assert rule.mode == "learned"


class Echo:
    """Gives back its rows."""

    signature = Signature(
        (TensorSpec("x", DataType.FP32, (-1, 1)),), (TensorSpec("y", DataType.FP32, (-1, 1)),), batched=True
    )

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        return {"y": inputs["x"]}

    def close(self) -> None:
        """Nothing to give back."""


async def test_in_the_engine_one_waits_for_the_second_or_the_bound() -> None:
    policy = Batching(policy="learned", max_rows=8, learned=LearnedPolicy(max_wait_ms=40.0))
    clock = asyncio.get_running_loop().time
    rule = LearnedRule(SMALL, policy)
    fed(rule, 200, start=clock() - 1.0)
    runner = ThreadRunner([Echo()], Traits(native=False), slots=1, name="m")
    engine = Engine(
        ModelId("m", "1"),
        runner,
        ModelConfig(batching=policy),
        clock=clock,
        emit=lambda _: None,
        known=PriorKnowledge(rule=rule),
    )
    request = InferRequest("m", (tensor("x", np.zeros((1, 1), "f4")),))
    try:
        lone = await engine.infer(request)
        assert (lone.timing.batch_rows, lone.timing.reason) == (1, "time")
        assert lone.timing.formation >= 0.039  # it waited, by itself, for company
        first, second = await asyncio.gather(engine.infer(request), engine.infer(request))
        assert (first.timing.batch_rows, second.timing.reason) == (2, "learned")
    finally:
        await engine.close()


# -- the guard -------------------------------------------------------------------------------------


def drifted(factor: float, count: int = 4_000) -> LearnedRule:
    rule = LearnedRule(TABLE, POLICY)
    times = poisson(0.3 * FULL_RATE, count, np.random.default_rng(4))
    simulate(POLICY, times.tolist(), LAW.scaled(factor).seconds, rule=rule)
    return rule


def test_a_slower_machine_makes_it_drain() -> None:
    rule = drifted(1.5)
    assert rule.mode == "greedy"
    assert "slower than the table's law" in rule.why
    assert "greedy" in repr(rule)
    assert rule.rows_for(1) == 1


def test_a_quicker_machine_makes_it_drain_too() -> None:
    assert "faster than the table's law" in drifted(0.6).why


def test_a_small_drift_is_no_reason() -> None:
    assert drifted(1.1).mode == "learned"


@pytest.mark.parametrize("load", [0.05, 0.5, 0.93])
def test_chance_alone_is_no_reason_at_any_load(load: float) -> None:
    table = solved_table(LAW, msgspec.structs.replace(PRICE, energy_weight=0.2), LARGEST)
    rule = LearnedRule(table, POLICY)
    modes = set()
    for part in np.array_split(poisson(load * FULL_RATE, 20_000, np.random.default_rng(10)), 20):
        simulate(POLICY, part.tolist(), LAW.seconds, rule=rule)
        modes.add(rule.mode)
    assert modes == {"learned"}


def test_bursts_that_the_table_does_not_know_make_it_drain() -> None:
    rule = LearnedRule(TABLE, POLICY)
    times = gamma(0.3 * FULL_RATE, 25.0, 10_000, np.random.default_rng(5))
    simulate(POLICY, times.tolist(), LAW.seconds, rule=rule)
    assert "bursty" in rule.why


def test_a_table_that_costs_more_than_it_says_is_left() -> None:
    optimist = msgspec.structs.replace(TABLE, costs=tuple(cost / 2 for cost in TABLE.costs))
    rule = LearnedRule(optimist, POLICY)
    times = poisson(0.5 * FULL_RATE, 3_000, np.random.default_rng(6))
    simulate(POLICY, times.tolist(), LAW.seconds, rule=rule)
    assert "above what the table says" in rule.why


def test_the_table_rules_again_when_the_machine_has_recovered() -> None:
    guard = Guard(TABLE)
    for _ in range(100):
        guard.ran(8, 2 * LAW.seconds(8), 1.0)
    assert guard.why
    returned = next(n for n in range(10_000) if (guard.ran(8, LAW.seconds(8), 1.0), not guard.why)[1])
    assert 100 < returned < 1_000


def test_between_the_bounds_it_stays_what_it_is() -> None:
    guard = Guard(TABLE)
    for _ in range(1_000):
        guard.ran(8, 1.18 * LAW.seconds(8), 1.0)
    assert not guard.why
    for _ in range(1_000):
        guard.ran(8, 1.4 * LAW.seconds(8), 1.0)
    assert guard.why
    for _ in range(2_000):
        guard.ran(8, 1.18 * LAW.seconds(8), 1.0)
    assert guard.why


def test_each_fall_lasts_longer() -> None:
    guard = Guard(TABLE)
    lasted = []
    for _ in range(3):
        while not guard.why:
            guard.ran(8, LAW.seconds(8), 9.0)
        runs = 0
        while guard.why:
            guard.ran(8, LAW.seconds(8), 1.0)
            runs += 1
        lasted.append(runs)
    assert lasted[0] < lasted[1] < lasted[2]


def test_a_new_table_starts_with_trust() -> None:
    rule = drifted(1.5)
    slow = solved_table(LAW.scaled(1.5), PRICE, LARGEST)
    rule.adopt(slow)
    assert rule.mode == "learned"
    times = 1e3 + poisson(0.3 * FULL_RATE, 4_000, np.random.default_rng(7))
    simulate(POLICY, times.tolist(), LAW.scaled(1.5).seconds, rule=rule)
    assert rule.mode == "learned"


def test_live_runs_refine_the_table_until_it_is_best_for_the_machine_of_today() -> None:
    """The whole loop: drift, fall-back, learning from what was seen, return, near the optimum."""
    rng = np.random.default_rng(12)
    slow, rate = LAW.scaled(1.5), 0.3 * FULL_RATE
    learner = Learner(LAW, PRICE, LARGEST, rng, loads=(0.3,), memory=500)

    def play(agent: Agent, rate: float) -> None:
        simulate(POLICY, poisson(rate, 4_000, rng).tolist(), LAW.seconds, rule=TrainingRule(agent))

    learner.train(play, rounds=3)
    rule = LearnedRule(learner.table(), POLICY)
    modes = []
    for day in range(4):
        times = 1e3 * day + poisson(rate, 6_000, rng)
        simulate(POLICY, times.tolist(), slow.seconds, rule=rule)
        modes.append(rule.mode)
        learner.refine(rule.transitions)
        rule.transitions.clear()
        rule.adopt(learner.table(slow))
    assert modes == ["greedy", "learned", "learned", "learned"]
    table = learner.table(slow)
    assert table.costs[0] <= 1.01 * table.best_costs[0]
    assert table.costs[0] < 0.95 * table.greedy_costs[0]


# -- what is measured ------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.5, 200.0, 50_000.0])
def test_the_rate_is_found_within_a_tenth_at_any_scale(rate: float) -> None:
    meter = ArrivalMeter()
    rng = np.random.default_rng(8)
    found = []
    for time in poisson(rate, 4_000, rng):
        meter.arrived(1, float(time))
        found.append(meter.rate)
    assert np.mean(found[200:]) == pytest.approx(rate, rel=0.05)
    assert meter.burstiness == pytest.approx(1.0, abs=0.5)


def test_a_night_without_requests_is_no_new_rate() -> None:
    meter = ArrivalMeter()
    for n in range(300):
        meter.arrived(1, n * 0.01)
    meter.arrived(1, 1e5)
    for n in range(100):
        meter.arrived(1, 1e5 + (n + 1) * 0.01)
    assert meter.rate == pytest.approx(100, rel=0.1)
    assert meter.burstiness < 4


def test_requests_at_one_instant_divide_by_nothing() -> None:
    meter = ArrivalMeter()
    for _ in range(100):
        meter.arrived(1, 5.0)
    assert meter.rate == 0.0


def test_decisions_become_transitions() -> None:
    meter = DecisionMeter()
    assert meter.arrived(1, 0.0, 9.0) is None
    meter.waits(1, 1.0)
    meter.waits(1, 1.5)  # asked again; the decision is the one from before
    assert meter.arrived(2, 2.0, 9.0) == Transition(1, 0, 1.0, 0.0, 2, 9.0)
    meter.runs(3, 2.5)
    meter.arrived(1, 3.0, 9.0)
    meter.arrived(1, 3.25, 9.0)
    assert meter.ran(2, 3.5, 9.0) == Transition(3, 2, 1.0, 0.75, 2, 9.0)
    meter.runs(3, 3.5)
    assert meter.ran(3, 4.0, 9.0) == Transition(3, 3, 0.5, 0.0, 0, 9.0)
    assert meter.arrived(1, 5.0, 9.0) == Transition(0, 0, 1.0, 0.0, 1, 9.0)  # it had become empty


def test_a_night_without_requests_is_no_transition() -> None:
    meter = DecisionMeter()
    meter.waits(0, 1.0)
    assert meter.arrived(1, 3e4, 9.0) is None
    meter.waits(1, 3e4)
    assert meter.arrived(1, 3e4 + 0.5, 9.0) == Transition(1, 0, 0.5, 0.0, 1, 9.0)


def test_runs_of_others_are_no_transitions() -> None:
    meter = DecisionMeter()
    assert meter.ran(1, 1.0, 9.0) is None  # an urgent request's
    meter.waits(1, 1.0)
    assert meter.ran(1, 2.0, 9.0) is None
    assert meter.arrived(1, 3.0, 9.0) is None  # the wait was cut into


def test_the_rule_keeps_its_latest_transitions() -> None:
    rule = LearnedRule(TABLE, POLICY)
    simulate(
        POLICY, poisson(0.5 * FULL_RATE, 40_000, np.random.default_rng(9)).tolist(), LAW.seconds, rule=rule
    )
    assert len(rule.transitions) == 4096
    runs = [seen for seen in rule.transitions if seen.rows]
    assert all(seen.seconds == pytest.approx(LAW.seconds(seen.rows)) for seen in runs)
    arrivals = sum(seen.arrived for seen in rule.transitions)
    assert arrivals / sum(seen.seconds for seen in rule.transitions) == pytest.approx(
        0.5 * FULL_RATE, rel=0.1
    )


class Scripted:
    """Wants what it is told to, whatever waits."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.asked: list[int] = []
        self.seen: list[Transition] = []

    def decide(self, waiting: int) -> int:
        self.asked.append(waiting)
        return 0 if waiting < 2 else self.wanted

    def saw(self, seen: Transition) -> None:
        self.seen.append(seen)


def test_an_apprentice_asks_once_a_decision_and_tells_what_came() -> None:
    decider = Scripted(9)
    done = simulate(POLICY, [0.0, 1.0, 2.0], lambda rows: 4.0, rule=TrainingRule(decider))
    assert decider.asked == [1, 2, 1]
    assert done.rows.tolist() == [2]  # the third waits for a fourth that never comes
    assert decider.seen[:2] == [Transition(1, 0, 1.0, 0.0, 1, 0.0), Transition(2, 2, 4.0, 3.0, 1, 0.0)]


def test_an_empty_choice_is_nothing() -> None:
    batcher = Batcher(POLICY, TrainingRule(Scripted(1)))
    batcher.offer(QueuedRequest(None, 1, None, 0.0))
    assert batcher.due(0.0) == math.inf
    assert batcher.take(0.0).members == []
