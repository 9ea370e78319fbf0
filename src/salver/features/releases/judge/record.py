"""Records of a release, from its proposal to its end.

Frozen records, as stored in the ledger. Transitions between them are in ``procedure.py``.
"""

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from salver.features.releases.judge.evidence import Evidence, start
from salver.features.releases.judge.policy import COUNTED, Policy
from salver.features.releases.judge.rules import StepApproval
from salver.features.releases.judge.states import ENDED
from salver.words.errors import InvalidInput
from salver.words.releases import ReleaseState, Split

#: Factor of the bucket length after promotion.
_UNHURRIED = 6
#: Requests of operators, and of external controllers.
What = Literal["start", "pause", "resume", "promote", "abort"]


class ChangeRequest(msgspec.Struct, frozen=True):
    """A request to change a release.

    Attributes:
        id: Requests are processed in order of their ids.
        time: Unix seconds.
    """

    id: int
    release: str
    what: What
    by: str
    why: str
    time: float


class Progress(msgspec.Struct, frozen=True):
    """Progress of a release, besides its state.

    Attributes:
        buckets: Number of buckets judged so far.
        thresholds: Seconds from which an answer is slow, by metric: quantiles of the stable version's
            answers, renewed if those change.
        bins: By metric, the inner bounds of an output's bins, fixed once enough answers of the stable version
            were seen.
        watermarks: By metric, the time of exposure up to which outcomes have been counted.
        approvals: Approved steps.
        waits_for: What prevents a proposed release from starting, as text; empty = nothing.
        watched_until: For a promoted one, Unix seconds until which it is still judged; None = it is not.
        is_told: For a promoted one, harm proven since has been reported.
        resumes_at: For a paused one, Unix seconds from which the canary gets traffic again; None = a person
            has to resume it.
        pauses: How often the judge has taken the traffic away.
    """

    buckets: int = 0
    thresholds: Mapping[str, float] = msgspec.field(default_factory=dict)
    bins: Mapping[str, tuple[float, ...]] = msgspec.field(default_factory=dict)
    watermarks: Mapping[str, float] = msgspec.field(default_factory=dict)
    approvals: tuple[StepApproval, ...] = ()
    waits_for: str = "no server that serves this registry has taken it up yet"
    watched_until: float | None = None
    is_told: bool = False
    resumes_at: float | None = None
    pauses: int = 0


#: Parsers of stored JSON; they raise msgspec.MsgspecError.
read_progress: Final = msgspec.json.Decoder(Progress).decode


class Release(msgspec.Struct, frozen=True):
    """An attempt to replace the stable version by a canary.

    Attributes:
        alias: Alias moved on promotion; empty = the default version of requests.
        salt: Salt of the hash that assigns units.
        stage: Number of the stage, from 0; the number of stages once it is promoted.
        weight: Current fraction of units that get the canary.
        reason: Why it is in this state, as text.
        created, changed: Unix seconds of the proposal and of the last change of state or stage.
        ended: Unix seconds; None = not ended.
        revision: Number of writes since it was proposed.
        is_default: Its alias is the default of requests without a version, or it has no alias.
        fault: Why the stored release cannot be read, as text: another version of Salver wrote it. Policy,
            evidence and progress are then placeholders.
    """

    id: str
    model: str
    stable: str
    canary: str
    alias: str
    salt: str
    policy: Policy
    evidence: Evidence
    state: ReleaseState
    created: float
    changed: float
    by: str = ""
    why: str = ""
    stage: int = 0
    weight: float = 0.0
    reason: str = ""
    ended: float | None = None
    progress: Progress = Progress()
    revision: int = 0
    is_default: bool = True
    fault: str = ""

    @property
    def is_live(self) -> bool:
        """Return whether it has not ended."""
        return self.state not in ENDED

    @property
    def waits_for(self) -> str:
        """Return what prevents it from starting, as text; empty = nothing, or it has started."""
        if self.state is not ReleaseState.PROPOSED:
            return ""
        return self.progress.waits_for

    @property
    def watched_until(self) -> float | None:
        """Return the Unix seconds until which a promoted release is still judged; None = it is not."""
        if self.state is not ReleaseState.PROMOTED:
            return None
        return self.progress.watched_until

    @property
    def is_judged(self) -> bool:
        """Return whether its counts matter: it has not ended, or is promoted and still watched."""
        return not self.fault and (self.is_live or self.watched_until is not None)

    @property
    def bucket_seconds(self) -> float:
        """Return the length of a bucket; after promotion longer, to reduce writes."""
        if self.is_live:
            return self.policy.bucket_seconds
        return self.policy.bucket_seconds * _UNHURRIED

    @property
    def position(self) -> tuple[ReleaseState, int, bool, int]:
        """Return its state and stage, whether it will be resumed by itself, and its number of pauses."""
        return self.state, self.stage, self.resumes_at is not None, self.progress.pauses

    @property
    def resumes_at(self) -> float | None:
        """Return the Unix seconds from which the judge tries a paused release again; None = it does not."""
        if self.state is not ReleaseState.PAUSED:
            return None
        return self.progress.resumes_at

    @property
    def default_version(self) -> str:
        """Return the version for requests that name none."""
        if self.state is ReleaseState.PROMOTED:
            return self.canary
        return self.stable

    @property
    def stand(self) -> tuple[int, float]:
        """Return the stage that it is judged by now, and the canary's share of all units that count."""
        stage = min(self.stage, len(self.policy.stages) - 1)
        return stage, self.weight * (1 - self.policy.traffic.holdback)

    @property
    def asks_for_outcomes(self) -> bool:
        """Return whether posted outcomes are among its metrics."""
        return any(metric.is_posted for metric in self.policy.metrics)

    @property
    def keeps_requests(self) -> bool:
        """Return whether requests are recorded for their outcomes: only during stages, for lack of space."""
        return self.is_live and self.asks_for_outcomes

    @property
    def split(self) -> Split | None:
        """Return the current split; None = all requests get the version that they name.

        For a promoted release the units held back are kept while it is watched.
        """
        traffic = self.policy.traffic
        is_kept = self.is_judged and traffic.holdback > 0
        if self.fault or self.state is ReleaseState.PROPOSED or not (self.is_live or is_kept):
            return None
        shadow = traffic.shadow
        if not self.is_live:
            shadow = None
        return Split(
            release=self.id,
            model=self.model,
            stable=self.stable,
            canary=self.canary,
            weight=self.weight,
            salt=self.salt,
            stage=self.stand[0],
            turn=self.progress.pauses,
            asked=("",) * self.is_default + (self.alias,) * bool(self.alias),
            is_watched=self.is_judged and any(metric.is_of_outputs for metric in self.policy.metrics),
            **{**msgspec.structs.asdict(traffic), "shadow": shadow},
        )


def proposed(
    id: str, model: str, versions: tuple[str, str], policy: Policy, now: float, *, alias: str = ""
) -> Release:
    """Return a new release without evidence.

    Args:
        versions: The stable version and the canary.
        now: Unix seconds.

    Raises:
        InvalidInput: both are equal, or a metric has a name that is never counted.
    """
    for metric in policy.metrics:
        names = COUNTED.get(metric.kind, (metric.name,))
        if metric.name not in names:
            raise InvalidInput(
                f"'{metric.kind}' are not counted as '{metric.name}'",
                field="metrics",
                fix=f"Call the metric {' or '.join(names)}.",
            )
    stable, canary = versions
    if stable == canary:
        raise InvalidInput(
            f"version {canary} of '{model}' cannot take its own place", fix="Name another version."
        )
    return Release(
        id=id,
        model=model,
        stable=stable,
        canary=canary,
        alias=alias,
        salt=id,
        policy=policy,
        evidence=start(policy),
        state=ReleaseState.PROPOSED,
        created=now,
        changed=now,
    )
