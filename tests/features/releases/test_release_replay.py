"""Can each decision be computed again from its log, bit by bit?"""

import math

import msgspec
import pytest
from rollout_releases import POLICY, buckets, with_policy

from salver.features.releases.judge.evidence import start
from salver.features.releases.judge.judge import judge
from salver.features.releases.judge.replay import Entry, first_difference, replay
from salver.features.releases.judge.rules import Approval, Facts, StepApproval
from salver.features.releases.judge.verdict import Decision
from salver.words.errors import InvalidInput
from salver.words.releases import Bucket, Counts, ReleaseState


def logged(seen: list[Bucket], state: ReleaseState = ReleaseState.RUNNING) -> list[Entry]:
    """As a server writes them down, and reads them again."""
    evidence, log = start(POLICY), []
    for bucket in seen:
        evidence, verdict = judge(POLICY, evidence, bucket, state)
        log.append(Entry(bucket, state, verdict))
    return msgspec.json.decode(msgspec.json.encode(log), type=list[Entry])


def test_a_log_gives_the_same_decisions_bit_by_bit() -> None:
    seen = [*buckets(ratios={"errors": 1.7}, number=30), *buckets(stage=1, begin=300, number=5)]
    log = logged(seen)
    assert first_difference(POLICY, log) is None
    steps = list(replay(POLICY, log))
    assert [step.verdict for step in steps] == [entry.verdict for entry in log]
    assert steps[-1].evidence.requests.total > 0


def test_the_last_bit_is_seen() -> None:
    log = logged(list(buckets(number=5)))
    verdict = log[3].verdict
    other = msgspec.structs.replace(verdict, log_e=math.nextafter(verdict.log_e, 9.0))
    log[3] = msgspec.structs.replace(log[3], verdict=other)
    found = first_difference(POLICY, log)
    assert found is not None and found.entry is log[3]
    [difference] = found.differences()
    assert difference == f"log_e: logged {other.log_e!r}, now {verdict.log_e!r}"


def test_counts_that_were_altered_show() -> None:
    log = logged(list(buckets(number=8)))
    milder = msgspec.structs.replace(log[2].bucket, events={"errors": Counts(canary=1, stable=90)})
    log[2] = msgspec.structs.replace(log[2], bucket=milder)
    found = first_difference(POLICY, log)
    assert found is not None and found.entry is log[2]
    assert any(difference.startswith("metrics") for difference in found.differences())


def test_another_policy_is_not_the_one_that_judged() -> None:
    log = logged(list(buckets(ratios={"errors": 10.0}, number=30)))
    milder = with_policy(alpha=1e-9)
    found = first_difference(milder, log)
    assert found is not None and any("threshold" in difference for difference in found.differences())


def test_states_and_facts_are_part_of_the_log() -> None:
    policy = with_policy(rules=(Approval(1),))
    evidence, log = start(policy), []
    for number, bucket in enumerate(buckets(policy, number=90, events={"errors": 150, "slow": 250})):
        state = ReleaseState.PAUSED if number < 5 else ReleaseState.RUNNING
        facts = Facts(approvals=(StepApproval(1, "ann"),)) if number > 80 else Facts()
        evidence, verdict = judge(policy, evidence, bucket, state, facts)
        log.append(Entry(bucket, state, verdict, facts))
    assert {entry.verdict.cause for entry in log} >= {"person", "rule", None}
    assert log[-1].verdict.decision is Decision.PROMOTE
    assert first_difference(policy, log) is None
    assert first_difference(policy, [msgspec.structs.replace(one, facts=Facts()) for one in log]) is not None


def test_a_log_with_a_bucket_twice_is_none() -> None:
    log = logged(list(buckets(number=3)))
    with pytest.raises(InvalidInput, match="was counted before"):
        first_difference(POLICY, [*log, log[-1]])
    assert first_difference(POLICY, []) is None
