"""Pools of device memory: what versions are expected to take there, and what they were measured to take."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from salver.features.memory.estimates import estimate, parse_size, with_margin
from salver.features.memory.ports import DeviceUse, Lifecycle, Usage
from salver.features.memory.shares import Tenant
from salver.features.memory.snapshot import DevicePart, DevicePool
from salver.features.memory.states import Resident
from salver.words.artifacts import Manifest
from salver.words.errors import InvalidInput
from salver.words.sizes import told_bytes

_MIB: Final = 1 << 20
_SHARE: Final = 0.9  # of a device, for auto
#: Bytes of CUDA's context and of the libraries' own code on a device, for each process.
_CONTEXT: Final = 512 * _MIB


def name_of(gpu: int) -> str:
    """Return the name of a device's pool."""
    return f"gpu{gpu}"


def device_budgets(text: str, uses: Mapping[int, DeviceUse]) -> dict[int, int]:
    """Return the bytes of each device from ``gpu0=20GiB,gpu1=auto``; ``auto`` = nine tenths.

    Raises:
        InvalidInput: it names a device that is not there, or more than a device has, or no size.

    >>> device_budgets("gpu0=1GiB", {0: DeviceUse(8 << 30, 8 << 30, 8 << 30, {})})
    {0: 1073741824}
    """
    by_name = {name_of(gpu): gpu for gpu in uses}
    found = {}
    for part in text.split(","):
        name, _, size = map(str.strip, part.partition("="))
        if name not in by_name:
            raise InvalidInput(
                f"{part.strip()!r} names no GPU of this machine",
                field="--memory",
                fix=f"Write a size for one of: {', '.join(by_name) or 'none'}, as in 8GiB,gpu0=20GiB.",
            )
        total = uses[by_name[name]].total
        budget = int(total * _SHARE)
        if size != "auto":
            budget = parse_size(size, f"--memory {name}")
        if budget > total:
            raise InvalidInput(f"{name} has {told_bytes(total)}, not {size}", field="--memory")
        found[by_name[name]] = budget
    return found


class DevicePools:
    """Budgets of devices, and the parts of versions in them.

    Args:
        budgets: Bytes, by number of the device.
        tenants: Shares and ceilings on each device.
    """

    def __init__(
        self, budgets: Mapping[int, int] | None = None, tenants: Mapping[str, Tenant] | None = None
    ) -> None:
        self.budgets = budgets or {}
        self.tenants = tenants or {}

    def pools(self, usage: Usage) -> dict[str, DevicePool]:
        """Return the pools. What other programs use is not the server's, and lowers its budget."""
        found = {}
        for gpu, budget in self.budgets.items():
            if (use := usage.devices.get(gpu)) is None:  # not read yet
                continue
            used = sum(size for pid, size in use.processes.items() if pid in usage.hosts)
            if not use.processes:  # a container may not see them: then all of it counts as the server's
                used = use.total - use.free
            most = min(budget, used + use.free)
            found[name_of(gpu)] = DevicePool(most, used, use.largest, self.tenants)
        return found

    def expected(self, manifest: Manifest, earlier: Resident | None) -> dict[str, DevicePart]:
        """Return what a version is expected to take on devices.

        The limit of its framework, or an estimate by its files; or what the earlier version took, if more.
        """
        wish, memory = manifest.config.instances, manifest.config.memory
        each = int(memory.gpu_max_mb * _MIB) or estimate(manifest, has_framework=True).resident
        count = wish.count or len(wish.gpus)
        found = {}
        on = Counter(wish.gpus[n % len(wish.gpus)] for n in range(count) if wish.gpus)
        for gpu, instances in on.items():
            name, need = name_of(gpu), instances * (each + _CONTEXT)
            if earlier and name in earlier.devices:
                need = max(need, earlier.devices[name].need)
            if gpu in self.budgets:
                share = int(memory.gpu_share_mb * _MIB)
                found[name] = DevicePart(need, is_estimated=not memory.gpu_max_mb, share=share)
        return found

    def measure(self, residents: Iterable[Resident], lifecycle: Lifecycle, usage: Usage) -> None:
        """Note what versions take on devices. A process of which a device tells nothing keeps its estimate.

        A version keeps the most that it took, since its next largest run will take that again.
        """
        for resident in residents:
            servable = lifecycle.servable(resident.manifest.id)
            if servable is None or not resident.devices:
                continue
            for gpu, use in usage.devices.items():
                part = resident.devices.get(name_of(gpu))
                size = sum(use.processes.get(pid, 0) for pid in servable.processes)
                if part is None or not size:
                    continue
                need = with_margin(size)
                if not part.is_estimated:
                    need = max(need, part.need)
                found = DevicePart(need, need - size, share=part.share)
                resident.devices = {**resident.devices, name_of(gpu): found}
