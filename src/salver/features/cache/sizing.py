"""Best sizes of the caches of one model or several, and the decision to use none.

Pure. One unit for all: cores. A hit saves seconds of a model, so hits save ``rate * hit ratio * seconds``
cores; memory costs a price in cores per byte.
"""

import heapq
from collections.abc import Mapping, Sequence
from itertools import pairwise

import msgspec

from salver.features.cache.reuse import Point


class Demand(msgspec.Struct, frozen=True):
    """Possible saving of a model's cache.

    Attributes:
        rate: Requests per second.
        saved_s: Seconds of the model that a hit saves.
        lookup_s: Seconds that a request costs more because of the cache, whether it hits or not.
        curve: Hit ratio by size.
    """

    rate: float
    saved_s: float
    lookup_s: float
    curve: Sequence[Point]

    def hit_ratio(self, size: float) -> float:
        """Return the hit ratio of a size on the curve's hull."""
        before = Point(0.0, 0.0)
        for point in hull(self.curve):
            if size < point.bytes:
                share = (size - before.bytes) / (point.bytes - before.bytes)
                return before.hit_ratio + share * (point.hit_ratio - before.hit_ratio)
            before = point
        return before.hit_ratio

    def gain(self, size: float, price: float) -> float:
        """Return the cores saved with so many bytes, less the price of lookups and of the memory."""
        return self.rate * (self.hit_ratio(size) * self.saved_s - self.lookup_s) - price * size


def hull(curve: Sequence[Point]) -> list[Point]:
    """Return the corners of the smallest concave curve above this one, from the origin (left out).

    >>> hull([Point(1, 0.1), Point(2, 0.5), Point(4, 0.6)])
    [Point(bytes=2, hit_ratio=0.5), Point(bytes=4, hit_ratio=0.6)]
    """
    corners = [Point(0.0, 0.0)]
    for point in curve:
        while len(corners) > 1 and _slope(corners[-2], corners[-1]) <= _slope(corners[-2], point):
            corners.pop()
        if point.hit_ratio > corners[-1].hit_ratio:
            corners.append(point)
    return corners[1:]


def allocate(demands: Mapping[str, Demand], budget: float, price: float) -> dict[str, float]:
    """Return the bytes of each model's cache that save most together.

    The next byte goes where it saves most, until it saves less than it costs or the budget is spent. On
    concave curves nothing is better.

    Args:
        budget: Bytes of all.
        price: Cores per byte.
    """
    sizes = dict.fromkeys(demands, 0.0)
    segments: list[tuple[float, str, float]] = []
    for name, demand in demands.items():
        for before, after in pairwise([Point(0.0, 0.0), *hull(demand.curve)]):
            worth = demand.rate * demand.saved_s * _slope(before, after)
            if worth > price:
                segments.append((-worth, name, after.bytes - before.bytes))
    heapq.heapify(segments)
    while segments and budget > 0:
        _, name, length = heapq.heappop(segments)  # a hull's own segments come in order
        taken = min(length, budget)
        sizes[name] += taken
        budget -= taken
    return sizes


class Switch:
    """Whether a model's cache is used, with hysteresis.

    It goes off after ``patience`` decisions in a row in which it saved less than it cost, and on again after
    as many in which it would save twice that.
    """

    def __init__(self, patience: int = 3) -> None:
        self.is_on = True
        self._patience = patience
        self._against = 0

    def __repr__(self) -> str:
        return f"<Switch {'on' if self.is_on else 'off'}>"

    def decide(self, saves: float, costs: float) -> bool:
        """Return whether the cache is to be used from now on.

        Args:
            saves, costs: In cores, since the last decision, or as predicted.
        """
        is_against = saves < costs if self.is_on else saves > 2 * costs
        self._against = self._against + 1 if is_against else 0
        if self._against >= self._patience:
            self.is_on = not self.is_on
            self._against = 0
        return self.is_on


def _slope(before: Point, after: Point) -> float:
    return (after.hit_ratio - before.hit_ratio) / (after.bytes - before.bytes)
