"""Transitions of a release after a request, a verdict, or a change of loaded versions.

Each function returns the new release, with a reason as text. Pure: counting, judging, storing and routing are
elsewhere.
"""

import math
from collections.abc import Mapping

import msgspec

from salver.features.releases.judge.record import ChangeRequest, Progress, Release
from salver.features.releases.judge.rules import StepApproval
from salver.features.releases.judge.states import advance
from salver.features.releases.judge.verdict import Decision, Verdict
from salver.words.releases import ReleaseState

_PROPOSED, _RUNNING, _HELD, _PAUSED = (
    ReleaseState.PROPOSED,
    ReleaseState.RUNNING,
    ReleaseState.HELD,
    ReleaseState.PAUSED,
)


def started(release: Release, now: float, waits_for: str) -> Release:
    """Start a proposed release once nothing prevents it.

    Args:
        waits_for: What prevents it, as text.
    """
    if waits_for:
        return _with_progress(release, waits_for=waits_for)
    if release.policy.immediate:
        return promoted(release, now, "its policy is to switch at once")
    return _moved(
        release, _RUNNING, now, "its first stage begins", stage=0, weight=release.policy.stages[0].weight
    )


def wished(release: Release, wish: ChangeRequest, now: float) -> Release:
    """Apply an operator's request; a request for the current state changes nothing.

    Raises:
        Conflict: the release cannot do that any more, or not yet; the message has the reason.
    """
    reason = f"requested by {wish.by or 'somebody'}" + (wish.why and f": {wish.why}")
    match wish.what:
        case "abort":
            return rolled_back(release, now, reason)
        case "pause":
            if release.state is _PAUSED and release.resumes_at is None:
                return release
            return _moved(release, _PAUSED, now, reason)  # of the judge's pause, it ends the time
        case "start" | "resume":
            if release.state in (_PROPOSED, _RUNNING):
                return release  # a proposed release starts by itself as soon as it can
            return _running(release, now, reason)
        case "promote":
            if release.state is ReleaseState.PROMOTED:
                return release
            after = 0
            if release.state is not _PROPOSED:
                after = release.stage + 1
            approvals = (*release.progress.approvals, StepApproval(after, wish.by))
            return _forward(_with_progress(release, approvals=approvals), after, now, reason)


def harvested(release: Release, watermarks: Mapping[str, float]) -> Release:
    """Record up to which exposures outcomes have been counted."""
    if not watermarks:
        return release
    return _with_progress(release, watermarks={**release.progress.watermarks, **watermarks})


def measured(release: Release, thresholds: Mapping[str, float]) -> Release:
    """Set the seconds from which an answer is slow."""
    if not thresholds:
        return release
    return _with_progress(release, thresholds=dict(thresholds))


def binned(release: Release, bins: Mapping[str, tuple[float, ...]]) -> Release:
    """Set the bounds of an output's bins, permanently."""
    new = {metric: bounds for metric, bounds in bins.items() if metric not in release.progress.bins}
    if not new:
        return release
    return _with_progress(release, bins={**release.progress.bins, **new})


def judged(release: Release, verdict: Verdict, now: float) -> Release:
    """Apply a verdict.

    For a paused release only a rollback counts, or that its canary fails; for a promoted one, a rollback or
    proof that needs a person.
    """
    release = _with_progress(release, buckets=release.progress.buckets + 1)
    if not release.is_judged or release.state is _PROPOSED:
        return release
    reason = ""
    if verdict.reasons:
        reason = verdict.reasons[0]
    match verdict.decision:
        case Decision.ROLLBACK:
            return rolled_back(release, now, reason)
        case Decision.HOLD if release.state is ReleaseState.PROMOTED:
            if release.progress.is_told:  # once, whatever the numbers do later
                return release
            release = _with_progress(release, is_told=True)
            return msgspec.structs.replace(release, reason="; ".join(verdict.reasons))
        case _ if release.state is ReleaseState.PROMOTED:
            return release
        case _ if verdict.stage != release.stage:
            return release
        case Decision.PAUSE:
            return _paused(release, verdict.pause_seconds, now, reason)
        case _ if release.state is _PAUSED:
            return release
        case Decision.PROMOTE:
            stages = len(release.policy.stages)
            after = stages
            if verdict.next_stage is not None:
                after = verdict.next_stage
            return _forward(release, after, now, reason)
        case Decision.HOLD:
            if release.state is _HELD:
                return msgspec.structs.replace(release, reason=reason)
            return _moved(release, _HELD, now, reason)
        case Decision.CONTINUE:
            if release.state is _RUNNING:
                return release
            return _moved(release, _RUNNING, now, reason)


def resumed(release: Release, now: float) -> Release:
    """End a pause by the judge once its time is over."""
    if release.resumes_at is None or now < release.resumes_at:
        return release
    return _running(
        release, now, f"after {now - release.changed:.0f} seconds without traffic it is tried again"
    )


def stranded(release: Release, now: float, missing: str) -> Release:
    """End or hold a release whose versions cannot answer and that no server counts."""
    reason = f"no data: {missing}"
    if release.state not in (_RUNNING, _HELD) or release.reason == reason:
        return release
    return _moved(release, _HELD, now, reason)


def rolled_back(release: Release, now: float, reason: str) -> Release:
    """Roll back, from any state; idempotent."""
    if release.state is ReleaseState.ROLLED_BACK:
        return release
    release = _with_progress(release, watched_until=None)
    return _moved(release, ReleaseState.ROLLED_BACK, now, reason, weight=0.0, ended=now)


def promoted(release: Release, now: float, reason: str) -> Release:
    """Promote: the canary gets all traffic except the units held back."""
    policy, stages = release.policy, len(release.policy.stages)
    asks = policy.traffic.holdback > 0 or release.asks_for_outcomes
    if asks and policy.watch_days:
        release = _with_progress(release, watched_until=now + 86_400 * policy.watch_days)
    return _moved(release, ReleaseState.PROMOTED, now, reason, stage=stages, weight=1.0, ended=now)


def watched(release: Release, now: float, ends: str) -> Release:
    """Update how long a promoted release is still judged.

    Args:
        ends: What ends it early, as text; empty = nothing.
    """
    until = release.watched_until
    if until is None:
        return release
    if not ends and now >= until:
        ends = f"{release.policy.watch_days:g} days are over"
    elif not (ends or release.policy.traffic.holdback) and _is_all_counted(release):
        ends = "all outcomes of its stages have been counted"
    if not ends:
        return release
    reason = f"{release.reason}; it is watched no more: {ends}"
    return msgspec.structs.replace(_with_progress(release, watched_until=None), reason=reason)


def _is_all_counted(release: Release) -> bool:
    """Return whether the outcomes of all units exposed before its promotion have been counted."""
    ended, counted = release.ended or 0.0, release.progress.watermarks
    names = [metric.name for metric in release.policy.metrics if metric.is_posted]
    return all(counted.get(name, -math.inf) >= ended for name in names)


def _forward(release: Release, stage: int, now: float, reason: str) -> Release:
    stages = release.policy.stages
    if stage >= len(stages):
        return promoted(release, now, reason)
    return _moved(release, _RUNNING, now, reason, stage=stage, weight=stages[stage].weight)


def _paused(release: Release, seconds: float, now: float, reason: str) -> Release:
    """Take its traffic from a canary; what a person has paused is not resumed by itself."""
    if not release.weight:
        return release  # a bucket of before the pause
    resumes_at = None
    if seconds and release.state is not _PAUSED:
        resumes_at = now + seconds
    paused = _moved(release, _PAUSED, now, reason, weight=0.0)
    return _with_progress(paused, resumes_at=resumes_at, pauses=release.progress.pauses + 1)


def _running(release: Release, now: float, reason: str) -> Release:
    """Give the canary the traffic of its stage."""
    stages = release.policy.stages
    weight = stages[min(release.stage, len(stages) - 1)].weight
    return _moved(release, _RUNNING, now, reason, weight=weight)


def _moved(release: Release, state: ReleaseState, now: float, reason: str, **fields: float | None) -> Release:
    after = advance(release.state, state)
    if release.progress.resumes_at is not None:
        release = _with_progress(release, resumes_at=None)
    return msgspec.structs.replace(release, state=after, changed=now, reason=reason, **fields)


def _with_progress(release: Release, **fields: object) -> Release:
    progress: Progress = msgspec.structs.replace(release.progress, **fields)
    return msgspec.structs.replace(release, progress=progress)
