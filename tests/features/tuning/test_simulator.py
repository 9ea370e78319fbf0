"""The simulator around the real batcher, against exact results (times in milliseconds here)."""

import numpy as np
import pytest
from exact_batching import drained_queue, former
from hypothesis import given, settings
from hypothesis import strategies as st
from soaking import one_in

from salver.features.tuning.simulator import SimulationResult, Traffic, poisson, simulate
from salver.words.artifacts import Batching

DRAIN = Batching(max_rows=1 << 30, max_queue=1 << 30)
V100 = (0.1438, 1.8874)
P4 = (0.3051, 1.0524)
# law, load rate·a, exact mean time in the system, mean batch: a published law's chain, computed.
TABLE = [
    (V100, 0.1, 3.1459, 1.712),
    (V100, 0.5, 5.9019, 13.125),
    (V100, 0.9, 29.408, 118.13),
    (P4, 0.1, 1.7055, 1.089),
    (P4, 0.3, 2.5283, 1.789),
    (P4, 0.5, 3.6477, 3.540),
    (P4, 0.7, 6.0687, 8.059),
    (P4, 0.9, 18.114, 31.04),
]
# rate per ms, delay in ms, largest batch, mean batch, mean wait in ms.
FORMERS = [(1.0, 5.0, 8, 5.7445, 2.6538), (1.0, 5.0, 32, 6.000, 2.9167), (2.0, 10.0, 16, 15.750, 3.700)]


def arrivals(rate: float, count: int, seed: int) -> list[float]:
    """A Poisson process given its count in [0, count/rate): the same law, less noise in the mean."""
    rng = np.random.default_rng(seed)
    return np.sort(rng.uniform(0, count / rate, count)).tolist()


def drained(law: tuple[float, float], load: float, seed: int = 1) -> SimulationResult:
    a, t0 = law
    count = 400_000 if load > 0.8 else 100_000
    return simulate(DRAIN, arrivals(load / a, count, seed), lambda b: a * b + t0)


@pytest.mark.parametrize(("law", "load", "mean", "batch"), TABLE)
def test_the_exact_chain_gives_the_known_table(
    law: tuple[float, float], load: float, mean: float, batch: float
) -> None:
    assert drained_queue(*law, load / law[0]) == pytest.approx((mean, batch), rel=5e-4)


@pytest.mark.parametrize(("law", "load", "mean", "batch"), one_in(3, TABLE))
def test_draining_the_queue_has_the_exact_mean(
    law: tuple[float, float], load: float, mean: float, batch: float
) -> None:
    done = drained(law, load)
    settled = done.latencies[len(done.latencies) // 50 :]
    assert settled.mean() == pytest.approx(mean, rel=0.01)
    assert done.rows.mean() == pytest.approx(batch, rel=0.01)


@pytest.mark.parametrize(("law", "load"), [((1.0, 0.0), 0.4), ((0.01, 5.0), 0.2), ((1.0, 4.0), 0.6)])
def test_draining_the_queue_under_other_laws(law: tuple[float, float], load: float) -> None:
    done = drained(law, load)
    assert (done.latencies.mean(), done.rows.mean()) == pytest.approx(
        drained_queue(*law, load / law[0]), rel=0.01
    )


@pytest.mark.parametrize(("rate", "delay", "largest", "size", "wait"), FORMERS)
def test_the_former_waits_and_fills_as_computed(
    rate: float, delay: float, largest: int, size: float, wait: float
) -> None:
    assert former(rate, delay, largest) == pytest.approx((size, wait), rel=5e-4)
    policy = Batching(max_rows=largest, max_delay_ms=delay * 1e3, max_queue=1 << 30)
    done = simulate(policy, arrivals(rate, 200_000, 3), lambda b: 0.0, slots=4)
    assert done.rows.mean() == pytest.approx(size, rel=0.02)
    assert done.waits.mean() == pytest.approx(wait, rel=0.02)


@pytest.mark.parametrize(("rate", "delay", "largest"), [(0.3, 2.0, 4), (5.0, 1.0, 3)])
def test_the_former_under_other_parameters(rate: float, delay: float, largest: int) -> None:
    policy = Batching(max_rows=largest, max_delay_ms=delay * 1e3, max_queue=1 << 30)
    done = simulate(policy, arrivals(rate, 200_000, 4), lambda b: 0.0, slots=4)
    assert (done.rows.mean(), done.waits.mean()) == pytest.approx(former(rate, delay, largest), rel=0.02)


def test_one_at_a_time_is_the_pollaczek_khinchine_queue() -> None:
    done = simulate(Batching(enabled=False, max_queue=1 << 30), arrivals(0.7, 300_000, 5), lambda b: 1.0)
    assert done.waits.mean() == pytest.approx(0.7 / (2 * 0.3), rel=0.02)
    assert set(done.rows.tolist()) == {1}


def test_two_slots_are_the_m_m_2_queue() -> None:
    rng = np.random.default_rng(6)
    policy = Batching(enabled=False, max_queue=1 << 30)
    done = simulate(policy, poisson(1.0, 200_000, rng), lambda b: rng.exponential(), slots=2)
    assert done.latencies.mean() == pytest.approx(1 / (1 - 0.5**2), rel=0.02)


def test_equal_seeds_give_equal_runs() -> None:
    runs = [
        simulate(DRAIN, poisson(1.0, 1_000, np.random.default_rng(9)), lambda b: 0.5 * b).latencies
        for _ in range(2)
    ]
    assert np.array_equal(*runs)


def test_a_full_queue_refuses_and_the_impatient_leave() -> None:
    flood = [0.0] * 10
    done = simulate(Batching(max_rows=2, max_queue=4), flood, lambda b: 1.0, traffic=Traffic(patience=1.5))
    # One runs at once, four wait, five are refused; two of the four are served in time.
    assert (done.refused, done.expired) == (5, 2)
    assert done.waits.tolist() == [0.0, 1.0, 1.0]
    assert done.rows.tolist() == [1, 2]


@settings(max_examples=60)
@given(
    gaps=st.lists(st.floats(0, 3), max_size=60),
    largest=st.integers(1, 6),
    delay=st.floats(0, 4),
    slots=st.integers(1, 3),
    patience=st.none() | st.floats(0.1, 5),
    queue=st.integers(1, 20),
)
def test_every_request_has_one_fate(
    gaps: list[float], largest: int, delay: float, slots: int, patience: float | None, queue: int
) -> None:
    policy = Batching(max_rows=largest, max_delay_ms=delay * 1e3, max_queue=queue)
    traffic = Traffic(patience=patience)
    done = simulate(policy, np.cumsum(gaps), lambda b: 0.2 * b + 0.3, slots=slots, traffic=traffic)
    assert len(done.waits) + done.refused + done.expired == len(gaps)
    assert done.rows.sum() == len(done.waits)
    assert (done.waits >= 0).all()
    assert (done.rows <= largest).all()
    if patience is not None:
        assert (done.waits < patience + 1e-9).all()
