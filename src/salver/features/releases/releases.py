"""Control loop of releases.

A shell driven by the clock: on each tick it stores local counts, reads change requests and the counts of
all servers, lets the pure modules decide (``judge/``, ``decisions.py``), writes all in one transaction, and
only then changes routing. The state is in the ledger: after a crash the next tick continues from there, on
this or another server. It counts and judges nothing itself.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from salver.features.releases import decisions
from salver.features.releases.contact import LedgerContact
from salver.features.releases.experiments.collector import Collector
from salver.features.releases.experiments.pending import Pending
from salver.features.releases.experiments.router import Router
from salver.features.releases.experiments.windows import PATIENCE, CountingServer, WindowPart, clocks
from salver.features.releases.fleet import Fleet
from salver.features.releases.judge import procedure
from salver.features.releases.judge.judge import judge
from salver.features.releases.judge.record import Release
from salver.features.releases.judge.replay import Entry
from salver.features.releases.outcomes import OutcomeStore
from salver.features.releases.release_rows import Look, PendingWork, ReleaseSnapshot, Step
from salver.features.releases.release_store import ReleaseStore
from salver.features.releases.shadow import Shadowing
from salver.features.releases.window_exchange import ExchangeProgress
from salver.kernel.supervise import Faults, Supervisor, every
from salver.words.errors import Conflict, InvalidInput, SalverError
from salver.words.releases import BLOCK_BUCKETS, NO_STAGE, ReleaseState

_LOG: Final = logging.getLogger("salver.releases")
_LOAD_MINUTES: Final = 30.0
_DAY_SECONDS: Final = 86_400.0
#: Seconds without the ledger after which a server sends no requests to a canary, because a rollback could not
#: reach it.
_DEAF_SECONDS: Final = 300.0
_TRIES: Final = 3  # attempts at a step that another server took first; then the next tick takes it


class Traffic(NamedTuple):
    """Routing and observation of requests."""

    router: Router
    collector: Collector
    pending: Pending
    shadows: Shadowing


class Releases:
    """Controller that takes every release one step further on each tick.

    Args:
        outcomes: Source of outcomes; None = none.
        clock: Unix seconds.
        server: Unique name of this server on the ledger, different after each start.

    Attributes:
        known: Releases as last read: active ones, and those that determine routing.
        shares: By release, the fraction of units that get the canary on this server.
    """

    def __init__(
        self,
        store: ReleaseStore,
        traffic: Traffic,
        fleet: Fleet,
        outcomes: OutcomeStore | None,
        clock: Callable[[], float],
        server: str,
    ) -> None:
        self.known: Sequence[Release] = ()
        self.shares: Mapping[str, float] = {}
        self._store = store
        self._traffic = traffic
        self._fleet = fleet
        self._outcomes = outcomes
        self._clock = clock
        self._server = server
        self._followed: dict[str, ExchangeProgress] = {}
        self._contact = LedgerContact(server)
        self._here = decisions.LocalWaits()
        self._faults = Faults(_LOG, "releases stay as they are until this works again", "releases go on")
        self._pruned = 0.0
        self._buckets: list[float] = []  # bucket lengths in seconds
        self._ticks: Supervisor | None = None

    def __repr__(self) -> str:
        return f"<Releases, {len(self._followed)} live>"

    def silence(self) -> float:
        """Return the seconds since the ledger was last read and written successfully."""
        return max(0.0, self._clock() - self._contact.told_at)

    async def start(self, seconds: float, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Run the first tick, then one after each pause, or as often as buckets end.

        Raises:
            SalverError: the ledger cannot be read.
        """
        await self.tick()
        self._ticks = Supervisor(_LOG, "releases stay as they are")
        ticks = every(lambda: min([seconds, *self._buckets]), self.tick, self._faults, sleep)
        self._ticks.start("releases", ticks)

    async def stop(self) -> None:
        """Run the last tick, with all counts so far."""
        if self._ticks is not None:
            await self._ticks.close()
            self._ticks = None
            self._traffic.collector.flush()
            await self._faults.catch(self.tick(is_last=True))

    async def tick(self, *, is_last: bool = False) -> None:
        """Take the step that is due for each release.

        Args:
            is_last: Other servers need not wait for this one any more.

        Raises:
            SalverError: the ledger cannot be read or written; counts are kept for the next tick.
        """
        self._traffic.collector.tick()
        try:
            await self._go_on(is_last)
        except SalverError:
            self._contact.is_lost = True
            self._here.said.clear()
            self._let_go(self._clock())
            raise

    async def _go_on(self, is_last: bool) -> None:
        asked = self._clock()
        await self._hand_in()
        if is_last:
            await self._store.leave(self._server)
        picture = await self._store.picture()
        now = self._clock()
        self._contact.read(asked, now, min(self._buckets, default=math.inf))
        after: list[Release] = []
        for number, release in enumerate(picture.releases):
            known = (*after, *picture.releases[number:])  # as they are after this tick
            try:
                release = await self._step(release, msgspec.structs.replace(picture, releases=known), now)
            except SalverError:  # a fault of the ledger affects all releases
                raise
            except Exception:  # a bug must not stop the other releases
                _LOG.exception("release %s is unchanged until the next tick", release.id)
            after.append(release)
        for name in picture.waiting.keys() - {release.id for release in after}:
            await self._refuse(await self._store.get(name), picture.waiting[name], now)
        if not is_last:
            await self._apply(after, now)
        if now - self._pruned >= _DAY_SECONDS and not await self._store.prune(now):
            self._pruned = now

    async def _hand_in(self) -> None:
        """Store local counts where all servers see them."""
        for name, told in self._followed.items():
            if seen := self._traffic.pending.of(name):
                others = await self._store.hand_in(self._server, name, told, seen)
                self._followed[name] = told._replace(parts=told.parts + len(seen), crowd=others.last)
                self._traffic.pending.kept(name, len(seen))
                self._traffic.collector.know(name, others.by_stage, others.last)

    async def _step(self, release: Release, picture: ReleaseSnapshot, now: float) -> Release:
        """Decide, write, and return the result."""
        for _ in range(_TRIES):
            step = await self._next(release, picture, now)
            if step.is_nothing:
                return step.after
            try:
                after = await self._store.commit(step, now)
            except Conflict as error:
                _LOG.debug("%s; reading again", error)
                picture = await self._store.picture()
                release = next((one for one in picture.releases if one.id == release.id), release)
                continue
            _tell(step)
            return after
        return release

    async def _refuse(self, release: Release, waiting: PendingWork, now: float) -> None:
        """End a superseded release: it has no traffic to return, and its alias belongs to another."""
        answer = f"release '{release.id}' is {release.state.value}, and another came after it"
        answers = tuple((wish.id, answer) for wish in waiting.wishes)
        with contextlib.suppress(Conflict):  # another server already did
            await self._store.commit(Step(release, release, answers=answers), now)

    async def _next(self, release: Release, picture: ReleaseSnapshot, now: float) -> Step:
        waiting, after, looks = picture.waiting[release.id], release, []
        if release.fault and release.is_live:  # no caller may get a canary that cannot be judged
            why = f"this version of Salver cannot read it: {release.fault}"
            after = procedure.rolled_back(release, now, why)
        parts: list[WindowPart] = []
        heard = self._heard(release, waiting, now)
        until = min((each.until for each in heard), default=math.inf)
        # otherwise the servers with its versions take care of it
        is_here = self._fleet.knows(release.model) or not heard
        lacks = missing = waiting_for_it = ""
        if is_here:
            lacks, missing = self._lacking(release, now)
        if release.id in self._followed:
            waiting_for_it = self._traffic.collector.waiting(release.id)
        facts = msgspec.structs.replace(
            decisions.facts(release, picture.releases),
            missing=missing,
            waiting=waiting_for_it,
            clocks=self._clocks(release, waiting, now),
        )
        for bucket, made_of in decisions.due_buckets(release, waiting, until):
            if not after.is_judged:
                break
            parts += made_of
            if is_quiet := bucket.stage == NO_STAGE:
                stage, share = after.stand
                bucket = msgspec.structs.replace(bucket, stage=stage, share=share)
            before = after  # its outcomes wait for the next bucket if this one cannot be judged
            if self._outcomes is not None and release.asks_for_outcomes:
                harvest = await self._outcomes.matured(after, bucket.start + bucket.seconds, min(until, now))
                bucket = msgspec.structs.replace(
                    bucket, outcomes=harvest.outcomes, late_seconds=harvest.late_seconds
                )
                after = procedure.harvested(after, harvest.watermarks)
            if is_quiet and not after.is_live and not bucket.outcomes:
                continue  # for promoted releases silence is normal
            seq = after.progress.buckets
            try:
                evidence, verdict = judge(after.policy, after.evidence, bucket, after.state, facts)
            except Exception as error:  # a bug with one bucket must not stop the others
                what = "release %s: a bucket is left out of the evidence: %s"
                _LOG.error(what, release.id, error, exc_info=not isinstance(error, InvalidInput))
                after = before
                continue
            looks.append(Look(seq, Entry(bucket, after.state, verdict, facts)))
            after = procedure.judged(msgspec.structs.replace(after, evidence=evidence), verdict, now)
        after, answers, by = decisions.answered(after, waiting, now)
        after = procedure.resumed(after, now)
        if is_here:
            after = self._settled(after, picture.releases, waiting.elsewhere, now, lacks)
            if missing and not heard:
                after = procedure.stranded(after, now, missing)
        has_switched = ReleaseState.PROMOTED in (release.state, after.state) and release.state != after.state
        aliases: Fleet | None = None
        if has_switched:
            aliases = self._fleet
        return Step(release, after, tuple(looks), tuple(parts), answers, aliases, by)

    def _heard(self, release: Release, waiting: PendingWork, now: float) -> list[CountingServer]:
        """Return the servers that count it, without those silent for long."""
        counts_here = release.id in self._followed
        heard, news = self._contact.heard(release, waiting.witnesses, now, counts_here=counts_here)
        for each in news:
            text = "release %s continues without %s, silent for %.0f seconds"
            _LOG.warning(text, release.id, each.server, now - each.until)
        return heard

    def _clocks(self, release: Release, waiting: PendingWork, now: float) -> str:
        """Return whose clocks differ, as text."""
        mine = sum(each.ahead for each in waiting.witnesses if each.server == self._server)
        found = clocks(waiting.witnesses, now - mine, release.bucket_seconds)
        if found and release.id not in self._here.skewed:
            _LOG.warning("release %s: %s; it is held until clocks agree", release.id, found)
        self._here.skewed.discard(release.id)
        if found:
            self._here.skewed.add(release.id)
        return found

    def _lacking(self, release: Release, now: float) -> tuple[str, str]:
        """Return why its versions cannot answer here, as text; and again if that has lasted long."""
        lacks = ""
        if release.is_live or release.split is not None:
            versions = (release.stable, release.canary)
            lacks = "; ".join(filter(None, (self._fleet.missing(release.model, each) for each in versions)))
        if not lacks:
            self._here.missing_since.pop(release.id, None)
            return "", ""
        since = self._here.missing_since.setdefault(release.id, now)
        if now - since < PATIENCE * release.bucket_seconds:
            return lacks, ""
        return lacks, lacks

    def _settled(
        self, release: Release, all_of_them: Sequence[Release], elsewhere: str, now: float, lacks: str
    ) -> Release:
        """Return the release updated with loaded versions, other releases and latencies."""
        if release.state is ReleaseState.PROMOTED:
            ends = decisions.successor(release, all_of_them)
            if elsewhere:
                ends = f"its alias means {elsewhere}"
            release = procedure.watched(release, now, ends)
        if not release.is_live and release.split is None:
            self._here.said.pop(release.id, None)
            return release
        if lacks and now - self._here.missing_since[release.id] > 60 * _LOAD_MINUTES:
            gone = f"after {_LOAD_MINUTES:.0f} minutes: {lacks}"
            if release.is_live:
                return procedure.rolled_back(release, now, gone)
            return procedure.watched(release, now, gone)
        if release.state is ReleaseState.PROPOSED:
            waits_for = lacks or decisions.clash(release, all_of_them)
            said = self._here.said.get(release.id)  # on this server; others may have decided since
            if not waits_for or waits_for != said:
                release = procedure.started(release, now, waits_for)
            self._here.said[release.id] = waits_for
        quantiles = {m.name: m.quantile for m in release.policy.metrics if m.kind == "latency"}
        if quantiles and release.id in self._followed:
            release = procedure.measured(release, self._traffic.collector.thresholds(release.id, quantiles))
        if release.id in self._followed:
            release = procedure.binned(release, self._traffic.collector.bins(release.id))
        return release

    async def _apply(self, releases: Sequence[Release], now: float) -> None:
        """Route traffic as stored in the ledger."""
        has_begun = [release for release in releases if release.state is not ReleaseState.PROPOSED]
        live = {each.id: each for each in has_begun if each.is_judged and self._fleet.knows(each.model)}
        for name in self._followed.keys() - live.keys():
            del self._followed[name]
            self._traffic.collector.leave(name)
            self._traffic.pending.forget(name)
            self._traffic.shadows.forget(name)
        trouble: SalverError | None = None  # must not stop the traffic of others
        for name in live.keys() - self._followed.keys():
            try:
                await self._follow(live[name], now)
            except SalverError as error:
                trouble = error
        self._buckets = [release.bucket_seconds for release in live.values()]
        for name in self._followed:
            release = live[name]
            self._traffic.collector.pace(name, release.bucket_seconds)
            self._traffic.collector.slow_from(name, release.progress.thresholds)
            self._traffic.collector.watch(
                name, decisions.checks(release), keeps_requests=release.keeps_requests
            )
            if any(metric.kind == "resource" for metric in release.policy.metrics):
                self._traffic.collector.measure(name, release.model, (release.canary, release.stable))
        self.known = releases
        self._share_out(releases)
        self._fleet.settle({each.model: each.default_version for each in releases if not each.alias})
        if trouble is not None:
            raise trouble
        self._contact.told_at = now

    def _share_out(self, releases: Sequence[Release]) -> None:
        """Put the splits of these releases in force, as far as their versions are here."""
        splits = [
            split
            for release in releases
            if (split := release.split) is not None
            and release.id not in self._here.missing_since
            and (release.id in self._followed or not release.is_live)
        ]
        self.shares = {split.release: split.weight * (1 - split.holdback) for split in splits}
        try:
            self._traffic.router.replace(splits)
        except InvalidInput:  # a fault of one must not stop the traffic of others
            kept, refused = decisions.compatible(splits)
            for split, error in refused:
                _LOG.error("release %s receives no traffic: %s", split.release, error)
            self._traffic.router.replace(kept)

    def _let_go(self, now: float) -> None:
        """Send no requests to a canary whose release has not been read for long."""
        if (silence := now - self._contact.told_at) < _DEAF_SECONDS:
            return
        live = [release for release in self.known if release.is_live and release.id in self.shares]
        for release in live:
            _LOG.warning(
                "release %s of %s: this server sends no requests to version %s, but all to %s: the ledger "
                "was not available for %.0f seconds, and the release may have been rolled back",
                release.id,
                release.model,
                release.canary,
                release.stable,
                silence,
            )
        if live:
            self._share_out([release for release in self.known if not release.is_live])

    async def _follow(self, release: Release, now: float) -> None:
        """Count a release from now on, after restoring earlier counts."""
        parts = await self._store.attend(release.id, self._server, now)
        known, events = await self._store.known_units(release.id)
        keeps_units = release.asks_for_outcomes
        memory = await asyncio.to_thread(
            self._traffic.collector.remembered,
            known.units,
            events,
            by_stage={stage: units for stage, units in known.by_stage.items() if stage != NO_STAGE},
            keeps_arms=keeps_units,
        )
        self._traffic.collector.follow(release.id, release.bucket_seconds, memory, known.last)
        block_seconds = BLOCK_BUCKETS * release.policy.bucket_seconds
        self._followed[release.id] = ExchangeProgress(parts, known.last, keeps_units, block_seconds)


def _tell(step: Step) -> None:
    if found := decisions.news(step):
        is_grave, text, values = found
        _LOG.log(logging.WARNING if is_grave else logging.INFO, text, *values)
