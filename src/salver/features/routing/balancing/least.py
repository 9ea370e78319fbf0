"""Fewest requests under way of two instances drawn at random (Mitzenmacher 2001; Envoy's LEAST_REQUEST)."""

from collections.abc import Sequence
from random import Random

from salver.features.routing.instances import Instance


def two_of(among: Sequence[Instance], random: Random) -> tuple[Instance, Instance]:
    """Return two different instances, drawn at random; of one, twice the same."""
    count = len(among)
    if count < 2:
        return among[0], among[0]
    first = int(random.random() * count)
    second = int(random.random() * (count - 1))
    second += second >= first
    return among[first], among[second]


class LeastRequests:
    """See the module; requests count by weight."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def choose(self, among: Sequence[Instance], key: str, now: float) -> Instance:
        """See :class:`~salver.features.routing.ports.Policy`."""
        one, other = two_of(among, self._random)
        if (other.load.pending + 1) * one.share(now) < (one.load.pending + 1) * other.share(now):
            return other
        return one

    def answered(self, instance: Instance, seconds: float, under_way: int, now: float) -> None:
        """Do nothing: the requests under way are counted for all policies."""
