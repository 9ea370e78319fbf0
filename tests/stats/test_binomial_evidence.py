"""Whose is the next event? Sizes, delays and the states that evidence goes through."""

import math

import msgspec
import numpy as np
import pytest
from chances import may_be
from hypothesis import given
from hypothesis import strategies as st

from salver.stats.binomial_evidence import (
    HARM,
    NO_HARM,
    BinomialEvidence,
    harm,
    log_e_paths,
    no_harm,
)
from salver.words.errors import InvalidInput

Bucket = tuple[int, int, float]


@st.composite
def buckets(draw: st.DrawFn) -> list[Bucket]:
    found = []
    for _ in range(draw(st.integers(0, 20))):
        events = draw(st.integers(0, 1000))
        found.append((draw(st.integers(0, events)), events, draw(st.floats(0.001, 0.999))))
    return found


def grown(evidence: BinomialEvidence, rows: list[Bucket], margin: float = 0.0) -> BinomialEvidence:
    for canary, events, share in rows:
        evidence = evidence.add(canary, events, share, margin)
    return evidence


@given(buckets(), st.floats(-0.5, 3))
def test_it_is_the_formula(rows: list[Bucket], margin: float) -> None:
    likelihoods = []
    for psi in HARM:
        total = 0.0
        for x, e, w in rows:
            w = w * (1 + margin) / (w * (1 + margin) + 1 - w)
            total += x * math.log(psi) - e * math.log(w * psi + 1 - w)
        likelihoods.append(total)
    assert grown(harm(), rows, margin).log_e == pytest.approx(
        np.logaddexp.reduce(likelihoods) - math.log(len(HARM)), rel=1e-9, abs=1e-6
    )


@given(buckets(), st.floats(0.01, 3))
def test_the_reverse_is_the_likelihood_ratio_of_two_ratios_of_rates(
    rows: list[Bucket], margin: float
) -> None:
    def log_likelihood(psi: float) -> float:
        return sum(
            x * math.log(w * psi / (w * psi + 1 - w)) + (e - x) * math.log((1 - w) / (w * psi + 1 - w))
            for x, e, w in rows
        )

    ratios = [log_likelihood(psi) - log_likelihood(1 + margin) for psi in NO_HARM]
    assert grown(no_harm(), rows, margin).log_e == pytest.approx(
        np.logaddexp.reduce(ratios) - math.log(len(NO_HARM)), rel=1e-9, abs=1e-6
    )


@pytest.mark.parametrize(("evidence", "margin"), [(harm(), 0.0), (harm(), 0.2), (no_harm(), 0.2)])
@given(rows=buckets())
def test_arrays_say_the_same(rows: list[Bucket], evidence: BinomialEvidence, margin: float) -> None:
    if rows:
        canary, events, share = (np.array(column)[None] for column in zip(*rows, strict=True))
        paths = log_e_paths(evidence, canary, events, share, margin)
        steps = [grown(evidence, rows[: n + 1], margin).log_e for n in range(len(rows))]
        np.testing.assert_allclose(paths[0], steps, rtol=1e-9, atol=1e-6)
        onwards = log_e_paths(
            grown(evidence, rows[:1], margin), canary[:, 1:], events[:, 1:], share[:, 1:], margin
        )
        np.testing.assert_allclose(onwards[0], steps[1:], rtol=1e-9, atol=1e-6)


@given(st.integers(1, 12), st.floats(0.01, 0.99), st.floats(-0.5, 2), st.floats(0, 1))
def test_no_bet_can_be_expected_to_gain_under_the_null(
    events: int, share: float, margin: float, part: float
) -> None:
    """Exactly so, at the boundary and inside: a sum over all that a bucket can hold."""
    for null, psi in ((harm(), (1 + margin) * part), (no_harm([0.4, 0.2]), (1 + margin) * (1 + part))):
        for ratio, bound in ((psi, "<="), (1 + margin, "==")):
            chance = share * ratio / (share * ratio + 1 - share)
            mean = sum(
                math.comb(events, x)
                * chance**x
                * (1 - chance) ** (events - x)
                * math.exp(null.add(x, events, share, margin).log_e)
                for x in range(events + 1)
            )
            assert mean <= 1 + 1e-9
            assert bound == "<=" or mean == pytest.approx(1, abs=1e-9)


@given(buckets(), st.integers(0, 20))
def test_a_restart_in_between_changes_not_a_bit(rows: list[Bucket], at: int) -> None:
    half = grown(harm(), rows[:at])
    for codec in (msgspec.json, msgspec.msgpack):
        again = codec.decode(codec.encode(half), type=BinomialEvidence)
        assert again == half
        assert grown(again, rows[at:]).log_e.hex() == grown(harm(), rows).log_e.hex()


def test_there_is_no_evidence_without_events() -> None:
    assert harm().log_e == no_harm().log_e == 0
    assert harm().add(0, 0, 0.05).log_e == 0
    assert harm().add(0, 0, 0.0).log_e == 0
    assert harm().add(7, 7, 1.0).log_e == pytest.approx(0, abs=1e-12)  # one arm alone says nothing


def test_the_arguments_of_a_margin_move_the_boundary() -> None:
    twice = harm([2.0]).add(10, 20, 0.25, margin=0.5)
    assert twice.log_e < harm([2.0]).add(10, 20, 0.25).log_e
    # at odds of 1 : 3, half as much again is 1 : 2
    assert twice.log_e == pytest.approx(harm([2.0]).add(10, 20, 1 / 3).log_e)


def test_a_dead_canary_is_caught_after_a_few_users() -> None:
    at = [harm().add(n, n, 0.01).log_e for n in range(1, 6)]
    assert at[0] <= math.log(1 / 0.01)
    assert at[1] < math.log(1 / 0.002) <= at[4]
    assert next(n for n, log_e in enumerate(at, 1) if log_e >= math.log(1 / 0.002)) in (3, 4, 5)


@pytest.mark.parametrize(("share", "at_5", "at_1"), [(0.05, 0.030, 0.0064), (0.25, 0.038, 0.0079)])
def test_looking_at_every_event_keeps_the_size(share: float, at_5: float, at_1: float) -> None:
    replications = 2000
    canary = np.random.default_rng(11).random((replications, 3000)) < share
    most = log_e_paths(harm(), canary, 1, share).max(axis=1)
    may_be((most >= math.log(20)).sum(), replications, at_most=0.05, near=at_5)
    may_be((most >= math.log(100)).sum(), replications, at_most=0.01, near=at_1)


def delays(psi: float, share: float, starts: list[BinomialEvidence], replications: int) -> list[np.ndarray]:
    """Events until each of them reaches 1 / .002, of a canary whose rate is ``psi`` times the control's."""
    chance = share * psi / (share * psi + 1 - share)
    gain = chance * math.log(chance / share) + (1 - chance) * math.log((1 - chance) / (1 - share))
    looks = math.ceil(9 * math.log(500) / gain)
    canary = np.random.default_rng(15).random((replications, looks)) < chance
    passed = [log_e_paths(start, canary, 1, share) >= math.log(500) for start in starts]
    assert all(hits.any(axis=1).all() for hits in passed)
    return [hits.argmax(axis=1) + 1 for hits in passed]


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5])
@pytest.mark.parametrize("psi", [1.5, 1.75, 2.0, 2.5, 4.0, 5.0, 7.0, 10.0, 14.0, 20.0])
def test_it_needs_at_most_a_quarter_more_events_than_who_knows_the_ratio(psi: float, share: float) -> None:
    mixed, known = delays(psi, share, [harm(), harm([psi])], 300)
    ratio = mixed.mean() / known.mean()
    error = float(np.std(mixed - ratio * known)) / known.mean() / math.sqrt(300)
    assert ratio - 3.3 * error <= 1.25
    recorded = {2.0: 1.19, 5.0: 1.14, 10.0: 1.14} if share == 0.05 else {}
    # what was recorded is a mean of replications, too
    assert ratio == pytest.approx(recorded.get(psi, ratio), abs=3.3 * error + 0.02)


def test_a_daily_cycle_and_a_moving_share_keep_it_too() -> None:
    rng, replications = np.random.default_rng(12), 2000
    day = 1 + np.sin(np.linspace(0, 6 * np.pi, 300))
    share = np.repeat([0.01, 0.05, 0.25], 100)
    events = rng.poisson(20 * day, (replications, 300))
    most = log_e_paths(harm(), rng.binomial(events, share), events, share).max(axis=1)
    may_be((most >= math.log(20)).sum(), replications, at_most=0.05)


@pytest.mark.parametrize(("share", "margin"), [(0.05, 0.5), (0.25, 0.2), (0.5, 1.0)])
def test_harm_at_the_margin_is_not_promoted_and_not_rolled_back(share: float, margin: float) -> None:
    rng, replications = np.random.default_rng(13), 2000
    true = share * (1 + margin) / (share * (1 + margin) + 1 - share)
    events = np.full((replications, 300), 20)
    canary = rng.binomial(events, true)
    for start in (harm(), no_harm()):
        most = log_e_paths(start, canary, events, share, margin).max(axis=1)
        may_be((most >= math.log(20)).sum(), replications, at_most=0.05)


@pytest.mark.parametrize(("share", "margin"), [(0.05, 0.5), (0.05, 1.0), (0.25, 0.2)])
def test_what_does_no_harm_is_promoted(share: float, margin: float) -> None:
    rng, replications = np.random.default_rng(14), 1000
    events = np.full((replications, 400), 80)
    most = log_e_paths(no_harm(), rng.binomial(events, share), events, share, margin).max(axis=1)
    may_be((most >= math.log(20)).sum(), replications, at_least=0.994)


@pytest.mark.parametrize(
    ("share", "margin", "thousands"), [(0.05, 0.5, 7.0), (0.05, 1.0, 2.1), (0.25, 0.2, 52.0)]
)
def test_promotion_takes_as_long_as_the_plan_says(share: float, margin: float, thousands: float) -> None:
    """In canary requests, of which .5 % fail in both arms."""
    canary = np.random.default_rng(16).random((400, 9000)) < share
    passed = log_e_paths(no_harm(), canary, 1, share, margin) >= math.log(20)
    requests = (passed.argmax(axis=1)[passed.any(axis=1)] + 1) * share / 0.005
    error = requests.std() / math.sqrt(requests.size)
    assert requests.mean() == pytest.approx(1000 * thousands, abs=3.3 * error + 50)


@pytest.mark.parametrize(
    ("canary", "events", "share", "margin", "words"),
    [
        (-1, 3, 0.5, 0.0, "cannot be"),
        (4, 3, 0.5, 0.0, "cannot be"),
        (1, 3, 1.5, 0.0, "cannot be"),
        (1, 3, math.nan, 0.0, "cannot be"),
        (1, math.inf, 0.5, 0.0, "cannot be"),
        (1, 3, 0.5, -1.0, "cannot be"),
        (1, 3, 0.0, 0.0, "an arm without units"),
        (1, 3, 1.0, 0.0, "an arm without units"),
    ],
)
def test_counts_that_cannot_be_are_refused(
    canary: int, events: int, share: float, margin: float, words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        harm().add(canary, events, share, margin)


def test_alternatives_that_are_part_of_the_null_are_refused() -> None:
    with pytest.raises(InvalidInput, match="not alternatives to 'at_least"):
        no_harm().add(1, 2, 0.5)
    with pytest.raises(InvalidInput, match="not alternatives to 'at_most"):
        harm([0.5]).add(1, 2, 0.5)
    for ratios in ([], [0.0], [-1.0], [math.inf]):
        with pytest.raises(InvalidInput, match="not ratios of rates"):
            harm(ratios)


def test_numbers_of_numpy_are_written_down_as_others_are() -> None:
    plain = harm((2.0, 5.0)).add(3, 7, 0.1, 0.2)
    found = harm(np.array([2.0, 5.0])).add(np.int64(3), np.int64(7), np.float64(0.1), np.float64(0.2))
    assert msgspec.json.encode(found) == msgspec.json.encode(plain)
