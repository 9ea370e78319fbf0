"""What does this traffic show, and when? Against recorded tables, and against the judge itself."""

import itertools
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from judge_arrays import judge_cells, judge_twin, judge_worlds
from rollout_releases import POLICY, buckets, judged, with_policy
from soaking import size

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
from salver.words.releases import BLOCK_BUCKETS, Counts

ERRORS = Metric("errors", "errors", "severe", share=0.2)
#: A latency's base rate is its quantile's complement: matched controls are its alone.
MATCHED = Metric("slow", "latency", "severe", quantile=0.995, share=0.2)
SIGHT = Policy(stages=(Stage(0.01, 10), Stage(0.05, 30), Stage(0.25, 60)), metrics=(ERRORS, MATCHED))


def simulated(policy: Policy, ratio: float, releases: int = 100) -> float:
    """Median of the minutes until releases are rolled back, with independent failures of half a per cent."""
    [metric] = policy.metrics
    shares = np.repeat([stage.weight for stage in policy.stages], 360)
    schedule = judge_twin.Schedule(np.repeat(np.arange(len(policy.stages)), 360), shares)
    rest = np.minimum(shares, 1 - shares)
    parts = np.stack([shares, rest, 1 - shares - rest], axis=1)
    rng = np.random.default_rng(21)
    events = rng.poisson(5 * parts * np.array([ratio, 1, 1]), (releases, len(shares), 3))
    asked = rng.poisson(1000 * parts, events.shape)
    scene = judge_twin.Scene(asked, asked, events, events, events[:, :, None])
    log_e = judge_twin.paths(policy, metric, schedule, scene).log_e
    hits = log_e >= -math.log(policy.alpha * policy.shares[0])
    return float(np.median(np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, np.inf)) / 6)


@pytest.mark.parametrize("severity", ["severe", "soft"])
def test_the_judge_finds_things_when_it_was_said_to(severity: str) -> None:
    """Medians of simulated releases, within a fifth or a minute."""
    metric = msgspec.structs.replace(ERRORS, severity=severity)
    policy = Policy(
        stages=(Stage(0.01, 60), Stage(0.05, 60), Stage(0.25, 60)), metrics=(metric,), warm_up_seconds=0.0
    )
    told = outlook(policy, Forecast(100, {"errors": 0.005})).metrics[0]
    for ratio in (2.0, 3.0, 5.0, 10.0):
        whole, left = 0.0, 1.0  # each stage lasts its hour, whether or not its gate is passed before
        for stage in told.stages:
            if left * stage.detects[ratio] <= 60:
                whole += left * stage.detects[ratio]
                break
            whole, left = whole + 60, left * (1 - 60 / (left * stage.detects[ratio]))
        assert simulated(policy, ratio) == pytest.approx(whole, rel=0.2, abs=1.5), ratio


def test_gates_are_passed_when_it_was_said_to() -> None:
    metric = Metric("errors", "errors", "severe", negligible=0.001)
    policy = Policy(stages=(Stage(0.25, 60),), metrics=(metric,), warm_up_seconds=0.0)
    told = promotion_minutes(policy, 0, metric, Forecast(100, {"errors": 0.005}))
    found = judge_cells.gate(8, "outlook", judge_worlds.World(), 100.0, 1.0, 40)["passed"]["minutes"]
    assert found[0] == pytest.approx(told, rel=0.25)


@pytest.mark.parametrize("share", [0.6, 0.9])
def test_a_large_canary_is_judged_when_it_was_said_to(share: float) -> None:
    """Of a soft metric, whose third opinion takes as much of the canary as its control has."""
    metric = Metric("errors", "errors", "soft", promotion_margin=None)
    policy = Policy(stages=(Stage(share, 60), Stage(0.95, 60)), metrics=(metric,), warm_up_seconds=0.0)
    for ratio in (3.0, 5.0):
        told = detection_minutes(policy, 0, metric, ratio, Forecast(100, {"errors": 0.005}))
        assert simulated(policy, ratio) == pytest.approx(told, rel=0.25, abs=1.5), ratio


def test_few_users_and_processes_are_told_what_they_can_show() -> None:
    found = outlook(Policy(), Forecast(20, {"errors": 0.005}, users=30, processes=4))
    assert set(found.metrics[0].detects.values()) == {math.inf}
    assert found.advice[0] == (
        "with 30 users, a canary that fails completely is paused within a minute from stage 3 on, where 8 of "
        "them meet it"
    )
    assert found.advice[1].startswith(
        "hiccups of each of 4 processes of the stable version count as variation"
    )
    few = outlook(Policy(), Forecast(20, users=6)).advice[0]
    assert few == "6 users are too few to prove at any stage that the canary fails completely"
    many = outlook(Policy(), Forecast(100, {"errors": 0.005}, users=300)).metrics[0].detects
    assert many[10.0] < 60 < many[2.0]
    with pytest.raises(InvalidInput, match="processes is 0"):
        Forecast(1, processes=0)


RATES = st.one_of(st.just(0.0), st.floats(1e-15, 1))


@given(
    per_second=st.floats(1e-6, 1e9),
    rates=st.fixed_dictionaries({}, optional={"errors": RATES, "fallbacks": RATES}),
    units=st.floats(0, 1),
    users=st.integers(0, 10**10),
    processes=st.integers(1, 10**6),
)
@settings(max_examples=size(60, 15))  # each asks all metrics at all stages
@example(per_second=1e9, rates={"errors": 1.0}, units=0.0, users=0, processes=1)
@example(per_second=1e-6, rates={"fallbacks": 1e-15}, units=1.0, users=10**10, processes=10**6)
def test_every_forecast_in_range_is_answered(
    per_second: float, rates: dict[str, float], units: float, users: int, processes: int
) -> None:
    new = max(units * per_second, 1e-6) if units else 0.0
    found = outlook(Policy(), Forecast(per_second, rates, {}, new, users, processes))
    assert not any(minutes is not None and math.isnan(minutes) for minutes in found.minutes)
    assert all(minutes > 0 for metric in found.metrics for minutes in metric.detects.values())


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"requests_per_second": 8e16}, "requests_per_second"),
        ({"requests_per_second": math.nan}, "requests_per_second"),
        ({"requests_per_second": 0.0}, "requests_per_second"),
        ({"requests_per_second": math.inf}, "requests_per_second"),
        ({"rates": {"errors": 1.5}}, "rates.errors"),
        ({"rates": {"errors": 1e-300}}, "rates.errors"),
        ({"spreads": {"score": 0.0}}, "spreads.score"),
        ({"units_per_second": 2.0}, "units_per_second"),
        ({"users": 2**63}, "users"),
    ],
)
def test_a_forecast_out_of_range_is_refused(bad: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        Forecast(**{"requests_per_second": 1.0} | bad)
    assert refused.value.field == field


def test_a_release_is_told_as_a_whole() -> None:
    policy = Policy()
    found = outlook(policy, Forecast(100, {"errors": 0.005, "fallbacks": 0.01, "timeouts": 0.0002}))
    assert found.advice == ()
    assert [minutes is not None and minutes > 0 for minutes in found.minutes] == [True] * 4
    errors, timeouts, invalid, *_ = found.metrics
    assert errors.detects[3.0] == pytest.approx(26, abs=1)
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


@settings(max_examples=15)
@given(st.sampled_from([0.5, 5.0, 50.0, 500.0]), st.floats(1e-5, 0.3))
def test_more_traffic_and_more_harm_are_seen_sooner(per_second: float, rate: float) -> None:
    for metric in (ERRORS, MATCHED):
        forecast, more = Forecast(per_second, {"errors": rate}), Forecast(2 * per_second, {"errors": rate})
        for stage in range(3):
            found = [detection_minutes(SIGHT, stage, metric, ratio, forecast) for ratio in RATIOS]
            assert all(a >= 0.7 * b - 1 for a, b in itertools.pairwise(found))
            sooner = [detection_minutes(SIGHT, stage, metric, ratio, more) for ratio in RATIOS]
            assert all(a <= 1.5 * b + 1 for a, b in zip(sooner, found, strict=True))


def test_events_that_never_happen_are_found_by_their_first() -> None:
    """As many minutes with one of the canary's as the outlook says roll it back, and one less do not."""
    alone = outlook(POLICY, Forecast(100)).metrics[0].alone
    for number, decision in ((alone, Decision.ROLLBACK), (alone - 1, Decision.CONTINUE)):
        seen = [
            msgspec.structs.replace(one, events={"errors": Counts(int(not index % BLOCK_BUCKETS))})
            for index, one in enumerate(buckets(number=BLOCK_BUCKETS * number))
        ]
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


# In words


def test_before_a_release_it_is_told_what_can_be_seen_and_what_not() -> None:
    text = foretell(Policy(), outlook(Policy(), Forecast(100, {"errors": 0.005, "timeouts": 0.0002})))
    assert "Stage 1 (1%) lasts 35 min if all is well." in text
    assert "errors: can see ×3 in 25 min and cannot see ×2" in text
    assert "timeouts: cannot see ×10" in text
    alone = "6 minutes in a row in which the canary alone has some roll it back"
    assert f"invalid, rejected: none foreseen; {alone}" in text
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
    lines = explain(POLICY, verdicts[-1], 90).splitlines()
    shown = lines[(first := lines.index("") + 1) : lines.index("", first)]
    assert len(shown) == 3 * len(POLICY.metrics) and max(map(len, shown)) <= 90
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
