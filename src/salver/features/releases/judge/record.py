"""What is known of one release, from its proposal to its end?

Frozen records, as the ledger keeps them. How one follows from another is ``procedure.py``'s question.
"""

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from salver.features.releases.judge.evidence import Evidence, start
from salver.features.releases.judge.policy import COUNTED, Policy
from salver.features.releases.judge.rules import Approved
from salver.features.releases.judge.states import ENDED
from salver.words.errors import InvalidInput
from salver.words.releases import ReleaseState, Split

#: Times as long as before are the buckets of a release that is promoted.
_UNHURRIED = 6
#: What people, and what speaks for them, may ask of a release.
What = Literal["start", "pause", "resume", "promote", "abort"]


class Wish(msgspec.Struct, frozen=True):
    """Somebody asks something of a release.

    Attributes:
        id: Wishes are seen to in the order of their ids.
        time: Unix seconds.
    """

    id: int
    release: str
    what: What
    by: str
    why: str
    time: float


class Progress(msgspec.Struct, frozen=True):
    """Where a release stands, besides its state.

    Attributes:
        buckets: Counted and judged so far.
        thresholds: Seconds beyond which an answer is slow, by metric: quantiles of the stable version's
            answers, and again where those have become slower or faster.
        bins: By metric, the inner bounds of an output's bins; frozen once enough of the stable version's
            answers were seen.
        watermarks: By metric, the time of exposure up to which outcomes have been counted.
        approvals: Steps that somebody approved.
        waits_for: What keeps a proposed release from its start, in words; empty = nothing.
        watched_until: Of a promoted one: Unix seconds, up to which it goes on being judged; None = it is not.
        is_told: Of a promoted one: a person was told of harm that was proven since.
    """

    buckets: int = 0
    thresholds: Mapping[str, float] = msgspec.field(default_factory=dict)
    bins: Mapping[str, tuple[float, ...]] = msgspec.field(default_factory=dict)
    watermarks: Mapping[str, float] = msgspec.field(default_factory=dict)
    approvals: tuple[Approved, ...] = ()
    waits_for: str = "no server that serves this registry has taken it up yet"
    watched_until: float | None = None
    is_told: bool = False


#: Of JSON, as it was written down; raises msgspec.MsgspecError.
read_progress: Final = msgspec.json.Decoder(Progress).decode


class Release(msgspec.Struct, frozen=True):
    """One attempt to put a canary in the place of the stable version.

    Attributes:
        alias: That moves when it is promoted; empty = the version that requests without one mean.
        salt: Of the hash that assigns units.
        stage: Number of the stage, from 0 on; the number of stages, once it is promoted.
        weight: Share of the units that meets the canary now.
        reason: Why it is in this state, in words.
        created, changed: Unix seconds, of the proposal and of the last change of state or stage.
        ended: None = it has not.
        revision: How often it was written down since it was proposed.
        is_default: Requests that name no version mean its alias, or it has none.
        fault: Why what lies there cannot be read, in words: another version of Salver wrote it. Then policy,
            evidence and progress are not its own.
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
        """It has not ended."""
        return self.state not in ENDED

    @property
    def waits_for(self) -> str:
        """What keeps it from its start, in words; empty = it has begun, or nothing does."""
        return self.progress.waits_for if self.state is ReleaseState.PROPOSED else ""

    @property
    def watched_until(self) -> float | None:
        """Unix seconds, up to which a promoted one goes on being judged; None = it does not."""
        return self.progress.watched_until if self.state is ReleaseState.PROMOTED else None

    @property
    def is_judged(self) -> bool:
        """What is seen of it counts: it has not ended, or is promoted and still watched."""
        return not self.fault and (self.is_live or self.watched_until is not None)

    @property
    def bucket_seconds(self) -> float:
        """Length of a bucket of counts: after its promotion there is no hurry, and much to write down."""
        return self.policy.bucket_seconds * (1 if self.is_live else _UNHURRIED)

    @property
    def stand(self) -> tuple[int, float]:
        """The stage that it is judged by now, and the canary's share of all units that count."""
        stage = min(self.stage, len(self.policy.stages) - 1)
        return stage, self.weight * (1 - self.policy.traffic.holdback)

    @property
    def asks_for_outcomes(self) -> bool:
        """It is judged by what callers post later, too."""
        return any(metric.is_posted for metric in self.policy.metrics)

    @property
    def keeps_requests(self) -> bool:
        """Outcomes find whom each request was sent to: in its stages; days of all of them are too many."""
        return self.is_live and self.asks_for_outcomes

    @property
    def split(self) -> Split | None:
        """Who meets which version now; None = all meet the one that they ask for.

        Of a release that is promoted those units are kept that it holds back, while it is watched.
        """
        traffic = self.policy.traffic
        is_kept = self.is_judged and traffic.holdback > 0
        if self.fault or self.state is ReleaseState.PROPOSED or not (self.is_live or is_kept):
            return None
        return Split(
            release=self.id,
            model=self.model,
            stable=self.stable,
            canary=self.canary,
            weight=self.weight,
            salt=self.salt,
            stage=self.stand[0],
            asked=(*([""] if self.is_default else []), *([self.alias] if self.alias else [])),
            is_watched=self.is_judged and any(metric.is_of_outputs for metric in self.policy.metrics),
            **{**msgspec.structs.asdict(traffic), "shadow": traffic.shadow if self.is_live else None},
        )


def proposed(
    id: str, model: str, versions: tuple[str, str], policy: Policy, now: float, *, alias: str = ""
) -> Release:
    """A new release, of which nothing has been seen.

    Args:
        versions: The stable one, and the canary that may take its place.
        now: Unix seconds.

    Raises:
        InvalidInput: both are the same, or a metric has a name under which nothing is counted.
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
