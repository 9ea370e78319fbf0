"""Parts of the memory budget."""

import asyncio
import sys
from collections.abc import Callable, Mapping
from typing import Final

from salver.features import MemoryConfig, TenantsConfig
from salver.features.memory.devices import DevicePools, device_budgets
from salver.features.memory.estimates import parse_size
from salver.features.memory.figures import MemoryFigures
from salver.features.memory.nvidia import NvidiaDevices
from salver.features.memory.operations import operations
from salver.features.memory.ports import DeviceUse
from salver.features.memory.processes import ProcessMeter
from salver.features.memory.reserve import Reserve
from salver.features.memory.residence import Residence
from salver.features.memory.shares import Tenant
from salver.kernel.serving.loading import Additions
from salver.kernel.serving.servable import Servable
from salver.machine import bound_freed_memory, memory_bytes
from salver.parts import Kernel, Parts, Tick
from salver.words.artifacts import Manifest
from salver.words.errors import InvalidInput, Unsupported
from salver.words.sizes import told_bytes

_TICK_S: Final = 1.0
_SHARE: Final = 0.9  # of the machine: the rest is for files and others
_RESERVE, _MOST_RESERVE, _LEAST_RESERVE = 1 / 32, 1 / 8, 16 << 20
_FREED: Final = 1 / 4  # of the reserve: the rest is for what runs take meanwhile
_MIB: Final = 1 << 20


class RowLimits:
    """Limits the runs of versions where memory is short."""

    def __init__(self, residence: Residence) -> None:
        self._residence = residence

    def __repr__(self) -> str:
        return f"<RowLimits of {self._residence}>"

    async def prepare(self, manifest: Manifest) -> Callable[[Servable], None]:
        """See :class:`~salver.kernel.serving.loading.Attachment`."""
        return self._residence.attach


async def build(kernel: Kernel, config: MemoryConfig) -> Parts:
    """Keep what is loaded within a budget.

    Raises:
        InvalidInput: the budget is no size.
        Unsupported: the machine does not tell how much memory its processes use.
    """
    if sys.platform != "linux":
        raise Unsupported("a memory budget needs Linux, which tells what processes use", field="--memory")
    wished, _, devices = config.budget.partition(",")
    budget = int(memory_bytes() * _SHARE)
    if wished != "auto":
        budget = parse_size(wished, "--memory")
    forks = kernel.terms.forks
    budgets: dict[int, int] = {}
    read: Callable[[], Mapping[int, DeviceUse]] = dict
    if devices:
        read = NvidiaDevices().read
        budgets = device_budgets(devices, await asyncio.to_thread(read))
    meter = ProcessMeter(lambda: () if forks is None else forks.pids, read)
    residence = Residence(budget, kernel.models, kernel.clock, meter, kernel.plane.refresh)
    reserve = max(_LEAST_RESERVE, int(budget * _RESERVE))
    residence.reserve = Reserve(reserve, int(budget * _MOST_RESERVE))
    bound_freed_memory(int(reserve * _FREED))
    tenants = kernel.config.table("tenants", TenantsConfig)
    residence.tenants = tenants_of(tenants, budget - reserve)
    if budgets:
        residence.pools = DevicePools(budgets, tenants_of(tenants, min(budgets.values()), on_devices=True))
    return Parts(
        additions=Additions(attachments=[RowLimits(residence)]),
        observers=[residence],
        collectors=[MemoryFigures(residence)],
        operations=operations(residence, kernel.state.cache),
        residence=residence,
        ticks=[Tick("memory", _TICK_S, residence.tick)],
        prepare=residence.begin,
        stop=residence.close,
    )


def tenants_of(config: TenantsConfig, budget: int, *, on_devices: bool = False) -> dict[str, Tenant]:
    """Return the tenants of a configuration.

    Args:
        on_devices: As the pool of each device has them, the smallest of which has that budget.

    Raises:
        InvalidInput: their shares are more than the budget.
    """
    tenants = {}
    for name, each in config.memory.items():
        share, most = each.share_mb, each.max_mb
        if on_devices:
            share, most = each.gpu_share_mb, each.gpu_max_mb
        tenants[name] = Tenant(int(share * _MIB), int(most * _MIB), each.priority)
    shares = sum(tenant.share for tenant in tenants.values())
    if shares > budget:
        raise InvalidInput(
            f"the tenants' shares are {told_bytes(shares)} together, and the budget has {told_bytes(budget)}",
            field="tenants.memory",
        )
    return tenants
