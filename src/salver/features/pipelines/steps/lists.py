"""Steps that take lists apart and put them together: fan-out and fan-in, and rows of two conditions.

The items of a list become rows of their own, in order, and models take the items of all rows in one request.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Final, Literal

import numpy as np

from salver.features.pipelines.steps.step import OFFSETS, Arrays, Run, Step
from salver.words.errors import InvalidInput, LoadFailed
from salver.words.tensor import Array

_COMBINED: Final[dict[str, Callable[..., Array]]] = {
    "mean": np.mean,
    "max": np.max,
    "min": np.min,
    "sum": np.sum,
}


class Each(Step, frozen=True):
    """Items along axis 1, each as a row of its own; ``count`` says how many of them a row has."""

    inputs: ClassVar = {"list": "ANY[rows, length, ...]", "count?": "INT[rows]"}
    outputs: ClassVar = {"item": "ANY[items, ...]"}

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""

        def run(arrays: Arrays) -> Arrays:
            values, count = arrays["list"], arrays.get("count")
            rows, length = values.shape[:2]
            sizes = np.full(rows, length, np.int64)
            if count is not None:
                sizes = np.clip(count.astype(np.int64), 0, length)
            taken = np.arange(length) < sizes[:, None]
            return {"item": values[taken], OFFSETS: np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)}

        return run


class Collect(Step, frozen=True):
    """Items of each row along axis 1, filled up with zeros (or empty texts), with their number."""

    inputs: ClassVar = {"item": "ANY[items, ...]"}
    outputs: ClassVar = {"list": "ANY[rows, length, ...]", "count": "INT64[rows]"}

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""

        def run(arrays: Arrays) -> Arrays:
            values, sizes = arrays["item"], np.diff(arrays[OFFSETS])
            shape = (len(sizes), int(sizes.max(initial=0)), *values.shape[1:])
            found: Array = np.full(shape, b"" if values.dtype == object else 0, values.dtype)
            found[np.arange(shape[1]) < sizes[:, None]] = values
            return {"list": found, "count": sizes}

        return run


class Reduce(Step, frozen=True):
    """One value for the items of each row; 0 for a row without any.

    Attributes:
        by: How they are combined, element by element.
    """

    inputs: ClassVar = {"values": "FLOAT[items, ...]"}
    outputs: ClassVar = {"value": "FLOAT[rows, ...]"}

    by: Literal["mean", "max", "min", "sum"] = "mean"

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        combine = _COMBINED[self.by]

        def run(arrays: Arrays) -> Arrays:
            values, offsets = arrays["values"], arrays[OFFSETS].tolist()
            found = np.zeros((len(offsets) - 1, *values.shape[1:]), values.dtype)
            for row, (begin, end) in enumerate(itertools.pairwise(offsets)):
                if end > begin:
                    found[row] = combine(values[begin:end], axis=0)
            return {"value": found}

        return run


class Merge(Step, frozen=True):
    """Rows of two branches: those of ``first``, and of ``second`` where ``first`` has none.

    The branches have opposite conditions (``when`` and ``unless``), or ``second`` has all rows.
    """

    inputs: ClassVar = {"first": "ANY[rows, ...]", "second": "ANY[rows, ...]"}
    outputs: ClassVar = {"merged": "ANY[rows, ...]"}
    merges: ClassVar = True

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""

        def run(arrays: Arrays) -> Arrays:
            first, second = arrays["first"], arrays["second"]
            has_first = np.diff(arrays["first." + OFFSETS]).astype(bool)
            if not len(first):
                return {"merged": second}
            if first.shape[1:] != second.shape[1:] and len(second):
                shapes = f"{list(first.shape[1:])} and {list(second.shape[1:])}"
                raise InvalidInput(f"the branches gave rows of the shapes {shapes}")
            found = np.empty((len(has_first), *first.shape[1:]), first.dtype)
            found[has_first] = first
            if len(second):
                found[~has_first] = second[~has_first] if len(second) == len(has_first) else second
            return {"merged": found}

        return run


class Suppress(Step, frozen=True):
    """Boxes that no better box overlaps (non-maximum suppression), best first, as a list for each row.

    Attributes:
        overlap: Greatest intersection over union of two boxes that are both kept.
        least: Smallest score of a box.
        most: Most boxes of a row.
    """

    inputs: ClassVar = {"boxes": "FLOAT[rows, length, 4]", "scores": "FLOAT[rows, length]"}
    outputs: ClassVar = {"box": "FLOAT[items, 4]", "score": "FLOAT[items]", "index": "INT64[items]"}

    overlap: float = 0.5
    least: float = 0.5
    most: int = 100

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        if not 0 <= self.overlap <= 1 or self.most < 1:
            raise LoadFailed("nms: `overlap` must be from 0 to 1, and `most` at least 1")

        def run(arrays: Arrays) -> Arrays:
            boxes, scores = arrays["boxes"], arrays["scores"]
            kept = [self._kept(*row) for row in zip(boxes, scores, strict=True)]
            rows = np.repeat(np.arange(len(kept)), [len(each) for each in kept])
            index = np.concatenate([np.zeros(0, np.int64), *kept])
            offsets = np.cumsum([0, *map(len, kept)]).astype(np.int64)
            return {"box": boxes[rows, index], "score": scores[rows, index], "index": index, OFFSETS: offsets}

        return run

    def _kept(self, boxes: Array, scores: Array) -> Array:
        """Return the indices of the boxes of one row that stay; a box is (x1, y1, x2, y2)."""
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] >= self.least]
        corners = boxes.astype(np.float64)
        areas = np.prod(np.maximum(corners[:, 2:] - corners[:, :2], 0), axis=1)
        found: list[int] = []
        while len(order) and len(found) < self.most:
            best, order = order[0], order[1:]
            found.append(int(best))
            low = np.maximum(corners[best, :2], corners[order, :2])
            high = np.minimum(corners[best, 2:], corners[order, 2:])
            shared = np.prod(np.maximum(high - low, 0), axis=1)
            whole = np.maximum(areas[best] + areas[order] - shared, 1e-12)
            order = order[shared / whole <= self.overlap]
        return np.array(found, np.int64)
