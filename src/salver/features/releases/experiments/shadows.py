"""Results of shadow requests.

Counts, and a few examples of the answers that differ most; bounded regardless of traffic. It sends no
requests.
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
_MOST_NOTES: Final = 20  # maximum number of distinct entries; the rest counts as ``others``

#: Reasons why a request was not copied: it belongs to a sequence, whose state is in the version; it and its
#: answer are too large to keep until the canary has answered, or came in too many pieces; the answer was not
#: successful.
SEQUENCE: Final = "sequence"
TOO_LARGE: Final = "too_large"
NO_ANSWER: Final = "no_answer"


class Example(msgspec.Struct, frozen=True, order=True):
    """An answer that differs."""

    distance: float
    request_id: str
    what: str


class ShadowReport(msgspec.Struct, frozen=True):
    """Results of a shadow so far.

    Attributes:
        asked: Copies answered or failed.
        agreed, differed: Copies answered by both versions.
        failed: Failed copies by error code.
        dropped: Requests not copied because of the concurrency limit.
        skipped: Requests not copied, by reason: ``sequence``, ``too_large``, ``no_answer``.
        notes: Remarks on the canary's answers, with their number.
        examples: Answers that differ most, the worst first.
        seconds: Median time in the model: the stable version's and the canary's.
        shift: For ``distribution``, the distance between the two distributions; see
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
    """Running totals of one release."""

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
        """Add both versions' outputs to the distributions."""
        if self._distributions is not None:
            self._distributions.add(stable, canary)

    def count(self, event: Shadowed, found: Comparison | None) -> None:
        """Count a copy.

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
        """Return the current results."""
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
