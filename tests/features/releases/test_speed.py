"""What is slow is so beside the stable version as it is now, however busy the machine was at first."""

from collections.abc import Mapping

import numpy as np
import pytest
from chances import may_be
from hypothesis import given
from hypothesis import strategies as st

from salver.features.releases.experiments.speed import Speed

QUANTILES = {"p50": 0.5, "p99": 0.99}
WINDOW = 16_000  # of which 160 are beyond the outermost


def asked() -> Speed:
    """Somebody has asked, so that it is measured."""
    speed = Speed()
    assert speed.thresholds(QUANTILES, {}) == {}
    return speed


def told(
    speed: Speed,
    rng: np.random.Generator,
    median: float,
    number: int = WINDOW,
    known: Mapping[str, float] = {},
) -> dict[str, float]:
    speed.add_all(rng.lognormal(np.log(median), 0.5, number).tolist())
    return speed.thresholds(QUANTILES, known)


@pytest.mark.parametrize(("quantile", "fewest"), [(0.5, 4), (0.9, 36), (0.99, 396)])
def test_the_first_ones_need_some_answers(quantile: float, fewest: int) -> None:
    speed = asked()
    speed.add_all([0.01] * (fewest - 1))
    assert speed.thresholds({"slow": quantile}, {}) == {} == speed.thresholds({}, {})
    speed.add_all([0.01])
    assert speed.thresholds({"slow": quantile}, {})["slow"] == pytest.approx(0.01, rel=0.13)


@pytest.mark.parametrize("times", [20.0, 3.0, 1 / 3, 1 / 20])
def test_they_are_measured_anew_when_the_stable_version_is_faster_or_slower_by_much(times: float) -> None:
    speed, rng = asked(), np.random.default_rng(5)
    before = told(speed, rng, 0.01 * times, known=told(speed, rng, 0.01 * times))
    assert told(speed, rng, 0.01, WINDOW - 1, before) == {}
    after = told(speed, rng, 0.01, 1, before)
    assert after["p50"] == pytest.approx(0.01, rel=0.1)
    assert after["p99"] == pytest.approx(0.01 * np.exp(0.5 * 2.326), rel=0.15)
    assert told(speed, rng, 0.01, WINDOW, after) == {}


def test_answers_of_windows_before_are_forgotten() -> None:
    speed, rng = asked(), np.random.default_rng(6)
    known = told(speed, rng, 0.01, known=told(speed, rng, 0.01))
    for _ in range(10):
        assert told(speed, rng, 0.01, WINDOW, known) == {}
        rest(speed, known)
    assert told(speed, rng, 0.05, WINDOW, known)["p50"] == pytest.approx(0.05, rel=0.1)


def test_the_first_whole_window_says_it_better_than_the_first_answers() -> None:
    rng, speed = np.random.default_rng(8), asked()
    first = told(speed, rng, 0.01, 396)
    assert told(speed, rng, 0.01, 396, first) == {}
    assert told(speed, rng, 0.01, WINDOW, first)["p99"] == pytest.approx(0.01 * np.exp(0.5 * 2.326), rel=0.05)


def rest(speed: Speed, known: Mapping[str, float]) -> None:
    for _ in range(60):
        speed.add_all([99.0] * WINDOW)  # nobody minds
        assert speed.thresholds(QUANTILES, known) == {}


def test_windows_that_are_alike_change_nothing() -> None:
    rng, changed = np.random.default_rng(7), 0
    for _ in range(300):
        speed = asked()
        known = told(speed, rng, 0.01, known=told(speed, rng, 0.01))
        changed += bool(told(speed, rng, 0.01, WINDOW, known))
    may_be(changed, 300, at_most=0.005)


@given(st.lists(st.floats(1e-4, 50.0), min_size=1, max_size=3), st.integers(0, 2**32 - 1))
def test_a_few_lengths_alone_change_nothing_either(lengths: list[float], seed: int) -> None:
    """As of a model that always takes as long."""
    rng, speed = np.random.default_rng(seed), asked()
    every = np.repeat(lengths, WINDOW)
    rng.shuffle(every)
    speed.add_all(every.tolist())
    known = speed.thresholds(QUANTILES, {})
    speed.add_all(every.tolist())
    known = speed.thresholds(QUANTILES, known)
    speed.add_all(every.tolist())
    assert speed.thresholds(QUANTILES, known) == {}
