"""A canary that fails completely is paused, comes back for a probe, and is rolled back on its third failure.

Ceilings, counts that are missing, and clocks that differ hold a release as well.
"""

import math
from collections.abc import Iterable

import msgspec
import pytest
from rollout_releases import ERRORS, POLICY, buckets, counts, judged, with_policy
from scipy.stats import hypergeom

from salver.features.releases.judge.evidence import Evidence, start
from salver.features.releases.judge.judge import judge
from salver.features.releases.judge.outage import CALM, chance
from salver.features.releases.judge.policy import Metric, Policy
from salver.features.releases.judge.rules import Facts
from salver.features.releases.judge.verdict import Decision, Verdict
from salver.words.releases import Bucket, Counts, RecentRequests, ReleaseState, ServerPart

POLICY_OF_ERRORS = with_policy(metrics=(ERRORS,))
#: All sixteen users of the canary fail, and none of the control's.
ALL_FAIL = RecentRequests(Counts(160, 160, 280), Counts(160), Counts(16, 16, 28), Counts(16), 4, 4)


class Story:
    """A release whose buckets are judged one after the other."""

    def __init__(self, policy: Policy = POLICY_OF_ERRORS) -> None:
        self.policy, self.evidence, self.at = policy, start(policy), 0.0

    def sees(
        self,
        lately: RecentRequests | None,
        state: ReleaseState = ReleaseState.RUNNING,
        facts: Facts = Facts(),  # noqa: B008 - frozen
        **changes: object,
    ) -> Verdict:
        [bucket] = buckets(self.policy, begin=self.at, number=1, events={"errors": 0})
        seen: dict[str, object] = {}
        if lately is not None:
            part = lately.failures.canary / lately.requests.canary
            failed = Counts(math.ceil(part * bucket.requests.canary))
            seen = {"lately": {"errors": lately}, "raw": {"errors": failed}}
        bucket = msgspec.structs.replace(bucket, **(seen | changes))
        self.at += bucket.seconds
        self.evidence, verdict = judge(self.policy, self.evidence, bucket, state, facts)
        return verdict

    def is_off(self, number: int) -> list[Verdict]:
        """So many buckets in which nobody gets the canary."""
        return [
            self.sees(None, ReleaseState.PAUSED, share=0.0, requests=Counts(stable=100), exposures=Counts())
            for _ in range(number)
        ]


def test_a_canary_that_fails_completely_is_paused_and_rolled_back_the_third_time() -> None:
    story = Story()
    said = [story.sees(ALL_FAIL)]
    assert (said[0].decision, said[0].cause, said[0].pause_seconds) == (Decision.PAUSE, "outage", 30.0)
    assert "errors: 160 of the last 160 requests to the canary had it" in said[0].reasons[0]
    assert "16 of 16 units had it in most of theirs, where 0 of 44 of the control's had" in said[0].reasons[0]
    story.is_off(3)
    probe = msgspec.structs.replace(ALL_FAIL, buckets=2, failed_buckets=2)
    assert (
        story.sees(msgspec.structs.replace(probe, buckets=1, failed_buckets=1)).decision is Decision.CONTINUE
    )
    said.append(story.sees(probe))
    assert (said[1].decision, said[1].pause_seconds) == (Decision.PAUSE, 60.0)
    story.is_off(6)
    story.sees(msgspec.structs.replace(probe, buckets=1, failed_buckets=1))
    last = story.sees(probe)
    assert last.decision is Decision.ROLLBACK
    assert last.reasons[0] == "errors: most requests to the canary have it for the third time in a row"


def test_calm_clears_the_strikes() -> None:
    story = Story()
    for _ in range(4):
        assert story.sees(ALL_FAIL).decision is Decision.PAUSE
        story.is_off(3)
        for _ in range(CALM):
            assert story.sees(None).decision is not Decision.ROLLBACK
        assert not story.evidence.outages.strikes


@pytest.mark.parametrize(("healthy", "decision"), [(0, Decision.ROLLBACK), (1, Decision.PAUSE)])
def test_a_canary_that_answers_in_between_is_not_failing_in_a_row(healthy: int, decision: Decision) -> None:
    story = Story()
    assert story.sees(ALL_FAIL).pause_seconds == 30
    story.is_off(3)
    for _ in range(2):
        for _ in range(healthy):
            story.sees(None)
        said = story.sees(ALL_FAIL)
        story.is_off(6)
    assert said.decision is decision
    assert story.evidence.outages.strikes == (3 if decision is Decision.ROLLBACK else 1)


def test_pauses_that_come_again_and_again_wait_for_a_person() -> None:
    story, last = Story(), []
    for _ in range(8):
        last.append(story.sees(ALL_FAIL).pause_seconds)
        for _ in range(CALM):
            story.sees(None)
    assert last == [30.0] * 7 + [0.0]


@pytest.mark.parametrize(
    "lately",
    [
        msgspec.structs.replace(ALL_FAIL, failures=Counts(119)),  # not three quarters of the requests
        msgspec.structs.replace(ALL_FAIL, failing=Counts(2)),  # of two units
        msgspec.structs.replace(ALL_FAIL, failing=Counts(16, 16, 28)),  # of the control's as well
        msgspec.structs.replace(ALL_FAIL, requests=Counts(4), failures=Counts(4)),
        msgspec.structs.replace(ALL_FAIL, requests=Counts(9), failures=Counts(8)),  # nearly all of few
        msgspec.structs.replace(ALL_FAIL, buckets=3, failed_buckets=3),  # too short
        msgspec.structs.replace(ALL_FAIL, failed_buckets=2),  # a burst
        msgspec.structs.replace(ALL_FAIL, units=Counts(3, 3, 9), failing=Counts(3)),  # chance 1 in 455
    ],
)
def test_less_is_no_reason_to_pause(lately: RecentRequests) -> None:
    assert Story().sees(lately).decision is Decision.CONTINUE


def across(servers: int, users: int, failing: int, at_each: int) -> Verdict:
    """Four buckets of several servers, each of which is asked by a part of the users of each arm."""
    story, requests = Story(), Counts(40, 40, 80)
    told = RecentRequests(
        Counts(160, 160, 320),
        Counts(160),
        Counts(servers * at_each, servers * at_each, 2 * servers * at_each),
        Counts(servers * at_each),
        4,
        4,
    )
    for index in range(4):
        new = Counts(users if index == 0 else 0)
        verdict = story.sees(
            told,
            requests=requests,
            exposures=Counts(new.canary, new.canary, 2 * new.canary),
            raw={"errors": Counts(failing)},
            events={"errors": new},
            blocks={"errors": (new,)},
            parts=tuple(ServerPart(str(server)) for server in range(servers)),
        )
    return verdict


def test_of_several_servers_all_requests_count_and_each_unit_once() -> None:
    said = across(servers=4, users=6, failing=40, at_each=4)
    assert said.decision is Decision.PAUSE
    # sixteen times a unit of the canary failed at a server, but they are six
    assert "6 of 6 units had it in most of theirs, where 0 of 18 of the control's had" in said.reasons[0]
    assert across(servers=4, users=3, failing=40, at_each=4).decision is Decision.CONTINUE  # 1 in 220
    assert across(servers=4, users=16, failing=10, at_each=4).decision is Decision.CONTINUE  # one server


def test_of_several_servers_units_count_that_failed_in_the_block_before_the_window_began() -> None:
    story, told = Story(), RecentRequests(Counts(8), Counts(8), Counts(5, 5, 10), Counts(5), 4, 4)
    for index in range(6):
        new = Counts((3, 0, 0, 0, 1, 1)[index])
        verdict = story.sees(
            told if index == 5 else None,
            requests=Counts(2, 2, 4),
            exposures=Counts(5, 5, 10) if not index else Counts(),
            raw={"errors": Counts(2)},
            events={"errors": new},
            blocks={"errors": (new,)},
            parts=(ServerPart("0"), ServerPart("1")),
        )
    assert verdict.decision is Decision.PAUSE
    assert "5 of 5 units had it in most of theirs, where 0 of 15" in verdict.reasons[0]


def test_a_soft_metric_pauses_nothing_and_a_promoted_release_is_not_paused() -> None:
    soft = msgspec.structs.replace(ERRORS, severity="soft")
    assert Story(with_policy(metrics=(soft,))).sees(ALL_FAIL).decision is Decision.CONTINUE
    assert Story().sees(ALL_FAIL, ReleaseState.PROMOTED).decision is Decision.CONTINUE
    story = Story()
    assert story.sees(ALL_FAIL, ReleaseState.PAUSED).decision is Decision.HOLD  # of before the pause
    assert not story.evidence.outages.strikes


def test_a_release_that_a_person_has_paused_loses_its_traffic_if_its_canary_fails_completely() -> None:
    keeps = Facts(keeps_share=True)
    story = Story()
    assert story.sees(None, ReleaseState.PAUSED, keeps).decision is Decision.HOLD
    assert story.sees(ALL_FAIL, ReleaseState.PAUSED, keeps).decision is Decision.PAUSE


def test_while_it_is_paused_nothing_counts_and_no_deadline_runs() -> None:
    story = Story()
    story.sees(ALL_FAIL)
    before = story.evidence
    said = story.is_off(100)
    assert {(one.decision, one.cause, one.held_since) for one in said} == {(Decision.HOLD, "outage", None)}
    assert story.evidence.metrics == before.metrics
    for name in ("stage_seconds", "requests", "units", "split", "outages"):
        assert getattr(story.evidence, name) == getattr(before, name)


def test_under_a_broken_split_the_third_failure_waits_for_a_person() -> None:
    story = Story()
    crooked = {"exposures": counts(20_000, 0.2)}
    for seconds in (30.0, 60.0):
        verdict = story.sees(ALL_FAIL, **crooked)
        assert (verdict.decision, verdict.pause_seconds) == (Decision.PAUSE, seconds)
    verdict = story.sees(ALL_FAIL, **crooked)
    assert (verdict.decision, verdict.cause, verdict.pause_seconds) == (Decision.PAUSE, "split", 0.0)


@pytest.mark.parametrize(
    ("units", "failing"),
    [
        (Counts(16, 16, 28), Counts(16)),
        (Counts(3, 3, 6), Counts(2, 1, 1)),
        (Counts(400, 400, 39_000), Counts(120, 2, 300)),
        (Counts(2000, 2000, 4000), Counts(1990, 2000, 4000)),
        (Counts(5), Counts(5)),
    ],
)
def test_the_chance_is_that_of_fishers_test(units: Counts, failing: Counts) -> None:
    expected = hypergeom.sf(failing.canary - 1, units.total, failing.total, units.canary)
    assert chance(units, failing) == pytest.approx(expected, rel=1e-7)


# Ceilings, and what is not known


def holds(seen: Iterable[Bucket], policy: Policy, **how: object) -> tuple[Evidence, list[Verdict]]:
    return judged(seen, policy, until=lambda _: False, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("ratio", [1.0, 0.01])
def test_above_its_ceiling_nothing_is_promoted_and_the_deadline_is_a_person_s(ratio: float) -> None:
    """Sixty per cent of all fail, or of the control alone."""
    policy = with_policy(metrics=(msgspec.structs.replace(ERRORS, ceiling=0.1),))
    seen = buckets(policy, events={"errors": 1200}, ratios={"errors": ratio}, number=100)
    _, said = holds(seen, policy)
    assert {(one.decision, one.cause) for one in said} == {(Decision.HOLD, "ceiling")}
    assert "60.0% of the requests to the control had it" in " ".join(said[50].reasons)
    assert said[-1].reasons[-1].endswith("a person has to decide")
    _, said = holds(buckets(policy, events={"errors": 180}, number=100), policy)  # nine per cent
    assert {one.cause for one in said} == {None}


def test_a_canary_without_a_control_is_held_by_its_ceiling_alone() -> None:
    policy = with_policy(metrics=(msgspec.structs.replace(ERRORS, ceiling=0.1),))
    for events, decision in ((400, Decision.HOLD), (100, Decision.PROMOTE)):
        _, said = holds(buckets(policy, stage=2, events={"errors": events}, number=5), policy)
        assert said[-1].decision is decision


def test_counts_that_are_missing_are_not_zero() -> None:
    policy = with_policy(metrics=(ERRORS, Metric("breaches", "rule", "severe", negligible=0.5)))
    seen = list(buckets(policy, number=100))
    whole, _ = holds(seen, policy)
    without = [msgspec.structs.replace(one, events={"errors": one.events["errors"]}, raw={}) for one in seen]
    evidence, said = holds(without, policy)
    assert (
        evidence.metrics[0] == whole.metrics[0]
        and evidence.metrics[1].counts == start(policy).metrics[1].counts
    )
    assert [one.decision for one in said[:5]] == [Decision.CONTINUE] * 5
    assert {one.cause for one in said[5:]} == {"no_data"}
    assert said[5].reasons[0] == "no data: breaches have not been counted for 60 seconds"
    assert said[-1].metrics[1].missing == "its counts: they are missing"
    [after] = buckets(policy, begin=1000, number=1)
    _, said = holds([after], policy, evidence=evidence)
    assert said[0].cause is None


def test_a_gate_does_not_pass_while_counts_are_missing() -> None:
    policy = with_policy(metrics=(ERRORS,))
    seen = list(buckets(policy, number=81))
    seen[-1] = msgspec.structs.replace(seen[-1], events={})
    said = [one.decision for one in holds(seen, policy)[1]]
    assert said[-2:] == [Decision.PROMOTE, Decision.CONTINUE]


def test_silence_is_no_missing_count() -> None:
    silent = {"requests": Counts(), "exposures": Counts(), "events": {}}
    evidence, _ = holds([msgspec.structs.replace(one, **silent) for one in buckets(number=5)], POLICY)
    assert {known.missing_seconds for known in evidence.metrics} == {0.0}


def test_clocks_that_differ_are_named() -> None:
    _, said = holds(buckets(number=1), POLICY, facts=Facts(clocks="b is 24 s ahead of a"))
    assert (said[0].decision, said[0].cause) == (Decision.HOLD, "clocks")
    assert said[0].reasons == ("the clocks of servers differ: b is 24 s ahead of a",)


def test_evidence_of_outages_survives_its_json() -> None:
    story = Story()
    story.sees(ALL_FAIL)
    assert msgspec.json.decode(msgspec.json.encode(story.evidence), type=Evidence) == story.evidence
    assert math.isfinite(story.evidence.outages.times[0])
