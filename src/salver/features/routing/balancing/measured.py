"""Measured performance: of two instances drawn at random, the one with less expected work.

Expected work is the service time of a request times the requests under way, this one included. A latency is
mostly the wait for those before it, so the service time is the average latency over the average number under
way when requests began (Little's law). For a server that batches it is its time for each request of a batch.
By latency alone a long queue would count twice, and a slow idle instance would be asked before fast ones.

The averages move by a twentieth with each answer, so they forget noise faster than :mod:`peak <.peak>`,
which takes a single slow answer for the instance's speed. An instance that was not asked for a while is tried
again, once, and judged anew by the answer: one that is fast again must not stay without requests.
"""

from collections.abc import Sequence
from random import Random
from typing import Final

from salver.features.routing.balancing.least import two_of
from salver.features.routing.instances import Instance, Load

GAIN: Final = 0.05
STALE_S: Final = 30.0


class MeasuredWork:
    """See the module. An instance that was never measured is asked first."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def choose(self, among: Sequence[Instance], key: str, now: float) -> Instance:
        """See :class:`~salver.features.routing.ports.Policy`."""
        one, other = two_of(among, self._random)
        if _work(other.load, now) * one.share(now) < _work(one.load, now) * other.share(now):
            return other
        return one

    def answered(self, instance: Instance, seconds: float, under_way: int, now: float) -> None:
        """See :class:`~salver.features.routing.ports.Policy`."""
        load = instance.load
        if load.latency and now - load.measured_at < STALE_S:
            load.latency += GAIN * (seconds - load.latency)
            load.under_way += GAIN * (under_way - load.under_way)
        else:
            load.latency, load.under_way = seconds, under_way
        load.measured_at = now


def _work(load: Load, now: float) -> float:
    if not load.pending and now - load.measured_at >= STALE_S:
        return 0.0
    return load.latency / load.under_way * (load.pending + 1)
