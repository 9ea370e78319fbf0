"""Peak EWMA, as in Finagle: of two instances drawn at random, the one with less expected work.

A latency above the average replaces it at once; otherwise the average decays towards what is measured, by
time (``TAU_S``). So an instance that becomes slow is left at once, and tried again as the memory fades.
Source: Finagle, ``com.twitter.finagle.loadbalancer.p2c.P2CPeakEwma``.
"""

import math
from collections.abc import Sequence
from random import Random
from typing import Final

from salver.features.routing.balancing.least import two_of
from salver.features.routing.instances import Instance

TAU_S: Final = 10.0
#: Cost of an instance with requests under way of which none was answered yet.
_PENALTY: Final = 1e9


class PeakEwma:
    """See the module."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def choose(self, among: Sequence[Instance], key: str, now: float) -> Instance:
        """See :class:`~salver.features.routing.ports.Policy`."""
        one, other = two_of(among, self._random)
        if _cost(other, now) * one.share(now) < _cost(one, now) * other.share(now):
            return other
        return one

    def answered(self, instance: Instance, seconds: float, under_way: int, now: float) -> None:
        """See :class:`~salver.features.routing.ports.Policy`."""
        load = instance.load
        if seconds > load.latency:
            load.latency = seconds
        else:
            kept = math.exp((load.measured_at - now) / TAU_S)
            load.latency = load.latency * kept + seconds * (1 - kept)
        load.measured_at = now


def _cost(instance: Instance, now: float) -> float:
    load = instance.load
    if not load.latency and load.pending:
        return _PENALTY + load.pending
    # Reading decays it, too: an instance that gets no requests would else stay slow for ever.
    return load.latency * math.exp((load.measured_at - now) / TAU_S) * (load.pending + 1)
