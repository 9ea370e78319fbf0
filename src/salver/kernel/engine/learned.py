"""Batching rule that follows a computed or learned table while the table's model holds.

:class:`LearnedRule` looks up the waiting rows and the arrival rate in a
:class:`~salver.stats.batch_table.Table`. A :class:`Guard` compares the model of the table with observations;
while they differ the rule drains the queue. :class:`TrainingRule` is the rule of an agent in training: it
asks the agent for decisions and reports their outcome. Pure: it knows no planner, no payload and no clock.
"""

import math
from bisect import bisect_right
from collections import deque
from itertools import pairwise
from typing import Literal, Protocol

from salver.kernel.engine.rules import Choice, QueueView
from salver.lazy import lazy_imports
from salver.words.artifacts import Batching

with lazy_imports():
    from salver.kernel.engine.meter import ArrivalMeter, DecisionMeter
    from salver.stats.batch_price import Price
    from salver.stats.batch_table import Table, Transition


_WAITS = 4  # maximum wait in runs of a full batch, by default
_KEPT = 4096  # transitions kept for refining the table
_RUN_GAIN = 1 / 64
_COST_GAIN = 1 / 512
_RUNS_WRONG = 0.25  # relative error of run times
_BURSTS_WRONG = 4.0  # burstiness; a Poisson process has 1
_COST_WRONG = 0.35  # fraction by which the cost may exceed the table's
_SETTLE = 512  # decisions before the cost is checked
_HOLD = 256  # runs in greedy mode before a return to the table
_MOST_HOLD = 64 * _HOLD


class Guard:
    """Monitor of whether observations still match the table's model.

    Errors are averaged over some dozens of runs. One beyond its limit switches to greedy immediately; the
    table is used again only when all are within half of their limits and a hold of some hundred runs is over.
    The hold doubles with each switch.

    Attributes:
        why: What differs, as text; empty = the table is used.
    """

    def __init__(self, table: Table) -> None:
        self.why = ""
        self._table = table
        self._slowness = 0.0  # mean of log(seconds / predicted)
        self._cost = 0.0  # decaying sums over time: observed, and expected by the table
        self._expected = 0.0
        self._decisions = 0
        self._hold = _HOLD
        self._left = 0

    def ran(self, rows: int, seconds: float, burstiness: float) -> None:
        """Record a finished run."""
        if seconds > 0:
            off = math.log(seconds / self._table.law.seconds(rows))
            self._slowness += _RUN_GAIN * (min(max(off, -2.0), 2.0) - self._slowness)
        self._left -= 1
        bound = 1.0 if not self.why else 0.5
        slowness = math.exp(abs(self._slowness)) - 1
        if slowness > bound * _RUNS_WRONG:
            word = "faster"
            if self._slowness > 0:
                word = "slower"
            self._fall(f"runs are {slowness:.0%} {word} than the table's law")
        elif burstiness > bound * _BURSTS_WRONG:
            self._fall(f"arrivals are {burstiness:.1f} times as bursty as a Poisson process")
        elif self._decisions > _SETTLE and self._cost > (1 + _COST_WRONG) * self._expected:
            over = self._cost / self._expected - 1
            self._fall(f"the cost is {over:.0%} above what the table says")
        elif self.why and self._left <= 0:
            self.why = ""
            self._decisions, self._cost, self._expected = 0, 0.0, 0.0

    def decided(self, seen: Transition, expected: float) -> None:
        """Record the outcome of a decision; ``expected`` is the table's long-run cost."""
        if self.why or seen.rate <= 0:
            return
        price: Price = self._table.price
        area = seen.waiting * seen.seconds + seen.area
        cost = 1e3 * price.latency_weight * area / seen.rate
        if seen.rows:
            cost += price.energy_weight * price.joules(seen.rows)
        self._cost += cost - _COST_GAIN * self._cost
        self._expected += expected * seen.seconds - _COST_GAIN * self._expected
        self._decisions += 1

    def _fall(self, why: str) -> None:
        if not self.why:
            self._left = self._hold
            self._hold = min(2 * self._hold, _MOST_HOLD)
            self._decisions, self._cost, self._expected = 0, 0.0, 0.0
        self.why = why


class LearnedRule:
    """Rule that follows the table, or drains the queue while the table's model is wrong.

    Args:
        table: None = drain until one is adopted.
        policy: Its ``max_rows`` limits a run; queues longer than the table are drained.
        slots: Concurrent batches, which share the arrivals.

    Attributes:
        transitions: Latest observed transitions, for refining the table (one slot only).
    """

    __slots__ = (
        "_arrivals", "_borders", "_cost", "_guard", "_largest", "_line", "_max_wait", "_meter", "_slots",
        "_table", "transitions",
    )  # fmt: skip

    def __init__(self, table: Table | None, policy: Batching, slots: int = 1) -> None:
        self._largest = policy.max_rows
        self._max_wait = policy.learned.max_wait_ms / 1e3
        self._slots = slots
        self._arrivals = ArrivalMeter()
        self._meter = DecisionMeter() if slots == 1 else None  # measures the decisions of one instance
        self.transitions: deque[Transition] = deque(maxlen=_KEPT)
        self._table = table
        self._guard: Guard | None = None
        self._borders: list[float] = []
        self._line: tuple[int, ...] = ()
        self._cost = 0.0
        if table is not None:
            self.adopt(table)

    def __repr__(self) -> str:
        return f"<LearnedRule {self.mode}, {self._arrivals.rate:.0f} rows/s>"

    @property
    def mode(self) -> Literal["learned", "greedy"]:
        """Return which rule decides now."""
        if self.why:
            return "greedy"
        return "learned"

    @property
    def why(self) -> str:
        """Return why the table does not decide; empty = it does."""
        if self._guard is None:
            return "there is no table yet"
        return self._guard.why

    @property
    def rate(self) -> float:
        """Return the estimated rows per second of one slot."""
        return self._arrivals.rate / self._slots

    def adopt(self, table: Table) -> None:
        """Use this table from now on, with a fresh guard."""
        self._table = table
        rates = table.rates
        # Below half of the lowest rate waiting never pays.
        self._borders = [rates[0] / 2, *((low + high) / 2 for low, high in pairwise(rates))]
        self._guard = Guard(table)
        self._choose_line()

    def due(self, line: QueueView, now: float) -> float:
        """See :class:`~salver.kernel.engine.rules.Rule`."""
        waiting = line.rows
        if self.rows_for(waiting):
            return now
        if self._meter is not None:
            self._meter.waits(waiting, now)
        return self._latest(line)

    def choose(self, line: QueueView, now: float) -> Choice:
        """See :class:`~salver.kernel.engine.rules.Rule`."""
        waiting = line.rows
        rows = self.rows_for(waiting)
        reason = "learned"
        if not rows:
            if now < self._latest(line):
                return Choice(0, reason)
            rows, reason = min(waiting, self._largest), "time"
        if self._meter is not None:
            self._meter.runs(waiting, now)
        return Choice(rows, "drain" if self._guard is None or self._guard.why else reason)

    def arrived(self, rows: int, now: float) -> None:
        """See :class:`~salver.kernel.engine.rules.Rule`."""
        self._arrivals.arrived(rows, now)
        self._choose_line()
        if self._meter is not None:
            self._note(self._meter.arrived(rows, now, self._arrivals.rate))

    def ran(self, rows: int, seconds: float, now: float) -> None:
        """See :class:`~salver.kernel.engine.rules.Rule`."""
        if self._meter is not None:
            self._note(self._meter.ran(rows, now, self._arrivals.rate))
        if self._guard is not None:
            self._guard.ran(rows, seconds, self._arrivals.burstiness)

    def rows_for(self, waiting: int) -> int:
        """Return the rows to run, by the table or by draining; 0 = wait for one more."""
        line, guard = self._line, self._guard
        if waiting < len(line) and guard is not None and not guard.why:
            return line[waiting]
        largest = self._largest
        return min(waiting, largest)

    def _choose_line(self) -> None:
        """Return the table's line for the nearest rate, or None if the rate is unknown or very low."""
        index, table = bisect_right(self._borders, self._arrivals.rate / self._slots), self._table
        if index and table is not None:
            self._line = table.rows[index - 1]
            self._cost = table.costs[index - 1]
        else:
            self._line = ()

    def _latest(self, line: QueueView) -> float:
        """Return until when the first request may wait for others."""
        head, table = line.head(), self._table
        if head is None or table is None:
            return 0.0
        law = table.law
        run = law.seconds(min(line.rows, self._largest)) * (1 + law.error)
        wanted = head.target if head.deadline is None else min(head.target, head.deadline)
        return min(head.arrived + (self._max_wait or _WAITS * law.seconds(table.largest)), wanted - run)

    def _note(self, seen: Transition | None) -> None:
        if seen is not None:
            self.transitions.append(seen)
            if self._line and self._guard is not None:
                self._guard.decided(seen, self._cost)


class BatchAgent(Protocol):
    """Agent that learns batching decisions."""

    def decide(self, waiting: int) -> int:
        """Return the rows to run now, given the number waiting; 0 = wait for one more."""
        ...

    def saw(self, seen: Transition) -> None:
        """Record the outcome of a decision."""
        ...


class TrainingRule:
    """Rule of an agent in training, for one slot."""

    __slots__ = ("_arrivals", "_decider", "_meter", "_rows")

    def __init__(self, decider: BatchAgent) -> None:
        self._decider = decider
        self._arrivals = ArrivalMeter()
        self._meter = DecisionMeter()
        self._rows = -1  # decision since the last event; -1 = none

    def due(self, line: QueueView, now: float) -> float:
        """See :class:`~salver.kernel.engine.rules.Rule`."""
        if self._rows < 0:
            self._rows = min(self._decider.decide(line.rows), line.rows)
            if not self._rows:
                self._meter.waits(line.rows, now)
        if self._rows:
            return now
        return math.inf

    def choose(self, line: QueueView, now: float) -> Choice:
        """See :class:`~salver.kernel.engine.rules.Rule`."""
        rows, self._rows = max(self._rows, 0), -1
        if rows:
            self._meter.runs(line.rows, now)
        return Choice(rows, "learned")

    def arrived(self, rows: int, now: float) -> None:
        """See :class:`~salver.kernel.engine.rules.Rule`."""
        self._rows = -1
        self._arrivals.arrived(rows, now)
        seen = self._meter.arrived(rows, now, self._arrivals.rate)
        if seen is not None:
            self._decider.saw(seen)

    def ran(self, rows: int, seconds: float, now: float) -> None:
        """See :class:`~salver.kernel.engine.rules.Rule`."""
        self._rows = -1
        seen = self._meter.ran(rows, now, self._arrivals.rate)
        if seen is not None:
            self._decider.saw(seen)
