"""Continuous batching on simulated time against its closed forms: the scheduler is the one that serves."""

import numpy as np
import pytest
from soaking import ONLY
from step_simulator import Arrival, simulate_steps

from salver.words.artifacts import Steps


def limits(sequences, **options):
    return Steps(max_sequences=sequences, max_context=1 << 30, **options)


def law(a, t0, p=0.0):
    return lambda rows, tokens: a * rows + t0 + p * tokens


@pytest.mark.parametrize(("a", "batch"), [(0.0, 8), (0.0, 16), (0.0, 32), (0.1, 16), (1.0, 8), (4.0, 8)])
def test_saturated_throughput_over_that_of_static_batches(a, batch):
    """(a·B + t0·H_B) / (a·B + t0), for geometric lengths: the oracle's 2.718, 3.381 and 4.058 at a = 0."""
    t0, mean = 1.0, 100
    lengths = np.random.default_rng(5).geometric(1 / mean, 100 * batch)
    arrivals = [Arrival(0.0, 1, int(n)) for n in lengths]
    done = simulate_steps(limits(batch), arrivals, law(a, t0))
    is_full = done.steps > a * (batch - 1) + t0 if a else np.arange(len(done.steps)) < len(done.steps) * 0.95
    continuous = batch * is_full.sum() / done.steps[is_full].sum()
    static = [
        simulate_steps(limits(batch), arrivals[at : at + batch], law(a, t0))
        for at in range(0, len(arrivals), batch)
    ]
    ratio = continuous / (sum(s.tokens for s in static) / sum(s.seconds for s in static))
    harmonic = sum(1 / k for k in range(1, batch + 1))
    assert ratio == pytest.approx((a * batch + t0 * harmonic) / (a * batch + t0), rel=0.03)


def birth_death(a, t0, p, batch, rate):
    """Mean latency: up with ``rate``, down with k·p/(a·k + t0), k = min(n, batch); Little's law.

    And half a step as an arrival finds it: the chain lets sequences join at once, a server between steps.
    """
    under_way = np.minimum(np.arange(4000), batch)
    steps = a * under_way + t0
    chances = np.cumprod(np.concatenate(([1.0], rate * steps[1:] / (under_way[1:] * p))))
    chances /= chances.sum()
    return float((np.arange(4000) * chances).sum() / rate), float((steps / 2 * chances)[1:].sum())


TABLE = [
    (0.1, 1.0, 0.05, 16, (26.98, 34.93, 62.37)),
    (0.1, 1.0, 0.02, 16, (67.45, 87.32, 155.9)),
    (1.0, 0.2, 0.05, 8, (33.93, 57.94, 215.5)),
]
CELLS = [
    pytest.param(*row[:4], load, latency, marks=[ONLY] if row is not TABLE[0] and load > 0.8 else [])
    for row in TABLE
    for load, latency in zip((0.3, 0.6, 0.9), row[4], strict=True)
]


@pytest.mark.parametrize(("a", "t0", "p", "batch", "load", "latency"), CELLS)
def test_unsaturated_latency_by_the_birth_death_chain(a, t0, p, batch, load, latency):
    rate = load * batch * p / (a * batch + t0)
    expected, wait = birth_death(a, t0, p, batch, rate)
    assert expected == pytest.approx(latency, rel=1e-3)
    seeds, count = (3, 20_000) if load > 0.8 else (2, 10_000)
    means = []
    for seed in range(seeds):
        random = np.random.default_rng(seed)
        even = (np.arange(count) + 0.5) / count  # stratified: rate and mean length are exact
        times = np.cumsum(random.permutation(-np.log(even) / rate))
        lengths = random.permutation(np.ceil(np.log(even) / np.log(1 - p)))
        arrivals = [Arrival(float(t), 1, int(n)) for t, n in zip(times, lengths, strict=True)]
        means.append(simulate_steps(limits(batch), arrivals, law(a, t0)).latencies[count // 20 :].mean())
    assert np.mean(means) == pytest.approx(latency + wait, rel=0.02)


@pytest.mark.parametrize("p", [0.01, 0.2, 1.0])
def test_steps_stay_even_while_long_prompts_arrive(p):
    """p99 of the gap between steps is at most 1.5 times its median, whatever a prompt token costs."""
    random = np.random.default_rng(3)
    times = np.cumsum(random.exponential(40.0, 300))
    arrivals = [Arrival(0.0, 1, 4000)] * 8  # answering all the while
    arrivals += [Arrival(float(t), int(random.integers(50, 400)), 20) for t in times]
    done = simulate_steps(limits(16, max_chunk=256), arrivals, law(0.5, 1.0, p))
    steady = done.steps[50:4000]
    assert np.percentile(steady, 99) <= 1.5 * np.median(steady)
    read_alone = simulate_steps(limits(16, max_chunk=256), [Arrival(0.0, 256, 1)], law(0.5, 1.0, p))
    assert len(read_alone.steps) == 1  # with nobody to wait, a prompt is read at once
