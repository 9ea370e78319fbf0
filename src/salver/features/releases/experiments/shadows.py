"""What came of the requests that a shadow was asked?

Counts, and a few examples of those answers that differ most; bounded, whatever the traffic. It asks nobody.
"""

import heapq
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from salver.features.releases.experiments.compare import Comparison, Distributions
from salver.stats.histogram import DURATION_BOUNDS, Histogram
from salver.words.events import Shadowed
from salver.words.releases import Shadow
from salver.words.tensor import Tensor

_MOST_EXAMPLES: Final = 20
_MOST_NOTES: Final = 20  # different ones; what else there is counts as ``others``

#: Why a request was not copied: it belongs to a sequence, whose state is the version's own; it and its answer
#: are too large to be kept until the canary has answered, or came in too many pieces; none of them is good.
SEQUENCE: Final = "sequence"
TOO_LARGE: Final = "too_large"
NO_ANSWER: Final = "no_answer"


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
        skipped: Not copied, by why: ``sequence``, ``too_large``, ``no_answer``.
        notes: What is odd about the canary's answers, or could not be looked at, and how often.
        examples: Those that differ most, the worst one first.
        seconds: Median of the model's own time: the stable version's, and the canary's.
        shift: Part of the answers that lies elsewhere, of ``distribution``; see
            :attr:`~salver.features.releases.experiments.compare.Distributions.shift`.
    """

    asked: int
    agreed: int
    differed: int
    failed: Mapping[str, int]
    dropped: int
    skipped: Mapping[str, int]
    notes: Mapping[str, int]
    examples: tuple[Example, ...]
    seconds: tuple[float, float]
    shift: float


class ShadowTally:
    """The sums of one release."""

    def __init__(self, shadow: Shadow) -> None:
        self.shadow = shadow
        self.dropped = 0
        self.skipped: Counter[str] = Counter()
        self._notes: Counter[str] = Counter()
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
        for note in found.notes or ([found.what] if found.distance == math.inf else ()):
            is_known = note in self._notes or len(self._notes) < _MOST_NOTES
            self._notes[note if is_known else "others"] += 1
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
            dict(self.skipped),
            dict(self._notes),
            tuple(sorted(self._examples, reverse=True)),
            (self._seconds[0].quantile(0.5), self._seconds[1].quantile(0.5)),
            self._distributions.shift if self._distributions else 0.0,
        )
