"""What follows from wishes and verdicts: a table of each state, and properties of all of them."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.features.releases import decisions
from salver.features.releases.judge import procedure
from salver.features.releases.judge.policy import Metric, Policy, Stage
from salver.features.releases.judge.record import ChangeRequest, Release, proposed
from salver.features.releases.judge.verdict import Decision, Verdict
from salver.words.errors import Conflict, InvalidInput
from salver.words.releases import ReleaseState, Shadow, Traffic

POLICY = Policy(stages=(Stage(0.05, 10), Stage(0.25, 30), Stage(1.0, 0)))
STATES = list(ReleaseState)


def release(state: ReleaseState = ReleaseState.RUNNING, stage: int = 0, **fields: object) -> Release:
    new = proposed("r", "fraud", ("1", "2"), POLICY, 100.0)
    weight = POLICY.stages[stage].weight if state is not ReleaseState.PROPOSED else 0.0
    return msgspec.structs.replace(new, state=state, stage=stage, weight=weight, **fields)


def wish(what: str, by: str = "ada", why: str = "") -> ChangeRequest:
    return ChangeRequest(1, "r", what, by, why, 150.0)


def verdict(decision: Decision, *reasons: str, stage: int = 0) -> Verdict:
    follows = stage + 1 if stage < 2 and decision is Decision.PROMOTE else None
    reasons = reasons or (f"so says {decision.value}",)
    return Verdict(decision, 160.0, stage, follows, reasons, None, None, 0, 4.6, 0, ())


def paused(seconds: float) -> Verdict:
    said = verdict(Decision.PAUSE, "all of its requests fail")
    return msgspec.structs.replace(said, pause_seconds=seconds)


def test_a_pause_by_the_judge_takes_the_traffic_until_its_time_is_over() -> None:
    off = procedure.judged(release(), paused(30.0), 200.0)
    assert (off.state, off.weight, off.stage, off.resumes_at) == (ReleaseState.PAUSED, 0.0, 0, 230.0)
    assert (off.reason, off.progress.pauses) == ("all of its requests fail", 1)
    assert off.split is not None and (off.split.weight, off.split.turn) == (0.0, 1)
    assert procedure.resumed(off, 229.9) == off
    # What was counted before the pause, and verdicts on it, change nothing more.
    for decision in (Decision.CONTINUE, Decision.HOLD, Decision.PROMOTE):
        assert procedure.judged(off, verdict(decision), 205.0).position == off.position
    assert procedure.judged(off, paused(60.0), 205.0).resumes_at == 230.0
    on = procedure.resumed(off, 230.0)
    assert (on.state, on.weight, on.resumes_at, on.progress.pauses) == (ReleaseState.RUNNING, 0.05, None, 1)
    assert on.reason == "after 30 seconds without traffic it is tried again"
    again = procedure.judged(on, paused(60.0), 250.0)
    assert (again.resumes_at, again.progress.pauses) == (310.0, 2)
    assert procedure.judged(again, verdict(Decision.ROLLBACK), 260.0).state is ReleaseState.ROLLED_BACK


def test_a_person_has_the_last_word_on_a_pause_by_the_judge() -> None:
    off = procedure.judged(release(), paused(30.0), 200.0)
    on = procedure.wished(off, wish("resume"), 210.0)
    assert (on.state, on.weight, on.resumes_at) == (ReleaseState.RUNNING, 0.05, None)
    assert procedure.wished(off, wish("promote"), 210.0).weight == 0.25
    gone = procedure.wished(off, wish("abort"), 210.0)
    assert (gone.state, procedure.resumed(gone, 1e9)) == (ReleaseState.ROLLED_BACK, gone)
    kept = procedure.wished(off, wish("pause"), 210.0)
    assert (kept.state, kept.weight, kept.resumes_at) == (ReleaseState.PAUSED, 0.0, None)
    assert procedure.resumed(kept, 1e9) == kept
    assert procedure.wished(kept, wish("resume"), 220.0).weight == 0.05


def test_what_a_person_has_paused_loses_its_traffic_but_is_not_resumed_by_itself() -> None:
    before = release(ReleaseState.PAUSED)
    off = procedure.judged(before, paused(30.0), 200.0)
    assert decisions.facts(before, ()).keeps_share and not decisions.facts(off, ()).keeps_share
    assert off.position != before.position  # so that it is told
    assert (off.state, off.weight, off.resumes_at) == (ReleaseState.PAUSED, 0.0, None)
    assert procedure.resumed(off, 1e9) == off
    endless = procedure.judged(release(), paused(0.0), 200.0)
    assert (endless.weight, endless.resumes_at) == (0.0, None)


def test_a_proposal_starts_with_its_first_stage() -> None:
    after = procedure.started(release(ReleaseState.PROPOSED), 200.0, "")
    assert (after.state, after.stage, after.weight, after.changed) == (ReleaseState.RUNNING, 0, 0.05, 200.0)


def test_a_proposal_waits_and_says_for_what() -> None:
    after = procedure.started(release(ReleaseState.PROPOSED), 200.0, "version 2 is LOADING")
    assert (after.state, after.progress.waits_for) == (ReleaseState.PROPOSED, "version 2 is LOADING")
    assert procedure.started(after, 201.0, "").waits_for == ""


def test_an_immediate_policy_switches_at_once() -> None:
    new = proposed("r", "fraud", ("1", "2"), Policy(immediate=True), 100.0)
    after = procedure.started(new, 200.0, "")
    assert (after.state, after.weight, after.ended) == (ReleaseState.PROMOTED, 1.0, 200.0)


def test_a_version_cannot_take_its_own_place() -> None:
    with pytest.raises(InvalidInput, match="its own place"):
        proposed("r", "fraud", ("1", "1"), POLICY, 100.0)


@pytest.mark.parametrize(
    ("before", "what", "after"),
    [
        ("RUNNING", "pause", "PAUSED"),
        ("HELD", "pause", "PAUSED"),
        ("PAUSED", "pause", "PAUSED"),
        ("PAUSED", "resume", "RUNNING"),
        ("HELD", "resume", "RUNNING"),
        ("RUNNING", "resume", "RUNNING"),
        ("PROPOSED", "start", "PROPOSED"),
        ("PROPOSED", "pause", "PAUSED"),
        ("PROPOSED", "promote", "RUNNING"),
        ("RUNNING", "promote", "RUNNING"),
        ("HELD", "promote", "RUNNING"),
        ("PAUSED", "promote", "RUNNING"),
        ("PROMOTED", "promote", "PROMOTED"),
        *((state.value, "abort", "ROLLED_BACK") for state in STATES),
    ],
)
def test_wishes_that_come_true(before: str, what: str, after: str) -> None:
    assert procedure.wished(release(ReleaseState(before)), wish(what), 200.0).state.value == after


@pytest.mark.parametrize(
    ("before", "what"),
    [
        ("PROMOTED", "pause"),
        ("PROMOTED", "resume"),
        *(("ROLLED_BACK", w) for w in ("pause", "resume", "promote")),
    ],
)
def test_wishes_that_cannot_come_true_say_why(before: str, what: str) -> None:
    with pytest.raises(Conflict, match=r"rolled back|PROMOTED"):
        procedure.wished(release(ReleaseState(before)), wish(what), 200.0)


def test_a_wish_for_promotion_is_the_next_stage_and_an_approval_of_it() -> None:
    after = procedure.wished(release(), wish("promote", why="seen enough"), 200.0)
    assert (after.stage, after.weight) == (1, 0.25)
    assert [(a.stage, a.by) for a in after.progress.approvals] == [(1, "ada")]
    assert after.reason == "requested by ada: seen enough"


def test_the_last_promotion_is_for_good() -> None:
    after = procedure.wished(release(stage=2), wish("promote"), 200.0)
    assert (after.state, after.stage, after.weight, after.ended) == (ReleaseState.PROMOTED, 3, 1.0, 200.0)


@pytest.mark.parametrize(
    ("before", "decision", "after", "stage"),
    [
        ("RUNNING", Decision.CONTINUE, "RUNNING", 0),
        ("RUNNING", Decision.HOLD, "HELD", 0),
        ("RUNNING", Decision.PROMOTE, "RUNNING", 1),
        ("RUNNING", Decision.ROLLBACK, "ROLLED_BACK", 0),
        ("HELD", Decision.CONTINUE, "RUNNING", 0),
        ("HELD", Decision.HOLD, "HELD", 0),
        ("HELD", Decision.PROMOTE, "RUNNING", 1),
        ("HELD", Decision.ROLLBACK, "ROLLED_BACK", 0),
        ("PAUSED", Decision.PROMOTE, "PAUSED", 0),
        ("PAUSED", Decision.HOLD, "PAUSED", 0),
        ("PAUSED", Decision.ROLLBACK, "ROLLED_BACK", 0),
        ("PROMOTED", Decision.ROLLBACK, "PROMOTED", 0),
        ("ROLLED_BACK", Decision.PROMOTE, "ROLLED_BACK", 0),
    ],
)
def test_verdicts(before: str, decision: Decision, after: str, stage: int) -> None:
    found = procedure.judged(release(ReleaseState(before)), verdict(decision), 200.0)
    assert (found.state.value, found.stage, found.progress.buckets) == (after, stage, 1)


def test_a_verdict_on_a_stage_that_is_over_can_only_roll_back() -> None:
    now = release(stage=1)
    assert procedure.judged(now, verdict(Decision.PROMOTE), 200.0).stage == 1
    assert procedure.judged(now, verdict(Decision.HOLD), 200.0).state is ReleaseState.RUNNING
    assert procedure.judged(now, verdict(Decision.ROLLBACK), 200.0).state is ReleaseState.ROLLED_BACK


MOVES = st.one_of(
    st.sampled_from(["pause", "resume", "promote", "abort", "start"]).map(wish),
    st.builds(verdict, st.sampled_from(list(Decision)), stage=st.integers(0, 2)),
    st.just(paused(30.0)),
)


@given(st.lists(MOVES, max_size=30))
def test_whatever_happens_the_weight_is_the_stage_s_and_an_end_is_one(
    moves: list[ChangeRequest | Verdict],
) -> None:
    now = procedure.started(release(ReleaseState.PROPOSED), 200.0, "")
    for number, move in enumerate(moves):
        before = now
        try:
            if isinstance(move, ChangeRequest):
                now = procedure.wished(now, move, 300.0 + number)
            else:
                now = procedure.judged(now, move, 300.0 + number)
        except Conflict:
            assert now == before
        assert now.is_live == (now.ended is None)
        assert now.stage >= before.stage
        if now.state is ReleaseState.ROLLED_BACK:
            assert now.weight == 0 and now.split is None
        elif now.resumes_at is not None:
            assert (now.state, now.weight, now.split.weight) == (ReleaseState.PAUSED, 0, 0)
        elif now.is_live and now.state is not ReleaseState.PAUSED:
            assert now.weight == POLICY.stages[now.stage].weight
            assert now.progress.resumes_at is None
            assert now.split is not None and now.split.weight == now.weight
        if before.state is ReleaseState.ROLLED_BACK:
            assert now.state is ReleaseState.ROLLED_BACK
        if now == procedure.rolled_back(now, 999.0, "again"):
            assert now.state is ReleaseState.ROLLED_BACK


def test_a_promoted_release_keeps_those_that_it_holds_back() -> None:
    policy = msgspec.structs.replace(POLICY, traffic=Traffic(holdback=0.02, shadow=Shadow(share=0.5)))
    running = msgspec.structs.replace(release(ReleaseState.RUNNING, stage=2), policy=policy)
    held = procedure.promoted(running, 50.0, "it is good")
    split = held.split
    assert split is not None and (split.holdback, split.stage, split.asked) == (0.02, 2, ("",))
    assert held.is_judged and not held.is_live and held.stand == (2, 0.98)
    assert held.bucket_seconds == 6 * running.bucket_seconds
    assert held.progress.watched_until == 50 + 14 * 86_400
    assert release(ReleaseState.PROMOTED, stage=2, ended=1.0).split is None
    unwatched = msgspec.structs.replace(running, policy=msgspec.structs.replace(policy, watch_days=0.0))
    assert procedure.promoted(unwatched, 50.0, "").split is None


def watched_one(**traffic: float) -> Release:
    sales = Metric("sale", "outcome", "soft", worse="less", matures_minutes=10)
    policy = msgspec.structs.replace(POLICY, metrics=(sales,), traffic=Traffic(**traffic))
    running = msgspec.structs.replace(release(ReleaseState.RUNNING, stage=2), policy=policy)
    return procedure.promoted(running, 50.0, "it is good")


def test_the_watch_ends_with_its_days_a_successor_or_its_last_outcome() -> None:
    held, plain = watched_one(holdback=0.02), watched_one()
    for one in (held, plain):
        assert procedure.watched(one, 51.0, "") == one
        for now, ends in ((14 * 86_400 + 50.0, ""), (51.0, "release 'r9' comes after it")):
            over = procedure.watched(one, now, ends)
            assert not over.is_judged and over.split is None and over.state is ReleaseState.PROMOTED
            assert over.reason == f"it is good; it is watched no more: {ends or '14 days are over'}"
            assert procedure.watched(over, now, ends) == over
    for counted, is_over in ((49.0, False), (50.0, True)):
        told = procedure.harvested(plain, {"sale": counted})
        assert procedure.watched(told, 51.0, "").is_judged is not is_over
        assert procedure.watched(procedure.harvested(held, {"sale": counted}), 51.0, "").is_judged
    running = release(ReleaseState.RUNNING)
    assert procedure.watched(running, 51.0, "whatever") == running


def test_after_a_promotion_proof_rolls_back_or_is_told_once() -> None:
    held = watched_one(holdback=0.02)
    assert procedure.judged(held, verdict(Decision.CONTINUE), 60.0).reason == "it is good"
    person = "it is promoted: a person has to decide whether to abort it"
    quoted = msgspec.structs.replace(held, reason=f"requested by ann: {person}")  # which tells nobody of harm
    told = procedure.judged(quoted, verdict(Decision.HOLD, "harm 118", person), 60.0)
    assert (told.state, told.reason) == (ReleaseState.PROMOTED, f"harm 118; {person}")
    assert told.progress.is_told and not quoted.progress.is_told
    again = procedure.judged(told, verdict(Decision.HOLD, "harm 120", person), 70.0)
    assert again.reason == told.reason and again.progress.buckets == told.progress.buckets + 1
    back = procedure.judged(told, verdict(Decision.ROLLBACK, "harm"), 80.0)
    assert (back.state, back.weight, back.progress.watched_until) == (ReleaseState.ROLLED_BACK, 0.0, None)
    over = procedure.watched(held, 51.0, "enough")
    assert procedure.judged(over, verdict(Decision.ROLLBACK, "harm"), 80.0).state is ReleaseState.PROMOTED


def test_an_alias_is_asked_by_its_name_and_by_none() -> None:
    split = release(alias="champion").split
    assert split is not None and split.asked == ("", "champion")


@pytest.mark.parametrize("kind", ["errors", "timeouts", "fallbacks"])
def test_a_metric_by_a_name_under_which_nothing_is_counted_is_refused(kind):
    policy = Policy(metrics=(Metric("mine", kind, "severe"),))
    with pytest.raises(InvalidInput, match=f"Call the metric {kind}"):
        proposed("r", "fraud", ("1", "2"), policy, 100.0)
    named = Policy(metrics=(Metric("mine", "rule", "severe"),))
    assert proposed("r", "fraud", ("1", "2"), named, 100.0).policy == named
