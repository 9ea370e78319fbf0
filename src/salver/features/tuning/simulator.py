"""Discrete-event simulation of a batching rule under given traffic.

It uses the real :class:`~salver.kernel.engine.batcher.Batcher` on simulated time. Arrivals and the service
law are arguments; there are no random numbers, clock or asyncio, so equal arguments give equal results.

There are two kinds of event: an arrival, and the end of a run. Between them the batcher is asked when its
next batch is due.

Pure.
"""

import heapq
import math
from collections.abc import Callable, Iterable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from salver.kernel.engine.batcher import Batcher
from salver.kernel.engine.rules import Rule
from salver.kernel.engine.waiting import QueuedRequest
from salver.words.artifacts import Batching, ModelConfig
from salver.words.errors import Overloaded

_NEVER = math.inf
Floats = npt.NDArray[np.float64]


class SimulationResult(msgspec.Struct, frozen=True):
    """Result of a simulation; times in seconds.

    Attributes:
        waits: Time from arrival to the start of the run, for each answered request in order of arrival.
        latencies: Time from arrival to the end of the run, likewise.
        rows: Rows of each run, in order of start.
        refused: Requests rejected at admission.
        expired: Requests whose deadline passed while they waited.
        given_up: Requests that could no longer be answered in time.
        by_request: Latency of each request in order of arrival; NaN = not answered.
    """

    waits: Floats
    latencies: Floats
    rows: npt.NDArray[np.int64]
    refused: int
    expired: int
    given_up: int = 0
    by_request: Floats = msgspec.field(default_factory=lambda: np.zeros(0))


class Traffic(msgspec.Struct, frozen=True):
    """Attributes of arrivals, each a sequence as long as the arrivals, or empty if all are equal.

    Attributes:
        levels: ``waiting.URGENT``, priorities from 1 on, ``waiting.BULK``.
        patience: Deadline of each request, from its arrival; None = never.
        objective: Each request's target, from its arrival; None = none.
    """

    levels: Sequence[int] = ()
    tenants: Sequence[str] = ()
    rows: Sequence[int] = ()
    patience: float | None = None
    objective: float | None = None


_ALIKE = Traffic()


def poisson(rate: float, count: int, rng: np.random.Generator) -> Floats:
    """Return the times of the first ``count`` arrivals of a Poisson process, in seconds."""
    return np.cumsum(rng.exponential(1.0 / rate, count))


def gamma(rate: float, cv2: float, count: int, rng: np.random.Generator) -> Floats:
    """Return ``count`` arrival times with Gamma gaps of that squared coefficient of variation."""
    return np.cumsum(rng.gamma(1.0 / cv2, cv2 / rate, count))


def simulate(
    config: Batching | ModelConfig,
    arrivals: Iterable[float],
    service: Callable[[int], float],
    *,
    slots: int = 1,
    rule: Rule | None = None,
    traffic: Traffic = _ALIKE,
) -> SimulationResult:
    """Feed requests to a batcher and run its batches until all are answered.

    Args:
        arrivals: Times, ascending.
        service: Returns the seconds of a run by its rows.
        slots: Concurrent runs.
        rule: Replaces the configuration's (max_rows, max_delay_ms).

    >>> done = simulate(Batching(), [0.0, 1.0, 2.0, 3.0], lambda rows: 2.5)
    >>> done.rows.tolist(), done.latencies.tolist()
    ([1, 2, 1], [2.5, 4.0, 3.0, 4.5])
    """
    run = _Run(Batcher(config, rule), service, slots, traffic)
    stream = iter(arrivals)
    arrival = next(stream, _NEVER)
    while True:
        due = run.start()
        soonest = run.ends[0][0] if run.ends else _NEVER
        if arrival < soonest and arrival <= due:
            run.arrive(arrival)
            arrival = next(stream, _NEVER)
        elif soonest <= due:
            if soonest == _NEVER:
                return run.result()
            run.end()
        else:
            run.now = due


class _Run:
    """State between two events."""

    def __init__(
        self,
        batcher: Batcher,
        service: Callable[[int], float],
        slots: int,
        traffic: Traffic,
    ) -> None:
        self.now = 0.0
        self.ends: list[tuple[float, float, int]] = []  # (end, start, rows) of active runs; a heap
        self._batcher = batcher
        self._service = service
        self._slots = slots
        self._traffic = traffic
        self._waits: list[float] = []  # by request; NaN = not answered
        self._latencies: list[float] = []
        self._rows: list[int] = []
        self._refused = 0
        self._expired = 0
        self._given_up = 0

    def arrive(self, time: float) -> None:
        self.now = time
        traffic = self._traffic
        index = len(self._waits)
        rows = traffic.rows[index] if traffic.rows else 1
        deadline = None
        if traffic.patience is not None:
            deadline = time + traffic.patience
        waiting = QueuedRequest(index, rows, None, time, deadline)
        if traffic.levels:
            waiting.level = traffic.levels[index]
        if traffic.tenants:
            waiting.tenant = traffic.tenants[index]
        self._waits.append(math.nan)
        self._latencies.append(math.nan)
        if traffic.objective is not None:
            waiting.target = time + traffic.objective
        try:
            evicted = self._batcher.offer(waiting)
            self._refused += evicted is not None
        except Overloaded:
            self._refused += 1

    def end(self) -> None:
        self.now, began, rows = heapq.heappop(self.ends)
        self._batcher.ran(rows, self.now - began, self.now)

    def start(self) -> float:
        """Start every batch that is due on an idle slot; return when to check again."""
        now = self.now
        while len(self.ends) < self._slots:
            spare = self._slots == 1 or len(self.ends) + 1 < self._slots
            due = self._batcher.due(now, spare)
            if due is None:
                return _NEVER
            if due > now:
                return due
            batch = self._batcher.take(now, spare)
            self._expired += len(batch.expired)
            self._given_up += len(batch.given_up)
            if not batch.members:
                if not (batch.expired or batch.given_up):
                    return _NEVER  # the rule waits for more requests
                continue
            end = now + self._service(batch.rows)
            heapq.heappush(self.ends, (end, now, batch.rows))
            self._rows.append(batch.rows)
            for waiting in batch.members:
                self._waits[waiting.payload] = now - waiting.arrived
                self._latencies[waiting.payload] = end - waiting.arrived
        return _NEVER

    def result(self) -> SimulationResult:
        waits = np.array(self._waits)
        latencies = np.array(self._latencies)
        answered = ~np.isnan(waits)
        return SimulationResult(
            waits[answered], latencies[answered], np.array(self._rows, int), self._refused, self._expired,
            self._given_up, latencies,
        )  # fmt: skip
