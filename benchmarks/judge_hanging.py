"""How often is a good canary rolled back where requests hang, and how soon is one found that hangs?

    python benchmarks/judge_hanging.py            # prints the tables, after half an hour on two cores

Releases on clocks of their own, of a seed. Requests go through the product's own split, the record of active
requests, the collector and the judge, whose pauses take the canary's traffic away; who calls, and how long an
answer takes, is simulated. Failing blocks of units are counted in memory as the ledger does.
"""

import argparse
import heapq
import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from salver.features.releases.experiments.collector import Collector
from salver.features.releases.experiments.router import Router
from salver.features.releases.experiments.underway import ActiveRequests
from salver.features.releases.judge.evidence import start
from salver.features.releases.judge.judge import judge
from salver.features.releases.judge.policy import Policy, Stage
from salver.features.releases.judge.verdict import Decision
from salver.features.releases.splitting import Splitting
from salver.kernel.serving.exchange import Exchange, RequestPath
from salver.stats.exact import clopper_pearson
from salver.words.errors import Code
from salver.words.events import Event
from salver.words.messages import Call, InferRequest, ModelId
from salver.words.releases import (
    ARMS,
    BLOCK_BUCKETS,
    MOST_BLOCKS,
    NO_STAGE,
    Arm,
    Bucket,
    BucketObservations,
    Counts,
    ReleaseState,
    Split,
)

Floats = npt.NDArray[np.float64]
#: Seconds that so many answers take; inf = for ever.
Service = Callable[[np.random.Generator, int], Floats]

SURE: Final = 0.95
_BEGIN: Final = 1_000_000_800.0  # a whole hour
_TICK: Final = 5  # seconds between looks, which divide a bucket
_BLOCK: Final = 512
_PAUSE, _SHORTEST, _LONGEST = 100.0, 10.0, 60.0  # mean seconds between two stalls, and how long they are
_REQUEST: Final = InferRequest("m", ())
_Exchange = Exchange[Any, Any]
_NO_CODEC: Any = None


class World(NamedTuple):
    """Who calls, and how long answers take.

    Attributes:
        service: Of both versions; of the canary another one where there is ``canary``.
        per_second: Requests of open traffic.
        callers: Of closed traffic, who ask again once they are answered.
        users: Whose names requests tell; 0 = they tell none. Callers are as many users.
        own: By how much each user's answers take longer.
        patience: Seconds after which callers leave.
        stalls: Who stands still from time to time: all at once, or each version for itself.
        bursts: Variance of the rate from second to second, as a part of its square.
        weight: The canary's.
        seconds: Until nobody looks any more.
    """

    service: Service
    canary: Service | None = None
    per_second: float = 0.0
    callers: int = 0
    users: int = 0
    own: Service | None = None
    patience: float = math.inf
    stalls: Literal["", "all", "each"] = ""
    bursts: float = 0.0
    weight: float = 0.05
    seconds: int = 600


class Course(NamedTuple):
    """What became of a release.

    Attributes:
        rolled_back, paused: Seconds after which it was, for the first time; None = it was not.
        late: Units with a time-out, of the canary and its control.
    """

    rolled_back: float | None
    paused: float | None
    late: tuple[int, int]


class Blocks:
    """Failing blocks of units, as the ledger counts them."""

    def __init__(self, seconds: float) -> None:
        self._seconds = BLOCK_BUCKETS * seconds
        self._known: dict[tuple[str, int], tuple[int, int]] = {}

    def counted(self, seen: BucketObservations) -> Bucket:
        """Return the bucket with its blocks."""
        block = int((seen.bucket.start + 1e-6) // self._seconds)
        found = {}
        for metric in {*seen.failing, *seen.bucket.blocks}:
            places = [[0, 0, 0] for _ in range(MOST_BLOCKS)]
            for place, counts in enumerate(seen.bucket.blocks.get(metric, ())):
                for arm, name in enumerate(ARMS):
                    places[place][arm] += getattr(counts, name.value)
            failing = seen.failing.get(metric)
            rows = zip(failing.units.tolist(), failing.arms.tolist(), strict=True) if failing else ()
            for unit, arm in rows:
                number, last = self._known.get((metric, unit), (0, -1))
                if last < block:
                    self._known[metric, unit] = number + 1, block
                    places[min(number, MOST_BLOCKS - 1)][arm] += 1
            found[metric] = tuple(Counts(*row) for row in places)
        return msgspec.structs.replace(seen.bucket, blocks=found)


def policy_of(world: World) -> Policy:
    """The usual one, in one stage."""
    return Policy(stages=(Stage(world.weight, 1000), Stage(1.0, 0)))


class Release:
    """One, on a clock of its own."""

    def __init__(self, world: World, seed: Sequence[int]) -> None:
        self.world, self.now = world, _BEGIN
        self.rng = rng = np.random.default_rng(seed)
        self.policy = policy_of(world)
        self.router, self.salt, self.turn = Router(), f"salt {seed}", 0
        self.weigh(world.weight)
        under_way, self.emitted = ActiveRequests(self.clock), list[Event]()
        self.emit = self.emitted.append
        splits = Splitting(self.router, under_way=under_way)
        no_version: Any = None  # how long one takes is all that is known of it
        self.path = RequestPath(no_version, self.emit, self.clock, str, stage=splits)
        self.seen: list[BucketObservations] = []
        self.blocks, self.evidence = Blocks(self.policy.bucket_seconds), start(self.policy)
        self.resumes, self.paused = math.inf, None
        self.late = [0, 0]
        self.write = self.seen.append
        self.collector = Collector(self, self.clock, under_way=under_way)
        self.collector.follow("r", self.policy.bucket_seconds)
        self.took = self._draws(world.service)
        self.took_by_canary = self._draws(world.canary) if world.canary else self.took
        self.own = world.own(rng, world.users) if world.own else None
        stalls = self._stalls()
        self.stalls = (self._stalls() if world.stalls == "each" else stalls), stalls

    def clock(self) -> float:
        return self.now

    def weigh(self, weight: float) -> None:
        """Give the canary this share of the units."""
        split = Split("r", "m", stable="1", canary="2", weight=weight, salt=self.salt, turn=self.turn)
        self.router.replace([split])

    def run(self) -> Course:
        """All of it, or until it is rolled back."""
        world, order = self.world, itertools.count()
        #: When, whose, and what ends then; without that somebody asks.
        agenda = [(at, next(order), who, None) for at, who in self._arrivals()]
        slow: dict[str, float] = {}
        quantiles = {metric.name: metric.quantile for metric in self.policy.metrics if metric.quantile}
        for second in range(_TICK, world.seconds + 1, _TICK):
            while agenda and agenda[0][0] <= second:
                at, _, who, asked = heapq.heappop(agenda)
                self.now = _BEGIN + at
                if asked is not None:
                    self._answer(*asked)
                if asked is None or world.callers:
                    end, *new = self._ask(at, who)
                    heapq.heappush(agenda, (end, next(order), who, tuple(new)))
            self.now = _BEGIN + second
            self.collector.observe(self.emitted)
            self.emitted.clear()
            slow = self.collector.thresholds("r", quantiles) or slow
            self.collector.slow_from("r", slow)
            if self._is_over():
                return Course(self.now - _BEGIN, self.paused, (self.late[0], self.late[1]))
        return Course(None, self.paused, (self.late[0], self.late[1]))

    def _is_over(self) -> bool:
        """Judge what was counted, and act; return whether it is rolled back."""
        if self.now >= self.resumes:
            self.turn, self.resumes = self.turn + 1, math.inf
            self.weigh(self.world.weight)
        seen, self.seen[:] = list(self.seen), []
        for one in seen:
            bucket = self.blocks.counted(one)
            is_off = math.isfinite(self.resumes)
            if bucket.stage == NO_STAGE:
                bucket = msgspec.structs.replace(bucket, stage=0, share=0.0 if is_off else self.world.weight)
            since = self.evidence.since
            if since is not None and bucket.start <= since:
                bucket = msgspec.structs.replace(bucket, start=math.nextafter(since, math.inf))
            late = bucket.events.get("timeouts", Counts())
            self.late[0] += late.canary
            self.late[1] += late.control
            state = ReleaseState.PAUSED if is_off else ReleaseState.RUNNING
            self.evidence, verdict = judge(self.policy, self.evidence, bucket, state)
            if verdict.decision is Decision.ROLLBACK:
                return True
            if verdict.decision is Decision.PAUSE and not is_off:
                self.paused = self.paused or self.now - _BEGIN
                self.turn, self.resumes = self.turn + 1, self.now + (verdict.pause_seconds or math.inf)
                self.weigh(0.0)
        return False

    def _arrivals(self) -> list[tuple[float, int]]:
        world, rng = self.world, self.rng
        if world.callers:
            return sorted((float(rng.random()), caller) for caller in range(world.callers))
        rates = np.full(world.seconds, world.per_second, np.float64)
        if world.bursts:
            rates *= rng.gamma(1 / world.bursts, world.bursts, world.seconds)
        seconds = np.repeat(np.arange(world.seconds), rng.poisson(rates))
        at = np.sort(seconds + rng.random(len(seconds)))
        who = rng.integers(world.users or 1, size=len(at))
        return list(zip(at.tolist(), who.tolist(), strict=True))

    def _ask(self, at: float, who: int) -> tuple[float, _Exchange, str]:
        """When it ends, and how."""
        world = self.world
        traits = {"header:x-user-id": f"user {who}"} if world.users else None
        call = Call("x", self.now, request_id=str(self.rng.random()), traits=traits)
        exchange = _Exchange(self.path, _NO_CODEC, "m", "", call)
        sent: Any = exchange.passage and exchange.passage.settled(_REQUEST)
        exchange.passage = sent
        version = ModelId("m", sent.plan.assignment.version)
        exchange.lease = SimpleNamespace(id=version, servable=None, release=lambda: None)  # type: ignore[assignment]
        is_canary = sent.plan.assignment.arm is Arm.CANARY
        took = next(self.took_by_canary if is_canary else self.took)
        if self.own is not None:
            took *= self.own[who]
        end = at + took
        for begins, ends in self.stalls[0 if is_canary else 1]:
            if at < ends and begins < end:
                end += ends - max(begins, at)
        if end - at > world.patience:
            return at + world.patience, exchange, Code.CANCELLED.value
        return end, exchange, "ok"

    def _answer(self, exchange: _Exchange, outcome: str) -> None:
        exchange.end(outcome)

    def _draws(self, service: Service) -> Iterator[float]:
        while True:
            yield from service(self.rng, _BLOCK).tolist()

    def _stalls(self) -> list[tuple[float, float]]:
        found, at = list[tuple[float, float]](), 0.0
        while self.world.stalls and (at := at + self.rng.exponential(_PAUSE)) < self.world.seconds:
            found.append((at, at := at + self.rng.uniform(_SHORTEST, _LONGEST)))
        return found


# How long answers take


def lognormal(median: float, sigma: float) -> Service:
    return lambda rng, number: median * np.exp(sigma * rng.standard_normal(number))


def pareto(least: float, shape: float) -> Service:
    return lambda rng, number: least * (1 + rng.pareto(shape, number))


def mixed(part: float, one: Service, other: Service) -> Service:
    """This part of requests as the one, the others as the other."""
    return lambda rng, number: np.where(rng.random(number) < part, one(rng, number), other(rng, number))


def never(rng: np.random.Generator, number: int) -> Floats:
    return np.full(number, math.inf)


FAST = lognormal(0.1, 0.5)
STREAMS = mixed(0.5, lognormal(60, 1.0), FAST)

GOOD: Final[Mapping[str, World]] = {
    "3 % never end, 1 req/s, canary 25 %": World(
        mixed(0.03, never, FAST), per_second=1, weight=0.25, seconds=1200
    ),
    "3 % never end, 5 req/s": World(mixed(0.03, never, FAST), per_second=5),
    "3 % never end, 5 req/s in bursts": World(mixed(0.03, never, FAST), per_second=5, bursts=4.0),
    "3 % are left after 60 s, 5 req/s": World(mixed(0.03, never, FAST), per_second=5, patience=60),
    "3 % of 1,000 users always hang, 5 req/s": World(
        FAST, per_second=5, users=1000, own=mixed(0.03, never, lognormal(1, 0))
    ),
    "30 users who differ, 5 req/s, canary 25 %": World(
        lognormal(0.5, 1.0), per_second=5, users=30, own=lognormal(1, 2.0), weight=0.25
    ),
    "all stall for 10 to 60 s, 5 req/s": World(FAST, per_second=5, stalls="all"),
    "all stall, and are left after 20 s, 10 req/s, canary 1 %": World(
        FAST, per_second=10, stalls="all", patience=20, weight=0.01
    ),
    "Pareto 1.5, 1 req/s, canary 25 %": World(pareto(0.5, 1.5), per_second=1, weight=0.25),
    "lognormal, sigma 2, 5 req/s": World(lognormal(0.5, 2.0), per_second=5),
    "half are streams of a minute, 2 req/s, canary 25 %": World(STREAMS, per_second=2, weight=0.25),
    "8 callers, 0.3 % never end, canary 25 %": World(
        mixed(0.003, never, lognormal(0.5, 1.0)), callers=8, weight=0.25
    ),
    "8 callers with names, 1 % never end, canary 25 %": World(
        mixed(0.01, never, lognormal(1.0, 1.0)), callers=8, users=8, weight=0.25
    ),
    "8 callers, all stall, left after 45 s, canary 25 %": World(
        lognormal(1.0, 1.0), callers=8, weight=0.25, stalls="all", patience=45
    ),
    "2 % never end, 200 req/s, canary 1 %": World(
        mixed(0.02, never, FAST), per_second=200, weight=0.01, seconds=120
    ),
}
#: What is the canary's own, though it is as good: it stalls as often as the other, but not at the same time.
APART: Final[Mapping[str, World]] = {
    "each version stalls for itself, 10 to 60 s, 5 req/s": World(FAST, per_second=5, stalls="each"),
}
_PARTS: Final = (1.0, 0.1, 0.02)
OPEN: Final = ((10, 0.05), (10, 0.25), (100, 0.01))
CLOSED: Final = ((8, 0.01), (8, 0.05), (8, 0.25), (64, 0.25))
BAD: Final[Mapping[tuple[str, str], World]] = {
    (f"{part:.0%}", f"{rate} req/s, canary {weight:.0%}"): World(
        FAST, mixed(part, never, FAST), per_second=rate, weight=weight, seconds=1800
    )
    for part in _PARTS
    for rate, weight in OPEN
} | {
    (f"{part:.0%}", f"{callers} callers{' with names' * (users > 0)}, canary {weight:.0%}"): World(
        (slower := lognormal(0.5, 0.5)), mixed(part, never, slower), callers=callers, users=users,
        weight=weight, seconds=1800
    )
    for part in _PARTS
    for callers, weight in CLOSED
    for users in (0, callers)
}  # fmt: skip


#: By kind and name.
ALL: Final = {("good", name): world for name, world in {**GOOD, **APART}.items()} | BAD


def _run(job: tuple[tuple[str, str], int]) -> Course:
    which, seed = job
    return Release(ALL[which], (9, list(ALL).index(which), seed)).run()


def run(releases: int, found: int, only: str = "", out: Path | None = None) -> list[dict[str, Any]]:
    """All worlds: so many releases of each good one, and of each that hangs."""
    rows = []
    for kind, name in ALL:
        if only in f"{kind} {name}":
            number = releases if kind == "good" else found
            courses = [_run(((kind, name), seed)) for seed in range(number)]
            ends = [course.rolled_back for course in courses if course.rolled_back is not None]
            pauses = [course.paused for course in courses if course.paused is not None]
            late = np.array([course.late for course in courses]).mean(axis=0)
            row = {
                "kind": kind,
                "world": name,
                "releases": number,
                "found": len(ends),
                "seconds": statistics.median(ends) if ends else None,
                "paused": len(pauses),
                "pause_seconds": statistics.median(pauses) if pauses else None,
                "late": late.tolist(),
            }
            print(row, flush=True)
            rows.append(row)
            if out:
                out.write_text(json.dumps(rows, indent=1) + "\n")
    return rows


def report(rows: Sequence[Mapping[str, Any]]) -> str:
    """As tables."""
    good = [row for row in rows if row["kind"] == "good"]
    bad = [row for row in rows if row["kind"] != "good"]
    lines = [
        "| world | time-outs, canary and control | rolled back, 95 % | paused |",
        "|---|---:|---:|---:|",
    ]
    for row in good:
        low, high = clopper_pearson(row["found"], row["releases"], SURE)
        late = " and ".join(f"{value:.3g}" for value in row["late"])
        lines.append(
            f"| {row['world']} | {late} | {row['found']} of {row['releases']:,}, {low:.2%} to {high:.2%} "
            f"| {row['paused']} |"
        )
    kinds = list(dict.fromkeys(row["kind"] for row in bad))
    if bad:
        lines += ["", "| traffic | " + " | ".join(f"{kind} hang" for kind in kinds) + " |"]
        lines += ["|---|" + "---:|" * len(kinds)]
    for world in dict.fromkeys(row["world"] for row in bad):
        cells = [_cell(row) for kind in kinds for row in bad if (row["kind"], row["world"]) == (kind, world)]
        lines.append(f"| {world} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any]) -> str:
    paused = f"paused {row['paused']} ({row['pause_seconds'] / 60:.1f}), " if row["paused"] else ""
    low, high = clopper_pearson(row["found"], row["releases"], SURE)
    after = f"; {row['seconds'] / 60:.1f}" if row["found"] else ""
    return (
        f"{paused}rolled back {row['found']} of {row['releases']} ({100 * low:.0f}–{100 * high:.0f} %{after})"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--releases", type=int, default=1000, help="of each world with a good canary")
    parser.add_argument("--found", type=int, default=40, help="of each world with one that hangs")
    parser.add_argument("--only", default="", help="worlds whose names have this in them")
    parser.add_argument("--out", type=Path, help="where to write the rows")
    given = parser.parse_args()
    print(report(run(given.releases, given.found, given.only, given.out)))
