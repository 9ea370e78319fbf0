"""A line that a rule can be shown, and the best rule across a load step: one that knows its moment."""

import math
from collections.abc import Iterator, Sequence

from salver.kernel.engine import rules
from salver.kernel.engine.rules import Choice
from salver.kernel.engine.waiting import QueuedRequest


class Line:
    """A line of waiting requests, as the rule sees it."""

    def __init__(self, waiting: Sequence[QueuedRequest]) -> None:
        self.waiting = list(waiting)

    @property
    def rows(self) -> int:
        return sum(w.rows for w in self.waiting)

    def head(self) -> QueuedRequest | None:
        return self.waiting[0] if self.waiting else None

    def newest(self) -> Iterator[QueuedRequest]:
        return reversed(self.waiting)

    def give_up(self, waiting: QueuedRequest) -> None:
        raise AssertionError("this rule gives nobody up")


class Clairvoyant:
    """The best rule of each load, switched at the very moment of the step."""

    def __init__(self, lines: list[list[int]], step: float) -> None:
        self._lines = lines
        self._step = step

    def _rows(self, waiting: int, now: float) -> int:
        return self._lines[int(now >= self._step)][min(waiting, 100)]

    def due(self, line: rules.QueueView, now: float) -> float:
        return now if self._rows(line.rows, now) else math.inf

    def choose(self, line: rules.QueueView, now: float) -> Choice:
        return Choice(self._rows(line.rows, now), "learned")

    def arrived(self, rows: int, now: float) -> None: ...

    def ran(self, rows: int, seconds: float, now: float) -> None: ...
