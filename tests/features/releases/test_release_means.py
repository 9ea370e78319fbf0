"""Revenue, as the judge sees it: sums of units, from the outcomes that have matured."""

import math
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
from chances import may_be
from rollout_releases import ERRORS, judged, with_policy

from salver.features.releases.judge.evidence import Evidence, observe, start
from salver.features.releases.judge.explain import explain, foretell
from salver.features.releases.judge.means import Means
from salver.features.releases.judge.outlook import Forecast, outlook
from salver.features.releases.judge.policy import Metric, Policy, Stage
from salver.features.releases.judge.replay import Entry, first_difference
from salver.features.releases.judge.verdict import Decision, Verdict
from salver.words.errors import InvalidInput
from salver.words.releases import Bucket, Counts, OutcomeCohort, ReleaseState, Sums

RUNNING = ReleaseState.RUNNING
REVENUE = Metric("revenue", "mean", "soft", worse="less", matures_minutes=1, cap=20.0, promotion_margin=0.1)
POLICY = with_policy(metrics=(REVENUE,), stages=(Stage(0.25, 1), Stage(0.5, 1)))


def drawn(rng: np.random.Generator, units: int, ratio: float, past: float = 0.7) -> Sums:
    """All bring something, lognormal, of which their past tells a part."""
    before = np.minimum(rng.lognormal(0, 1, units), 20.0)
    same = rng.random(units) < past
    values = ratio * np.where(same, before, np.minimum(rng.lognormal(0, 1, units), 20.0))
    powers = [float((values**power).sum()) for power in (1, 2, 3)]
    return Sums(units, units, *powers, float(before.sum()), float(before @ before), float(values @ before))


def selling(
    seed: int, ratio: float, *, stage: int = 0, number: int = 60, begin: float = 0.0, units: int = 1000
) -> Iterator[Bucket]:
    """Cohorts that were exposed a minute before, of so many units a bucket."""
    rng, share = np.random.default_rng(seed), POLICY.stages[stage].weight
    canary, control = round(units * share), units - round(units * share)
    counts = Counts(canary, canary, control - canary)
    for at in (begin + 10.0 * n for n in range(number)):
        sums = drawn(rng, canary, ratio), drawn(rng, control, 1.0)
        told = OutcomeCohort("revenue", at - 60, share, counts, counts, sums)
        yield Bucket(at, 10.0, stage, share, counts, counts, outcomes=(told,))


def last(*args: object, **changes: object) -> Verdict:
    return judged(*args, POLICY, **changes)[1][-1]  # type: ignore[arg-type]


def test_less_revenue_rolls_back_and_says_by_how_much() -> None:
    verdict = last(selling(1, 0.8))
    [metric] = verdict.metrics
    assert verdict.decision is Decision.ROLLBACK
    assert metric.effect == pytest.approx(0.8, abs=0.06)
    assert metric.low is not None and metric.high is not None
    assert metric.low < 0.8 < metric.high < 1
    assert metric.log_e == metric.log_harm >= metric.threshold and metric.log_flip == 0
    assert metric.units.canary == metric.events.canary and metric.undecided == ""
    assert verdict.reasons[0].startswith(
        f"revenue: the canary has {metric.effect:.2f} times its control's mean"
    )


def test_as_much_revenue_passes_and_more_is_no_harm() -> None:
    for ratio in (1.0, 1.3):
        verdict = judged(selling(2, ratio, number=120), POLICY, until=_is_promoted)[1][-1]
        assert verdict.decision is Decision.PROMOTE
        assert verdict.metrics[0].log_gate >= math.log(20)


def _is_promoted(verdict: Verdict) -> bool:
    return verdict.decision in (Decision.PROMOTE, Decision.ROLLBACK)


def test_where_more_is_worse_the_other_side_is_harm() -> None:
    refunds = msgspec.structs.replace(REVENUE, worse="more")
    policy = msgspec.structs.replace(POLICY, metrics=(refunds,))
    for ratio, decision in ((1.3, Decision.ROLLBACK), (0.8, Decision.PROMOTE)):
        _, verdicts = judged(selling(3, ratio, number=120), policy, until=_is_promoted)
        assert verdicts[-1].decision is decision


def test_where_more_is_worse_a_margin_is_what_may_be_added() -> None:
    refunds = msgspec.structs.replace(REVENUE, worse="more", rollback_margin=0.3, promotion_margin=None)
    policy = msgspec.structs.replace(POLICY, metrics=(refunds,))
    for ratio, is_harm in ((1.15, False), (1.6, True)):
        verdict = judged(selling(3, ratio, number=120), policy)[1][-1]
        assert (verdict.decision is Decision.ROLLBACK) == is_harm
        assert (verdict.metrics[0].log_harm > 0) == is_harm


def test_a_margin_is_what_may_be_lost() -> None:
    """A loss of 10 % is harm, unless 15 % are tolerated."""
    tolerant = msgspec.structs.replace(
        POLICY, metrics=(msgspec.structs.replace(REVENUE, rollback_margin=0.15, promotion_margin=None),)
    )
    assert last(selling(4, 0.9, number=150)).decision is Decision.ROLLBACK
    assert judged(selling(4, 0.9, number=150), tolerant)[1][-1].decision is not Decision.ROLLBACK
    assert judged(selling(4, 0.7, number=150), tolerant)[1][-1].decision is Decision.ROLLBACK


def test_where_all_bring_the_same_nothing_is_proven_and_the_log_says_that_again() -> None:
    counts = Counts(1000, 1000, 2000)
    sums = tuple(Sums(n, n, 5.0 * n, 25.0 * n, 125.0 * n) for n in (1000, 3000))
    told = OutcomeCohort("revenue", 0.0, 0.25, counts, counts, sums)  # type: ignore[arg-type]
    bucket = Bucket(60.0, 10.0, 0, 0.25, counts, counts, outcomes=(told,))
    verdict = last([bucket])
    [metric] = verdict.metrics
    assert (metric.effect, metric.low, metric.high, metric.undecided) == (1.0, None, None, "")
    assert metric.log_e == 0
    log = msgspec.json.decode(msgspec.json.encode([Entry(bucket, RUNNING, verdict)]), type=list[Entry])
    assert first_difference(POLICY, log) is None


def test_too_few_units_are_undecided_and_pass_no_gate() -> None:
    verdict = last(selling(5, 0.2, number=3))
    [metric] = verdict.metrics
    assert metric.undecided == "750 units of the smaller arm at one share, where 1000 are needed"
    assert (metric.effect, metric.low, metric.high, metric.log_e) == (None, None, None, 0.0)
    assert metric.missing == "evidence 1 of 20 that it is within its margin"
    assert "revenue is undecided: 750 units" in explain(POLICY, verdict)
    nothing = last([msgspec.structs.replace(next(selling(5, 1.0)), outcomes=())])
    assert nothing.metrics[0].undecided == "no unit's outcome is known yet"


def test_evidence_of_harm_stays_and_gates_begin_anew() -> None:
    evidence, _ = judged(selling(6, 1.0, number=30), POLICY)
    evidence, [verdict] = judged(
        selling(6, 1.0, stage=1, number=1, begin=300), POLICY, evidence=evidence, until=lambda _: True
    )
    [known] = evidence.metrics
    assert [phase.share for phase in known.means.phases] == [0.25, 0.5]
    assert [phase.share for phase in known.means.recent] == [0.5]
    assert verdict.metrics[0].log_gate == 0 and verdict.metrics[0].log_harm != 0


def test_a_bucket_of_a_stage_that_was_left_counts_for_harm_alone() -> None:
    evidence, _ = judged(selling(20, 1.0, stage=1, number=30, begin=100), POLICY, until=lambda _: False)
    gate = evidence.metrics[0].means.log_gate
    late = msgspec.structs.replace(next(selling(8, 1.0, begin=1000, units=8000)), stage=0)
    after = observe(POLICY, evidence, late)
    means = after.metrics[0].means
    assert means.log_gate == gate and means.recent == evidence.metrics[0].means.recent
    assert sum(phase.canary.units for phase in means.phases) == 30 * 500 + 2000


def test_alone_it_is_compared_with_nobody() -> None:
    told = next(selling(9, 0.1)).outcomes[0]
    alone = msgspec.structs.replace(told, share=1.0)
    assert Means().add(REVENUE, alone, None, is_recent=True).phases == ()


def test_a_restart_and_a_replay_change_not_a_bit() -> None:
    log, evidence = [], start(POLICY)
    for bucket in selling(10, 0.9, number=40):
        seen = msgspec.json.decode(msgspec.json.encode(bucket), type=Bucket)
        evidence = msgspec.json.decode(msgspec.json.encode(evidence), type=Evidence)
        evidence, [verdict] = judged([seen], POLICY, evidence=evidence)
        log.append(Entry(seen, ReleaseState.RUNNING, verdict))
        if verdict.decision is Decision.ROLLBACK:
            break
    assert first_difference(POLICY, log) is None
    whole, _ = judged(selling(10, 0.9, number=40), POLICY)
    assert whole == evidence


def test_it_shares_alpha_with_the_others() -> None:
    """Errors and revenue that are not enough each for itself are together."""
    policy = msgspec.structs.replace(POLICY, metrics=(ERRORS, REVENUE))
    assert judged(selling(1, 0.8), policy)[1][-1].metrics[1].threshold == pytest.approx(math.log(200))


def test_good_releases_that_are_looked_at_all_the_time_keep_alpha() -> None:
    policy = msgspec.structs.replace(POLICY, alpha=0.05)
    rolled_back = sum(
        judged(selling(100 + n, 1.0, number=25), policy)[1][-1].decision is Decision.ROLLBACK
        for n in range(100)
    )
    may_be(rolled_back, 100, at_most=0.05)


# Before it begins


@pytest.mark.parametrize("ratio", [1.25, 1.5])
def test_it_is_found_when_it_was_said_to(ratio: float) -> None:
    """Medians, within a fifth: one unit in ten brings something, which makes a spread of three."""
    policy = Policy(stages=(Stage(0.25, 600),), metrics=(REVENUE,), warm_up_seconds=0.0)
    rng, found = np.random.default_rng(31), []

    def buying(units: int, worth: float) -> Sums:
        buyers = int(rng.binomial(units, 0.1))
        return Sums(units, buyers, *(buyers * worth**power for power in (1, 2, 3)))

    for _ in range(25):
        seen = [
            msgspec.structs.replace(
                bucket,
                outcomes=(
                    msgspec.structs.replace(
                        bucket.outcomes[0], sums=(buying(100, 5 / ratio), buying(300, 5.0))
                    ),
                ),
            )
            for bucket in selling(0, 1.0, number=200, units=400)
        ]
        _, verdicts = judged(seen, policy)
        assert verdicts[-1].decision is Decision.ROLLBACK
        found.append(verdicts[-1].at / 60)
    told = outlook(policy, Forecast(40, spreads={"revenue": 3.0})).metrics[0]
    # In the simulation outcomes come with the bucket: no minute is waited for.
    assert np.median(found) == pytest.approx(told.stages[0].detects[ratio] - 1, rel=0.2)


def test_what_traffic_shows_of_a_mean_is_told() -> None:
    forecast = Forecast(100, {}, {"revenue": 3.0}, 20)
    seen = outlook(POLICY, forecast)
    [metric] = seen.metrics
    assert metric.rate == 3.0 and metric.alone == 0
    first = metric.stages[0]
    least = 1 + 1000 / (0.25 * 20) / 60  # as many units as have to be there
    assert first.detects[10.0] == pytest.approx(least)
    assert first.detects[10.0] < first.detects[1.25] < math.inf
    assert first.promotes is not None and first.promotes > 1
    assert "revenue: can see ×" in foretell(POLICY, seen)
    more = outlook(POLICY, Forecast(100, {}, {"revenue": 3.0}, 40)).metrics[0].stages[0]
    assert more.detects[1.25] - 1 == pytest.approx((first.detects[1.25] - 1) / 2)
    wider = outlook(POLICY, Forecast(100, {}, {"revenue": 6.0}, 20)).metrics[0].stages[0]
    assert wider.detects[1.25] > 3 * first.detects[1.25]


def test_a_mean_of_which_nothing_is_foreseen_is_advised_upon() -> None:
    seen = outlook(POLICY, Forecast(100))
    assert seen.minutes == (None, None)
    assert "(of a mean, its spread)" in seen.advice[0]
    assert set(seen.metrics[0].detects.values()) == {math.inf}
    tolerant = msgspec.structs.replace(REVENUE, rollback_margin=0.5)
    policy = msgspec.structs.replace(POLICY, metrics=(tolerant,))
    assert outlook(policy, Forecast(100, spreads={"revenue": 3.0})).metrics[0].detects[1.25] == math.inf


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"spreads": {"revenue": 0.0}}, "spreads.revenue is 0"),
        ({"units_per_second": 200.0}, "units_per_second is 200"),
        ({"units_per_second": -1.0}, "units_per_second is -1"),
    ],
)
def test_a_forecast_that_cannot_be_is_refused(more: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        Forecast(100, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"cap": 0.0}, "cap is 0"),
        ({"cap": math.inf}, "cap is inf"),
        ({"negligible": 0.1}, "no rate is negligible"),
        ({"least": 1.0}, "its bounds"),
        ({"promotion_margin": 1.0}, "promotion margin is 1"),
        ({"kind": "outcome"}, "cap is 20"),
    ],
)
def test_a_mean_that_cannot_be_is_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        msgspec.structs.replace(REVENUE, **fields)
