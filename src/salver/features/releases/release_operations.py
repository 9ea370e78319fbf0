"""Management operations on releases in the ledger.

A change is a request, stored here and processed by a server on its next tick; the answer waits briefly for
that. Nothing is decided here.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Literal, Protocol

import msgspec

from salver.features.registry.records import Actor
from salver.features.registry.registry_operations import actor
from salver.features.releases.experiments.shadows import ShadowReport
from salver.features.releases.experiments.windows import CountedBy, CountingServer, counted_by
from salver.features.releases.judge.explain import explain
from salver.features.releases.judge.policy import Policy
from salver.features.releases.judge.record import Release, What
from salver.features.releases.judge.verdict import Decision, Verdict
from salver.features.releases.planning_operations import check_size
from salver.features.releases.proposals import Proposal
from salver.features.releases.release_store import Look
from salver.transport.operations import (
    MOST_NUMBER,
    STORABLE,
    Answer,
    ApiRequest,
    NoQuery,
    Operation,
    Page,
    PageQuery,
    Why,
)
from salver.words.errors import Conflict, InvalidInput, NotFound
from salver.words.releases import Bucket, Counts, ReleaseState

_WAIT_SECONDS = 3.0
_LOOK_SECONDS = 0.1
_MOST_POINTS = 1000


class ReleaseStore(Protocol):
    """Store of releases (features/releases/release_store.py)."""

    async def get(self, release: str) -> Release:
        """Return a release; raises NotFound."""
        ...

    async def listed(
        self,
        model: str = "",
        *,
        canary: str = "",
        state: ReleaseState | None = None,
        is_live: bool | None = None,
        after: str = "",
        most: int = 1000,
    ) -> tuple[Release, ...]:
        """Return the releases of a model, or all; the newest first."""
        ...

    async def looks(
        self, release: str, after: int = -1, *, every: int = 1, last: int = 0
    ) -> tuple[Look, ...]:
        """Return buckets with their verdicts, in order, taking every n-th and always the last."""
        ...

    async def witnesses(self, releases: Sequence[str]) -> Mapping[str, Sequence[CountingServer]]:
        """Return by release the servers that count it."""
        ...


class WishStore(Protocol):
    """Store of change requests (features/releases/release_store.py)."""

    async def wish(self, release: str, what: What, actor: Actor, why: str, now: float) -> int:
        """Store a request and return its id. Raises NotFound, Forbidden."""
        ...

    async def answer(self, wish: int) -> str | None:
        """Return the answer: empty = done; None = not processed yet."""
        ...


class ShadowSource(Protocol):
    """Source of shadow results (features/releases/shadow.py)."""

    def report(self, release: str) -> ShadowReport | None:
        """Return the results of copies; None = none on this server."""
        ...


class ReleaseView(msgspec.Struct, frozen=True):
    """Summary of a release.

    Attributes:
        stage: Current stage, from 0, of ``stages``.
        weight: Current fraction of units that get the canary.
        reason: Why it is in this state.
        waits_for: What prevents a proposed release from starting.
        watched_until: For a promoted release that is still compared, until when, in Unix seconds.
    """

    id: str
    model: str
    stable: str
    canary: str
    alias: str
    state: ReleaseState
    stage: int
    stages: int
    weight: float
    reason: str
    created: float
    changed: float
    ended: float | None
    by: str
    why: str
    waits_for: str
    watched_until: float | None


class LastLook(msgspec.Struct, frozen=True):
    """Counts of the last bucket, and the verdict on all buckets so far."""

    seq: int
    bucket: Bucket
    verdict: Verdict


class ReleaseDetail(msgspec.Struct, frozen=True):
    """A release, its policy, and the last look at it; None = there was none.

    Attributes:
        servers: Servers that count it; empty before it starts and after it ends.
    """

    release: ReleaseView
    policy: Policy
    look: LastLook | None
    servers: tuple[CountedBy, ...]


class ReleasesQuery(PageQuery, frozen=True, forbid_unknown_fields=True):
    """Filter of releases.

    Attributes:
        model: Model name; empty = all.
        state: State; None = any.
        is_live: Only active ones, or only ended ones; None = both.
    """

    model: Annotated[str, msgspec.Meta(max_length=128, pattern=STORABLE)] = ""
    state: ReleaseState | None = None
    is_live: bool | None = None


class Explained(msgspec.Struct, frozen=True):
    """Findings of the last look and what is missing, as lines of text."""

    text: str


class EvidenceQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Filter of looks.

    Attributes:
        after: Only looks after this number.
        points: Maximum number, evenly spaced, including the last.
    """

    after: Annotated[int, msgspec.Meta(ge=-1, le=MOST_NUMBER)] = -1
    points: Annotated[int, msgspec.Meta(ge=1, le=_MOST_POINTS)] = 300


class Line(msgspec.Struct, frozen=True):
    """A metric and the thresholds of its evidence.

    Attributes:
        threshold: Value of ``log_e`` from which it causes a rollback by itself.
        gate: Value of ``log_gate`` from which the release may continue; None = not a gate.
    """

    name: str
    severity: Literal["severe", "soft"]
    threshold: float
    gate: float | None


class LinePoint(msgspec.Struct, frozen=True):
    """Evidence of a metric at one time.

    Attributes:
        log_e: Log evidence of harm.
        log_gate: Log evidence of no harm in the stage.
        effect, low, high: The canary's rate as a multiple of its control's, with bounds.
    """

    log_e: float
    log_gate: float
    effect: float | None
    low: float | None
    high: float | None


class Point(msgspec.Struct, frozen=True):
    """Counts and verdict at one time.

    Attributes:
        at: Unix seconds, the end of the bucket.
        share: The canary's share of all arms.
        requests: Requests in this bucket.
        lines: Evidence by metric, in the order of ``metrics``.
    """

    seq: int
    at: float
    stage: int
    share: float
    decision: Decision
    requests: Counts
    log_e: float
    split_log_e: float
    lines: tuple[LinePoint, ...]


class Evidence(msgspec.Struct, frozen=True):
    """Looks at a release over time.

    Attributes:
        threshold: Value of ``log_e`` of all metrics together that causes a rollback.
    """

    metrics: tuple[Line, ...]
    threshold: float
    items: tuple[Point, ...]


class NewRelease(Why, frozen=True, forbid_unknown_fields=True):
    """Request for a new release; empty fields are taken from the registry.

    Attributes:
        stable: Version to replace.
        alias: Alias moved on promotion.
        policy: None = the model's own, or the default.
    """

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=STORABLE)]
    version: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    stable: Annotated[str, msgspec.Meta(max_length=64)] = ""
    alias: Annotated[str, msgspec.Meta(max_length=64)] = ""
    policy: Policy | None = None


class Wished(msgspec.Struct, frozen=True):
    """Result of a change request.

    Attributes:
        is_done: A server has processed it; otherwise one will on its next tick.
    """

    wish: int
    is_done: bool
    release: ReleaseView


class Ledger(msgspec.Struct, frozen=True):
    """Dependencies of these operations.

    Attributes:
        propose: Stores a new release, with its author and reason.
        wall: Unix seconds.
    """

    releases: ReleaseStore
    wishes: WishStore
    propose: Callable[[Proposal, Actor, str], Awaitable[Release]]
    shadows: ShadowSource
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


def release_operations(ledger: Ledger) -> list[Operation]:
    """Return the operations."""
    one = "/releases/{release}"
    changes: tuple[tuple[What, str], ...] = (
        ("pause", "Keep it at its weight, whatever is seen; harm still rolls it back"),
        ("resume", "Judge it again"),
        ("promote", "Take its next step, whatever is not proven yet"),
        ("abort", "Give everything back to the stable version, for good"),
    )
    looks = (
        ("list_releases", "/releases", "Releases, the newest first", _list, Page[ReleaseView], ReleasesQuery),
        ("release", one, "A release and the last look at it", _tell, ReleaseDetail, NoQuery),
        ("explain_release", f"{one}/explain", "Why it stands as it does", _explain, Explained, NoQuery),
        ("shadow", f"{one}/shadow", "How its copies compare", _shadow, ShadowReport, NoQuery),
        (
            "evidence",
            f"{one}/evidence",
            "What was counted and judged",
            _tell_evidence,
            Evidence,
            EvidenceQuery,
        ),
    )
    start = "Bring a version to a little of the traffic, and see"
    return [
        *(
            Operation(name, "GET", path, summary, partial(run, ledger), gives, query=query)
            for name, path, summary, run, gives, query in looks
        ),
        Operation(
            "start_release",
            "POST",
            "/releases",
            start,
            partial(_start, ledger),
            ReleaseView,
            NewRelease,
            changes=True,
            status=201,
        ),
        *(
            Operation(
                f"{what}_release",
                "POST",
                f"{one}/{what}",
                summary,
                partial(_wish, ledger, what),
                Wished,
                Why,
                changes=True,
            )
            for what, summary in changes
        ),
    ]


async def _start(ledger: Ledger, asked: ApiRequest) -> Answer:
    said: NewRelease = asked.body
    if said.policy is not None:
        check_size(said.policy)
    proposal = Proposal(said.model, said.version, said.stable, said.alias, said.policy)
    return Answer(shown(await ledger.propose(proposal, actor(asked.caller), said.reason)))


async def _list(ledger: Ledger, asked: ApiRequest) -> Answer:
    query = asked.query
    if query.after:
        try:
            await ledger.releases.get(query.after)
        except NotFound as error:
            raise InvalidInput(
                error.message, field="query.after", fix="Read it from the beginning."
            ) from error
    found = await ledger.releases.listed(
        query.model, state=query.state, is_live=query.is_live, after=query.after, most=query.limit + 1
    )
    part = found[: query.limit]
    return Answer(Page([shown(one) for one in part], part[-1].id if len(found) > len(part) else ""))


async def _tell(ledger: Ledger, asked: ApiRequest) -> Answer:
    release = await ledger.releases.get(asked.names["release"])
    told = await ledger.releases.witnesses([release.id])
    servers = counted_by(told[release.id], ledger.wall(), release.bucket_seconds)
    look = await last_look(ledger.releases, release)
    return Answer(ReleaseDetail(shown(release), release.policy, look, servers))


async def _explain(ledger: Ledger, asked: ApiRequest) -> Answer:
    release = await ledger.releases.get(asked.names["release"])
    look = await last_look(ledger.releases, release)
    return Answer(
        Explained(explain(release.policy, look.verdict) if look else release.waits_for or release.reason)
    )


async def _shadow(ledger: Ledger, asked: ApiRequest) -> Answer:
    release = await ledger.releases.get(asked.names["release"])
    report = ledger.shadows.report(release.id)
    if report is None:
        raise NotFound(
            f"nothing is known here of copies for release '{release.id}'",
            fix="Its policy says in traffic.shadow what is copied; a server that starts again counts anew.",
        )
    return Answer(report)


async def _tell_evidence(ledger: Ledger, asked: ApiRequest) -> Answer:
    release = await ledger.releases.get(asked.names["release"])
    after, last = asked.query.after, release.progress.buckets - 1
    looks = await ledger.releases.looks(
        release.id, after, every=stride(last - after, asked.query.points), last=max(last, 0)
    )
    return Answer(evidence(release.policy, looks[-asked.query.points :]))  # one may have arrived meanwhile


async def _wish(ledger: Ledger, what: What, asked: ApiRequest) -> Answer:
    name, wishes = asked.names["release"], ledger.wishes
    wish = await wishes.wish(name, what, actor(asked.caller), asked.body.reason, ledger.wall())
    answer = None
    for _ in range(round(_WAIT_SECONDS / _LOOK_SECONDS)):
        if (answer := await wishes.answer(wish)) is not None:
            break
        await ledger.sleep(_LOOK_SECONDS)
    if answer:
        raise Conflict(answer)
    return Answer(Wished(wish, answer is not None, shown(await ledger.releases.get(name))))


async def last_look(releases: ReleaseStore, release: Release) -> LastLook | None:
    """Return the last look; None = there was none."""
    looks = await releases.looks(release.id, release.progress.buckets - 2)
    return LastLook(looks[-1].seq, looks[-1].entry.bucket, looks[-1].entry.verdict) if looks else None


def shown(release: Release) -> ReleaseView:
    """Return the summary of a release."""
    return ReleaseView(
        stages=len(release.policy.stages),
        waits_for=release.waits_for,
        **{name: getattr(release, name) for name in _SHOWN},
    )


_SHOWN = tuple(name for name in ReleaseView.__struct_fields__ if name not in ("stages", "waits_for"))


def evidence(policy: Policy, looks: tuple[Look, ...]) -> Evidence:
    """Return looks in the form of a chart."""
    gate = -math.log(policy.beta)
    lines = tuple(
        Line(
            metric.name,
            metric.severity,
            -math.log(policy.alpha * share),
            None if metric.promotion_margin is None else gate,
        )
        for metric, share in zip(policy.metrics, policy.shares, strict=True)
    )
    return Evidence(lines, -math.log(policy.alpha), tuple(_point(look) for look in looks))


def _point(look: Look) -> Point:
    bucket, verdict = look.entry.bucket, look.entry.verdict
    return Point(
        look.seq,
        verdict.at,
        bucket.stage,
        bucket.share,
        verdict.decision,
        bucket.requests,
        verdict.log_e,
        verdict.split_log_e,
        tuple(LinePoint(m.log_e, m.log_gate, m.effect, m.low, m.high) for m in verdict.metrics),
    )


def stride(number: int, most: int) -> int:
    """Return n for taking every n-th look, so that there are at most that many.

    >>> [stride(number, 300) for number in (0, 300, 301, 10_000)]
    [1, 1, 2, 34]
    """
    return max(1, -(-number // most))
