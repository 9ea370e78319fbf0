"""Decisions of the memory budget: the next step from a snapshot. Pure.

The whole state goes in, one step comes out, and the caller asks again once it is done; a step that is lost
costs a turn and nothing else. Versions make room by value density: reload time times request rate times
priority, for each byte, which is the greedy rule for fractional knapsacks.
"""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import msgspec

from salver.words.messages import ModelId

#: Seconds for which a version that waits for much room lets others pass that need less.
PATIENCE_S: Final = 1.0
Place = Literal["absent", "loading", "resident", "leaving"]


class Version(msgspec.Struct, frozen=True):
    """One version as the budget sees it.

    Attributes:
        need: Bytes that it takes in memory, by measurement or estimate.
        peak: The most while it loads.
        is_pinned: It never makes room.
        is_held: Requests use it, or another resident version needs it.
        since: When it came into memory.
        last: When it was asked last.
        rate: Requests per second, lately.
        reload_s: Seconds that loading takes.
        priority: Weight of its value.
        idle_s: Seconds without a request after which it goes; 0 = it stays.
        min_s: Seconds for which it stays at least.
    """

    id: ModelId
    place: Place
    need: int
    peak: int
    is_pinned: bool = False
    is_held: bool = False
    since: float = 0.0
    last: float = 0.0
    rate: float = 0.0
    reload_s: float = 1.0
    priority: float = 1.0
    idle_s: float = 0.0
    min_s: float = 0.0

    @property
    def value(self) -> float:
        """Value density: what it would cost to do without it, for each byte."""
        return self.reload_s * self.rate * self.priority / max(1, self.need)


class Demand(NamedTuple):
    """Version that requests wait for, since a time."""

    id: ModelId
    since: float


class Snapshot(msgspec.Struct, frozen=True):
    """State of the budget.

    Attributes:
        budget: Bytes that the server may use.
        base: Bytes of the server without its versions.
        used: Bytes that are used now, by measurement.
        demanded: Absent versions that requests wait for, the one that waits longest first.
        hoped: Absent versions that are loaded if there is room, without anybody making it.
    """

    now: float
    budget: int
    base: int
    used: int
    versions: Sequence[Version]
    demanded: Sequence[Demand] = ()
    hoped: Sequence[ModelId] = ()


class Admit(msgspec.Struct, frozen=True):
    """Step: load this version."""

    id: ModelId


class Evict(msgspec.Struct, frozen=True):
    """Step: unload this version.

    Attributes:
        why: ``room`` = another needs its memory, ``idle`` = nobody asked it, ``over`` = more memory is used
            than allowed.
    """

    id: ModelId
    why: Literal["room", "idle", "over"]


class Refuse(msgspec.Struct, frozen=True):
    """Step: tell those who wait for this version that there is no room.

    Attributes:
        short: Bytes that are missing even if all that may go were gone.
        pinned: Versions that would have to go, and may not.
    """

    id: ModelId
    short: int
    pinned: Sequence[ModelId]


Step = Admit | Evict | Refuse


def committed(snapshot: Snapshot) -> int:
    """Return the bytes that are used or promised, whichever is more.

    A version that loads counts with its peak until it is measured; one that leaves until it is gone.
    """
    held = loading = 0
    for version in snapshot.versions:
        if version.place in ("resident", "leaving"):
            held += version.need
        elif version.place == "loading":
            loading += max(version.need, version.peak)
    return max(snapshot.used, snapshot.base + held) + loading


def next_step(snapshot: Snapshot) -> Step | None:
    """Return the step that is due now; None = nothing, or something must end first."""
    now = snapshot.now
    resident = [version for version in snapshot.versions if version.place == "resident"]
    free = [version for version in resident if not (version.is_pinned or version.is_held)]
    for version in free:
        if version.idle_s and now - max(version.last, version.since) > version.idle_s:
            return Evict(version.id, "idle")
    ripe = [version for version in free if version.need and now - version.since >= version.min_s]
    ripe.sort(key=lambda version: (version.value, version.last))
    is_quiet = all(version.place in ("absent", "resident") for version in snapshot.versions)
    may_go = any(not version.is_pinned for version in resident)
    if snapshot.used > snapshot.budget and ripe and is_quiet:
        return Evict(ripe[0].id, "over")
    room = snapshot.budget - committed(snapshot)
    by_id = {version.id: version for version in snapshot.versions}
    waiting = [by_id[id] for id, _ in snapshot.demanded]
    for version, (id, since) in zip(waiting, snapshot.demanded, strict=True):
        if version.peak <= room:
            return Admit(id)
        if now - since > PATIENCE_S:
            break
    for version in waiting:
        refusal = _refusal(snapshot, version)
        if refusal is None and is_quiet and not may_go:
            refusal = Refuse(version.id, version.peak - room, _pinned(snapshot))
        if refusal is not None:
            return refusal
    if waiting and is_quiet and ripe:
        return Evict(ripe[0].id, "room")
    if not waiting:
        for id in snapshot.hoped:
            if by_id[id].peak <= room:
                return Admit(id)
    return None


def _refusal(snapshot: Snapshot, version: Version) -> Refuse | None:
    """Return the refusal of a version that has no room even if all others that may go were gone."""
    pinned = _pinned(snapshot)
    needs = {other.id: other.need for other in snapshot.versions}
    left = snapshot.budget - snapshot.base - sum(needs[id] for id in pinned)
    if version.peak <= left:
        return None
    return Refuse(version.id, version.peak - left, pinned)


def _pinned(snapshot: Snapshot) -> list[ModelId]:
    return [version.id for version in snapshot.versions if version.is_pinned and version.place != "absent"]
