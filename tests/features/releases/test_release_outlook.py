"""What does this traffic show, and when? Against recorded tables, and against the judge itself."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judge_paths import Arms, Schedule, paths
from rollout_releases import POLICY, buckets, judged, with_policy

from salver.features.releases.judge.explain import explain, foretell
from salver.features.releases.judge.outlook import (
    RATIOS,
    Forecast,
    detection_minutes,
    outlook,
    promotion_minutes,
)
from salver.features.releases.judge.policy import Metric, Policy, Stage
from salver.features.releases.judge.verdict import Decision
from salver.words.errors import InvalidInput
from salver.words.releases import Counts

ERRORS = Metric("errors", "errors", "severe", share=0.2)
#: A latency's base rate is its quantile's complement: matched controls are its alone.
MATCHED = Metric("slow", "latency", "severe", quantile=0.995, share=0.2)
SIGHT = Policy(stages=(Stage(0.01, 10), Stage(0.05, 30), Stage(0.25, 60)), metrics=(ERRORS, MATCHED))


@pytest.mark.parametrize(
    ("per_second", "stage", "against_all", "matched"),
    [
        (10, 0, (2228, 625, 187, 60, 18), (4733, 1402, 455, 164, 56)),
        (10, 1, (467, 132, 40, 13, 3.9), (947, 280, 91, 33, 11)),
        (10, 2, (122, 35, 11, 3.8, 1.2), (189, 56, 18, 6.5, 2.2)),
        (100, 0, (223, 63, 19, 6.0, 1.7), (473, 140, 46, 16, 5.6)),
        (100, 2, (12, 3.5, 1.1), (19, 5.6, 1.8)),
    ],
)
def test_detection_takes_as_long_as_recorded(
    per_second: float, stage: int, against_all: tuple[float, ...], matched: tuple[float, ...]
) -> None:
    """Minutes for ×1.5, 2, 3, 5, 10 of half a per cent, at 0.2 % of alpha, of plain evidence: that no bucket
    may decide costs five of them more. Two digits were recorded.
    """
    forecast = Forecast(per_second, {"errors": 0.005})
    for metric, recorded in ((ERRORS, against_all), (MATCHED, matched)):
        found = [detection_minutes(SIGHT, stage, metric, ratio, forecast) - 50 / 60 for ratio in RATIOS[1:]]
        assert found[: len(recorded)] == pytest.approx(recorded, rel=0.06), metric.name


@pytest.mark.parametrize(
    ("rate", "requests"),
    [
        (0.001, {0.1: 830e3, 0.2: 220e3, 0.5: 41e3, 1.0: 12.7e3, 2.0: 4.3e3}),
        (0.02, {0.1: 41.5e3, 0.2: 11e3, 0.5: 2.1e3, 1.0: 634, 2.0: 216}),
    ],
)
def test_promotion_takes_as_many_requests_as_recorded(rate: float, requests: dict[float, float]) -> None:
    """Of the canary, beside a control that is much larger."""
    for margin, recorded in requests.items():
        metric = Metric("errors", "errors", "severe", promotion_margin=margin)
        policy = Policy(stages=(Stage(1e-6, 1),), metrics=(metric,))
        minutes = promotion_minutes(policy, 0, metric, Forecast(1e6, {"errors": rate}))
        assert minutes * 60 == pytest.approx(recorded, rel=0.02)


@pytest.mark.parametrize("severity", ["severe", "soft"])
def test_the_judge_finds_things_when_it_was_said_to(severity: str) -> None:
    """Medians of simulated releases, within 15 %."""
    metric = msgspec.structs.replace(ERRORS, severity=severity)
    policy = Policy(
        stages=(Stage(0.01, 60), Stage(0.05, 60), Stage(0.25, 60)), metrics=(metric,), warm_up_seconds=0.0
    )
    schedule = Schedule(np.repeat([0, 1, 2], 360), np.repeat([0.01, 0.05, 0.25], 360))
    share, rng, none = schedule.shares, np.random.default_rng(21), np.zeros((150, 1080), np.int64)
    told = outlook(policy, Forecast(100, {"errors": 0.005})).metrics[0]
    for ratio in (2.0, 3.0, 5.0):
        rates = (5 * share * ratio, 5 * share, 5 * (1 - 2 * share))
        arms = Arms(*(rng.poisson(rate, (150, 1080)) for rate in rates))
        at = paths(policy, schedule, Arms(none, none, none), {"errors": arms}).rollbacks(policy)
        whole = 0.0  # each stage lasts its hour, whether or not its gate is passed before
        left = 1.0
        for stage in told.stages:
            if left * stage.detects[ratio] <= 60:
                whole += left * stage.detects[ratio]
                break
            whole, left = whole + 60, left * (1 - 60 / (left * stage.detects[ratio]))
        assert np.median((at + 1) / 6) == pytest.approx(whole, rel=0.15), ratio


@pytest.mark.parametrize("share", [0.6, 0.9])
def test_a_large_canary_is_judged_when_it_was_said_to(share: float) -> None:
    """Of a soft metric, whose second opinion takes as much of the canary as its control has."""
    metric = Metric("fallbacks", "fallbacks", "soft", promotion_margin=None)
    policy = Policy(stages=(Stage(share, 60),), metrics=(metric,), warm_up_seconds=0.0)
    schedule = Schedule(np.zeros(720, np.int64), np.full(720, share))
    rng, none = np.random.default_rng(22), np.zeros((200, 720), np.int64)
    for ratio in (1.5, 2.0, 3.0):
        rates = (10 * share * ratio, 10 * (1 - share), 0.0)
        arms = Arms(*(rng.poisson(rate, (200, 720)) for rate in rates))
        at = paths(policy, schedule, Arms(none, none, none), {"fallbacks": arms}).rollbacks(policy)
        told = detection_minutes(policy, 0, metric, ratio, Forecast(100, {"fallbacks": 0.01}))
        assert np.median(at + 1) / 6 == pytest.approx(told, rel=0.15), ratio


def test_a_release_is_told_as_a_whole() -> None:
    policy = Policy()
    found = outlook(policy, Forecast(100, {"errors": 0.005, "fallbacks": 0.01, "timeouts": 0.0002}))
    assert found.advice == ()
    assert [minutes is not None and minutes > 0 for minutes in found.minutes] == [True] * 4
    errors, timeouts, invalid, *_ = found.metrics
    assert errors.detects[3.0] == pytest.approx(19, abs=1)
    assert errors.detects[1.5] < sum(minutes or 0 for minutes in found.minutes)
    assert timeouts.detects[1.25] == math.inf
    assert invalid.rate == 0 and set(invalid.detects.values()) == {math.inf}
    assert errors.stages[0].visible() == (5.0, 10.0)


def test_warming_up_delays_what_is_soft() -> None:
    policy, forecast = Policy(), Forecast(100, {"errors": 0.005})
    for metric, found in zip(policy.metrics, outlook(policy, forecast).metrics, strict=True):
        blind = 0.0 if metric.severity == "severe" else 2.0
        told = blind + detection_minutes(policy, 0, metric, 10.0, forecast)
        assert found.stages[0].detects[10.0] == pytest.approx(told)
        assert found.detects[10.0] == pytest.approx(told) or told > found.stages[0].minutes


@given(st.sampled_from([0.5, 5.0, 50.0, 500.0]), st.floats(1e-5, 0.3))
def test_more_traffic_and_more_harm_are_seen_sooner(per_second: float, rate: float) -> None:
    for metric in (ERRORS, MATCHED):
        forecast, more = Forecast(per_second, {"errors": rate}), Forecast(2 * per_second, {"errors": rate})
        for stage in range(3):
            found = [detection_minutes(SIGHT, stage, metric, ratio, forecast) for ratio in RATIOS]
            assert found == sorted(found, reverse=True)
            sooner = [detection_minutes(SIGHT, stage, metric, ratio, more) for ratio in RATIOS]
            assert all(a <= b for a, b in zip(sooner, found, strict=True))


def test_events_that_never_happen_are_found_by_their_first() -> None:
    """As many buckets with one of the canary's as the outlook says roll it back, and one less do not."""
    alone = outlook(POLICY, Forecast(100)).metrics[0].alone
    for number, decision in ((alone, Decision.ROLLBACK), (alone - 1, Decision.CONTINUE)):
        seen = [msgspec.structs.replace(one, events={"errors": Counts(1)}) for one in buckets(number=number)]
        assert judged(seen)[1][-1].decision is decision


def test_sparse_traffic_and_gates_that_cannot_be_passed_are_advised_upon() -> None:
    [sparse, *slow] = outlook(Policy(), Forecast(0.5, {"errors": 0.005})).advice
    assert sparse.startswith("at 0.5 requests a second a stage of 1% sees nothing: begin at 25%")
    assert slow and all("to prove no harm, and a hold ends after 24.0 h" in advice for advice in slow)
    found = outlook(with_policy(metrics=(ERRORS,)), Forecast(100))
    assert found.minutes[0] is None
    assert "nothing can prove errors harmless at stage 1" in found.advice[0]
    ships = with_policy(metrics=(ERRORS,), ships_on_budget=True)
    assert outlook(ships, Forecast(100)).minutes[0] is not None


@pytest.mark.parametrize(
    ("per_second", "rates", "words"),
    [
        (0, {}, "0 requests a second"),
        (math.inf, {}, "inf requests"),
        (1, {"errors": 1.5}, "rate of 'errors' is 1.5"),
    ],
)
def test_traffic_that_cannot_be_is_refused(per_second: float, rates: dict[str, float], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        Forecast(per_second, rates)


# In words


def test_before_a_release_it_is_told_what_can_be_seen_and_what_not() -> None:
    text = foretell(Policy(), outlook(Policy(), Forecast(100, {"errors": 0.005, "timeouts": 0.0002})))
    assert "Stage 1 (1%) lasts 27 min if all is well." in text
    assert "errors: can see ×3 in 20 min and cannot see ×2" in text
    assert "timeouts: cannot see ×10" in text
    assert "invalid: none foreseen; 6 buckets in which the canary alone has some roll it back" in text
    assert "never" in text
    rows = [line.split()[0] for line in text.partition("\n\n")[2].splitlines()]
    assert rows == ["found", "errors", "timeouts", "latency_p99"]  # of none there is no twice as many
    text = foretell(POLICY, outlook(with_policy(metrics=(ERRORS, MATCHED)), Forecast(0.1)))
    assert "is not left by itself" in text and "Note: " in text
    text = foretell(Policy(), outlook(Policy(), Forecast(1, {"errors": 0.01})))
    assert "Note: stage 1 takes 33.3 h to prove no harm, and a hold ends after 24.0 h" in text
    small = with_policy(stages=(Stage(0.025, 1),))
    text = foretell(small, outlook(small, Forecast(1)))
    assert "Stage 1 (2.5%)" in text
    two = with_policy(metrics=(ERRORS, msgspec.structs.replace(ERRORS, name="timeouts", kind="timeouts")))
    text = foretell(two, outlook(two, Forecast(100)))
    assert text.count("  errors, timeouts: none foreseen;") == text.count("\n  ")  # a line for both
    assert "found after" not in text


def test_where_a_line_for_each_metric_is_too_wide_it_has_some() -> None:
    _, verdicts = judged(buckets(ratios={"errors": 10.0}, number=30))
    assert explain(POLICY, verdicts[-1], 200) == explain(POLICY, verdicts[-1])
    lines = explain(POLICY, verdicts[-1], 80).splitlines()
    shown = lines[(first := lines.index("") + 1) : lines.index("", first)]
    assert len(shown) == 3 * len(POLICY.metrics) and max(map(len, shown)) <= 80
    assert shown[0].startswith("errors: ") and "of the new version" in shown[0]
    assert shown[1].startswith("  effect ×10.00, within ")
    assert shown[2].startswith("  evidence of harm ") and shown[2].endswith(" of 20")


def test_a_decision_is_told_with_its_evidence() -> None:
    _, verdicts = judged(buckets(ratios={"errors": 10.0}, number=30))
    text = explain(POLICY, verdicts[-1])
    assert text.startswith(
        "ROLLBACK at stage 1 of 3 (10% of the units)\n  because errors: the canary has 10.0"
    )
    assert "×10.00" in text and "All metrics together: evidence of harm" in text
    assert "lacks" not in text  # it is over
    (row,) = (line for line in text.splitlines() if line.startswith("errors "))
    new, old = verdicts[-1].metrics[0].events, verdicts[-1].metrics[0].units
    assert f"{new.canary:,} of {old.canary:,} (" in row and f"{new.control:,} of {old.control:,} (" in row
    _, verdicts = judged(buckets(events={"errors": 100}, number=30))
    text = explain(POLICY, verdicts[-1])
    assert "slow lacks evidence 1 of 20 that it is within its margin." in text
    assert "0 to ∞" in text  # of what never happened
    rows = [line for line in text.splitlines() if line.startswith(("metric", "errors", "slow  "))]
    assert len({len(row) for row in rows}) == 1
