"""Decisions of the control loop of releases that need neither a clock nor the ledger.

Which buckets are due, what change requests lead to, which releases conflict, and what is news.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from salver.features.releases.experiments.assign import check
from salver.features.releases.experiments.outputs import OutputCheck
from salver.features.releases.experiments.windows import JudgedBucket, MergedBucket, due
from salver.features.releases.judge import procedure
from salver.features.releases.judge.record import Release
from salver.features.releases.judge.rules import Facts
from salver.features.releases.release_rows import PendingWork, Step
from salver.words.errors import Conflict, InvalidInput
from salver.words.releases import ReleaseState, Split


class LocalWaits:
    """Reasons that prevent releases on one server.

    Attributes:
        missing_since: By release, Unix seconds since which a version of it cannot answer.
        said: By release, what it waits for, as this server has written it.
        skewed: Releases with servers whose clocks differ.
    """

    def __init__(self) -> None:
        self.missing_since: dict[str, float] = {}
        self.said: dict[str, str] = {}
        self.skewed: set[str] = set()


def due_buckets(release: Release, waiting: PendingWork, until: float) -> list[MergedBucket]:
    """Return the buckets that can be judged now, after the last one that was."""
    evidence, last = release.evidence, None
    if evidence.since is not None and evidence.until is not None:
        last = JudgedBucket(evidence.stage, evidence.since, evidence.until)
    return due(waiting.parts, release.bucket_seconds, until, last)


def facts(release: Release, all_of_them: Iterable[Release]) -> Facts:
    """Return what the rules of a policy need to know besides the evidence."""
    layer = release.policy.traffic.layer
    others = tuple(
        other.id
        for other in all_of_them
        if layer and other.id != release.id and other.is_live and other.policy.traffic.layer == layer
    )
    keeps_share = release.state is ReleaseState.PAUSED and release.weight > 0
    return Facts(release.progress.approvals, others, keeps_share=keeps_share)


def answered(
    release: Release, waiting: PendingWork, now: float
) -> tuple[Release, tuple[tuple[int, str], ...], str]:
    """Return the release after its change requests, an answer to each, and who changed its state."""
    answers, by = [], ""
    for wish in waiting.wishes:
        before = release
        try:
            if wish.what == "abort" and waiting.elsewhere:
                raise Conflict(
                    f"the alias {release.model}@{release.alias} means {waiting.elsewhere} since "
                    "another caller changed it: there is nothing to roll back"
                )
            release = procedure.wished(release, wish, now)
            answers.append((wish.id, ""))
        except Conflict as error:
            answers.append((wish.id, str(error)))
        if before.position != release.position:
            by = wish.by
    return release, tuple(answers), by


def checks(release: Release) -> tuple[OutputCheck, ...]:
    """Return the checks of outputs for a release."""
    return tuple(
        OutputCheck(
            metric=metric.name,
            kind="bins" if metric.kind == "output" else "bounds",
            output=metric.output,
            take=metric.take,
            least=metric.least,
            most=metric.most,
            bins=metric.bins,
            bounds=release.progress.bins.get(metric.name, ()),
        )
        for metric in release.policy.metrics
        if metric.is_of_outputs
    )


def clash(release: Release, all_of_them: Iterable[Release]) -> str:
    """Return why its traffic conflicts with active releases, as text; empty = it does not."""
    mine = msgspec.structs.replace(release, state=ReleaseState.RUNNING).split
    for other in all_of_them:
        if other.id != release.id and (theirs := other.split) is not None and mine is not None:
            try:
                check((theirs, mine))
            except InvalidInput as error:
                return str(error)
    return ""


def successor(release: Release, all_of_them: Iterable[Release]) -> str:
    """Return the successor of a promoted release, as text; empty = none yet."""
    for other in all_of_them:
        if (other.model, other.alias) == (release.model, release.alias) and other.id != release.id:
            return f"release '{other.id}' comes after it"
    return ""


def compatible(splits: Iterable[Split]) -> tuple[list[Split], list[tuple[Split, InvalidInput]]]:
    """Return the splits without those that conflict with earlier ones, and these with their errors."""
    kept: list[Split] = []
    refused: list[tuple[Split, InvalidInput]] = []
    for split in splits:
        try:
            check((*kept, split))
        except InvalidInput as error:
            refused.append((split, error))
        else:
            kept.append(split)
    return kept, refused


def news(step: Step) -> tuple[bool, str, Sequence[Any]] | None:
    """Return what an operator should know of a step: whether it is grave, and the text; None = nothing."""
    before, after = step.before, step.after
    is_late = before.state is after.state is ReleaseState.PROMOTED and before.reason != after.reason
    if not is_late and before.position == after.position:
        return None
    stages = len(after.policy.stages)
    text = "release %s of %s: %s, stage %d of %d, %.4g%% of the units meet version %s: %s"
    where = (after.id, after.model, after.state.value, min(after.stage + 1, stages), stages)
    is_paused = after.progress.pauses > before.progress.pauses
    is_grave = is_late or is_paused or after.state is ReleaseState.ROLLED_BACK
    return is_grave, text, (*where, 100 * after.weight, after.canary, after.reason)
