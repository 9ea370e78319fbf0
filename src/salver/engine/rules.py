"""How large a batch, of whom, and who is given up?

A *rule* decides about the line of waiting requests each time that an instance is idle. Rules know
the line, the batch law and the time, which is an argument; they know no payload, queue
structure or clock. The queue applies the rule's :class:`Choice` (whole requests, of one key, fairly among
tenants); the simulator runs the same objects.

Definitions, verdicts and numbers: *drain*, *window* (B, T), *half-floor*, *newest-feasible* and
*drop-then-drain* as in docs/explanation/scheduling.md.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from salver.engine.waiting import Waiting
from salver.stats.batch_law import BatchLaw

#: Today's batch law; asked at each decision, since it is learned from live runs.
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
