"""A whole :class:`Schedule` on simulated time: the door, the queue, the rule and what is learned."""

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from salver.kernel.engine.outlook import Rate
from salver.kernel.engine.rules import LawOf, Switching
from salver.kernel.engine.schedule import Schedule
from salver.kernel.engine.waiting import QueuedRequest
from salver.words.errors import SalverError
from salver.words.messages import ANYBODY, Standing


def switching(law: LawOf, largest: int, rate: Rate) -> Switching:
    """The rule of ``auto``, with its load as a schedule of one slot has it."""
    return Switching(law, largest, lambda now: rate.at(now) * law().seconds(largest) / largest)


@dataclass
class Outcome:
    """By request, in order of arrival; NaN = that did not happen to it. Times in seconds."""

    arrivals: np.ndarray
    latency: np.ndarray
    at_door: np.ndarray  # 0 for those that were refused when they came
    given_up: np.ndarray  # how long those had waited that were given up
    delays: list[tuple[float, float]] = field(default_factory=list)  # each run's (start, smallest wait)
    rows: list[int] = field(default_factory=list)

    def part(self, chosen: np.ndarray) -> "Outcome":
        """Only those."""
        parts = (self.arrivals, self.latency, self.at_door, self.given_up)
        return Outcome(*(values[chosen] for values in parts))

    def in_time(self, within: float) -> float:
        """Share of all that were answered in time."""
        return float(np.mean(self.latency <= within + 1e-9))

    def percentile(self, q: float) -> float:
        """Of the latency of those that were answered."""
        return float(np.nanpercentile(self.latency, q))


def drive(
    schedule: Schedule,
    arrivals: Sequence[float],
    service: Callable[[int], float],
    *,
    slots: int = 1,
    standings: Sequence[Standing] = (),
    rows: Sequence[int] = (),
    patience: float | None = None,
) -> Outcome:
    """As the engine drives it, without asyncio.

    Args:
        patience: Each request's own deadline, from its arrival.
    """
    count = len(arrivals)
    latency, door, gone = (np.full(count, math.nan) for _ in range(3))
    outcome = Outcome(np.asarray(arrivals), latency, door, gone)
    batcher = schedule.batcher
    ends: list[tuple[float, float, int]] = []
    index, now = 0, 0.0

    def arrive() -> None:
        own = None if patience is None else now + patience
        waiting = QueuedRequest(index, rows[index] if rows else 1, None, now, own)
        schedule.targets.place(waiting, standings[index] if standings else ANYBODY)
        try:
            evicted = schedule.admit(waiting)
        except SalverError:
            door[index] = 0.0
        else:
            if evicted is not None:
                gone[evicted.payload] = now - evicted.arrived

    def start() -> float:
        while len(ends) < slots:
            spare = slots == 1 or len(ends) + 1 < slots
            due = batcher.due(now, spare)
            if due is None:
                break
            if due > now:
                return due
            batch = batcher.take(now, spare)
            for waiting in batch.expired + batch.given_up:
                gone[waiting.payload] = now - waiting.arrived
            if not batch.members:
                continue
            schedule.started(batch, now)
            end = now + service(batch.rows)
            heapq.heappush(ends, (end, now, batch.rows))
            outcome.rows.append(batch.rows)
            outcome.delays.append((now, now - max(w.arrived for w in batch.members)))
            for waiting in batch.members:
                latency[waiting.payload] = end - waiting.arrived
        return math.inf

    while True:
        due = start()
        arrival = float(arrivals[index]) if index < count else math.inf
        soonest = ends[0][0] if ends else math.inf
        if arrival < soonest and arrival <= due:
            now = arrival
            arrive()
            index += 1
        elif soonest <= due:
            if soonest == math.inf:
                return outcome
            now, began, size = heapq.heappop(ends)
            schedule.ended(size, began, now)
        else:
            now = due
