"""The learner reaches the exact optimum of the known table, taught by the simulator that is the product."""

import math

import msgspec
import numpy as np
import pytest
from smdp_table import FULL_RATE, LARGEST, LAW, TABLE, chain, price
from soaking import one_in

from salver.features.tuning.mdp import Chain, Problem, Traffic, greedy
from salver.features.tuning.qlearning import Agent
from salver.features.tuning.simulator import poisson, simulate
from salver.features.tuning.training import (
    Environment,
    Learner,
    price_of,
    report,
    solved_table,
    table_rows,
)
from salver.kernel.engine.learned import TrainingRule
from salver.stats.batch_law import BatchLaw
from salver.stats.batch_price import Price
from salver.stats.batch_table import Table, Transition, from_bytes, to_bytes
from salver.words.artifacts import Batching, LearnedPolicy
from salver.words.errors import InvalidInput

ENDLESS = Batching(max_rows=LARGEST, max_queue=1 << 30)


def environment(rng: np.random.Generator, law: BatchLaw = LAW, count: int = 10_000) -> Environment:
    """Poisson traffic through the real batcher, driven by the agent."""

    def play(agent: Agent, rate: float) -> None:
        simulate(ENDLESS, poisson(rate, count, rng), law.seconds, rule=TrainingRule(agent))

    return play


@pytest.mark.parametrize(("load", "weight", "best", "limit", "drained"), one_in(4, TABLE))
def test_the_learner_comes_within_one_per_cent_of_the_optimum(
    load: float, weight: float, best: float, limit: int | None, drained: float
) -> None:
    rng = np.random.default_rng(1)
    agent = Agent(price(weight), LARGEST, rng)
    play = environment(rng)
    for _ in range(6):
        play(agent, load * FULL_RATE)
        agent.improve()
    solver = chain(load, weight)
    policy = greedy(solver.problem)
    policy[0, : LARGEST + 1] = agent.policy()
    cost = solver.evaluate(policy)[0].cost  # exact, no noise
    assert best * (1 - 1e-4) <= cost <= 1.01 * best
    if weight == 1.0:
        assert cost < drained * 0.99


@pytest.mark.parametrize("weight", [0.2, 1.0])
def test_what_was_learned_of_single_loads_holds_when_the_load_switches(weight: float) -> None:
    rng = np.random.default_rng(2)
    learner = Learner(LAW, price(weight), LARGEST, rng, loads=(0.3, 0.7))
    learner.train(environment(rng), rounds=4)
    switching = Traffic((0.3 * FULL_RATE, 0.7 * FULL_RATE), (1.0, 1.0))  # a load step a second
    solver = Chain(Problem(LAW, price(weight), switching, LARGEST))
    policy = greedy(solver.problem)
    policy[:, : LARGEST + 1] = learner.table().rows
    assert solver.evaluate(policy)[0].cost <= 1.02 * solver.solve()[1].cost


def test_an_untaught_agent_drains_and_survives_improving() -> None:
    agent = Agent(price(1.0), 4, np.random.default_rng(0), explore=0.0)
    agent.improve()
    assert [agent.decide(n) for n in range(1, 7)] == [1, 2, 3, 4, 4, 4]
    agent.saw(Transition(2, 9, 1.0, 0.0, 1, 1.0))  # a run of more rows than it knows
    agent.saw(Transition(2, 1, 0.0, 0.0, 1, 1.0))
    agent.improve()
    assert agent.policy().tolist() == [0, 1, 2, 3, 4]


def test_an_agent_forgets_what_is_old() -> None:
    agent = Agent(Price(1.0, 1.0, 0.0, 0.01), 2, np.random.default_rng(0), explore=0.0, memory=50)
    for seconds in [1.0] * 400 + [0.001] * 400:  # runs have become much quicker
        for rows in (1, 2):
            agent.saw(Transition(rows, rows, seconds, 0.0, 0, 10.0))
        agent.saw(Transition(0, 0, 0.1, 0.0, 1, 10.0))
        agent.saw(Transition(1, 0, 0.1, 0.0, 1, 10.0))
    agent.improve()
    assert agent.policy().tolist() == [0, 1, 2]
    assert "memory" not in repr(agent)
    assert "transitions" in repr(agent)


def test_equal_seeds_teach_equal_policies() -> None:
    policies = []
    for _ in range(2):
        rng = np.random.default_rng(3)
        agent = Agent(price(1.0), LARGEST, rng)
        environment(rng, count=3_000)(agent, 0.5 * FULL_RATE)
        agent.improve()
        policies.append(agent.policy().tolist())
    assert policies[0] == policies[1]


def test_live_transitions_refine_a_table_when_the_law_becomes_another() -> None:
    """Trained for one law, then fed with runs of another: the table moves to the other's optimum."""
    rng = np.random.default_rng(4)
    cost, rate = price(1.0), 0.3 * FULL_RATE
    first = BatchLaw(a=0.8e-3, t0=0.0)
    learner = Learner(first, cost, LARGEST, rng, loads=(rate / first.rate(LARGEST),), memory=300)
    learner.train(environment(rng, first, 4_000), rounds=2)
    solver = chain(0.3, 1.0)
    best = solver.solve()[1].cost

    def cost_now() -> float:
        policy = greedy(solver.problem)
        policy[0, : LARGEST + 1] = learner.table(LAW).rows[0]
        return solver.evaluate(policy)[0].cost

    live: list[Transition] = []

    class Recorder:
        decide = Agent(cost, LARGEST, rng, explore=0.3).decide

        def saw(self, seen: Transition) -> None:
            live.append(seen)

    simulate(ENDLESS, poisson(rate, 40_000, rng), LAW.seconds, rule=TrainingRule(Recorder()))
    assert cost_now() > 1.015 * best
    assert learner.refine(live) > 1_000
    assert cost_now() < 1.003 * best
    far = [Transition(1, 1, 1.0, 0.0, 1, 100 * rate), Transition(1, 1, 1.0, 0.0, 1, 0.0)]
    assert learner.refine(far) == 0
    with pytest.raises(InvalidInput, match="beyond"):
        learner.table(LAW.scaled(4.0))


# -- tables ----------------------------------------------------------------------------------------


def test_a_solved_table_says_what_it_gains() -> None:
    table = solved_table(LAW, price(1.0), LARGEST, loads=(0.3, 0.5, 0.7))
    assert table.costs == pytest.approx((25.990, 38.860, 51.706), rel=1e-4)
    assert table.greedy_costs == pytest.approx((30.690, 42.528, 52.994), rel=1e-4)
    assert table.limits == (4, 7, 8)
    assert not table.is_greedy
    text = report(table)
    assert "Most is saved at 887.6 rows/s: 15.3% of draining's cost." in text
    assert len(text.splitlines()) == 2 + 3 + 1


def test_with_latency_alone_the_report_says_that_draining_is_best() -> None:
    table = solved_table(LAW, price(0.0), LARGEST)
    assert table.is_greedy
    text = report(table)
    assert "Draining the queue is within 0.011% of the optimum at every load" in text
    assert "latency alone" in text


def test_the_default_price_of_energy_is_that_of_busy_instances() -> None:
    wish = LearnedPolicy(energy_weight=2.0, watts=5.0)
    assert price_of(wish, LAW) == Price(1.0, 2.0, 5 * LAW.a, 5 * LAW.t0)
    measured = LearnedPolicy(energy_weight=2.0, joules_per_run=0.5)
    assert price_of(measured, LAW) == Price(1.0, 2.0, 0.0, 0.5)


def test_tables_are_made_for_the_fastest_batch() -> None:
    assert table_rows(LAW, 32) == 32
    assert table_rows(LAW, 1024) == 64
    assert table_rows(BatchLaw(a=0.001, t0=0.001, kink=16, a_beyond=0.01), 32) == 16
    with pytest.raises(InvalidInput, match="Profile"):
        table_rows(BatchLaw(0.0, 0.0), 32)


TABLE_OF_TWO = Table(
    BatchLaw(0.001, 0.002), Price(), 2, (10.0, 20.0), ((0, 1, 2), (0, 0, 2)), (1.0, 2.0), (1.0, 2.0),
    (1.0, 2.0), "exact",
)  # fmt: skip


def test_a_table_survives_the_disk() -> None:
    table = solved_table(LAW, price(0.2), LARGEST, loads=(0.2, 0.6))
    assert from_bytes(to_bytes(table)) == table
    assert from_bytes(to_bytes(TABLE_OF_TWO)) == TABLE_OF_TWO


BROKEN = {
    "more rows than wait": {"rows": ((0, 2, 2), (0, 0, 2))},
    "a full queue that waits": {"rows": ((0, 1, 0), (0, 0, 2))},
    "a short line": {"rows": ((0, 1), (0, 0, 2))},
    "too few lines": {"rows": ((0, 1, 2),)},
    "rates that fall": {"rates": (20.0, 10.0)},
    "a rate of zero": {"rates": (0.0, 10.0)},
    "no rates": {"rates": (), "rows": (), "costs": (), "greedy_costs": (), "best_costs": ()},
    "a negative cost": {"costs": (-1.0, 2.0)},
    "a law without time": {"law": BatchLaw(0.0, 0.0)},
    "a negative law": {"law": BatchLaw(-1.0, 3.0)},
    "a negative price": {"price": Price(-1.0)},
    "no rows": {"largest": 0},
    "another format": {"format": 2},
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN.keys())
def test_a_table_that_cannot_be_served_by_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        from_bytes(to_bytes(msgspec.structs.replace(TABLE_OF_TWO, **change)))


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff", b"{}", b"[" * 100_000, b" " * (1 << 21), b'{"rates": [NaN]}'],
)
def test_a_file_that_is_no_table_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidInput):
        from_bytes(content)


def test_half_a_table_is_refused() -> None:
    whole = to_bytes(TABLE_OF_TWO)
    for length in range(0, len(whole), 7):
        with pytest.raises(InvalidInput):
            from_bytes(whole[:length])


def test_no_cost_is_infinite_or_missing() -> None:
    table = solved_table(LAW, price(1.0), 4)
    assert all(math.isfinite(c) for c in table.costs + table.greedy_costs + table.best_costs)
    assert all(b <= c <= g for b, c, g in zip(table.best_costs, table.costs, table.greedy_costs, strict=True))
