"""What came of the requests that a shadow was asked?

Counts, and a few examples of those answers that differ most; bounded, whatever the traffic. It asks nobody.
"""

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from salver.events import Shadowed
from salver.experiments.compare import Comparison, Distributions
from salver.releases import Shadow
from salver.stats.histogram import DURATION_BOUNDS, Histogram
from salver.tensor import Tensor

_MOST_EXAMPLES: Final = 20


class Example(msgspec.Struct, frozen=True, order=True):
    """An answer that differs."""

    distance: float
    request_id: str
    what: str


class ShadowReport(msgspec.Struct, frozen=True):
    """How a shadow has done so far.

    Attributes:
        asked: Requests that it has answered, or failed to.
        agreed, differed: Of those that both versions have answered.
        failed: By the error's code.
        dropped: Not copied, since as many were under way as may be.
        skipped: Not copied, since they belong to a sequence.
        examples: Those that differ most, the worst one first.
        seconds: Median of the model's own time: the stable version's, and the canary's.
        shift: Part of the answers that lies elsewhere, of ``distribution``; see
            :attr:`~salver.experiments.compare.Distributions.shift`.
    """

    asked: int
    agreed: int
    differed: int
    failed: Mapping[str, int]
    dropped: int
    skipped: int
    examples: tuple[Example, ...]
    seconds: tuple[float, float]
    shift: float


class ShadowTally:
    """The sums of one release."""

    def __init__(self, shadow: Shadow) -> None:
        self.shadow = shadow
        self.dropped = self.skipped = 0
        self._asked = self._agreed = self._differed = 0
        self._failed: Counter[str] = Counter()
        self._examples: list[Example] = []
        self._seconds = Histogram(DURATION_BOUNDS), Histogram(DURATION_BOUNDS)
        self._distributions = Distributions() if shadow.compare == "distribution" else None

    def __repr__(self) -> str:
        return f"<ShadowTally of {self._asked}, {self._differed} differ>"

    def weigh(self, stable: Sequence[Tensor], canary: Sequence[Tensor]) -> None:
        """Both versions' outputs, for the distributions of them."""
        if self._distributions is not None:
            self._distributions.add(stable, canary)

    def count(self, event: Shadowed, found: Comparison | None) -> None:
        """One more.

        Args:
            found: None = the canary gave no answer.
        """
        self._asked += 1
        self._seconds[0].add_all([event.stable_seconds])
        if found is None:
            self._failed[event.outcome] += 1
            return
        self._seconds[1].add_all([event.seconds])
        if found.agrees:
            self._agreed += 1
            return
        self._differed += 1
        example = Example(found.distance, event.request_id, found.what)
        if len(self._examples) < _MOST_EXAMPLES:
            heapq.heappush(self._examples, example)
        else:
            heapq.heappushpop(self._examples, example)

    def report(self) -> ShadowReport:
        """As it stands."""
        return ShadowReport(
            self._asked,
            self._agreed,
            self._differed,
            dict(self._failed),
            self.dropped,
            self.skipped,
            tuple(sorted(self._examples, reverse=True)),
            (self._seconds[0].quantile(0.5), self._seconds[1].quantile(0.5)),
            self._distributions.shift if self._distributions else 0.0,
        )
