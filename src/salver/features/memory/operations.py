"""Operation of the management interface that tells what is in memory."""

from collections import Counter
from collections.abc import Callable
from typing import Literal

import msgspec

from salver.features.memory.pools import fits
from salver.features.memory.residence import Residence
from salver.features.memory.states import Resident
from salver.kernel.serving.present import CacheUse
from salver.transport.operations import Answer, ApiRequest, Operation


class MemoryRow(msgspec.Struct, frozen=True):
    """One wanted version.

    Attributes:
        place: ``absent``, ``loading``, ``resident`` or ``leaving``.
        bytes: What it takes in memory, or would take.
        is_measured: ``bytes`` was measured; else estimated by format and size on disk.
        residence: Wish of its configuration: ``eager``, ``lazy`` or ``pinned``.
        stays: Why it never makes room; empty = it may.
        rate: Requests per second, with a half-life of ten minutes.
        idle_seconds: Time since its last request, or since it came.
        reload_seconds: Time of its last load.
        why: Why it was unloaded last; empty = it never was.
        weights: Bytes of its files.
        activations: Part of ``bytes`` by which it has grown while it answered.
        rows: Rows of its largest run so far.
        activations_most: What they would be at the largest run that its configuration allows.
        most_rows: Rows of a run that it may do now.
        tenant: Who owns it.
        devices: Bytes that it takes on devices with a pool, or would take, by their names.
    """

    model: str
    version: str
    place: str
    bytes: int
    is_measured: bool
    residence: str
    stays: str
    rate: float
    idle_seconds: float
    reload_seconds: float
    loads: int
    evictions: int
    why: str
    weights: int = 0
    activations: int = 0
    rows: int = 0
    activations_most: int = 0
    most_rows: int = 1
    tenant: str = ""
    devices: dict[str, int] = {}


class TenantRow(msgspec.Struct, frozen=True):
    """Part of the budget of one tenant.

    Attributes:
        bytes: What its models take, or are about to.
        share: Bytes that others leave it.
        ceiling: Bytes that it may take; 0 = the whole budget.
    """

    tenant: str
    bytes: int
    share: int
    ceiling: int


class PoolRow(msgspec.Struct, frozen=True):
    """Memory of which there is a budget.

    Attributes:
        pool: ``host`` or the name of a device.
        budget, used: Bytes that the server may use there, and uses.
        largest: Bytes of the largest model that would fit now.
        most: Bytes of the largest one if all that may go had gone.
        order: Versions that may go, in the order in which they would.
    """

    pool: str
    budget: int
    used: int
    largest: int
    most: int
    order: list[str]


class AheadRow(msgspec.Struct, frozen=True):
    """Loads ahead by one source of forecasts.

    Attributes:
        source: ``gaps`` = pauses between requests, ``day`` = time of the day, ``co-access`` = models that are
            asked soon after another one.
        is_on: It loads ahead; a source that has cost more than it has saved is switched off.
        used, unused: Loads that were asked for in time, or not.
        saved, spent: Seconds of waiting that they have saved, and cost.
    """

    source: str
    is_on: bool
    used: int
    unused: int
    saved: float
    spent: float


class MemoryState(msgspec.Struct, frozen=True):
    """Memory of a server with a budget.

    Attributes:
        budget, used: Bytes that it may use, and uses with its processes (proportional set size).
        base: Bytes of the server without models.
        refusals: Demands without room, since the start.
        tenants: Those that the configuration names.
        ahead: Loads ahead, by source.
        rest: Bytes in use that belong to no model: allocators' reserves, caches, requests, frameworks.
        cache: Of these, what the response cache says that it takes.
        pools: The host's memory and that of devices, and what would still fit.
        reserve: Bytes of the budget that no model is given: for requests, and what runs take for a moment.
    """

    budget: int
    used: int
    base: int
    refusals: int
    models: list[MemoryRow]
    tenants: list[TenantRow] = []
    rest: int = 0
    ahead: list[AheadRow] = []
    cache: int = 0
    pools: list[PoolRow] = []
    reserve: int = 0


def operations(residence: Residence, cache: Callable[[], CacheUse | None]) -> list[Operation]:
    """Return the operations."""

    async def tell(asked: ApiRequest) -> Answer:
        now = residence.now()
        rows = [_row(each, now) for each in residence.residents.all.values()]
        rows.sort(key=lambda row: (row.model, row.version))
        held = sum(row.bytes for row in rows if row.place != "absent")
        rest = max(0, residence.used - residence.base - held)
        found = MemoryState(
            residence.budget, residence.used, residence.base, residence.refusals, rows,
            _tenants(residence), rest, _ahead(residence), _cached(cache()),
            _pools(residence), residence.reserve.bytes,
        )  # fmt: skip
        return Answer(found)

    verb: Literal["GET"] = "GET"
    summary = "What is in memory, what is not, and why"
    return [Operation("memory", verb, "/memory", summary, tell, MemoryState, right="read")]


def _cached(use: CacheUse | None) -> int:
    if use is None or use.facts is None:
        return 0
    return use.facts.bytes


def _pools(residence: Residence) -> list[PoolRow]:
    snapshot = residence.snapshot()
    sizes = {"": (snapshot.budget, snapshot.used)}
    sizes |= {name: (pool.budget, pool.used) for name, pool in snapshot.devices.items()}
    return [
        PoolRow(name or "host", *sizes[name], fit.largest, fit.most, list(map(str, fit.order)))
        for name, fit in fits(snapshot).items()
    ]


def _ahead(residence: Residence) -> list[AheadRow]:
    return [
        AheadRow(source, each.is_on, each.used, each.unused, round(each.saved, 3), round(each.spent, 3))
        for source, each in residence.ahead.bets.accounts.items()
    ]


def _tenants(residence: Residence) -> list[TenantRow]:
    used: Counter[str] = Counter()
    for each in residence.residents.all.values():
        if each.place != "absent":
            used[each.manifest.config.memory.tenant] += each.bytes
    return [
        TenantRow(name, used[name], tenant.share, tenant.ceiling)
        for name, tenant in sorted(residence.tenants.items())
    ]


def _row(each: Resident, now: float) -> MemoryRow:
    id = each.manifest.id
    return MemoryRow(
        id.name,
        id.version,
        each.place,
        each.bytes,
        each.is_measured,
        each.manifest.config.memory.residence,
        each.stays,
        round(each.rate(now), 6),
        round(now - each.last, 3),
        round(each.reload_s, 3),
        each.loads,
        each.evictions,
        each.why,
        each.manifest.bytes,
        each.activations.bytes,
        max(each.activations.points, default=0),
        each.activations.at(each.largest),
        each.limit,
        each.manifest.config.memory.tenant,
        {name: part.need for name, part in each.devices.items()},
    )
