"""What would this batching rule do under that traffic?

A discrete-event simulation around the real :class:`~salver.engine.batcher.Batcher`: the same
object that serves decides here, on simulated time. Arrivals and the service law are
arguments; there is no chance, clock or asyncio in here, so equal arguments give equal answers.

One event loop of two kinds of event: an arrival, and the end of a run. Between them the
batcher is asked when its next batch is due.
"""

import heapq
import math
from collections.abc import Callable, Iterable

import msgspec
import numpy as np
import numpy.typing as npt

from salver.artifacts import Batching
from salver.engine.batcher import Batcher, Waiting
from salver.errors import Overloaded

_NEVER = math.inf
Floats = npt.NDArray[np.float64]


class Simulated(msgspec.Struct, frozen=True):
    """What happened; times in seconds.

    Attributes:
        waits: From arrival to the start of its run, of each answered request in order of arrival.
        latencies: From arrival to the end of its run, likewise.
        rows: Rows of each run, in order of start.
        refused: Requests that found the queue full.
        expired: Requests whose deadline passed while they waited.
    """

    waits: Floats
    latencies: Floats
    rows: npt.NDArray[np.int64]
    refused: int
    expired: int


def poisson(rate: float, count: int, rng: np.random.Generator) -> Floats:
    """Times of the first ``count`` arrivals of a Poisson process, in seconds."""
    return np.cumsum(rng.exponential(1.0 / rate, count))


def simulate(
    policy: Batching,
    arrivals: Iterable[float],
    service: Callable[[int], float],
    *,
    slots: int = 1,
    patience: float | None = None,
) -> Simulated:
    """Feed single-row requests to a batcher and run its batches until all are answered.

    Args:
        arrivals: Times, ascending.
        service: Seconds that a run of so many rows takes.
        slots: Runs at the same time.
        patience: Deadline of each request, from its arrival; None = never.

    >>> done = simulate(Batching(), [0.0, 1.0, 2.0, 3.0], lambda rows: 2.5)
    >>> done.rows.tolist(), done.latencies.tolist()
    ([1, 2, 1], [2.5, 4.0, 3.0, 4.5])
    """
    run = _Run(Batcher(policy), service, slots, patience)
    stream = iter(arrivals)
    arrival = next(stream, _NEVER)
    while True:
        due = run.start()
        soonest = run.ends[0] if run.ends else _NEVER
        if arrival < soonest and arrival <= due:
            run.arrive(arrival)
            arrival = next(stream, _NEVER)
        elif soonest <= due:
            if soonest == _NEVER:
                return run.result()
            run.now = heapq.heappop(run.ends)
        else:
            run.now = due


class _Run:
    """The state between two events."""

    def __init__(
        self, batcher: Batcher, service: Callable[[int], float], slots: int, patience: float | None
    ) -> None:
        self.now = 0.0
        self.ends: list[float] = []  # of the runs under way; a heap
        self._batcher = batcher
        self._service = service
        self._slots = slots
        self._patience = patience
        self._waits: list[float] = []  # by request; NaN = not answered
        self._latencies: list[float] = []
        self._rows: list[int] = []
        self._refused = 0
        self._expired = 0

    def arrive(self, time: float) -> None:
        self.now = time
        deadline = None if self._patience is None else time + self._patience
        try:
            self._batcher.offer(Waiting(len(self._waits), 1, None, time, deadline))
        except Overloaded:
            self._refused += 1
        self._waits.append(math.nan)
        self._latencies.append(math.nan)

    def start(self) -> float:
        """Start every batch that is due on an idle slot; when to ask again."""
        now = self.now
        while len(self.ends) < self._slots:
            due = self._batcher.due(now)
            if due is None:
                return _NEVER
            if due > now:
                return due
            batch = self._batcher.take(now)
            self._expired += len(batch.expired)
            if not batch.members:
                continue
            end = now + self._service(batch.rows)
            heapq.heappush(self.ends, end)
            self._rows.append(batch.rows)
            for waiting in batch.members:
                self._waits[waiting.payload] = now - waiting.arrived
                self._latencies[waiting.payload] = end - waiting.arrived
        return _NEVER

    def result(self) -> Simulated:
        waits = np.array(self._waits)
        latencies = np.array(self._latencies)
        answered = ~np.isnan(waits)
        return Simulated(
            waits[answered], latencies[answered], np.array(self._rows, int), self._refused, self._expired
        )
