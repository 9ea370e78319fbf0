"""The time kept free before the objective: what it settles at, and what it never does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.kernel.engine.targets import Reserve

PROMISE = 0.05
UNSEEN = 0.002  # of it


def saturated(reserve: Reserve, excess: "np.ndarray") -> float:
    """Runs of 30 whose members' slack is spread over half a millisecond each; share of late answers."""
    late = []
    for run in excess:
        for member in range(30):
            latency = PROMISE - reserve.seconds + UNSEEN + run - 0.0005 * member
            reserve.replied(float(run), latency - PROMISE)
            late.append(latency > PROMISE)
    return float(np.mean(late[len(late) // 4 :]))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("typical", "rare"), [(0.0002, 0.0), (0.001, 0.004), (0.002, 0.01)])
def test_one_answer_in_two_hundred_is_late_whatever_the_noise(typical: float, rare: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    runs = 4000
    excess = np.abs(rng.normal(0, typical, runs)) + rare * (rng.random(runs) < 0.02) * rng.random(runs)
    assert 0.003 <= saturated(Reserve(PROMISE), excess) <= 0.008


def test_exact_runs_need_next_to_nothing() -> None:
    reserve = Reserve(PROMISE)
    assert saturated(reserve, np.zeros(500)) <= 0.001
    assert reserve.seconds < UNSEEN + 0.0005


def test_it_returns_after_a_slow_moment() -> None:
    reserve = Reserve(PROMISE)
    for _ in range(300):
        reserve.replied(excess=0.2, late=0.2)
    assert reserve.seconds == pytest.approx(PROMISE / 4)
    for _ in range(6000):  # seven seconds of 850 a second
        reserve.replied(excess=0.0, late=-0.01)
    assert reserve.seconds < UNSEEN + 0.002


def test_answers_that_had_time_to_spare_do_not_undo_it() -> None:
    reserve = Reserve(PROMISE)
    for _ in range(3000):
        reserve.replied(excess=0.004, late=-0.04)
    assert reserve.seconds == pytest.approx(UNSEEN + 0.004, abs=2e-4)


@given(st.lists(st.tuples(st.floats(-1, 10), st.floats(-1, 10)), max_size=300))
@settings(max_examples=50)
def test_it_is_never_more_than_a_quarter(answers: list[tuple[float, float]]) -> None:
    reserve = Reserve(PROMISE)
    for excess, late in answers:
        reserve.replied(excess, late)
        assert UNSEEN <= reserve.seconds <= PROMISE / 4
