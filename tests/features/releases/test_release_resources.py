"""Time in the model, CPU time and memory of a version's processes are compared by the minute."""

import math
import os

import msgspec
import pytest
from chances import may_be
from rollout_releases import ERRORS, buckets, with_policy

from salver.features.releases.experiments.resources import ResourceMeter, Usage, usage
from salver.features.releases.judge.evidence import start
from salver.features.releases.judge.explain import explain
from salver.features.releases.judge.judge import judge
from salver.features.releases.judge.outlook import Forecast, outlook
from salver.features.releases.judge.policy import Metric, Policy, Stage
from salver.features.releases.judge.record import proposed
from salver.features.releases.judge.usage import UsageEvidence
from salver.features.releases.judge.verdict import Decision, Verdict
from salver.words.errors import InvalidInput
from salver.words.events import BatchRan
from salver.words.releases import ReleaseState, ResourceUse, Spent

CPU = Metric("cpu", "resource", "soft", rollback_margin=0.5, promotion_margin=0.25)
STAGES = (Stage(0.05, 10), Stage(0.25, 10))
POLICY = with_policy(metrics=(ERRORS, CPU), stages=STAGES, warm_up_seconds=0.0, bucket_seconds=10.0)


def used(ratio: float, requests: int = 50) -> ResourceUse:
    return ResourceUse(Spent(0.01 * requests * ratio, requests), Spent(0.01 * 19 * requests, 19 * requests))


def judged(ratios: list[float | None], policy: Policy = POLICY) -> list[Verdict]:
    """A bucket each, whose canary needs so many times as much by request; None = it is not known."""
    evidence, said = start(policy), []
    for bucket, ratio in zip(buckets(policy, number=len(ratios), events={"errors": 0}), ratios, strict=True):
        resources = {} if ratio is None else {"cpu": used(ratio)}
        evidence, verdict = judge(
            policy, evidence, msgspec.structs.replace(bucket, resources=resources), ReleaseState.RUNNING
        )
        said.append(verdict)
        if verdict.decision in (Decision.ROLLBACK, Decision.PROMOTE):
            break
    return said


def test_a_version_that_needs_twice_as_much_is_rolled_back_after_a_quarter_of_an_hour() -> None:
    policy = with_policy(metrics=(ERRORS, CPU), stages=(Stage(0.05, 60),), warm_up_seconds=0.0)
    said = judged([2.0] * 200, policy)
    assert said[-1].decision is Decision.ROLLBACK and 10 < len(said) / 6 < 20
    assert "cpu: the canary needs 2.00 times what its control does" in said[-1].reasons[0]
    assert "cpu" in explain(policy, said[-1]) and "(100%)" in explain(policy, said[-1])


def test_within_its_margin_a_step_is_taken_and_beyond_it_not() -> None:
    assert judged([1.1] * 80)[-1].decision is Decision.PROMOTE
    said = judged([1.4] * 80)  # more than the gate allows, and less than what is rolled back
    assert {verdict.decision for verdict in said} == {Decision.CONTINUE}
    assert any("cpu" in reason for reason in said[-1].reasons)


def test_what_is_not_known_is_not_zero() -> None:
    said = judged([None] * 80)
    assert said[-1].decision is Decision.HOLD and said[-1].cause == "no_data"
    assert "cpu" in said[-1].reasons[0]


def test_one_minute_of_a_thousand_times_as_much_is_one_minute() -> None:
    said = judged([*[1.0] * 60, *[1000.0] * 6, *[1.0] * 12])
    assert max(verdict.log_e for verdict in said) < math.log(2)


def test_minutes_that_are_above_the_margin_half_of_the_time_are_no_evidence() -> None:
    import numpy as np

    found = 0
    for release in range(300):
        evidence, most = UsageEvidence(), -math.inf
        for minute, is_above in enumerate((np.random.default_rng(release).random(180) < 0.5).tolist()):
            evidence = evidence.add(used(2.0 if is_above else 1.0), minute, (0.5, None), is_warm=True)
            most = max(most, evidence.log_harm)
        found += most >= -math.log(0.05)
    may_be(found, 300, at_most=0.05)


def test_the_forecast_tells_the_minutes_that_are_needed() -> None:
    [_, seen] = outlook(POLICY, Forecast(100, {"errors": 0.005})).metrics
    assert 10 < seen.stages[0].detects[2.0] < 20 and seen.stages[0].detects[1.5] == math.inf
    assert seen.stages[0].promotes == 7


def test_a_resource_is_soft_and_has_one_of_three_names() -> None:
    with pytest.raises(InvalidInput, match="severe"):
        Metric("cpu", "resource", "severe")
    with pytest.raises(InvalidInput, match="run_time or cpu or memory"):
        proposed("r", "m", ("1", "2"), with_policy(metrics=(Metric("disk", "resource", "soft"),)), 0.0)


# The meter


def ran(version: str, requests: int, seconds: float, *, ok: bool = True) -> BatchRan:
    return BatchRan("m", version, requests, requests, seconds, 0.0, 0.0, "full", ok)


def test_runs_and_processes_are_measured_by_version_since_the_last_bucket() -> None:
    hosts, seen = {"2": [7], "1": [8, 9]}, {7: Usage(5.0, 100), 8: Usage(3.0, 200), 9: Usage(1.0, 400)}
    meter = ResourceMeter("m", ("2", "1"), lambda model, version: hosts[version], seen.get)
    assert meter.taken() == {"memory": ResourceUse(Spent(100.0, 1), Spent(600.0, 2))}
    for run in (ran("2", 4, 0.2), ran("1", 40, 1.0), ran("2", 8, 9.0, ok=False), ran("3", 8, 9.0)):
        meter.ran(run)
    seen |= {7: Usage(5.5, 100), 8: Usage(4.0, 200), 10: Usage(70.0, 400)}
    hosts["1"] = [8, 10]  # one died; what its successor needed to load the model does not count
    assert meter.taken() == {
        "run_time": ResourceUse(Spent(0.2, 4), Spent(1.0, 40)),
        "cpu": ResourceUse(Spent(0.5, 4), Spent(1.0, 40)),
        "memory": ResourceUse(Spent(100.0, 1), Spent(600.0, 2)),
    }
    assert "cpu" not in meter.taken()  # without a run it is not known what a request costs


def test_a_model_inside_the_server_has_no_processor_time_of_its_own() -> None:
    meter = ResourceMeter("m", ("2", "1"), lambda model, version: [])
    for run in (ran("2", 4, 0.2), ran("1", 40, 1.0)):
        meter.ran(run)
    assert set(meter.taken()) == {"run_time"}


def test_a_process_is_read_and_one_that_is_gone_is_not_known() -> None:
    mine = usage(os.getpid())
    assert mine is not None and mine.cpu_seconds > 0 and mine.resident_bytes > 1 << 20
    assert usage(2**22 + 1) is None
