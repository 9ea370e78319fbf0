"""Sign flips: what bursts cannot deceive."""

import math

import msgspec
import numpy as np
import pytest
from chances import may_be
from hypothesis import given
from hypothesis import strategies as st

from salver.stats.sign_flip import SCALES, SignFlipEvidence, log_e_paths, start
from salver.words.errors import InvalidInput

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


# Arms of different sizes


@given(st.integers(0, 30), st.integers(0, 12), st.floats(0.01, 0.99), st.sampled_from([1, -1]))
def test_thinning_is_the_mean_over_all_that_might_be_kept(
    events: int, other: int, keep: float, sign: int
) -> None:
    found = start().add_thinned(events, other, keep, sign)
    for total, scale in zip(found.log_sums, SCALES, strict=True):
        mean = sum(
            math.comb(events, kept)
            * keep**kept
            * (1 - keep) ** (events - kept)
            * math.exp(sign * scale * (kept - other))
            / math.cosh(scale * (kept - other))
            for kept in range(events + 1)
        )
        assert math.exp(total) == pytest.approx(mean, rel=1e-9)
    assert max(found.log_sums) <= math.log(2) + 1e-9


@given(st.integers(0, 40), st.floats(0.5, 0.99), st.sampled_from([1, -1]))
def test_thinned_evidence_averages_to_one_where_each_event_is_anybodys(
    events: int, share: float, sign: int
) -> None:
    """Exactly: of so many events the larger arm has each with the chance that is its share."""
    products = np.zeros(len(SCALES))
    for larger in range(events + 1):
        chance = math.comb(events, larger) * share**larger * (1 - share) ** (events - larger)
        grown = start().add_thinned(larger, events - larger, (1 - share) / share, sign)
        products += chance * np.exp(grown.log_sums)
    assert products == pytest.approx(np.ones(len(SCALES)), rel=1e-9)


def test_arms_of_one_size_are_not_thinned_and_many_events_cost_little() -> None:
    assert start().add_thinned(7, 3, 1.0) == start().add(4)
    assert start().add_thinned(7, 3, 1.0, -1) == start().add(-4)
    many = start().add_thinned(1_000_000, 9_000, 0.01)
    assert many.log_e == pytest.approx(math.log(2), rel=1e-3)


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), min_size=1, max_size=6),
    st.lists(st.sampled_from([1.0, 0.4, 0.05]), min_size=6, max_size=6),
)
def test_arrays_are_thinned_alike(rows: list[tuple[int, int]], keeps: list[float]) -> None:
    evidence, steps = start(), []
    for (events, other), keep in zip(rows, keeps, strict=False):
        evidence = evidence.add_thinned(events, other, keep)
        steps.append(evidence.log_e)
    larger, smaller = np.array(rows).T[:, None]
    found = log_e_paths(start(), larger, smaller, keeps[: len(rows)])
    np.testing.assert_allclose(found[0], steps, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("share", [0.75, 0.95])
def test_bursts_of_arms_of_different_sizes_keep_the_size(share: float) -> None:
    """A coefficient of variation of 2, by arm and bucket."""
    rng, replications = np.random.default_rng(43), 1500
    bursts = rng.gamma(0.25, 4.0, (2, replications, 300))
    larger, smaller = rng.poisson(10 * np.array([share, 1 - share])[:, None, None] * bursts)
    most = log_e_paths(start(), larger, smaller, (1 - share) / share).max(axis=1)
    may_be((most >= math.log(20)).sum(), replications, at_most=0.05)


def test_a_doubled_rate_of_the_larger_arm_is_found_sooner_than_by_drawing() -> None:
    """The mean over all that might be kept loses less than what one draw keeps."""
    rng, share = np.random.default_rng(44), 0.75
    larger, smaller = rng.poisson(40 * share * 2, (500, 60)), rng.poisson(40 * (1 - share), (500, 60))
    mean = log_e_paths(start(), larger, smaller, (1 - share) / share)
    drawn = log_e_paths(start(), rng.binomial(larger, (1 - share) / share) - smaller)
    may_be((mean.max(axis=1) >= math.log(100)).sum(), 500, at_least=0.99)
    assert mean[:, 20].mean() > drawn[:, 20].mean() + 0.5


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
    for events, other, keep in ((-1, 0, 0.5), (0, -1, 0.5), (1, 1, 0.0), (1, 1, 1.5), (1, 1, math.nan)):
        with pytest.raises(InvalidInput, match="cannot be"):
            start().add_thinned(events, other, keep)


def test_numbers_of_numpy_are_written_down_as_others_are() -> None:
    small = np.array([3, 5], np.uint8)  # whose difference would be 254
    for keep in (1.0, 0.4):
        found = start(np.array([0.1, 1.0])).add(np.int64(2)).add_thinned(*small, np.float64(keep))
        plain = start((0.1, 1.0)).add(2).add_thinned(3, 5, keep)
        assert msgspec.json.encode(found) == msgspec.json.encode(plain)
