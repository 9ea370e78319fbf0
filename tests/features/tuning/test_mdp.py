"""The exact solver against a published table, a second method, closed forms and simulation."""

import math

import msgspec
import numpy as np
import pytest
from exact_batching import drained_queue
from hypothesis import given, settings
from hypothesis import strategies as st
from smdp_table import FULL_RATE, LARGEST, LAW, TABLE, chain, price, problem

from salver.features.tuning.mdp import Chain, Policy, Problem, Traffic, control_limit, greedy, limits
from salver.stats.batch_law import BatchLaw
from salver.stats.batch_price import Price
from salver.words.errors import InvalidInput


def by_value_iteration(chain: Chain) -> tuple[float, int]:
    """Gain and sweeps of relative value iteration after the data transformation: a second method."""
    costs = chain.costs()
    costs[:, ~chain.allowed] = np.inf
    seconds = chain.seconds[:, None, :]
    eta = 0.95 * seconds.min()
    values = np.zeros((chain.regimes, chain.top + 1))
    for sweep in range(1, 5000):
        expected = chain.expected(values)
        step = eta / seconds
        new = (values[:, :, None] + step * (costs + expected - values[:, :, None])).min(axis=2)
        change = new - values
        values = new - new[0, 0]
        if change.max() - change.min() < 1e-7 * abs(change.mean()):
            return float(change.mean()) / eta, sweep
    raise AssertionError("value iteration did not converge")


@pytest.mark.parametrize(("load", "weight", "best", "limit", "drained"), TABLE)
def test_the_known_table(load: float, weight: float, best: float, limit: int | None, drained: float) -> None:
    solver = chain(load, weight)
    policy, value = solver.solve()
    assert value.cost == pytest.approx(best, rel=1e-4)
    assert limit is None or limits(policy) == (limit,)
    assert solver.evaluate(greedy(solver.problem))[0].cost == pytest.approx(drained, rel=1e-4)


@pytest.mark.parametrize(("load", "weight"), [(0.3, 1.0), (0.7, 0.2)])
def test_value_iteration_comes_to_the_same(load: float, weight: float) -> None:
    solver = chain(load, weight)
    assert solver.top <= 200
    gain, sweeps = by_value_iteration(solver)
    assert gain == pytest.approx(solver.solve()[1].cost, rel=1e-6)
    assert sweeps <= 1600


@pytest.mark.parametrize(("load", "weight"), [(0.5, 0.2), (0.7, 1.0)])
def test_a_longer_queue_changes_nothing(load: float, weight: float) -> None:
    short, long = chain(load, weight), chain(load, weight, states=400)
    assert short.solve()[1].cost == pytest.approx(long.solve()[1].cost, rel=1e-9)


def test_the_best_is_a_control_limit_within_a_millionth() -> None:
    solver = chain(0.7, 0.2)
    value = solver.solve()[1]
    limit = solver.evaluate(control_limit(solver.problem, 3))[0]
    assert value.cost <= limit.cost <= value.cost * (1 + 1e-5)


def test_for_long_queues_the_best_batch_is_smaller_than_what_waits() -> None:
    rows = chain(0.3, 0.0).solve()[0][0]
    assert 0 < rows[16] < 16


def test_a_large_energy_price_does_not_stop_the_service() -> None:
    solver = chain(0.5, 1e4)
    policy, value = solver.solve()
    assert limits(policy)[0] <= LARGEST
    assert value.watts < 36.0  # full batches are the cheapest: (19.899 + 19.603 / 32) mJ a row
    assert value.watts == pytest.approx(0.5 * FULL_RATE * (19.899e-3 + 19.603e-3 / 32), rel=0.02)


@pytest.mark.parametrize("load", [0.1, 0.3, 0.5])
def test_draining_without_a_cap_has_the_exact_mean(load: float) -> None:
    rate = load / LAW.a
    uncapped = Problem(LAW, Price(), Traffic((rate,)), 96)
    value = Chain(uncapped).evaluate(greedy(uncapped))[0]
    assert value.latency_s == pytest.approx(drained_queue(LAW.a, LAW.t0, rate)[0], rel=1e-6)


@pytest.mark.parametrize("load", [0.2, 0.8])
def test_one_at_a_time_is_the_pollaczek_khinchine_queue(load: float) -> None:
    price = Price(energy_weight=1.0, joules_per_run=3.0)
    alone = Problem(BatchLaw(a=0.0, t0=1.0), price, Traffic((load,)), 1, 400)
    value = Chain(alone).evaluate(greedy(alone))[0]
    assert value.latency_s == pytest.approx(1 + load / (2 * (1 - load)), rel=1e-6)
    assert value.watts == pytest.approx(3.0 * load, rel=1e-9)
    assert value.cost == pytest.approx(1e3 * value.latency_s + value.watts)


def test_regimes_that_are_alike_are_one() -> None:
    alike = Problem(LAW, price(1.0), Traffic((0.5 * FULL_RATE, 0.5 * FULL_RATE), (5.0, 9.0)), LARGEST)
    assert Chain(alike).solve()[1].cost == pytest.approx(chain(0.5, 1.0).solve()[1].cost, rel=1e-9)


def test_slow_regimes_are_each_a_world_of_their_own() -> None:
    rates = (0.3 * FULL_RATE, 0.7 * FULL_RATE)
    slow = Problem(LAW, price(1.0), Traffic(rates, (0.01, 0.01)), LARGEST)
    latency, watts = 0.0, 0.0
    for rate in rates:
        alone = Problem(LAW, price(1.0), Traffic((rate,)), LARGEST)
        value = Chain(alone).evaluate(greedy(alone))[0]
        latency += value.latency_s * rate / sum(rates)
        watts += value.watts / 2
    value = Chain(slow).evaluate(greedy(slow))[0]
    assert (value.latency_s, value.watts) == pytest.approx((latency, watts), rel=1e-3)


def test_a_policy_that_knows_the_regime_is_better_than_one_that_does_not() -> None:
    bursty = Problem(LAW, price(1.0), Traffic((0.1 * FULL_RATE, 0.9 * FULL_RATE), (20.0, 60.0)), LARGEST)
    solver = Chain(bursty)
    policy, value = solver.solve()
    quiet, busy = limits(policy)
    assert quiet < busy
    ignorant = min(solver.evaluate(control_limit(bursty, n))[0].cost for n in range(1, 20))
    assert value.cost < ignorant


def test_switching_traffic_against_a_simulation() -> None:
    traffic = Traffic((0.2 * FULL_RATE, 0.9 * FULL_RATE), (30.0, 50.0))
    switching = Problem(LAW, price(0.0), traffic, LARGEST)
    policy = greedy(switching)
    rng = np.random.default_rng(1)
    rows, area, clock, regime = 0, 0.0, 0.0, 0
    next_switch = rng.exponential(1 / traffic.leaves[0])
    arrivals = []
    while len(arrivals) < 200_000:
        gap = rng.exponential(1 / traffic.rates[regime])
        if clock + gap > next_switch:
            clock, regime = next_switch, 1 - regime
            next_switch += rng.exponential(1 / traffic.leaves[regime])
            continue
        clock += gap
        arrivals.append(clock)
    times, free, served = np.array(arrivals), 0.0, 0
    while served < len(times):
        start = max(free, times[served])
        rows = min(int(np.searchsorted(times, start, side="right")) - served, LARGEST)
        free = start + LAW.seconds(rows)
        area += float((free - times[served : served + rows]).sum())
        served += rows
    assert Chain(switching).evaluate(policy)[0].latency_s == pytest.approx(area / served, rel=0.03)


def feasible(rng: np.random.Generator, solver: Chain) -> Policy:
    """Any policy that keeps no long queue for ever: random batches, now and then a wait of a short queue.

    (Waits of long queues can part the states into two sets that are left once in 10^12 runs; no
    arithmetic of doubles tells what such a policy costs.)
    """
    largest = solver.problem.largest
    waiting = np.arange(solver.top + 1)
    most = np.minimum(waiting, largest)
    rows = np.maximum(np.maximum(most // 2, waiting >= largest), rng.integers(0, most + 1))
    rows[(rng.random(len(rows)) < 0.3) & (waiting < largest)] = 0
    rows[solver.top - 2 * largest :] = largest
    rows[largest] = largest
    return rows[None, :]


@settings(max_examples=20)
@given(
    t0=st.floats(0.0, 20.0),
    largest=st.integers(1, 12),
    load=st.floats(0.05, 0.9),
    weight=st.floats(0, 5),
    seed=st.integers(0, 9),
)
def test_nothing_beats_the_solution(t0: float, largest: int, load: float, weight: float, seed: int) -> None:
    law = BatchLaw(a=1e-3, t0=t0 * 1e-3)
    rate = load * largest / law.seconds(largest)
    solver = Chain(Problem(law, Price(1.0, weight, 0.01, 0.02), Traffic((rate,)), largest))
    policy, value = solver.solve()
    assert policy[0, largest:].all()
    rivals = [control_limit(solver.problem, n) for n in (1, 2, largest)]
    rivals.append(feasible(np.random.default_rng(seed), solver))
    for rival in rivals:
        assert value.cost <= solver.evaluate(rival)[0].cost * (1 + 1e-7)


@pytest.mark.parametrize("load", [0.3, 0.7, 0.9])
def test_however_dear_energy_is_a_full_queue_is_served_and_no_energy_comes_from_nowhere(load: float) -> None:
    law = BatchLaw(1e-6, 2e-5)
    rate = load * law.rate(8)
    dear = Price(1.0, 1000.0, 1e-5, 2e-4)
    policy, value = Chain(Problem(law, dear, Traffic((rate,)), 8)).solve()
    assert policy[0, 8:].all()
    assert value.watts >= rate / 8 * dear.joules(8) * (1 - 1e-9)


BAD = {
    "no traffic": {"traffic": Traffic((0.0,))},
    "too much": {"traffic": Traffic((1.01 * FULL_RATE,))},
    "no law": {"law": BatchLaw(0.0, 0.0)},
    "nonsense law": {"law": BatchLaw(math.nan, 1.0)},
    "negative price": {"price": Price(-1.0)},
    "endless price": {"price": Price(energy_weight=math.inf)},
    "no batch": {"largest": 0},
    "few states": {"states": 2 * LARGEST},
    "regimes without end": {"traffic": Traffic((1.0, 2.0), (1.0, 0.0))},
    "regimes without rates of leaving": {"traffic": Traffic((1.0, 2.0))},
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD.keys())
def test_problems_without_a_solution_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        Chain(msgspec.structs.replace(problem(0.5, 1.0), **change))
