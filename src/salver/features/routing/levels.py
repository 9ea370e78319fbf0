"""Shares of the requests that go to the priority levels of instances.

The first level takes all as long as enough of its instances are available: so many that 1.4 times their
share covers it. What it cannot take spills over to the next one (Envoy, "Priority levels"). Instances in
another zone are a level of their own, below those of the same priority in this zone, and those in another
region one below that. Pure.
"""

from collections.abc import Sequence
from typing import Final

OVERPROVISIONING: Final = 1.4


def level_shares(levels: Sequence[tuple[int, int]]) -> list[float]:
    """Return the share of each level, of 1 in all.

    Args:
        levels: Available and all instances of each level, the first one first; at least one level.

    >>> [round(share, 2) for share in level_shares([(72, 100), (100, 100)])]
    [1.0, 0.0]
    >>> [round(share, 2) for share in level_shares([(50, 100), (100, 100)])]
    [0.7, 0.3]
    >>> [round(share, 2) for share in level_shares([(25, 100), (25, 100), (20, 100)])]
    [0.36, 0.36, 0.29]
    >>> level_shares([(0, 2), (0, 2)])
    [1.0, 0.0]
    """
    health = [min(1.0, OVERPROVISIONING * fit / there) if there else 0.0 for fit, there in levels]
    total = min(1.0, sum(health))
    if not total:
        return [1.0, *[0.0] * (len(levels) - 1)]
    shares, rest = [], 1.0
    for each in health:
        share = min(rest, each / total)
        shares.append(share)
        rest -= share
    return shares


def level_of(priority: int, zone: str, own: str) -> int:
    """Return the level of an instance.

    Args:
        zone: Its zone, with its region before a slash or without one, such as ``eu/a``.
        own: Zone of this server; empty = zones do not matter.
    """
    distance = 0
    if own and zone != own:
        region, slash, _ = own.partition("/")
        distance = 2
        if slash and zone.startswith(region + slash):
            distance = 1
    return 3 * priority + distance
