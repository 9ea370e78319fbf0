"""Batching rules: size and members of the next batch, and requests to give up.

A *rule* decides about the line of waiting requests whenever an instance is idle. Rules know the line, the
batch law and the time, which is an argument; they know no payload, queue structure or clock. The queue
applies the rule's :class:`Choice` (whole requests, of one key, fairly among tenants); the simulator runs the
same objects.

Definitions, verdicts and numbers: *drain*, *window* (B, T), *half-floor*, *newest-feasible* and
*drop-then-drain* as in docs/explanation/scheduling.md.

Pure.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from salver.kernel.engine.waiting import QueuedRequest
from salver.stats.batch_law import BatchLaw
from salver.words.artifacts import Batching

#: Current batch law of the head; called at each decision, because live runs update it.
LawOf = Callable[[], BatchLaw]


class QueueView(Protocol):
    """View of the queue for rules, with one operation on it."""

    @property
    def rows(self) -> int:
        """Return the waiting rows."""
        ...

    def head(self) -> QueuedRequest | None:
        """Return the request that is served next or is most urgent; None when none waits."""
        ...

    def newest(self) -> Iterator[QueuedRequest]:
        """Iterate from the latest arrival to the oldest."""
        ...

    def give_up(self, waiting: QueuedRequest) -> None:
        """Remove a request that cannot be answered in time."""
        ...


class Choice(NamedTuple):
    """Decision of a rule: rows to run now.

    Attributes:
        rows: Maximum rows of the batch; 0 = nothing now.
        reason: Why the batch closed, for metrics.
        from_newest: Take the latest arrivals instead of the earliest.
    """

    rows: int
    reason: str
    from_newest: bool = False


class Rule(Protocol):
    """Rule that turns a line into batches."""

    def due(self, line: QueueView, now: float) -> float:
        """Return when to choose, given waiting requests and an idle instance; up to ``now`` = immediately."""
        ...

    def choose(self, line: QueueView, now: float) -> Choice:
        """Return what to run now. May give up requests. Called only with a non-empty line."""
        ...

    def arrived(self, rows: int, now: float) -> None:
        """Record that rows joined the line."""
        ...

    def ran(self, rows: int, seconds: float, now: float) -> None:
        """Record the end and duration of a run."""
        ...


class Window:
    """Rule (B, T): run once B rows wait, a preferred size is reached, or the oldest has waited T.

    T = 0 drains the queue: everything that waits when an instance is idle, up to B rows.
    """

    __slots__ = ("_delay", "_largest", "_preferred")

    def __init__(self, policy: Batching) -> None:
        self._largest = policy.largest_run
        self._delay = policy.max_delay_ms / 1e3 if policy.enabled else 0.0
        self._preferred = sorted(p for p in policy.preferred_rows if 0 < p <= self._largest)

    def due(self, line: QueueView, now: float) -> float:
        """See :class:`Rule`."""
        if not self._delay or line.rows >= self._largest:
            return now
        # Only the largest preferred size ends the wait: a smaller one may still grow.
        if self._preferred and line.rows >= self._preferred[-1]:
            return now
        head = line.head()
        if head is None:
            return now
        return head.arrived + self._delay

    def choose(self, line: QueueView, now: float) -> Choice:
        """See :class:`Rule`."""
        if self._preferred and line.rows < self._largest:
            fitting = [p for p in self._preferred if p <= line.rows]
            if fitting:
                return Choice(fitting[-1], "preferred")
        return Choice(self._largest, "time" if self._delay else "drain")

    def arrived(self, rows: int, now: float) -> None:
        """See :class:`Rule`."""

    def ran(self, rows: int, seconds: float, now: float) -> None:
        """See :class:`Rule`."""


class _Immediate:
    """Common part of the rules that never wait."""

    __slots__ = ("_largest", "_law")

    def __init__(self, law: LawOf, largest: int) -> None:
        self._law = law
        self._largest = largest

    def due(self, line: QueueView, now: float) -> float:
        """See :class:`Rule`."""
        return now

    def arrived(self, rows: int, now: float) -> None:
        """See :class:`Rule`."""

    def ran(self, rows: int, seconds: float, now: float) -> None:
        """See :class:`Rule`."""


class HalfFloor(_Immediate):
    """Largest batch with which the head still finishes in time, but at least half of what waits.

    A head that would need a smaller batch is given up: shrinking further would lower the rate, age the heads,
    and lead to collapse.
    """

    __slots__ = ()

    def choose(self, line: QueueView, now: float) -> Choice:
        """See :class:`Rule`."""
        while (head := line.head()) is not None:
            law = self._law()
            batch = max(min(line.rows, self._largest), head.rows)
            # Without a time limit nothing is gained by a smaller batch.
            if head.target == math.inf:
                return Choice(batch, "drain")
            fits = law.rows_within(head.target - now + _SLACK)
            if 2 * fits >= batch and fits >= head.rows:
                return Choice(min(batch, fits), "drain" if fits >= batch else "deadline")
            line.give_up(head)
        return Choice(0, "deadline")


class DropThenDrain(_Immediate):
    """Rule that gives up heads that would be late in a full batch, then takes the oldest."""

    __slots__ = ()

    def choose(self, line: QueueView, now: float) -> Choice:
        """See :class:`Rule`."""
        while (head := line.head()) is not None:
            law = self._law()
            batch = max(min(line.rows, self._largest), head.rows)
            if now + law.seconds(batch) <= head.target + _SLACK:
                return Choice(batch, "drain")
            line.give_up(head)
        return Choice(0, "deadline")


class NewestFeasible(_Immediate):
    """Largest batch of the latest arrivals that all finish in time."""

    __slots__ = ()

    def choose(self, line: QueueView, now: float) -> Choice:
        """See :class:`Rule`."""
        law = self._law()
        # First the hopeless ones: they would only make the others wait.
        while (head := line.head()) is not None and now + law.seconds(head.rows) > head.target + _SLACK:
            line.give_up(head)
        batch = 0
        alone: list[QueuedRequest] = []  # larger than the head, and late even alone
        for waiting in line.newest():
            rows = batch + waiting.rows
            if rows > self._largest or now + law.seconds(rows) > waiting.target + _SLACK:
                if batch:
                    break
                alone.append(waiting)
                continue
            batch = rows
        for waiting in alone:
            line.give_up(waiting)
        return Choice(batch, "drain", from_newest=True)


class Switching(_Immediate):
    """Half-floor below saturation, drop-then-drain above it.

    Args:
        load: Returns offered rows per second divided by the capacity of full batches, at a time.
    """

    __slots__ = ("_above", "_below", "_is_above", "_load")

    def __init__(self, law: LawOf, largest: int, load: Callable[[float], float]) -> None:
        super().__init__(law, largest)
        self._below = HalfFloor(law, largest)
        self._above = DropThenDrain(law, largest)
        self._load = load
        self._is_above = False

    @property
    def in_force(self) -> str:
        """Return the rule in force."""
        if self._is_above:
            return "drop-then-drain"
        return "half-floor"

    def choose(self, line: QueueView, now: float) -> Choice:
        """See :class:`Rule`."""
        # Two thresholds, or a load near one of them would switch with every batch.
        self._is_above = self._load(now) > (_SATURATED_DOWN if self._is_above else _SATURATED_UP)
        return (self._above if self._is_above else self._below).choose(line, now)


class Aimd(_Immediate):
    """Batch limit that grows by one row per full run and shrinks by a tenth when a run is too slow.

    Clipper (Crankshaw et al., NSDI 2017). Needs no batch law.

    Args:
        budget: Maximum seconds of a run.
    """

    __slots__ = ("_budget", "_limit")

    def __init__(self, largest: int, budget: float) -> None:
        super().__init__(lambda: _NO_LAW, largest)
        self._budget = budget
        self._limit = 1.0

    def choose(self, line: QueueView, now: float) -> Choice:
        """See :class:`Rule`."""
        return Choice(min(int(self._limit), self._largest), "drain")

    def ran(self, rows: int, seconds: float, now: float) -> None:
        """See :class:`Rule`."""
        # From what was run, not from the limit, which small batches may never have reached.
        if seconds > self._budget:
            self._limit = max(1.0, min(self._limit, rows) * 0.9)
        elif rows >= int(self._limit):
            self._limit = min(self._limit + 1.0, float(self._largest))


_NO_LAW = BatchLaw(0.0, 0.0)
_SLACK = 1e-9  # tolerance in seconds for sums of floats
_SATURATED_UP, _SATURATED_DOWN = 0.9, 0.85  # hysteresis of the switch
