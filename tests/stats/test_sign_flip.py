"""Sign flips: what bursts cannot deceive."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chances import may_be
from salver.errors import InvalidInput
from salver.stats.sign_flip import SCALES, SignFlipEvidence, log_e_paths, start

DIFFERENCES = st.lists(st.floats(-1e6, 1e6), max_size=30)


def grown(evidence: SignFlipEvidence, differences: list[float]) -> SignFlipEvidence:
    for difference in differences:
        evidence = evidence.add(difference)
    return evidence


@given(st.lists(st.floats(-50, 50), max_size=30))
def test_it_is_the_formula(differences: list[float]) -> None:
    products = [math.prod(math.exp(s * d) / math.cosh(s * d) for d in differences) for s in SCALES]
    assert math.exp(grown(start(), differences).log_e) == pytest.approx(sum(products) / len(SCALES), rel=1e-9)


@given(DIFFERENCES)
def test_arrays_say_the_same_and_a_bucket_brings_at_most_ln_2(differences: list[float]) -> None:
    if differences:
        steps = [grown(start(), differences[: n + 1]).log_e for n in range(len(differences))]
        np.testing.assert_allclose(log_e_paths(start(), [differences])[0], steps, rtol=1e-9, atol=1e-9)
        onwards = log_e_paths(grown(start(), differences[:1]), [differences[1:]])
        np.testing.assert_allclose(onwards[0], steps[1:], rtol=1e-9, atol=1e-9)
        assert max(np.diff([0.0, *steps])) <= math.log(2) + 1e-9


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=8))
def test_flipping_signs_averages_to_one(sizes: list[float]) -> None:
    signs = np.array(np.meshgrid(*[[-1, 1]] * len(sizes))).reshape(len(sizes), -1).T
    assert np.exp(log_e_paths(start(), signs * np.array(sizes))[:, -1]).mean() == pytest.approx(1, rel=1e-9)


def test_nine_buckets_at_least_are_needed() -> None:
    steps = [grown(start(), [1e9] * n).log_e for n in range(1, 10)]
    assert steps[7] < math.log(1 / 0.002) <= steps[8] + 1e-9


def test_bursts_of_both_arms_keep_the_size() -> None:
    rng, replications = np.random.default_rng(41), 2000
    bursts = rng.gamma(0.25, 4.0, (2, replications, 500))  # a coefficient of variation of 2
    canary, baseline = rng.poisson(3 * bursts)
    most = log_e_paths(start(), canary - baseline).max(axis=1)
    may_be((most >= math.log(20)).sum(), replications, at_most=0.05)


def test_a_threefold_rate_is_found() -> None:
    rng = np.random.default_rng(42)
    last = log_e_paths(start(), rng.poisson(3.0, (500, 60)) - rng.poisson(1.0, (500, 60)))
    may_be((last.max(axis=1) >= math.log(100)).sum(), 500, at_least=0.99)


@given(DIFFERENCES, st.integers(0, 30))
def test_a_restart_in_between_changes_not_a_bit(differences: list[float], at: int) -> None:
    half = grown(start(), differences[:at])
    again = msgspec.json.decode(msgspec.json.encode(half), type=SignFlipEvidence)
    assert again == half
    assert grown(again, differences[at:]).log_e.hex() == grown(start(), differences).log_e.hex()


def test_what_cannot_be_is_refused() -> None:
    for scales in ((), (0.0,), (math.inf,)):
        with pytest.raises(InvalidInput, match="scales"):
            start(scales)
    for difference in (math.nan, math.inf):
        with pytest.raises(InvalidInput, match="difference"):
            start().add(difference)
