"""A small world for releases: a ledger that is real, and everything else told what to say.

Not a suite itself.
"""

import itertools
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from sqlalchemy import Connection, insert, select

from salver.features.ledger.ledger import Ledger
from salver.features.ledger.schema import MODEL, VERSION
from salver.features.registry import aliases
from salver.features.registry.audit import Change
from salver.features.registry.records import Actor
from salver.features.releases.experiments.assign import assign, check
from salver.features.releases.experiments.collector import Collector
from salver.features.releases.experiments.outputs import OutputCheck
from salver.features.releases.experiments.pending import Pending
from salver.features.releases.experiments.seen_units import CollectorConfig
from salver.features.releases.judge.policy import Metric, Policy, Stage
from salver.features.releases.judge.record import Release, proposed
from salver.features.releases.outcomes import OutcomeStore
from salver.features.releases.release_store import ReleaseStore
from salver.features.releases.releases import Releases, Traffic
from salver.words.errors import Code
from salver.words.events import Served
from salver.words.messages import Timing
from salver.words.releases import (
    NO_STAGE,
    Arm,
    Bucket,
    BucketObservations,
    Counts,
    Exposures,
    ReleaseState,
    Split,
    UnitObservations,
    unit_numbers,
)

ADA = Actor("ada")
#: Ten-second buckets and a minute a stage, for an errors metric alone.
POLICY = Policy(
    stages=(Stage(0.05, 1, margin_times=8), Stage(0.5, 1, margin_times=8)),
    metrics=(
        Metric("errors", "errors", "severe", promotion_margin=0.5, negligible=0.01),
        Metric("latency_p99", "latency", "soft", quantile=0.99, promotion_margin=None),
    ),
    warm_up_seconds=0,
    no_data_seconds=60,
)


_SERVERS = itertools.count()


class Clock:
    """Unix seconds, as the test says."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Told:
    """Stands in for router, collector and fleet."""

    def __init__(self) -> None:
        self.splits: tuple[Split, ...] = ()
        self.followed: dict[str, tuple[list[int], list[tuple[str, int]]]] = {}
        self.remembers_on: set[int] = set()  # threads
        self.slow: dict[str, Mapping[str, float]] = {}
        self.found: dict[str, float] = {}
        self.checks: dict[str, tuple[OutputCheck, ...]] = {}
        self.keeps_requests = self.keeps_arms = False
        self.found_bins: dict[str, tuple[float, ...]] = {}
        self.lacks: dict[tuple[str, str], str] = {}
        self.unknown: set[str] = set()
        self.meant: Mapping[str, str] = {}
        self.moved: list[tuple[str, str]] = []
        self.ticked = 0
        self.forgotten: list[str] = []
        self.paces: dict[str, float] = {}

    def replace(self, splits: Sequence[Split]) -> None:
        check(splits)
        self.splits = tuple(splits)

    def remembered(
        self,
        units: Iterable[int],
        happenings: Iterable[tuple[str, int]],
        *,
        by_stage: Mapping[int, Iterable[int]],
        keeps_arms: bool,
    ) -> tuple:
        self.remembers_on.add(threading.get_ident())
        self.keeps_arms = keeps_arms
        return list(units), list(happenings)

    def follow(self, release: str, seconds: float, memory: tuple, heard: int) -> None:
        self.followed[release] = memory

    def know(self, release: str, units: Mapping[int, Iterable[int]], heard: int) -> None:
        self.followed[release][0].extend(units.get(NO_STAGE, ()))

    def forget(self, release: str) -> None:
        self.forgotten.append(release)

    def tick(self) -> None:
        self.ticked += 1

    flush = tick

    def leave(self, release: str) -> None:
        del self.followed[release]

    def slow_from(self, release: str, thresholds: Mapping[str, float]) -> None:
        self.slow[release] = thresholds

    def pace(self, release: str, seconds: float) -> None:
        self.paces[release] = seconds

    def thresholds(self, release: str, quantiles: Mapping[str, float]) -> Mapping[str, float]:
        return {name: seconds for name, seconds in self.found.items() if name in quantiles}

    def watch(self, release: str, checks: Sequence[OutputCheck], *, keeps_requests: bool) -> None:
        self.checks[release] = tuple(checks)
        self.keeps_requests = keeps_requests

    def bins(self, release: str) -> Mapping[str, tuple[float, ...]]:
        return self.found_bins

    def knows(self, model: str) -> bool:
        return model not in self.unknown

    def missing(self, model: str, version: str) -> str:
        return self.lacks.get((model, version), "")

    def waiting(self, release: str) -> str:
        return ""

    def settle(self, versions: Mapping[str, str]) -> None:
        self.meant = versions

    def move(self, connection: Connection, release: Release, now: float) -> None:
        self.moved.append((release.id, release.state.value))
        registered(connection, release.model)
        number = release.canary if release.state is ReleaseState.PROMOTED else release.stable
        aliases.move(connection, Change(ADA, now), release.model, release.alias or "-", int(number))


class World:
    """A server's life on a ledger, which others may follow."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self.clock = clock
        self.store = ReleaseStore(ledger)
        self.traffic = Told()
        self.pending = Pending()
        told = self.traffic
        traffic = Traffic(told, told, self.pending, told)
        self.releases = Releases(self.store, traffic, told, None, clock, f"server {next(_SERVERS)}")

    async def propose(self, model: str = "fraud", policy: Policy = POLICY, alias: str = "") -> Release:
        number = len(await self.store.listed())
        new = proposed(f"r{number}", model, ("1", "2"), policy, self.clock.now, alias=alias)
        await self.store.propose(new, ADA)
        return new

    async def ticks(self, seconds: float = 1.0) -> None:
        self.clock.now += seconds
        await self.releases.tick()

    async def one(self, release: str = "r0") -> Release:
        return await self.store.get(release)

    async def saw(self, release: str, requests: Counts, errors: Counts, units: Sequence[str] = ()) -> None:
        """Ten seconds go by, in which that was seen; then comes a tick."""
        now = await self.one(release)
        start = self.clock.now
        stage, weight = now.stage, now.weight
        bucket = Bucket(start, 10, stage, weight, requests, requests, {"errors": errors}, {"errors": errors})
        met = in_canary(units, start)
        exposures = Exposures(met.units, met.arms, met.times, np.ones(len(units), np.uint8))
        failed = in_canary(units[: errors.canary], start)
        self.pending.write(
            BucketObservations(release, bucket, exposures, {"errors": failed} if len(failed) else {})
        )
        await self.ticks(10)


def in_canary(units: Sequence[str], at: float) -> UnitObservations:
    return UnitObservations(unit_numbers(units), np.zeros(len(units), np.uint8), np.full(len(units), at))


class Server(World):
    """One that counts what it is asked itself, and dies without a word when the test forgets it."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        super().__init__(ledger, clock)
        told = self.traffic
        self.collector = Collector(self.pending, clock, CollectorConfig(units=100_000, error=1e-6))
        traffic = Traffic(told, self.collector, self.pending, told)
        self.outcomes = OutcomeStore(ledger, clock)
        self.releases = Releases(self.store, traffic, told, self.outcomes, clock, f"server {next(_SERVERS)}")

    def serve(self, users: Iterable[str], failing: Collection[str] = ()) -> None:
        """Each of these asks once; the canary fails those."""
        events = []
        for user in users:
            for split in self.traffic.splits:
                where = assign(split, {"header:x-user-id": user, "request": "1"})
                fails = user in failing and where.arm is Arm.CANARY
                outcome = Code.MODEL_FAILED.value if fails else "ok"
                event = Served(
                    "fraud", where.version, "x", outcome, 0.01, Timing(), assignment=where, unit=user
                )
                events.append(event)
        self.collector.observe(events)


def registered(connection: Connection, model: str) -> None:
    """A model of two versions, and of no alias, in the registry."""
    if connection.scalar(select(MODEL.c.name).where(MODEL.c.name == model)) is None:
        by = {"created": 1.0, "by": ""}
        connection.execute(insert(MODEL), {"name": model, "last_number": 2, **by})
        version = {"model": model, "digest": "", "size": 0, "framework": "", "format": "", **by}
        connection.execute(insert(VERSION), [{"number": n, **version} for n in (1, 2, 3)])


def healthy(share: float, requests: int = 2000) -> Counts:
    """So many requests in ten seconds, spread as the share wants it."""
    canary = round(requests * share)
    baseline = min(canary, requests - canary)
    return Counts(canary, baseline, requests - canary - baseline)


def address(folder: Path) -> str:
    return f"sqlite:///{folder / 'salver.db'}"
