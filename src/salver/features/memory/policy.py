"""Decisions of the memory budget: the next single step from a snapshot. Pure.

The whole state goes in, one step comes out, and the caller asks again once it is done; a step that is lost
costs a turn and nothing else. Versions make room by value density: reload time times request rate times
priority, for each byte, which is the greedy rule for fractional knapsacks.
"""

import math
from collections.abc import Sequence
from typing import Final

from salver.features.memory import shares
from salver.features.memory.pools import Pool, Pools
from salver.features.memory.snapshot import Admit, Evict, Snapshot, Step, Version
from salver.words.messages import ModelId

#: Seconds for which a version that waits for much room lets others pass that need less.
PATIENCE_S: Final = 0.25
#: Price of a load, in parts of its time: it takes CPU and disk from requests, and memory for a moment.
LOAD_PRICE: Final = 0.2


def next_step(snapshot: Snapshot) -> Step | None:
    """Return the step that is due now; None = nothing, or something must end first."""
    now = snapshot.now
    for version in snapshot.versions:
        is_idle = version.idle_s and now - max(version.last, version.since) > version.idle_s
        if version.place == "resident" and is_idle and not (version.is_pinned or version.is_held):
            return Evict(version.id, "idle")
    pools = Pools(snapshot)
    if pools.is_quiet:
        for pool in pools.all:
            if (step := pool.excess()) is not None:
                return step
    by_id = {version.id: version for version in snapshot.versions}
    waiting = [by_id[id] for id, _ in snapshot.demanded]
    served = len(waiting)
    for number, version in enumerate(waiting or snapshot.hoped):
        if all(pool.admits(part) for pool, part in pools.of(version)):
            return Admit(version.id)
        has_room = all(pool.has_room(part) for pool, part in pools.of(version))
        if waiting and not has_room and now - snapshot.demanded[number].since > PATIENCE_S:
            served = number + 1  # those that wait behind it get no room before it has some
            break
    for version in waiting:
        for pool, part in pools.of(version):
            if (refusal := pool.refusal(part)) is not None:
                return refusal
    if not pools.is_quiet:
        return None
    for version in waiting[:served]:
        going = [pool.going(part) for pool, part in pools.of(version) if not pool.admits(part)]
        if all(going):  # room in one pool is of no use without room in the others
            return Evict(going[0][0].id, "room")
        if all(pool.admits_least(part) for pool, part in pools.of(version)):
            return Admit(version.id, is_tight=True)
    if waiting:
        return None
    return _grow(pools.host) or _ahead(pools)


def would_pay(snapshot: Snapshot, versions: Sequence[Version]) -> list[tuple[ModelId, float]]:
    """Return which of these absent versions it would pay to load ahead, with the expected cost."""
    pools = Pools(snapshot)
    priced = [(version, _price(pools, version)[1]) for version in versions]
    return [(version.id, cost) for version, cost in priced if cost < version.gain]


def _grow(host: Pool) -> Evict | None:
    """Return who makes room for larger runs of another that is worth more; None = nobody need, or can."""
    snapshot, room = host.snapshot, host.room
    if snapshot.wish is None:
        return None
    wanting = next((each for each in snapshot.versions if each.id == snapshot.wish.id), None)
    if wanting is None or snapshot.wish.size <= room:
        return None
    others = [each for each in host.ripe if each.id != wanting.id and each.value < wanting.value]
    going = shares.may_go(others, host.used, snapshot.tenants, wanting)
    if not going or room + sum(each.need for each in going) < snapshot.wish.size:
        return None
    return Evict(going[0].id, "room")


def _ahead(pools: Pools) -> Step | None:
    """Return the step of the first load ahead that pays, if any does."""
    for version in pools.host.snapshot.likely:
        victims, cost = _price(pools, version)
        if cost >= version.gain:
            continue
        if victims:
            return Evict(victims[0].id, "ahead", victims[0].gain)
        return Admit(version.id, cost)
    return None


def _price(pools: Pools, version: Version) -> tuple[Sequence[Version], float]:
    """Return who would make room for a load ahead, and the seconds of waiting that it is expected to cost.

    Nobody makes room for it on a device.
    """
    host, *devices = pools.of(version)
    pool, _ = host
    cost, short = LOAD_PRICE * version.reload_s * version.priority, version.peak - pool.room
    if not pool.may_take(version, version.peak) or not all(each.has_room(part) for each, part in devices):
        return (), math.inf
    victims = []
    for other in pool.going(version):
        if short <= 0:
            break
        victims.append(other)
        cost += other.gain
        short -= other.need
    if short > 0:
        return (), math.inf
    return victims, cost
