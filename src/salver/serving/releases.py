"""Who sees to it that releases go on?

A shell, told by the clock: on each tick it reads what people wish and what was counted, lets the pure rooms
decide (``rollout/``), writes all of it in one transaction, and only then moves traffic. The state is the
ledger's: after a kill the next tick goes on from there. It counts nothing and judges nothing itself.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from salver.errors import Conflict, InvalidInput, SalverError
from salver.experiments.assign import check
from salver.experiments.collector import Collector
from salver.experiments.outputs import OutputCheck
from salver.experiments.pending import Pending
from salver.experiments.router import Router
from salver.experiments.shadows import ShadowReport
from salver.releases import NO_STAGE, Matured, ReleaseState, Seen, Split
from salver.rollout import procedure, rules
from salver.rollout.judge import judge
from salver.rollout.record import Release, Wish
from salver.rollout.replay import Entry
from salver.serving.release_store import Aliases, Look, ReleaseStore, Step

_LOG: Final = logging.getLogger("salver.releases")
_LOAD_MINUTES: Final = 30.0
_KEPT_DAYS: Final = 30.0  # that units of a release are kept after its end, for outcomes that come late
_DAY_SECONDS: Final = 86_400.0
_TRIES: Final = 3  # of a step that another server was ahead of; then the next tick takes it


class Fleet(Aliases, Protocol):
    """What is loaded, and who is asked (serving/fleet.py)."""

    def missing(self, model: str, version: str) -> str:
        """Why a version cannot answer now, in words; empty = it can."""
        ...

    def settle(self, versions: Mapping[str, str]) -> None:
        """Requests that name no version go to these, by model."""
        ...


class Shadows(Protocol):
    """What was asked of versions whose answers nobody gets (serving/shadow.py)."""

    def forget(self, release: str) -> None:
        """It is over."""
        ...

    def report(self, release: str) -> ShadowReport | None:
        """What came of its copies; None = there were none."""
        ...


class Traffic(NamedTuple):
    """Where requests go, and what is seen of them."""

    router: Router
    collector: Collector
    pending: Pending
    shadows: Shadows


class Harvest(msgspec.Struct, frozen=True):
    """Outcomes that have matured.

    Attributes:
        watermarks: By metric, the time of exposure up to which they are handed over with this.
        late_seconds: By how much what is posted lags behind.
    """

    outcomes: tuple[Matured, ...] = ()
    watermarks: Mapping[str, float] = msgspec.field(default_factory=dict)
    late_seconds: float = 0.0


class Outcomes(Protocol):
    """Knows what callers posted later (serving/outcomes.py)."""

    async def matured(self, release: Release, until: float, written: float) -> Harvest:
        """Of the units that were exposed after ``release.progress.watermarks``, and whose outcomes are known
        for sure at ``until``.

        Args:
            until, written: Unix seconds; all exposures before ``written`` are in the ledger.
        """
        ...


class Releases:
    """Takes every release one step further, again and again.

    Args:
        outcomes: None = there are none.
        clock: Unix seconds.
    """

    def __init__(
        self,
        store: ReleaseStore,
        traffic: Traffic,
        fleet: Fleet,
        outcomes: Outcomes | None,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._router, self._collector, self._pending, self._shadows = traffic
        self._fleet = fleet
        self._outcomes = outcomes
        self._clock = clock
        self._followed: set[str] = set()
        self._pruned = 0.0
        self._buckets: list[float] = []  # their lengths, in seconds
        self._missing_since: dict[str, float] = {}
        self._running: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Releases, {len(self._followed)} live>"

    async def start(self, seconds: float, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """The first tick, and then one after each such pause, or as often as buckets end.

        Raises:
            SalverError: the ledger cannot be read.
        """
        await self.tick()
        self._running = asyncio.get_running_loop().create_task(self._run(seconds, sleep), name="releases")

    async def stop(self) -> None:
        """The last tick, with what was counted up to now."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
            self._running = None
            self._collector.flush()
            await self._try()

    async def tick(self) -> None:
        """Each release takes the step that is due.

        Raises:
            SalverError: the ledger cannot be read or written; what was counted is kept for the next tick.
        """
        self._collector.tick()
        now = self._clock()
        releases = await self._store.live()
        wishes: dict[str, list[Wish]] = {}
        for wish in await self._store.open_wishes():
            wishes.setdefault(wish.release, []).append(wish)
        after: list[Release] = []
        for release in releases:
            known = (*after, *releases[len(after) :])  # as this tick has left them
            after.append(await self._step(release, wishes.pop(release.id, []), known, now))
        for name, late in wishes.items():
            await self._refuse(await self._store.get(name), late, now)
        await self._apply(after)
        if now - self._pruned >= _DAY_SECONDS:
            self._pruned = now
            if gone := await self._store.prune(now - _KEPT_DAYS * _DAY_SECONDS):
                _LOG.info("%d rows of units of releases that ended long ago are gone", gone)

    async def _run(self, seconds: float, sleep: Callable[[float], Awaitable[None]]) -> None:
        while True:
            await sleep(min([seconds, *self._buckets]))
            await self._try()

    async def _try(self) -> None:
        try:
            await self.tick()
        except SalverError as error:
            _LOG.error("releases stay as they are until the next tick: %s", error)
        except Exception:
            _LOG.exception("releases stay as they are until the next tick")

    async def _step(
        self, release: Release, wishes: Sequence[Wish], all_of_them: Sequence[Release], now: float
    ) -> Release:
        """Decide, write, and only then forget what it was decided from."""
        for _ in range(_TRIES):
            pending = self._pending.of(release.id)
            step = await self._next(release, pending, wishes, all_of_them, now)
            if step.is_nothing:
                return step.after
            try:
                after = await self._store.commit(step, now)
            except Conflict as error:
                _LOG.info("%s; it is read anew", error)
                release = await self._store.get(release.id)
                continue
            self._pending.kept(release.id, len(pending))
            _tell(step)
            return after
        return release

    async def _refuse(self, release: Release, wishes: Sequence[Wish], now: float) -> None:
        """What another release came after has nothing to give back, and its alias is not its own any more."""
        answer = f"release '{release.id}' is {release.state.value}, and another came after it"
        await self._store.commit(
            Step(release, release, answers=tuple((wish.id, answer) for wish in wishes)), now
        )

    async def _next(
        self,
        release: Release,
        pending: Sequence[Seen],
        wishes: Sequence[Wish],
        all_of_them: Sequence[Release],
        now: float,
    ) -> Step:
        after, looks, kept = release, [], []
        facts = _facts(release, all_of_them)
        for seen in pending:
            if not after.is_live:
                break
            bucket = seen.bucket
            if bucket.stage == NO_STAGE:
                bucket = msgspec.structs.replace(bucket, stage=after.stage, share=after.weight)
            if self._outcomes is not None and release.asks_for_outcomes:
                harvest = await self._outcomes.matured(
                    after, bucket.start + bucket.seconds, pending[0].bucket.start
                )
                bucket = msgspec.structs.replace(
                    bucket, outcomes=harvest.outcomes, late_seconds=harvest.late_seconds
                )
                after = procedure.harvested(after, harvest.watermarks)
            seq = after.progress.buckets
            try:
                evidence, verdict = judge(after.policy, after.evidence, bucket, after.state, facts)
            except InvalidInput as error:  # a defect, of one bucket, which must not keep the others waiting
                _LOG.error("release %s: a bucket is left out of the evidence: %s", release.id, error)
                continue
            looks.append(Look(seq, Entry(bucket, after.state, verdict, facts)))
            after = procedure.judged(msgspec.structs.replace(after, evidence=evidence), verdict, now)
            kept.append(seen)
        answers, by = [], ""
        for wish in wishes:
            before = after
            try:
                after = procedure.wished(after, wish, now)
                answers.append((wish.id, ""))
            except Conflict as error:
                answers.append((wish.id, str(error)))
            if (before.state, before.stage) != (after.state, after.stage):
                by = wish.by
        after = self._settled(after, all_of_them, now)
        has_switched = ReleaseState.PROMOTED in (release.state, after.state) and release.state != after.state
        aliases = self._fleet if has_switched else None
        return Step(release, after, tuple(looks), tuple(kept), tuple(answers), aliases, by)

    def _settled(self, release: Release, all_of_them: Sequence[Release], now: float) -> Release:
        """With what is loaded, who else is under way, and how fast the stable version is."""
        if not release.is_live:
            self._missing_since.pop(release.id, None)
            return release
        versions = (release.stable, release.canary)
        lacks = "; ".join(filter(None, (self._fleet.missing(release.model, each) for each in versions)))
        if lacks:
            since = self._missing_since.setdefault(release.id, now)
            if now - since > 60 * _LOAD_MINUTES:
                return procedure.rolled_back(release, now, f"after {_LOAD_MINUTES:.0f} minutes: {lacks}")
        else:
            self._missing_since.pop(release.id, None)
        if release.state is ReleaseState.PROPOSED:
            release = procedure.started(release, now, lacks or _clash(release, all_of_them))
        quantiles = {m.name: m.quantile for m in release.policy.metrics if m.kind == "latency"}
        if quantiles and release.id in self._followed and not release.progress.thresholds:
            release = procedure.measured(release, self._collector.thresholds(release.id, quantiles))
        if release.id in self._followed:
            release = procedure.binned(release, self._collector.bins(release.id))
        return release

    async def _apply(self, releases: Sequence[Release]) -> None:
        """Traffic goes where the ledger says."""
        has_begun = [release for release in releases if release.state is not ReleaseState.PROPOSED]
        live = {release.id: release for release in has_begun if release.is_live}
        for name in self._followed - live.keys():
            self._collector.leave(name)
            self._pending.forget(name)
            self._shadows.forget(name)
        for name in live.keys() - self._followed:
            units, events = await self._store.known_units(name)
            self._collector.follow(name, units, events, live[name].policy.bucket_seconds)
        self._followed = set(live)
        self._buckets = [release.policy.bucket_seconds for release in live.values()]
        for name, release in live.items():
            self._collector.slow_from(name, release.progress.thresholds)
            self._collector.watch(name, checks(release), keeps_requests=release.asks_for_outcomes)
        splits = [
            split
            for release in releases
            if (split := release.split) is not None and release.id not in self._missing_since
        ]
        try:
            self._router.replace(splits)
        except InvalidInput:  # a fault of one, which must not keep the others' traffic where it is
            self._router.replace(_compatible(splits))
        self._fleet.settle({release.model: _meant(release) for release in releases if not release.alias})


def checks(release: Release) -> tuple[OutputCheck, ...]:
    """What is to be looked at in the answers of a release."""
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


def _clash(release: Release, all_of_them: Iterable[Release]) -> str:
    """Why its traffic cannot be shared out beside that of releases under way, in words; empty = it can."""
    mine = msgspec.structs.replace(release, state=ReleaseState.RUNNING).split
    for other in all_of_them:
        if other.id != release.id and (theirs := other.split) is not None and mine is not None:
            try:
                check((theirs, mine))
            except InvalidInput as error:
                return str(error)
    return ""


def _compatible(splits: Iterable[Split]) -> list[Split]:
    """Without those that cannot be in force beside the ones before them."""
    kept: list[Split] = []
    for split in splits:
        try:
            check((*kept, split))
        except InvalidInput as error:
            _LOG.error("release %s shares out no traffic: %s", split.release, error)
        else:
            kept.append(split)
    return kept


def _meant(release: Release) -> str:
    """The version that requests mean which name none."""
    return release.canary if release.state is ReleaseState.PROMOTED else release.stable


def _facts(release: Release, all_of_them: Iterable[Release]) -> rules.Facts:
    layer = release.policy.traffic.layer
    others = tuple(
        other.id
        for other in all_of_them
        if layer and other.id != release.id and other.is_live and other.policy.traffic.layer == layer
    )
    return rules.Facts(release.progress.approvals, others)


def _tell(step: Step) -> None:
    before, after = step.before, step.after
    if (before.state, before.stage) != (after.state, after.stage):
        level = logging.WARNING if after.state is ReleaseState.ROLLED_BACK else logging.INFO
        _LOG.log(
            level,
            "release %s of %s: %s, stage %d, %.4g%% of the units meet version %s: %s",
            after.id,
            after.model,
            after.state.value,
            after.stage,
            100 * after.weight,
            after.canary,
            after.reason,
        )
