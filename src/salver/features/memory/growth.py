"""Growth of versions while they answer: the memory of activations, by the rows of a run. Pure.

Runtimes keep the memory of their largest run for the next one, so a version grows when it runs more rows than
ever before. The server measures after such runs; what it has grown by belongs to the version if it was the
only one. Activations grow in proportion to the rows, so two sizes predict a third.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from salver.words.messages import ModelId

#: Bytes; less is noise of the process.
LEAST: Final = 256 << 10


class Activations(msgspec.Struct, frozen=True):
    """Bytes that a version has grown by since it was loaded, by the most rows of a run.

    Attributes:
        points: Bytes by rows, ascending.
    """

    points: Mapping[int, int] = {}

    @property
    def bytes(self) -> int:
        """Bytes at the largest run so far."""
        return max(self.points.values(), default=0)

    @property
    def rows(self) -> int:
        """Rows of the largest run whose growth is known: one without any, as it is warmed up."""
        return max(self.points, default=1)

    def next(self, rows: int) -> int:
        """Return how many rows a run may have after runs of so many: the next known size, or twice as many.

        >>> Activations({8: 800}).next(1), Activations({8: 800}).next(8)
        (8, 16)
        """
        return min((known for known in self.points if known > rows), default=2 * rows)

    def after(self, rows: int, grown: int) -> "Activations":
        """Return these after a run of more rows than before, by which the version has grown."""
        return Activations({**self.points, rows: self.bytes + grown})

    def at(self, rows: int) -> int:
        """Return the expected bytes at a run of that many rows; never less than at a smaller run.

        >>> Activations({1: 100, 8: 800}).at(16), Activations({8: 800}).at(16), Activations().at(16)
        (1600, 1600, 0)
        """
        if not self.points:
            return 0
        if rows <= 1:
            return self.points.get(1, 0)
        *before, last = sorted(self.points)
        slope = self.points[last] / last
        if before:
            slope = (self.points[last] - self.points[before[-1]]) / (last - before[-1])
        if rows <= last:
            return min(size for known, size in self.points.items() if known >= rows)
        return self.points[last] + max(0, round(slope * (rows - last)))


class GrowthBook:
    """Most rows that versions have run, and those that have run more than ever since the last measurement."""

    def __init__(self) -> None:
        self._most: dict[ModelId, int] = {}
        self._news: dict[ModelId, int] = {}

    def most(self, id: ModelId) -> int:
        """Return the most rows of a run since the version was loaded."""
        return self._most.get(id, 0)

    @property
    def has_news(self) -> bool:
        """Whether a version may have grown."""
        return bool(self._news)

    def ran(self, id: ModelId, rows: int, known: int) -> bool:
        """Note a run; return whether the version ran fewer rows before, since it was loaded.

        Args:
            known: Rows up to which its growth is known.
        """
        if rows <= self._most.get(id, 0):
            return False
        self._most[id] = rows
        if rows > known:
            self._news[id] = rows
        return True

    def forget(self, id: ModelId) -> None:
        """Forget a version that is unloaded, or loaded anew."""
        self._most.pop(id, None)
        self._news.pop(id, None)

    def take(self, ids: Iterable[ModelId]) -> dict[ModelId, int]:
        """Return the most rows of those versions that have run more than ever, and forget that they have."""
        return {id: self._news.pop(id) for id in ids if id in self._news}
