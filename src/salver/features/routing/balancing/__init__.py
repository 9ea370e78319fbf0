"""Policies that choose the instance of a request, a file each.

All are pure: they read the instances' loads, and draw from the random generator that they are given.
"""

from collections.abc import Callable
from random import Random
from typing import Final

from salver.features.routing.balancing.hashing import ConsistentHash
from salver.features.routing.balancing.least import LeastRequests
from salver.features.routing.balancing.measured import MeasuredWork
from salver.features.routing.balancing.peak import PeakEwma
from salver.features.routing.balancing.robin import RoundRobin
from salver.features.routing.ports import Policy

#: By their names in ``instances.toml``.
POLICIES: Final[dict[str, Callable[[Random], Policy]]] = {
    "round-robin": lambda random: RoundRobin(),
    "least-requests": LeastRequests,
    "measured": MeasuredWork,
    "peak-ewma": PeakEwma,
    "consistent-hash": lambda random: ConsistentHash(),
}
