"""Decisions of the memory budget: the next step from a snapshot. Pure.

The whole state goes in, one step comes out, and the caller asks again once it is done; a step that is lost
costs a turn and nothing else. Versions make room by value density: reload time times request rate times
priority, for each byte, which is the greedy rule for fractional knapsacks.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple

import msgspec

from salver.features.memory import shares
from salver.features.memory.shares import Tenant
from salver.words.messages import ModelId

#: Seconds for which a version that waits for much room lets others pass that need less.
PATIENCE_S: Final = 1.0
#: Price of a load, in parts of its time: it takes CPU and disk from requests, and memory for a moment.
LOAD_PRICE: Final = 0.2
#: What is kept free for a version that was never measured, by its estimate, while others come and go.
DOUBT: Final = 4
Place = Literal["absent", "loading", "resident", "leaving"]


class Version(msgspec.Struct, frozen=True):
    """One version as the budget sees it.

    Attributes:
        need: Bytes that it takes in memory, by measurement or estimate.
        peak: The most while it loads, or once it has grown as it did before.
        leaked: Part of ``need`` that it has grown by without a reason.
        least: What it cannot do without, with small runs; 0 = ``peak``.
        due: Part of ``need`` by which it has not grown yet.
        restarts: A host process of it has died, and is loaded again whatever is decided here.
        is_estimated: ``need`` and ``peak`` are estimates, which a load that has nothing beside it corrects.
        is_pinned: It never makes room.
        is_held: Requests use it, or another resident version needs it.
        since: When it came into memory.
        last: When it was asked last.
        rate: Requests per second that are expected.
        chance: Probability that it is asked within the horizon of a load ahead.
        reload_s: Seconds that loading takes.
        priority: Weight of its value.
        idle_s: Seconds without a request after which it goes; 0 = it stays.
        min_s: Seconds for which it stays at least.
        tenant: Who owns it (``salver.features.memory.shares``); empty = nobody.
        share: Bytes that others leave it.
    """

    id: ModelId
    place: Place
    need: int
    peak: int
    leaked: int = 0
    least: int = 0
    due: int = 0
    is_pinned: bool = False
    is_held: bool = False
    restarts: bool = False
    is_estimated: bool = False
    since: float = 0.0
    last: float = 0.0
    rate: float = 0.0
    chance: float = 0.0
    reload_s: float = 1.0
    priority: float = 1.0
    idle_s: float = 0.0
    min_s: float = 0.0
    tenant: str = ""
    share: int = 0

    @property
    def value(self) -> float:
        """Value density: what it would cost to do without it, for each byte."""
        return self.reload_s * self.rate * self.priority / max(1, self.need)

    @property
    def gain(self) -> float:
        """Seconds of waiting that it saves within the horizon if it is in memory."""
        return self.chance * self.reload_s * self.priority


class Demand(NamedTuple):
    """Version that requests wait for, since a time."""

    id: ModelId
    since: float


class GrowthDemand(NamedTuple):
    """Version in memory that wants to do larger runs, and the bytes that these are expected to take."""

    id: ModelId
    size: int


class Snapshot(msgspec.Struct, frozen=True):
    """State of the budget.

    Attributes:
        budget: Bytes that the server may use.
        base: Bytes of the server without its versions.
        used: Bytes that are used now, by measurement.
        tenants: Shares and ceilings.
        versions: Those in memory, on their way, or demanded.
        demanded: Absent versions that requests wait for, the one that waits longest first.
        hoped: In the order in which they are loaded.
        likely: Absent versions that may be asked soon, the one with the largest gain first.
        wish: Larger runs that there was no room for; None = there are none.
    """

    now: float
    budget: int
    base: int
    used: int
    versions: Sequence[Version]
    demanded: Sequence[Demand] = ()
    hoped: Iterable[Version] = ()
    tenants: Mapping[str, Tenant] = {}
    likely: Sequence[Version] = ()
    wish: GrowthDemand | None = None


class Admit(msgspec.Struct, frozen=True):
    """Step: load this version.

    Attributes:
        ahead: Seconds of waiting that loading it before anybody asks is expected to cost; None = somebody
            does, or it is hoped for.
        is_tight: There is room for small runs only.
    """

    id: ModelId
    ahead: float | None = None
    is_tight: bool = False


class Evict(msgspec.Struct, frozen=True):
    """Step: unload this version.

    Attributes:
        why: ``room`` = another needs its memory, ``idle`` = nobody asked it, ``over`` = more memory is used
            than allowed, ``ahead`` = another is likelier to be asked.
        cost: Seconds of waiting that doing without it is expected to cost, for a load ahead.
    """

    id: ModelId
    why: Literal["room", "idle", "over", "ahead"]
    cost: float = 0.0


class Refuse(msgspec.Struct, frozen=True):
    """Step: tell those who wait for this version that there is no room.

    Attributes:
        short: Bytes that are missing even if all that may go were gone.
        pinned: Versions that would have to go, and may not.
        tenant: Whose ceiling leaves no room; empty = it is the budget that does not.
    """

    id: ModelId
    short: int
    pinned: Sequence[ModelId]
    tenant: str = ""


Step = Admit | Evict | Refuse


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


def next_step(snapshot: Snapshot) -> Step | None:
    """Return the step that is due now; None = nothing, or something must end first."""
    now = snapshot.now
    resident = [version for version in snapshot.versions if version.place == "resident"]
    for version in resident:
        is_idle = version.idle_s and now - max(version.last, version.since) > version.idle_s
        if is_idle and not (version.is_pinned or version.is_held):
            return Evict(version.id, "idle")
    ripe = _ripe(snapshot)
    is_quiet = all(version.place in ("absent", "resident") for version in snapshot.versions)
    used = shares.taken(counted(snapshot))
    over = snapshot.used - snapshot.budget
    if over > 0 and ripe and is_quiet:
        leaking = max(ripe, key=lambda version: version.leaked)
        if leaking.leaked >= over:  # without its leak there would be room
            return Evict(leaking.id, "over")
        beyond = shares.may_go(ripe, used, snapshot.tenants, None) or ripe
        return Evict(beyond[0].id, "over")
    room = snapshot.budget - committed(snapshot) - _doubt(snapshot)
    by_id = {version.id: version for version in snapshot.versions}
    waiting = [by_id[id] for id, _ in snapshot.demanded]
    served = len(waiting)
    for number, version in enumerate(waiting or snapshot.hoped):
        asks = _asks(version, is_alone=is_quiet)
        if asks <= room and shares.may_take(version, version.peak, used, snapshot.tenants):
            return Admit(version.id)
        if waiting and asks > room and now - snapshot.demanded[number].since > PATIENCE_S:
            served = number + 1  # those that wait behind it get no room before it has some
            break
    for version in waiting:
        refusal = _refusal(snapshot, version, room if is_quiet else None, used)
        if refusal is not None:
            return refusal
    if is_quiet:
        for version in waiting[:served]:
            going = shares.may_go(ripe, used, snapshot.tenants, version)
            if not shares.may_take(version, version.peak, used, snapshot.tenants):
                going = [each for each in going if each.tenant == version.tenant]  # no other's would help
            if going:
                return Evict(going[0].id, "room")
            if 0 < version.least <= room and shares.may_take(version, version.least, used, snapshot.tenants):
                return Admit(version.id, is_tight=True)
        if not waiting:
            return _grow(snapshot, ripe, room, used) or _ahead(snapshot, room, used)
    return None


def _grow(snapshot: Snapshot, ripe: Sequence[Version], room: int, used: Mapping[str, int]) -> Evict | None:
    """Return who makes room for larger runs of another that is worth more; None = nobody need, or can."""
    if snapshot.wish is None:
        return None
    wanting = next((each for each in snapshot.versions if each.id == snapshot.wish.id), None)
    if wanting is None or snapshot.wish.size <= room:
        return None
    others = [each for each in ripe if each.id != wanting.id and each.value < wanting.value]
    going = shares.may_go(others, used, snapshot.tenants, wanting)
    if not going or room + sum(each.need for each in going) < snapshot.wish.size:
        return None
    return Evict(going[0].id, "room")


def _asks(version: Version, *, is_alone: bool) -> int:
    """Return the bytes that have to be free for a load to begin."""
    if version.is_estimated and not is_alone:
        return DOUBT * version.peak
    return version.peak


def _doubt(snapshot: Snapshot) -> int:
    """Return the bytes that stay free beside loads of which nobody knows what they take."""
    loading = (each for each in snapshot.versions if each.place == "loading" and each.is_estimated)
    return (DOUBT - 1) * sum(each.peak for each in loading)


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


def _ahead(snapshot: Snapshot, room: int, used: Mapping[str, int]) -> Step | None:
    """Return the step of the first load ahead that pays, if any does."""
    for version in snapshot.likely:
        victims, cost = _price(snapshot, version, room, used)
        if cost >= version.gain:
            continue
        if victims:
            return Evict(victims[0].id, "ahead", victims[0].gain)
        return Admit(version.id, cost)
    return None


def would_pay(snapshot: Snapshot, versions: Sequence[Version]) -> list[tuple[ModelId, float]]:
    """Return which of these absent versions it would pay to load ahead, with the expected cost."""
    room, used = snapshot.budget - committed(snapshot), shares.taken(counted(snapshot))
    priced = [(version, _price(snapshot, version, room, used)[1]) for version in versions]
    return [(version.id, cost) for version, cost in priced if cost < version.gain]


def _price(
    snapshot: Snapshot, version: Version, room: int, used: Mapping[str, int]
) -> tuple[Sequence[Version], float]:
    """Return who would make room for a load ahead, and the seconds of waiting that it is expected to cost."""
    cost, short = LOAD_PRICE * version.reload_s * version.priority, version.peak - room
    if not shares.may_take(version, version.peak, used, snapshot.tenants):
        return (), math.inf
    victims = []
    for other in shares.may_go(_ripe(snapshot), used, snapshot.tenants, version):
        if short <= 0:
            break
        victims.append(other)
        cost += other.gain
        short -= other.need
    if short > 0:
        return (), math.inf
    return victims, cost


def _by_value(tenants: Mapping[str, Tenant]) -> Callable[[Version], tuple[float, float]]:
    """Return the order in which versions make room: by value, then by who was asked longest ago."""

    def key(version: Version) -> tuple[float, float]:
        tenant = tenants.get(version.tenant)
        weight = 1.0
        if tenant is not None:
            weight = tenant.priority
        return (version.value * weight, version.last)

    return key


def counted(snapshot: Snapshot) -> Iterator[tuple[Version, int]]:
    """Yield the versions in memory or on their way, with what each is counted for."""
    for version in snapshot.versions:
        if version.place == "loading":
            yield version, max(version.need, version.peak)
        elif version.place != "absent":
            yield version, version.need


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
        return Refuse(version.id, least - left, [each.id for each in staying])
    tenant = snapshot.tenants.get(version.tenant)
    if tenant is not None and tenant.ceiling:
        own = [each for each in staying if each.tenant == version.tenant]
        left = tenant.ceiling - sum(each.need for each in own)
        if least > left:
            return Refuse(version.id, least - left, [each.id for each in own], version.tenant)
    if room is not None and not any(each.place == "resident" for each in going) and least > room:
        return Refuse(version.id, least - room, [each.id for each in staying])
    return None
