"""Priorities and several instances, against the exact results of queueing theory.

Cobham's waits of a non-preemptive queue with priorities, the conservation law, and Erlang's M/M/n.
"""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from exact_overload import Floats, poisson_at
from soaking import one_in

from salver.features.tuning.simulator import SimulationResult, Traffic, simulate
from salver.kernel.engine.waiting import BULK, URGENT
from salver.words.artifacts import Batching, ModelConfig, Priorities

ALONE = Batching(enabled=False, max_queue=1 << 30)
COUNT = 200_000


def exponential(count: int, seed: int) -> Callable[[int], float]:
    """Service times of mean 1 exactly; the next at each call."""
    times = np.random.default_rng(seed).exponential(1.0, count)
    stream = iter((times / times.mean()).tolist())
    return lambda rows: next(stream)


def cobham(rates: list[float], second_moment: float = 2.0) -> list[float]:
    """W_k = R / ((1 - sigma_(k-1)) (1 - sigma_k)), R = sum of lambda_i E[S_i^2] / 2; mean service 1."""
    residual = sum(rates) * second_moment / 2
    sums = np.concatenate([[0.0], np.cumsum(rates)])
    return [residual / ((1 - before) * (1 - after)) for before, after in itertools.pairwise(sums)]


def classes(rates: list[float], seed: int) -> tuple[Floats, list[int]]:
    """Poisson arrivals of several levels from 1 on, merged."""
    each = [poisson_at(rate, round(COUNT * rate / sum(rates)), seed + i) for i, rate in enumerate(rates)]
    times = np.concatenate(each)
    order = np.argsort(times, kind="stable")
    levels = np.concatenate([np.full(len(part), i + 1) for i, part in enumerate(each)])
    return times[order], levels[order].tolist()


def run(rates: list[float], priorities: Priorities, seed: int = 1) -> tuple[SimulationResult, np.ndarray]:
    times, levels = classes(rates, seed)
    config = ModelConfig(batching=ALONE, priorities=priorities)
    done = simulate(config, times.tolist(), exponential(len(times), seed), traffic=Traffic(levels=levels))
    return done, np.array(levels)


def test_the_formula_gives_the_known_numbers() -> None:
    assert cobham([0.4, 0.4]) == pytest.approx([4 / 3, 20 / 3])
    assert cobham([0.8]) == pytest.approx([4.0])


@pytest.mark.parametrize("rates", one_in(2, [[0.4, 0.4], [0.2, 0.3, 0.2], [0.6, 0.1]]))
def test_strict_levels_wait_as_cobham_says(rates: list[float]) -> None:
    done, levels = run(rates, Priorities(levels=len(rates), mode="strict", max_passes=0))
    for level, expected in enumerate(cobham(rates), 1):
        assert done.waits[levels == level].mean() == pytest.approx(expected, rel=0.04), level


@pytest.mark.parametrize(
    "priorities",
    one_in(
        2,
        [
            Priorities(levels=2, mode="strict", max_passes=0),
            Priorities(levels=2, mode="strict", max_passes=4),
            Priorities(levels=2, mode="weighted", weights=(3.0, 1.0)),
            Priorities(levels=1),
        ],
    ),
)
def test_the_mean_over_all_is_conserved(priorities: Priorities) -> None:
    """Whoever goes first, the mean wait of work whose length nobody looks at is that of FCFS."""
    done, levels = run([0.4, 0.4], priorities)
    assert done.waits.mean() == pytest.approx(4.0, rel=0.03)
    high, low = done.waits[levels == 1].mean(), done.waits[levels == 2].mean()
    if priorities.levels == 1:
        assert high == pytest.approx(low, rel=0.03)
    elif priorities.max_passes and priorities.mode == "strict":
        assert 4 / 3 * 1.08 < high < low < 20 / 3  # in between
    elif priorities.mode == "weighted":
        assert 4 / 3 < high < low < 20 / 3


def test_urgent_and_bulk_are_levels_above_and_below() -> None:
    times, levels = classes([0.2, 0.3, 0.2], seed=5)
    named = [{1: URGENT, 2: 1, 3: BULK}[level] for level in levels]
    config = ModelConfig(batching=ALONE)
    done = simulate(config, times.tolist(), exponential(len(times), 5), traffic=Traffic(levels=named))
    for level, expected in enumerate(cobham([0.2, 0.3, 0.2]), 1):
        assert done.waits[np.array(levels) == level].mean() == pytest.approx(expected, rel=0.04), level


def erlang(servers: int, load: float) -> float:
    """Mean time in the system of M/M/n with service 1."""
    offered = servers * load
    below = sum(offered**k / math.factorial(k) for k in range(servers))
    full = offered**servers / math.factorial(servers) / (1 - load)
    return 1 + full / (below + full) / (servers * (1 - load))


@pytest.mark.parametrize(("servers", "mean"), one_in(2, [(2, 5.263), (4, 2.969), (8, 1.877), (16, 1.370)]))
def test_several_instances_are_erlangs_queue(servers: int, mean: float) -> None:
    assert erlang(servers, 0.9) == pytest.approx(mean, abs=5e-4)
    arrivals = poisson_at(0.9 * servers, COUNT, 7)
    done = simulate(ALONE, arrivals.tolist(), exponential(COUNT, 7), slots=servers)
    assert done.latencies.mean() == pytest.approx(mean, rel=0.04)


@pytest.mark.parametrize("weights", [(3.0, 1.0), (1.0, 1.0), (1.0, 4.0), ()])
@pytest.mark.parametrize("largest", [1, 8])
def test_weighted_levels_share_by_weight(weights: tuple[float, ...], largest: int) -> None:
    """Both always wait: rows served in the first half of the time are in the proportion of the weights."""
    each = 4000
    levels = [1, 2] * each
    config = ModelConfig(
        batching=Batching(max_rows=largest, max_queue=1 << 30),
        priorities=Priorities(levels=2, mode="weighted", weights=weights),
    )
    done = simulate(config, [0.0] * (2 * each), lambda rows: float(rows), traffic=Traffic(levels=levels))
    early = np.array(levels)[done.latencies <= each / 2]
    high, low = weights or (2.0, 1.0)
    assert (early == 1).sum() / (early == 2).sum() == pytest.approx(high / low, rel=0.02)
