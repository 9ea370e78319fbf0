"""State of the memory budget as the policy sees it, and its steps. Records only."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from salver.features.memory.shares import Tenant
from salver.words.messages import ModelId

Place = Literal["absent", "loading", "resident", "leaving"]


class DevicePart(msgspec.Struct, frozen=True):
    """Part of a version on a device; attributes as of :class:`Version`."""

    need: int
    due: int = 0
    is_estimated: bool = False
    share: int = 0


class DevicePool(msgspec.Struct, frozen=True):
    """Memory of a device.

    Attributes:
        budget: Bytes that the server may use.
        used: Bytes that it uses now, by measurement.
        largest: Bytes of the largest piece that is free.
        tenants: Shares and ceilings there.
    """

    budget: int
    used: int
    largest: int
    tenants: Mapping[str, Tenant] = {}


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
        is_guess: They follow from its format and size alone: no earlier version of the model was measured.
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
        devices: What it takes on devices, by their names.
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
    is_guess: bool = False
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
    devices: Mapping[str, DevicePart] = {}

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
        devices: Pools of devices, by name.
        largest: Bytes of the largest piece that is free.
        pool: Name of the device that this is a view of; empty = it is the host's memory.
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
    devices: Mapping[str, DevicePool] = {}
    largest: int = sys.maxsize
    pool: str = ""


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
        pool: Device that has no room; empty = the host has none.
    """

    id: ModelId
    short: int
    pinned: Sequence[ModelId]
    tenant: str = ""
    pool: str = ""


Step = Admit | Evict | Refuse
