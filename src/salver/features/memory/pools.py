"""Pools of the memory budget: the host's memory, and that of each device. Pure.

A pool is a snapshot of its own: a version on a device needs room in both, and each sees what it takes there.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from salver.features.memory import shares
from salver.features.memory.shares import Tenant
from salver.features.memory.snapshot import Evict, Refuse, Snapshot, Version
from salver.words.messages import ModelId

#: What is kept free for a version that was never measured, while others come and go: so many times its
#: estimate, and such a part of the budget at least, as a small file may need much memory to run.
DOUBT: Final = 4
DOUBTED_PART: Final = 1 / 16
#: Most that others make room for before it is loaded for somebody who waits, beyond its estimate.
MOST_DOUBT: Final = 256 << 20


def committed(snapshot: Snapshot) -> int:
    """Return the bytes that are used or promised, whichever is more.

    A version that loads counts with its peak until it is measured; one that leaves until it is gone. What
    those in memory may still grow by is not used yet.
    """
    held = loading = due = 0
    for version in snapshot.versions:
        if version.place == "loading" or version.restarts:
            loading += max(version.need, version.peak)
        elif version.place in ("resident", "leaving"):
            held += version.need
            due += version.due
    return max(snapshot.used + due, snapshot.base + held) + loading


def counted(snapshot: Snapshot) -> Iterator[tuple[Version, int]]:
    """Yield the versions in memory or on their way, with what each is counted for."""
    for version in snapshot.versions:
        if version.place == "loading":
            yield version, max(version.need, version.peak)
        elif version.place != "absent":
            yield version, version.need


class Pool:
    """One pool, and what the decision needs of it.

    Attributes:
        ripe: Versions that may make room now, the one of the least value first.
        used: Bytes of each tenant.
        room: Bytes by which versions may grow.
    """

    def __init__(self, snapshot: Snapshot, *, is_quiet: bool) -> None:
        self.snapshot, self._is_quiet = snapshot, is_quiet
        self.ripe = _ripe(snapshot)
        self.used = shares.taken(counted(snapshot))
        promised = committed(snapshot)
        free = min(snapshot.budget - promised, snapshot.largest - (promised - snapshot.used))
        self.room = free - _doubt(snapshot)

    def excess(self) -> Evict | None:
        """Return who goes because more is used than allowed; None = nobody need, or can."""
        over = self.snapshot.used - self.snapshot.budget
        if over <= 0 or not self.ripe:
            return None
        leaking = max(self.ripe, key=lambda version: version.leaked)
        if leaking.leaked >= over:  # without its leak there would be room
            return Evict(leaking.id, "over")
        beyond = shares.may_go(self.ripe, self.used, self.snapshot.tenants, None) or self.ripe
        return Evict(beyond[0].id, "over")

    def has_room(self, version: Version) -> bool:
        """Return whether a version may be loaded, but for its tenant's ceiling."""
        asked = version.peak
        if version.is_estimated and not self._is_quiet:
            asked = _doubted(version, self.snapshot)
        elif version.is_guess and self._is_demanded(version) and self.going(version):
            asked = max(asked, min(MOST_DOUBT, int(self.snapshot.budget * DOUBTED_PART)))
        return asked <= self.room

    def _is_demanded(self, version: Version) -> bool:
        return any(demand.id == version.id for demand in self.snapshot.demanded)

    def may_take(self, version: Version, size: int) -> bool:
        """Return whether the ceiling of a version's tenant allows it so many bytes more."""
        return shares.may_take(version, size, self.used, self.snapshot.tenants)

    def admits(self, version: Version) -> bool:
        """Return whether a version may be loaded now."""
        return self.has_room(version) and self.may_take(version, version.peak)

    def admits_least(self, version: Version) -> bool:
        """Return whether a version may be loaded for small runs."""
        return 0 < version.least <= self.room and self.may_take(version, version.least)

    def going(self, version: Version) -> list[Version]:
        """Return who may make room for a version, the first one first."""
        found = shares.may_go(self.ripe, self.used, self.snapshot.tenants, version)
        if not self.may_take(version, version.peak):
            return [each for each in found if each.tenant == version.tenant]  # no other's would help
        return found

    def refusal(self, version: Version) -> Refuse | None:
        """Return the refusal of a version for which there will be no room here."""
        room = None
        if self._is_quiet:
            room = self.room
        return _refusal(self.snapshot, version, room, self.used)


class Pools:
    """The pools of a snapshot: the host's, and those of devices.

    Attributes:
        is_quiet: Nothing comes or goes.
        host: That of the host.
        all: Every one.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.is_quiet = all(version.place in ("absent", "resident") for version in snapshot.versions)
        self.host = Pool(snapshot, is_quiet=self.is_quiet)
        self._devices = {
            name: Pool(_view(snapshot, name), is_quiet=self.is_quiet) for name in snapshot.devices
        }
        self.all = (self.host, *self._devices.values())

    def of(self, version: Version) -> Iterator[tuple[Pool, Version]]:
        """Yield the pools in which a version needs room, and how each sees it."""
        yield self.host, version
        for name in version.devices:
            if name in self._devices:
                yield self._devices[name], _part(version, name)


class Fit(msgspec.Struct, frozen=True):
    """Room of a pool for one more model.

    Attributes:
        largest: Bytes of the largest model that would fit now.
        most: Bytes of the largest one if all that may go had gone.
        order: Who would go, the first one first.
    """

    largest: int
    most: int
    order: Sequence[ModelId]


def fits(snapshot: Snapshot) -> dict[str, Fit]:
    """Return what still fits into each pool, by name; that of the host has none."""
    found = {}
    for pool in Pools(snapshot).all:
        going = shares.may_go(pool.ripe, pool.used, pool.snapshot.tenants, None)
        most = pool.snapshot.budget - committed(pool.snapshot) + sum(each.need for each in going)
        found[pool.snapshot.pool] = Fit(max(0, pool.room), max(0, most), [each.id for each in going])
    return found


def _view(snapshot: Snapshot, name: str) -> Snapshot:
    """Return a snapshot of one device, with the versions that have a part in it."""
    pool = snapshot.devices[name]
    versions = [_part(version, name) for version in snapshot.versions if name in version.devices]
    return Snapshot(
        snapshot.now,
        pool.budget,
        0,
        pool.used,
        versions,
        snapshot.demanded,
        tenants=pool.tenants,
        largest=pool.largest,
        pool=name,
    )


def _part(version: Version, name: str) -> Version:
    """Return a version as the pool of a device sees it."""
    part = version.devices[name]
    return msgspec.structs.replace(
        version,
        need=part.need,
        peak=part.need,
        leaked=0,
        least=part.need,
        due=part.due,
        is_estimated=part.is_estimated,
        is_guess=part.is_estimated and version.is_guess,
        share=part.share,
    )


def _refusal(
    snapshot: Snapshot, version: Version, room: int | None, used: Mapping[str, int]
) -> Refuse | None:
    """Return the refusal of a version that has no room even if all others that may go were gone.

    Args:
        room: Bytes that are free while nothing comes or goes; None = something does.
        used: Bytes of each tenant.
    """
    up = [each for each in snapshot.versions if each.place != "absent"]
    movable = sorted((each for each in up if not each.is_pinned), key=_by_value(snapshot.tenants))
    going = shares.may_go(movable, used, snapshot.tenants, version)
    gone = {each.id for each in going}
    staying = [each for each in up if each.id not in gone]
    left = snapshot.budget - snapshot.base - sum(each.need for each in staying)
    least = version.least or version.peak
    if least > left:
        return Refuse(version.id, least - left, [each.id for each in staying], pool=snapshot.pool)
    tenant = snapshot.tenants.get(version.tenant)
    if tenant is not None and tenant.ceiling:
        own = [each for each in staying if each.tenant == version.tenant]
        left = tenant.ceiling - sum(each.need for each in own)
        if least > left:
            return Refuse(version.id, least - left, [each.id for each in own], version.tenant, snapshot.pool)
    if room is not None and not any(each.place == "resident" for each in going) and least > room:
        return Refuse(version.id, least - room, [each.id for each in staying], pool=snapshot.pool)
    return None


def _doubted(version: Version, snapshot: Snapshot) -> int:
    """Return the bytes that have to be free to load a version of which nobody knows what it takes."""
    return max(DOUBT * version.peak, int(snapshot.budget * DOUBTED_PART))


def _doubt(snapshot: Snapshot) -> int:
    """Return the bytes that stay free beside loads of which nobody knows what they take."""
    loading = (each for each in snapshot.versions if each.place == "loading" and each.is_estimated)
    return sum(_doubted(each, snapshot) - each.peak for each in loading)


def _ripe(snapshot: Snapshot) -> list[Version]:
    """Return the versions that may make room now, the one of the least value first."""
    found = [
        version
        for version in snapshot.versions
        if version.place == "resident"
        and version.need
        and not (version.is_pinned or version.is_held)
        and snapshot.now - version.since >= version.min_s
    ]
    found.sort(key=_by_value(snapshot.tenants))
    return found


def _by_value(tenants: Mapping[str, Tenant]) -> Callable[[Version], tuple[float, float]]:
    """Return the order in which versions make room: by value, then by who was asked longest ago."""

    def key(version: Version) -> tuple[float, float]:
        tenant = tenants.get(version.tenant)
        weight = 1.0
        if tenant is not None:
            weight = tenant.priority
        return (version.value * weight, version.last)

    return key
