"""Rounds of models that take turns on the same cores, so that each keeps its latency promise. Pure.

Nexus' rule (Shen et al., SOSP 2019, "squishy bin packing"): in a round of ``D`` seconds each model runs the
``b = ceil(rate * D)`` rows that arrive during a round, so ``D`` is the sum of the runs. A request that just
missed its model's run waits for a round and then for its own run: ``D + tau(b)`` must be within the promise.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec

from salver.stats.batch_law import BatchLaw

_ROUNDING: Final = 1e-9


class PlacedLaw(msgspec.Struct, frozen=True):
    """Measured run time of a model in one placement.

    Attributes:
        instances: Concurrent runs.
        threads: Threads inside one run.
    """

    instances: int
    threads: int
    law: BatchLaw

    @property
    def cores(self) -> int:
        """Cores that it keeps busy."""
        return self.instances * self.threads

    def seconds(self, rows: int) -> float:
        """Return the time for rows that are divided among the instances."""
        return self.law.seconds(math.ceil(rows / self.instances)) * (1 + self.law.error)


class Promise(msgspec.Struct, frozen=True):
    """Promise of one model: to answer a rate of rows within a time.

    Attributes:
        rate: Rows per second; 0 = no rate is promised, and each round has a run of one row.
        limit_s: Seconds from a request's arrival to its answer.
        laws: At least one.
        max_rows: Most rows of one run.
        priority: Who is placed first if not all fit; higher comes first.
    """

    name: str
    rate: float
    limit_s: float
    laws: Sequence[PlacedLaw]
    max_rows: int = 64
    priority: float = 1.0

    @property
    def least_cores(self) -> int:
        """Cores of its smallest measured placement."""
        return min(placed.cores for placed in self.laws)

    def best(self, rows: int, cores: int) -> PlacedLaw | None:
        """Return the fastest placement for a run on that many cores; None = none was measured."""
        return min(
            (placed for placed in self.laws if placed.cores <= cores),
            key=lambda placed: (placed.seconds(rows), placed.cores),
            default=None,
        )

    def faster(self, factor: float) -> "Promise":
        """Return the promise of a multiple of the rate."""
        return msgspec.structs.replace(self, rate=self.rate * factor)


class Turn(msgspec.Struct, frozen=True):
    """Turn of one model in a round.

    Attributes:
        rows: Rows of its run: all that arrive during a round.
        seconds: Time of its run.
        instances, threads: Placement of the run.
        latency_s: The longest time until an answer: a round and its own run.
    """

    name: str
    rows: int
    seconds: float
    instances: int
    threads: int
    latency_s: float
    limit_s: float


class Round(msgspec.Struct, frozen=True):
    """Shortest round that keeps all promises."""

    seconds: float
    turns: Sequence[Turn] = ()

    @property
    def tightness(self) -> float:
        """Largest share of a promise that is used up; at most 1."""
        return max((turn.latency_s / turn.limit_s for turn in self.turns), default=0.0)


class Broken(msgspec.Struct, frozen=True):
    """Promise that no round keeps.

    Attributes:
        why: ``late`` = a round and its run take longer than it may; ``rows`` = more rows arrive in a round
            than one run can take; ``cores`` = it was measured on more cores only.
        needed: Seconds, rows or cores that it needs at least.
        allowed: Those that it has.
    """

    name: str
    why: Literal["late", "rows", "cores"]
    needed: float
    allowed: float

    def __str__(self) -> str:
        if self.why == "late":
            return f"answers would take {self.needed * 1e3:.3g} of {self.allowed * 1e3:.3g} ms"
        if self.why == "rows":
            return f"{self.needed:.0f} rows arrive in a round, and a run takes at most {self.allowed:.0f}"
        return f"it was measured on {self.needed:.0f} cores or more, and has {self.allowed:.0f}"


def shortest_round(promises: Iterable[Promise], cores: int) -> Round | Broken:
    """Return the shortest round that keeps all promises on the same cores, or a promise that none keeps.

    The least fixed point of D = sum of tau(ceil(rate * D)), from below: all values on the way are lower
    bounds, so the first violated promise settles it.

    >>> law = PlacedLaw(1, 1, BatchLaw(a=0.001, t0=0.004))
    >>> a, b = Promise("a", 200, 0.05, [law]), Promise("b", 100, 0.08, [law])
    >>> found = shortest_round([a, b], 1)
    >>> round(found.seconds, 6), [(turn.name, turn.rows) for turn in found.turns]
    (0.013, [('a', 3), ('b', 2)])
    >>> str(shortest_round([a, b.faster(8)], 1))
    'answers would take 57 of 50 ms'
    """
    promises = list(promises)
    for promise in promises:
        if promise.least_cores > cores:
            return Broken(promise.name, "cores", promise.least_cores, cores)
    length = 0.0
    while True:
        turns = [_turn(promise, length, cores) for promise in promises]
        total = sum(turn.seconds for turn in turns)
        for promise, turn in zip(promises, turns, strict=True):
            if turn.rows > promise.max_rows * turn.instances:
                return Broken(promise.name, "rows", turn.rows, promise.max_rows * turn.instances)
            if total + turn.seconds > promise.limit_s + _ROUNDING:
                return Broken(promise.name, "late", total + turn.seconds, promise.limit_s)
        if total <= length * (1 + _ROUNDING):
            done = [msgspec.structs.replace(turn, latency_s=total + turn.seconds) for turn in turns]
            return Round(total, done)
        length = total


def _turn(promise: Promise, length: float, cores: int) -> Turn:
    rows = max(1, math.ceil(promise.rate * length - _ROUNDING))
    placed = promise.best(rows, cores)
    assert placed is not None, "a placement fits the cores"
    seconds = placed.seconds(rows)
    return Turn(
        promise.name, rows, seconds, placed.instances, placed.threads, length + seconds, promise.limit_s
    )
