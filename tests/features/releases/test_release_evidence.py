"""What counts as evidence: tempering, bounds, ratios with their intervals, and what survives a restart."""

import math

import msgspec
import numpy as np
import pytest
from chances import may_be
from hypothesis import given
from hypothesis import strategies as st
from rollout_releases import ERRORS, buckets, judged
from soaking import size

from salver.features.releases.judge.evidence import BETS, observe, start
from salver.features.releases.judge.policy import Metric, Policy, Stage
from salver.features.releases.judge.ratio import GRID, Ratio
from salver.features.releases.judge.strand import Strand, Weight, strands
from salver.features.releases.judge.wildness import MOST, PRIOR_VARIATION, Wildness, matched_share
from salver.stats.binomial_evidence import harm
from salver.stats.sign_flip import start as start_flips
from salver.words.releases import BLOCK_BUCKETS, Bucket, Counts

SHARES = st.floats(0.001, 0.5)
NUMBERS = st.integers(0, 200)
ARMS = st.builds(Counts, NUMBERS, NUMBERS, NUMBERS)


def seen(rows: list[Counts], share: float) -> Wildness:
    wildness = Wildness()
    for row in rows:
        wildness = wildness.add(row, share)
    return wildness


def poisson(
    rng: np.random.Generator, events: float, share: float, number: int, shape: float = 0
) -> list[Counts]:
    """Buckets of a control; with a shape, of arms whose rates are gamma distributed for each bucket."""
    parts = np.array([share, share, 1 - 2 * share]) * events
    rates = parts * (rng.gamma(shape, 1 / shape, (number, 3)) if shape else np.ones((number, 3)))
    return [Counts(*map(int, row)) for row in rng.poisson(rates)]


# Wildness


@given(st.lists(ARMS, max_size=12), SHARES)
def test_evidence_is_never_multiplied(rows: list[Counts], share: float) -> None:
    wildness = seen(rows, share)
    assert 1 <= wildness.factor(share) < math.inf
    assert MOST <= wildness.most < math.inf
    assert wildness.variation >= 0


@pytest.mark.parametrize(
    ("seconds", "buckets"), [(10.0, 2), (10.4, 2), (9.6, 2), (10.6, 1), (9.4, 1), (0.0, 1)]
)
def test_a_bucket_of_another_length_says_nothing_of_jumps(seconds: float, buckets: int) -> None:
    policy = Policy(warm_up_seconds=0.0, metrics=(Metric("score", "output", "soft", bins=2),))
    first = Bucket(0.0, 10.0, 0, 0.01, Counts(1, 1, 98), events={"score.0": Counts(0, 0, 5)})
    evidence = observe(policy, start(policy), first)
    after = observe(policy, evidence, msgspec.structs.replace(first, start=10.0, seconds=seconds))
    assert after.metrics[0].strands[0].wildness.buckets == buckets


def test_only_hours_in_which_the_canary_was_asked_are_covered() -> None:
    policy = Policy(warm_up_seconds=0.0)
    silent = Bucket(0.0, 10.0, 0, 0.01, Counts(0, 1, 98))
    evidence = observe(policy, start(policy), silent)
    assert evidence.hours == ()
    asked = msgspec.structs.replace(silent, start=3600.0, requests=Counts(1, 1, 98))
    assert observe(policy, evidence, asked).hours == (73,)  # 1 January 1970 was a Thursday


def test_an_event_that_comes_before_its_request_is_no_request_the_less() -> None:
    policy = Policy(warm_up_seconds=0.0, metrics=(ERRORS,))
    early = Bucket(0.0, 10.0, 0, 0.01, Counts(0, 1, 98), events={"errors": Counts(1)})
    (known,) = observe(policy, start(policy), early).metrics
    assert known.rare == pytest.approx([math.log(bet) for bet in BETS])


def test_a_control_that_is_calmer_than_chance_strengthens_nothing() -> None:
    calm = seen([Counts(baseline=10, stable=80)] * 200, 0.1)
    assert calm.squares == 0 and calm.expected > 1000
    assert calm.factor(0.1) == 1


def test_chance_alone_is_not_tempered_for_long() -> None:
    calm = seen(poisson(np.random.default_rng(1), 50, 0.1, 300), 0.1)
    assert calm.factor(0.1) < 1.15
    assert calm.variation < 0.1
    assert calm.most > 10 * MOST


def test_bursts_of_single_arms_are_tempered_by_what_they_add_to_chance() -> None:
    rng, share, events, shape = np.random.default_rng(2), 0.25, 40.0, 0.25
    wild = seen(poisson(rng, events, share, 2000, shape), share)
    rows = np.array([(row.canary, row.control) for row in poisson(rng, events, share, 20_000, shape)])
    excess = rows[:, 0] - share * rows.sum(axis=1)
    true = float((excess**2).sum() / (share * (1 - share) * rows.sum()))
    assert wild.factor(share) == pytest.approx(true, rel=0.35)
    assert wild.most == pytest.approx(MOST)


def test_what_hits_all_arms_alike_is_not_tempered() -> None:
    rng = np.random.default_rng(3)
    rates = 50 * rng.gamma(0.25, 4, 400)  # an outage every now and then
    rows = [Counts(*map(int, rng.poisson([rate * 0.1, rate * 0.1, rate * 0.8]))) for rate in rates]
    assert seen(rows, 0.1).variation > 2
    assert seen(rows, 0.1).factor(0.1) < 2
    slow = [poisson(rng, 50 + 40 * math.sin(n / 40), 0.1, 1)[0] for n in range(400)]
    assert seen(slow, 0.1).variation < 0.1


def test_nothing_seen_yet_is_taken_for_wild_as_far_as_counts_allow() -> None:
    first = Wildness()
    assert first.variation == PRIOR_VARIATION and first.factor(0.1) == 1 and first.most == MOST
    few, many = (Wildness().add(Counts(stable=count), 0.01) for count in (5, 5000))
    assert few.factor(0.01) < 1.5 < 50 < many.factor(0.01)


def test_a_new_stage_forgets_its_arms_and_keeps_its_rates() -> None:
    wild = seen(poisson(np.random.default_rng(4), 50, 0.1, 50, 0.25), 0.1)
    fresh = wild.at_new_stage()
    assert (fresh.squares, fresh.expected, fresh.last) == (0, 0, None)
    assert fresh.variation == wild.variation
    jump = fresh.add(Counts(stable=5000), 0.5)  # half of the units have left the control
    assert jump.jumps == fresh.jumps


@given(SHARES)
def test_a_baseline_is_as_large_as_its_canary_or_what_is_left(share: float) -> None:
    assert matched_share(share) == share
    assert matched_share(1 - share) == pytest.approx(share)


# Strands


@given(st.lists(ARMS, max_size=10), st.floats(0.001, 0.999))
def test_tempering_only_ever_takes(rows: list[Counts], share: float) -> None:
    strand, plain = Strand(), harm()
    for row in rows:
        strand = strand.add(ERRORS, row, share, Weight(0.5))
        plain = plain.add(row.canary, row.total, share)
    for tempered, untempered in zip(strand.harm.log_sums, plain.log_sums, strict=True):
        ups = sum(1 for row in rows if row.total)
        assert tempered <= max(untempered, 0) + 1e-9 or ups > 1  # of one bucket; more of them add up


def test_no_single_bucket_brings_more_than_its_bound() -> None:
    strand = Strand().add(ERRORS, Counts(canary=10_000), 0.01, Weight())
    assert max(strand.harm.log_sums) == MOST
    assert strand.harm.log_e == pytest.approx(MOST)


def test_a_canary_that_has_everything_is_compared_with_nobody() -> None:
    assert Strand().add(ERRORS, Counts(canary=50), 1.0, Weight(0.5)) == Strand()


def test_the_second_opinion_of_a_large_canary_is_of_as_much_as_its_baseline_has() -> None:
    strand = Strand().add(ERRORS, Counts(canary=9, baseline=1), 0.6, Weight())
    assert strand.flip == start_flips().add_thinned(9, 1, 0.4 / 0.6)
    good = Strand(is_good=True).add(ERRORS, Counts(canary=9, baseline=1), 0.6, Weight())
    assert good.flip == start_flips().add_thinned(9, 1, 0.4 / 0.6, -1)
    assert Strand().add(ERRORS, Counts(9, 1), 0.5, Weight()).flip == start_flips().add(8)


def test_of_what_is_good_the_control_having_more_is_harm() -> None:
    sales = Metric("sales", "outcome", "soft", worse="less", rollback_margin=0.1)
    [good] = strands(sales)
    rows = [Counts(canary=20, baseline=60, stable=480)] * 20
    for row in rows:
        good = good.add(sales, row, 0.1, Weight(0.5))
    assert good.harm.log_e > 5 and good.flip.log_e > 5 and good.gate.log_e < 0
    assert good.ratio.estimate == pytest.approx(1 / 3)


@pytest.mark.parametrize("ratio", [0.91, 0.89])
def test_a_margin_of_what_is_good_is_a_part_of_it(ratio: float) -> None:
    """At 10 % less of a large number the boundary of the null lies between."""
    sales = Metric("sales", "outcome", "severe", worse="less", rollback_margin=0.1)
    [strand] = strands(sales)
    expected = harm([1.001])
    for _ in range(10):
        x, control = round(100_000 * ratio), 100_000
        expected = expected.add(control, x + control, 0.5, 1 / 0.9 - 1)
    assert (expected.log_e > 0) == (ratio < 0.9)
    for _ in range(300):
        strand = strand.add(sales, Counts(round(1000 * ratio), 1000), 0.5, Weight())
    assert (strand.ratio.estimate or 0) == pytest.approx(ratio)


def test_an_output_has_two_strands_a_bin() -> None:
    assert [strand.is_good for strand in strands(Metric("o", "output", "soft", bins=3))] == [False, True] * 3


# Ratios


@given(st.lists(st.tuples(NUMBERS, NUMBERS, st.floats(0.01, 0.99)), min_size=1, max_size=10))
def test_an_interval_holds_the_likeliest_ratio(rows: list[tuple[int, int, float]]) -> None:
    ratio = Ratio()
    for canary, control, share in rows:
        ratio = ratio.add(canary, canary + control, share)
    low, high = ratio.interval(0.05)
    likeliest = GRID[max(range(len(GRID)), key=ratio.log_likelihoods.__getitem__)]
    assert (low or 0) <= likeliest <= (high or math.inf)


def test_intervals_hold_at_every_look_and_narrow() -> None:
    rng, wrong, widths = np.random.default_rng(5), 0, []
    for _ in range(200):
        ratio, missed = Ratio(), False
        for share in [0.05] * 30 + [0.25] * 30:
            rate = share * 1.7 / (share * 1.7 + 1 - share)
            ratio = ratio.add(int(rng.binomial(20, rate)), 20, share)
            low, high = ratio.interval(0.05)
            missed |= not (low or 0) <= 1.7 <= (high or math.inf)
        wrong += missed
        widths.append((high or 99) / (low or 0.01))
    may_be(wrong, 200, at_most=0.05)
    assert np.median(widths) < 3


def test_without_events_nothing_is_known_of_a_ratio() -> None:
    assert Ratio().estimate is None
    assert Ratio().interval(0.05) == (None, None)
    assert Ratio().add(5, 5, 0.5).estimate is None
    low, high = Ratio().add(0, 400, 0.5).interval(0.05)
    assert low is None and high is not None and high < 0.1


# A restart


@given(st.integers(0, 12), st.sampled_from([msgspec.json, msgspec.msgpack]))
def test_a_restart_in_between_changes_not_a_bit(at: int, codec: object) -> None:
    rows = list(buckets(ratios={"errors": 1.3}, number=12))
    whole, verdicts = judged(rows)
    half, _ = judged(rows[:at])
    again = codec.decode(codec.encode(half), type=type(half))  # type: ignore[attr-defined]
    assert again == half
    continued, rest = judged(rows[at:], evidence=again)
    assert continued == whole
    assert verdicts[at:] == rest


def test_there_is_no_evidence_at_the_start() -> None:
    output, sales = Metric("o", "output", "soft"), Metric("s", "outcome", "soft", worse="less")
    policy = Policy(metrics=(ERRORS, output, sales))
    assert start(policy).log_e(policy) <= 0
    assert start(policy).split_log_e <= 0


# What is slow


SLOW = Metric("slow", "latency", "soft", quantile=0.99)


def gate(rows: list[Counts], raw: list[Counts], number: int = 200) -> float:
    """Evidence of one stage, of as many requests to the canary in each bucket, and none to compare."""
    policy = Policy(stages=(Stage(0.05, 30), Stage(1, 0)), metrics=(SLOW,), warm_up_seconds=0.0)
    evidence = start(policy)
    for index, (events, all_of_them) in enumerate(zip(rows, raw, strict=True)):
        counts = {"requests": Counts(number, number, 18 * number), "events": {"slow": events}}
        bucket = Bucket(10.0 * index, 10.0, 0, 0.05, **counts, raw={"slow": all_of_them})
        evidence = observe(policy, evidence, bucket)
    return evidence.metrics[0].log_gate(SLOW)


def test_where_every_unit_was_slow_once_a_canary_as_fast_as_the_stable_version_was_passes() -> None:
    """There are no first events any more, and one in a hundred answers is slow in both arms."""
    assert gate([Counts()] * 90, [Counts(2, 2, 36)] * 90) > math.log(20)
    assert gate([Counts()] * 60, [Counts(4, 4, 72)] * 60) < 0


def test_one_minute_without_failures_does_not_make_a_rate_negligible() -> None:
    """Where processes fail in bursts, a canary whose rate is above the negligible one has such minutes."""
    policy = Policy(stages=(Stage(0.25, 30), Stage(1, 0)), metrics=(ERRORS,), warm_up_seconds=0.0)
    evidence, passed = start(policy), []
    for index in range(60):
        counts = {"events": {"errors": Counts(0, 12, 25)}, "raw": {"errors": Counts(0, 12, 25)}}
        bucket = Bucket(10.0 * index, 10.0, 0, 0.25, Counts(2500, 2500, 5000), **counts)
        evidence = observe(policy, evidence, bucket)
        passed.append(evidence.metrics[0].log_gate(ERRORS) > math.log(20))
    assert passed.index(True) >= 2 * BLOCK_BUCKETS and passed[-1]


def test_before_it_is_known_what_is_slow_nothing_passes_for_quick() -> None:
    policy = Policy(stages=(Stage(0.05, 30), Stage(1, 0)), metrics=(SLOW,), warm_up_seconds=0.0)
    evidence = start(policy)
    for index in range(100):
        evidence = observe(policy, evidence, Bucket(10.0 * index, 10.0, 0, 0.05, Counts(200, 200, 3600)))
    assert evidence.metrics[0].log_gate(SLOW) < 0


@pytest.mark.soak
@pytest.mark.parametrize("times", [1.0, 4.0])
def test_a_canary_that_is_slow_more_often_by_the_margin_passes_no_gate(times: float) -> None:
    """Its rate is what the margin forbids, and what is slow was measured in 16,000 answers."""
    rng, passed, worst = np.random.default_rng(11), 0, 1 + 0.5 * times
    policy = Policy(
        stages=(Stage(0.05, 30, margin_times=times), Stage(1, 0)), metrics=(SLOW,), warm_up_seconds=0.0
    )
    releases = size(500, 120)
    for _ in range(releases):
        rate = rng.beta(160, 15_841)  # of answers beyond the quantile that was found
        share, evidence, best = 0.05, start(policy), -math.inf
        events = rng.poisson(np.array([share * worst, share, 1 - 2 * share]) * rate * 4000, (100, 3))
        for index, row in enumerate(events):
            counts = Counts(*map(int, row))
            asked = Counts(200, 200, 3600)
            bucket = Bucket(
                10.0 * index, 10.0, 0, share, asked, events={"slow": counts}, raw={"slow": counts}
            )
            evidence = observe(policy, evidence, bucket)
            best = max(best, evidence.metrics[0].log_gate(SLOW))
        passed += best >= math.log(20)
    may_be(passed, releases, at_most=policy.beta)
