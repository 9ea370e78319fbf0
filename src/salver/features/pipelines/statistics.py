"""Statistics of the values at the edges of a pipeline, and their differences from those of training data.

An edge keeps its last values, of which the summary is made when somebody asks. Pure.
"""

from collections import Counter, deque
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from salver.words.tensor import Array, DataType

#: Values of an edge that are kept, the newest.
KEPT: Final = 4096
#: Values that a request adds to an edge, evenly over its array.
MOST_OF_REQUEST: Final = 256
#: Population stability index from which two distributions are said to differ, the usual limit.
PSI_LIMIT: Final = 0.2
#: Difference of the shares of missing values that is said.
NULLS_LIMIT: Final = 0.05
#: Values below which nothing is said of a difference.
LEAST: Final = 200
_BINS: Final = 10
_MOST_TOP: Final = 20
#: Letters of a text that are compared with others; its length is that of the whole.
_LETTERS: Final = 64
#: Times that a text occurs before it is shown: one that occurs once may be somebody's name.
_COMMON: Final = 5
_FLOOR: Final = 1e-3


class Summary(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Distribution of the values of an edge; of texts, of their lengths in bytes.

    Attributes:
        requests: Requests that were looked at.
        values: Values that it is made of.
        nulls: Share of NaN, or of empty texts.
        bounds: Upper bounds of bins with about equal shares in the training data; the last bin has none.
        shares: Shares of the bins.
        top: Shares of the most frequent texts.
    """

    requests: int = 0
    values: int = 0
    nulls: float = 0.0
    mean: float = 0.0
    sd: float = 0.0
    least: float = 0.0
    most: float = 0.0
    bounds: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()
    top: dict[str, float] = {}


class Difference(msgspec.Struct, frozen=True):
    """Difference of an edge from the training data.

    Attributes:
        psi: Population stability index of the bins, or of the most frequent texts if that is larger.
        nulls: Difference of the shares of missing values.
        is_notable: Beyond the limits.
    """

    psi: float
    nulls: float
    is_notable: bool


class EdgeStatistics:
    """Last values of one edge."""

    def __init__(self, datatype: DataType) -> None:
        self._is_text = datatype is DataType.BYTES
        self._numbers: deque[float] = deque(maxlen=KEPT)
        self._texts: deque[bytes] = deque(maxlen=KEPT)
        self.requests = 0

    def add(self, values: Array) -> None:
        """Add values of one request (:func:`sampled`)."""
        self.requests += 1
        if self._is_text:
            texts = values.tolist()
            self._numbers.extend(map(len, texts))
            self._texts.extend(text[:_LETTERS] for text in texts)
        else:
            self._numbers.extend(values.astype(np.float64).tolist())

    def summary(self, reference: Summary | None = None) -> Summary:
        """Return the distribution, in the bins of another one if it is to be compared with that."""
        numbers = np.array(self._numbers, np.float64)
        present = numbers[np.isfinite(numbers)]
        if not len(present):
            return Summary(self.requests, len(numbers), float(len(numbers) > 0))
        nulls = np.isnan(numbers).mean()
        if self._is_text:
            nulls = (numbers == 0).mean()
        bounds = (
            np.unique(np.quantile(present, np.arange(1, _BINS) / _BINS))
            if reference is None
            else reference.bounds
        )
        counts = np.bincount(np.searchsorted(bounds, present), minlength=len(bounds) + 1)
        return Summary(
            self.requests,
            len(numbers),
            float(nulls),
            float(present.mean()),
            float(present.std()),
            float(present.min()),
            float(present.max()),
            tuple(map(float, bounds)),
            tuple((counts / len(present)).tolist()),
            self._top(),
        )

    def _top(self) -> dict[str, float]:
        found = Counter(self._texts).most_common(_MOST_TOP)
        return {
            text.decode(errors="replace"): count / len(self._texts)
            for text, count in found
            if count >= _COMMON
        }


def sampled(array: Array, most: int = MOST_OF_REQUEST) -> Array:
    """Return a copy of at most so many values, evenly over the array."""
    flat = array.reshape(-1)
    return flat[:: max(1, -(-flat.size // most))].copy()


def compared(reference: Summary, found: Summary) -> Difference | None:
    """Return how an edge differs from its training data; None = there are too few values to tell."""
    if min(reference.values, found.values) < LEAST:
        return None
    psi = _psi(reference.shares, found.shares)
    if reference.top:
        there = [*reference.top.values()]
        here = [found.top.get(text, 0.0) for text in reference.top]
        psi = max(psi, _psi([*there, 1 - sum(there)], [*here, 1 - sum(here)]))
    nulls = found.nulls - reference.nulls
    return Difference(psi, nulls, psi >= PSI_LIMIT or abs(nulls) >= NULLS_LIMIT)


def _psi(one: Sequence[float], two: Sequence[float]) -> float:
    """Return the population stability index, the sum of (q - p) ln(q / p); a share is at least 0.001."""
    p, q = (np.maximum(shares, _FLOOR) for shares in (one, two))
    return float(((q - p) * np.log(q / p)).sum())
