"""Lines of text in the map of a detector (differentiable binarization; Liao et al., 2020). Pure.

Areas are found with scipy; the rest is what PaddleOCR does with OpenCV and Clipper, for rectangles.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
from scipy import ndimage

from salver.words.tensor import Array

#: Shortest edge of a rectangle, before and after it is widened.
_LEAST_EDGE: Final = 3
_LEAST_WIDE: Final = 5
#: Most areas that are looked at, the largest ones.
_MOST_AREAS: Final = 1000
_ALL_NEIGHBOURS: Final = np.ones((3, 3), bool)


def text_areas(
    areas: Array, least: float, score: float, widen: float, most: int
) -> Iterator[tuple[Array, float]]:
    """Yield the corners [4, 2] of each line, in pixels of the map, and the mean value of its pixels.

    Args:
        areas: Map [height, width].

    See :class:`~salver.features.pipelines.steps.boxes.TextBoxes` for the others.
    """
    labels, _ = ndimage.label(areas > least, _ALL_NEIGHBOURS)
    places = ndimage.find_objects(labels)
    largest = np.argsort(-np.bincount(labels.ravel())[1:], kind="stable")[:_MOST_AREAS]
    found = []
    for index in largest.tolist():
        place = places[index]
        mask = labels[place] == index + 1
        if max(mask.shape) < _LEAST_EDGE:
            continue
        mean = float(areas[place][mask].mean())
        if mean < score:
            continue
        offset = np.array([place[1].start, place[0].start]) + 0.5
        corners = smallest_rectangle(_outline(mask) + offset)
        edges = _edges(corners)
        if min(edges) < _LEAST_EDGE:
            continue
        distance = edges[0] * edges[1] * widen / (2 * sum(edges))
        if min(edges) + 2 * distance >= _LEAST_WIDE:
            found.append((widened(corners, distance), mean))
    found.sort(key=lambda line: -line[1])
    yield from _in_order_of_reading(found[:most])


def _outline(mask: Array) -> Array:
    """Return the first and last pixel of each row, as points (x, y), which have the same hull."""
    rows = np.flatnonzero(mask.any(axis=1))
    first = mask[rows].argmax(axis=1)
    last = mask.shape[1] - 1 - mask[rows, ::-1].argmax(axis=1)
    return np.concatenate([np.stack([first, rows], 1), np.stack([last, rows], 1)]).astype(np.float64)


def hull(points: Array) -> Array:
    """Return the corners of the convex hull, in the order of the angle (Andrew's monotone chain).

    >>> hull(np.array([[0, 0], [2, 0], [1, 1], [2, 2], [0, 2]])).tolist()
    [[0, 0], [2, 0], [2, 2], [0, 2]]
    """
    ordered = np.unique(points, axis=0).tolist()
    if len(ordered) < 3:
        return np.array(ordered)

    def chain(many: list[list[float]]) -> list[list[float]]:
        found: list[list[float]] = []
        for x, y in many:
            while len(found) > 1:
                (ax, ay), (bx, by) = found[-2:]
                if (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0:
                    break
                found.pop()
            found.append([x, y])
        return found[:-1]

    return np.array(chain(ordered) + chain(ordered[::-1]))


def smallest_rectangle(points: Array) -> Array:
    """Return the corners [4, 2] of the rectangle of the smallest area around points, clockwise.

    The first corner is the upper left one. One of the edges lies along the hull.

    >>> smallest_rectangle(np.array([[1, 0], [2, 1], [1, 2], [0, 1]])).round(6).tolist()
    [[1.0, 0.0], [2.0, 1.0], [1.0, 2.0], [0.0, 1.0]]
    """
    corners = hull(points).astype(np.float64)
    edges = np.roll(corners, -1, axis=0) - corners
    lengths = np.hypot(*edges.T)
    directions = edges[lengths > 0] / lengths[lengths > 0, None]
    if not len(directions):
        directions = np.array([[1.0, 0.0]])
    across = np.stack([-directions[:, 1], directions[:, 0]], axis=1)
    along, away = corners @ directions.T, corners @ across.T
    low, high = np.stack([along.min(0), away.min(0)]), np.stack([along.max(0), away.max(0)])
    best = int(np.prod(high - low, axis=0).argmin())
    (x1, y1), (x2, y2) = low[:, best], high[:, best]
    rectangle = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]) @ np.stack(
        [directions[best], across[best]]
    )
    return _from_upper_left(rectangle)


def _from_upper_left(corners: Array) -> Array:
    """Return clockwise corners, of which the edge from the first to the second is the upper one."""
    by_x = corners[np.argsort(corners[:, 0], kind="stable")]
    left, right = by_x[:2], by_x[2:]
    left, right = left[np.argsort(left[:, 1])], right[np.argsort(right[:, 1])]
    return np.stack([left[0], right[0], right[1], left[1]])


def widened(corners: Array, distance: float) -> Array:
    """Return a rectangle with each edge moved out.

    >>> widened(np.array([[1.0, 1], [3, 1], [3, 2], [1, 2]]), 1).tolist()
    [[0.0, 0.0], [4.0, 0.0], [4.0, 3.0], [0.0, 3.0]]
    """
    right, down = corners[1] - corners[0], corners[3] - corners[0]
    right, down = right / max(1e-9, np.hypot(*right)), down / max(1e-9, np.hypot(*down))
    signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    moved: Array = corners + distance * (signs @ np.stack([right, down]))
    return moved


def _edges(corners: Array) -> tuple[float, float]:
    return float(np.hypot(*(corners[1] - corners[0]))), float(np.hypot(*(corners[3] - corners[0])))


def _in_order_of_reading(lines: list[tuple[Array, float]]) -> list[tuple[Array, float]]:
    """Return lines from the top; those beside one another from the left."""
    waiting = sorted(lines, key=lambda line: float(line[0][:, 1].mean()))
    found: list[tuple[Array, float]] = []
    while waiting:
        first = waiting[0][0]
        middle, half = first[:, 1].mean(), min(_edges(first)) / 2
        beside = [line for line in waiting if line[0][:, 1].mean() - middle < half]
        waiting = waiting[len(beside) :]
        found += sorted(beside, key=lambda line: float(line[0][:, 0].min()))
    return found
