"""How large a batch, of whom, and who is given up?

A *rule* decides about the line of waiting requests each time that an instance is idle. Rules know
the line, the batch law and the time, which is an argument; they know no payload, queue
structure or clock. The queue applies the rule's :class:`Choice` (whole requests, of one key, fairly among
tenants); the simulator runs the same objects.

Definitions, verdicts and numbers: *drain*, *window* (B, T), *half-floor*, *newest-feasible* and
*drop-then-drain* as in docs/explanation/scheduling.md.

Pure.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from salver.kernel.engine.waiting import Waiting
from salver.stats.batch_law import BatchLaw
from salver.words.artifacts import Batching

#: Today's batch law of the head; asked at each decision, since it is learned from live runs.
LawOf = Callable[[], BatchLaw]


class Line(Protocol):
    """What a rule sees of the queue, and the one thing that it may do to it."""

    @property
    def rows(self) -> int:
        """Rows that wait."""
        ...

    def head(self) -> Waiting | None:
        """Whoever is served next or must be done first; None when nobody waits."""
        ...

    def newest(self) -> Iterator[Waiting]:
        """Those that wait, the latest arrival first."""
        ...

    def give_up(self, waiting: Waiting) -> None:
        """Take it out, never to be run: it cannot be answered in time."""
        ...


class Choice(NamedTuple):
    """What to run now.

    Attributes:
        rows: Most rows of the batch; 0 = nothing now.
        reason: Why it closed, for metrics.
        from_newest: Take the latest arrivals instead of the earliest.
    """

    rows: int
    reason: str
    from_newest: bool = False


class Rule(Protocol):
    """Turns a line into batches."""

    def due(self, line: Line, now: float) -> float:
        """When to choose, given that somebody waits and an instance is idle; not after ``now``: at once."""
        ...

    def choose(self, line: Line, now: float) -> Choice:
        """What to run now. May give up requests. Called only with a line that is not empty."""
        ...

    def arrived(self, rows: int, now: float) -> None:
        """So many rows joined the line."""
        ...

    def ran(self, rows: int, seconds: float, now: float) -> None:
        """A run has ended, so long after it began."""
        ...


class Window:
    """(B, T): once B rows wait, a preferred size is reached, or the oldest waited T.

    T = 0 drains the queue: whatever waits when an instance is idle, up to B rows.
    """

    __slots__ = ("_delay", "_largest", "_preferred")

    def __init__(self, policy: Batching) -> None:
        self._largest = policy.max_rows if policy.enabled else 1
        self._delay = policy.max_delay_ms / 1e3 if policy.enabled else 0.0
        self._preferred = sorted(p for p in policy.preferred_rows if 0 < p <= self._largest)

    def due(self, line: Line, now: float) -> float:
        """See :class:`Rule`."""
        if not self._delay or line.rows >= self._largest:
            return now
        if self._preferred and line.rows >= self._preferred[-1]:
            return now
        head = line.head()
        return now if head is None else head.arrived + self._delay

    def choose(self, line: Line, now: float) -> Choice:
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
    """What the rules that never wait have in common."""

    __slots__ = ("_largest", "_law")

    def __init__(self, law: LawOf, largest: int) -> None:
        self._law = law
        self._largest = largest

    def due(self, line: Line, now: float) -> float:
        """See :class:`Rule`."""
        return now

    def arrived(self, rows: int, now: float) -> None:
        """See :class:`Rule`."""

    def ran(self, rows: int, seconds: float, now: float) -> None:
        """See :class:`Rule`."""


class HalfFloor(_Immediate):
    """The largest batch with which the head still finishes, but never less than half of what waits.

    A head that would need a smaller batch than that is given up: shrinking further would lower the rate, make
    older heads, and collapse.
    """

    __slots__ = ()

    def choose(self, line: Line, now: float) -> Choice:
        """See :class:`Rule`."""
        while (head := line.head()) is not None:
            law = self._law()
            batch = max(min(line.rows, self._largest), head.rows)
            if head.target == math.inf:
                return Choice(batch, "drain")
            fits = law.rows_within(head.target - now + _SLACK)
            if 2 * fits >= batch and fits >= head.rows:
                return Choice(min(batch, fits), "drain" if fits >= batch else "deadline")
            line.give_up(head)
        return Choice(0, "deadline")


class DropThenDrain(_Immediate):
    """Give up heads that would be late in a full batch, then take the oldest."""

    __slots__ = ()

    def choose(self, line: Line, now: float) -> Choice:
        """See :class:`Rule`."""
        while (head := line.head()) is not None:
            law = self._law()
            batch = max(min(line.rows, self._largest), head.rows)
            if now + law.seconds(batch) <= head.target + _SLACK:
                return Choice(batch, "drain")
            line.give_up(head)
        return Choice(0, "deadline")


class NewestFeasible(_Immediate):
    """The largest batch of the latest arrivals that all finish in time."""

    __slots__ = ()

    def choose(self, line: Line, now: float) -> Choice:
        """See :class:`Rule`."""
        law = self._law()
        while (head := line.head()) is not None and now + law.seconds(head.rows) > head.target + _SLACK:
            line.give_up(head)
        batch = 0
        alone: list[Waiting] = []  # larger than the head, and late even alone
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
        load: Offered rows per second over what full batches can carry, at a time.
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
        """Which of the two it follows."""
        return "drop-then-drain" if self._is_above else "half-floor"

    def choose(self, line: Line, now: float) -> Choice:
        """See :class:`Rule`."""
        self._is_above = self._load(now) > (_SATURATED_DOWN if self._is_above else _SATURATED_UP)
        return (self._above if self._is_above else self._below).choose(line, now)


class Aimd(_Immediate):
    """A batch limit that grows by one row a full run and shrinks by a tenth when a run takes too long.

    Clipper (Crankshaw et al., NSDI 2017). Needs no batch law.

    Args:
        budget: Seconds that a run may take.
    """

    __slots__ = ("_budget", "_limit")

    def __init__(self, largest: int, budget: float) -> None:
        super().__init__(lambda: _NO_LAW, largest)
        self._budget = budget
        self._limit = 1.0

    def choose(self, line: Line, now: float) -> Choice:
        """See :class:`Rule`."""
        return Choice(min(int(self._limit), self._largest), "drain")

    def ran(self, rows: int, seconds: float, now: float) -> None:
        """See :class:`Rule`."""
        if seconds > self._budget:
            self._limit = max(1.0, min(self._limit, rows) * 0.9)
        elif rows >= int(self._limit):
            self._limit = min(self._limit + 1.0, float(self._largest))


_NO_LAW = BatchLaw(0.0, 0.0)
_SLACK = 1e-9  # seconds; sums of floats
_SATURATED_UP, _SATURATED_DOWN = 0.9, 0.85  # no fluttering at the border
