"""Queues of several servers that measure balancing policies: Poisson arrivals, exponential service."""

import heapq
from collections.abc import Sequence
from random import Random

import numpy as np

from salver.features.routing.instances import Instance
from salver.features.routing.ports import Policy


def sojourns(policy: Policy, speeds: Sequence[float], load: float, requests: int, seed: int) -> np.ndarray:
    """Return the times that requests spent in the system, in mean service times.

    Args:
        speeds: Of each server, first come, first served.
        load: Utilisation of all servers together.
    """
    random = Random(seed)
    instances = [Instance(str(number)) for number in range(len(speeds))]
    place = {each.url: number for number, each in enumerate(instances)}
    free = [0.0] * len(speeds)
    leaving: list[tuple[float, float, int, int]] = []
    rate, now, took = load * sum(speeds), 0.0, np.empty(requests)
    for number in range(requests):
        now += random.expovariate(rate)
        while leaving and leaving[0][0] <= now:
            at, began, where, under_way = heapq.heappop(leaving)
            instances[where].load.pending -= 1
            policy.answered(instances[where], at - began, under_way, at)
        where = place[policy.choose(instances, "", now).url]
        ends = max(now, free[where]) + random.expovariate(speeds[where])
        free[where] = ends
        instances[where].load.pending += 1
        heapq.heappush(leaving, (ends, now, where, instances[where].load.pending))
        took[number] = ends - now
    return took[requests // 20 :]
