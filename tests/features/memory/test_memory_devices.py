"""Pools of devices: tables, any interleaving on simulated devices, and what the system tells of real ones."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace
from simulated_device import SimulatedDevice

from salver.features import MemoryConfig
from salver.features.memory.building import build
from salver.features.memory.devices import DevicePools, device_budgets
from salver.features.memory.nvidia import NvidiaDevices
from salver.features.memory.policy import next_step
from salver.features.memory.pools import fits
from salver.features.memory.ports import DeviceUse, Usage, Use
from salver.features.memory.shares import Tenant
from salver.features.memory.snapshot import (
    Admit,
    Demand,
    DevicePart,
    DevicePool,
    Evict,
    Place,
    Refuse,
    Snapshot,
    Step,
    Version,
)
from salver.features.memory.states import Resident
from salver.words.artifacts import Instances, Manifest, Memory, ModelConfig
from salver.words.errors import InvalidInput, Unsupported
from salver.words.messages import ModelId

MIB = 1 << 20


def version(name: str, place: Place = "resident", need: int = 10, **more: Any) -> Version:
    """A version that takes ``need`` of the host, and of devices as named."""
    gpus = {gpu: more.pop(gpu) for gpu in ("gpu0", "gpu1") if gpu in more}
    parts: dict[str, DevicePart] = {
        gpu: part if isinstance(part, DevicePart) else DevicePart(part) for gpu, part in gpus.items()
    }
    return Version(ModelId(name, "1"), place, need, need, devices=parts, **more)


def snapshot(
    *versions: Version, demanded: str = "", hoped: str = "", used: int = 0, largest: int = 99
) -> Snapshot:
    return Snapshot(
        1000.0,
        100,
        20,
        0,
        versions,
        [Demand(ModelId(name, "1"), 1000.0) for name in demanded],
        [each for name in hoped for each in versions if each.id.name == name],
        likely=[each for each in versions if each.place == "absent" and each.chance],
        devices={
            "gpu0": DevicePool(50, used, largest, {"t": Tenant(share=30, ceiling=40)}),
            "gpu1": DevicePool(50, 0, 50),
        },
    )


def id_of(name: str) -> ModelId:
    return ModelId(name, "1")


A = version("a", "absent", gpu0=30)
CASES: dict[str, tuple[Snapshot, Step | None]] = {
    "room in both": (snapshot(A, demanded="a"), Admit(id_of("a"))),
    "a device that has no pool does not count": (
        snapshot(replace(A, devices={"gpu7": DevicePart(900)}), demanded="a"), Admit(id_of("a"))),
    "one that is on it goes": (
        snapshot(A, version("b", gpu0=30), version("c", need=1), demanded="a", used=30),
        Evict(id_of("b"), "room")),
    "by value of a byte there": (
        snapshot(version("a", "absent", gpu0=15), version("b", need=40, gpu0=10, rate=1.0),
                 version("c", need=10, gpu0=30, rate=2.0), demanded="a"),
        Evict(id_of("c"), "room")),
    "nobody goes who takes nothing of it": (
        snapshot(A, version("b", gpu0=30, is_held=True), version("c"), demanded="a"), None),
    "nor where another pool has no room anyway": (
        snapshot(version("a", "absent", 10, gpu0=30, gpu1=30), version("b", gpu0=30),
                 version("c", gpu1=30, is_held=True), demanded="a"), None),
    "the host is short, the device is not": (
        snapshot(version("a", "absent", 40, gpu0=10), version("b", need=30, gpu0=10),
                 version("c", need=30, rate=1.0), demanded="a"),
        Evict(id_of("b"), "room")),
    "it can never fit there": (
        snapshot(version("a", "absent", gpu0=60), demanded="a"), Refuse(id_of("a"), 10, [], pool="gpu0")),
    "what stays keeps it out": (
        snapshot(A, version("b", gpu0=30, is_pinned=True), demanded="a"),
        Refuse(id_of("a"), 10, [id_of("b")], pool="gpu0")),
    "what others leave free is in pieces": (
        snapshot(A, version("b", gpu0=10), demanded="a", used=10, largest=20), Evict(id_of("b"), "room")),
    "and nobody is left to go": (
        snapshot(A, demanded="a", largest=20), Refuse(id_of("a"), 10, [], pool="gpu0")),
    "a promise that is not taken yet counts": (
        snapshot(A, version("b", gpu0=DevicePart(30, due=25)), demanded="a", used=5),
        Evict(id_of("b"), "room")),
    "and may be taken from the largest piece": (
        snapshot(A, version("b", gpu0=DevicePart(10, due=10)), demanded="a", largest=35),
        Evict(id_of("b"), "room")),
    "a load counts": (snapshot(A, version("b", "loading", gpu0=30), demanded="a"), None),
    "hope makes no room": (snapshot(A, version("b", gpu0=30), hoped="a"), None),
    "but does not keep others out": (
        snapshot(A, version("b", gpu0=30), version("c", "absent"), hoped="ac"), Admit(id_of("c"))),
    "more is used than allowed": (
        snapshot(version("b", need=90), version("c", gpu0=60), used=60), Evict(id_of("c"), "over")),
    "likely, and room on the device": (
        snapshot(version("a", "absent", gpu0=30, chance=0.9)), Admit(id_of("a"), 0.2)),
    "nobody goes for it there": (
        snapshot(version("a", "absent", gpu0=30, chance=0.9), version("b", gpu0=30)), None),
    "a tenant's share": (
        snapshot(A, version("b", gpu0=20, tenant="t"), version("c", gpu0=10, rate=9.0), demanded="a"),
        Evict(id_of("c"), "room")),
    "a tenant's ceiling": (
        snapshot(version("a", "absent", gpu0=45, tenant="t"), demanded="a"),
        Refuse(id_of("a"), 5, [], "t", "gpu0")),
    "a model's share": (
        snapshot(A, version("b", gpu0=DevicePart(20, share=20)), version("c", gpu0=10, rate=9.0),
                 demanded="a"),
        Evict(id_of("c"), "room")),
    "an estimate is doubted beside others": (
        snapshot(version("a", "absent", gpu0=DevicePart(12, is_estimated=True)),
                 version("b", "loading", gpu0=5), demanded="a"), None),
    "a first load asks for more than its estimate": (
        snapshot(version("a", "absent", gpu0=DevicePart(1, is_estimated=True), is_guess=True),
                 version("b", gpu0=48), demanded="a"), Evict(id_of("b"), "room")),
    "unless an earlier version was measured": (
        snapshot(version("a", "absent", gpu0=DevicePart(1, is_estimated=True)),
                 version("b", gpu0=48), demanded="a"), Admit(id_of("a"))),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_next_step(case: str) -> None:
    found, wanted = CASES[case]
    assert next_step(found) == wanted


def test_what_still_fits() -> None:
    up = version("b", gpu0=20, rate=1.0), version("c", gpu0=10), version("d", gpu0=5, is_pinned=True)
    found = fits(snapshot(*up, used=35, largest=12))
    assert (found["gpu0"].largest, found["gpu0"].most) == (12, 45)
    assert found["gpu0"].order == [id_of("c"), id_of("b")]
    assert (found["gpu1"].largest, found["gpu1"].most, found[""].largest) == (50, 50, 50)


OTHERS = 100  # from here on, ids of processes that are not the server's
BUDGETS = {"gpu0": 700, "gpu1": 300}


class Devices(RuleBasedStateMachine):
    """Loads, failures, growth, ends and other programs, on devices that fragment.

    A process takes its memory in pieces, whenever it likes between its load and its end. Each must find room,
    so that no load fails for want of memory, and no pool is exceeded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.devices = {"gpu0": SimulatedDevice(1000), "gpu1": SimulatedDevice(300)}
        self.versions: dict[ModelId, Version] = {}
        self.pids: dict[ModelId, int] = {}
        self.left: dict[tuple[ModelId, str], int] = {}  # bytes that a process may still take
        self.demanded: list[ModelId] = []

    @initialize(sizes=st.lists(st.sampled_from([50, 100, 200, 250]), max_size=4))
    def begin(self, sizes: list[int]) -> None:
        """Other programs have some of it, with holes between."""
        for number, size in enumerate(sizes):
            self.devices["gpu0"].take(OTHERS + number % 2, size)
        self.devices["gpu0"].free(OTHERS)

    def used(self, gpu: str) -> int:
        own = self.devices[gpu].use().processes
        return sum(size for pid, size in own.items() if pid < OTHERS)

    def chosen(self, data: st.DataObject, place: Place) -> ModelId:
        return data.draw(st.sampled_from([id for id, each in self.versions.items() if each.place == place]))

    def has(self, place: Place) -> bool:
        return any(each.place == place for each in self.versions.values())

    def move(self, id: ModelId, place: Place) -> None:
        self.versions[id] = replace(self.versions[id], place=place, since=self.now, last=self.now)

    @rule(
        need=st.integers(1, 300),
        parts=st.dictionaries(st.sampled_from(["gpu0", "gpu1"]), st.integers(1, 600), min_size=1),
        is_estimated=st.booleans(),
        is_pinned=st.sampled_from([False, False, False, True]),
        chance=st.sampled_from([0.0, 0.9]),
    )
    @precondition(lambda self: len(self.versions) < 8)
    def arrive(
        self, need: int, parts: dict[str, int], is_estimated: bool, is_pinned: bool, chance: float
    ) -> None:
        id = ModelId(f"m{len(self.versions)}", "1")
        found = {gpu: DevicePart(size, is_estimated=is_estimated) for gpu, size in parts.items()}
        self.pids[id] = len(self.versions)
        self.versions[id] = Version(
            id, "absent", need, need, is_pinned=is_pinned, min_s=5.0, chance=chance, devices=found
        )

    @rule(data=st.data())
    @precondition(lambda self: self.has("absent"))
    def demand(self, data: st.DataObject) -> None:
        id = self.chosen(data, "absent")
        if id not in self.demanded:
            self.demanded.append(id)

    @rule(data=st.data(), share=st.floats(0, 1))
    @precondition(lambda self: any(self.left.values()))
    def take(self, data: st.DataObject, share: float) -> None:
        """A process takes memory, while it loads or for a larger run."""
        id, gpu = data.draw(st.sampled_from([key for key, left in self.left.items() if left]))
        size = max(1, int(self.left[id, gpu] * share))
        assert self.devices[gpu].take(self.pids[id], size)
        self.left[id, gpu] -= size
        self.measure(id)

    def measure(self, id: ModelId) -> None:
        each = self.versions[id]
        if each.place != "loading":
            parts = {gpu: DevicePart(part.need, self.left[id, gpu]) for gpu, part in each.devices.items()}
            self.versions[id] = replace(each, devices=parts)

    @rule(data=st.data(), is_loaded=st.booleans())
    @precondition(lambda self: self.has("loading"))
    def end_of_load(self, data: st.DataObject, is_loaded: bool) -> None:
        id = self.chosen(data, "loading")
        self.move(id, "resident")
        if is_loaded:
            self.measure(id)
        else:
            self.end(id)

    @rule(data=st.data())
    @precondition(lambda self: self.has("leaving"))
    def gone(self, data: st.DataObject) -> None:
        self.end(self.chosen(data, "leaving"))

    def end(self, id: ModelId) -> None:
        self.move(id, "absent")
        for gpu in self.versions[id].devices:
            self.devices[gpu].free(self.pids[id])
            del self.left[id, gpu]

    @rule(data=st.data(), is_held=st.booleans())
    @precondition(lambda self: self.has("resident"))
    def lease(self, data: st.DataObject, is_held: bool) -> None:
        id = self.chosen(data, "resident")
        self.versions[id] = replace(self.versions[id], is_held=is_held)

    @rule(seconds=st.floats(0.1, 100))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    def snapshot(self) -> Snapshot:
        up = [each for each in self.versions.values() if each.place in ("resident", "leaving")]
        uses = {gpu: device.use() for gpu, device in self.devices.items()}
        used = {gpu: self.used(gpu) for gpu in uses}
        pools = {
            gpu: DevicePool(min(BUDGETS[gpu], used[gpu] + use.free), used[gpu], use.largest)
            for gpu, use in uses.items()
        }
        demands = [Demand(id, self.now - 1.0) for id in self.demanded]
        likely = [each for each in self.versions.values() if each.place == "absent"]
        base, budget = 100, 1000
        held = base + sum(each.need for each in up)
        return Snapshot(
            self.now, budget, base, held, list(self.versions.values()), demands, likely=likely, devices=pools
        )  # fmt: skip

    @rule()
    def advance(self) -> None:
        for _ in range(100):
            match next_step(self.snapshot()):
                case None:
                    return
                case Admit(id):
                    self.demanded = [each for each in self.demanded if each != id]
                    self.move(id, "loading")
                    for gpu, part in self.versions[id].devices.items():
                        self.left[id, gpu] = part.need
                case Evict(id):
                    assert not (self.versions[id].is_held or self.versions[id].is_pinned)
                    self.move(id, "leaving")
                case Refuse(id, short):
                    assert short > 0
                    self.demanded.remove(id)
        raise AssertionError("the steps do not end")

    @invariant()
    def no_pool_is_exceeded(self) -> None:
        assert all(self.used(gpu) <= budget for gpu, budget in BUDGETS.items())
        assert 100 + sum(each.need for each in self.versions.values() if each.place != "absent") <= 1000


TestDevices = Devices.TestCase

SIZES = st.tuples(st.integers(1, 40), st.integers(0, 40), st.integers(0, 40))


@given(st.lists(st.tuples(SIZES, st.booleans()), max_size=5), SIZES, st.integers(0, 40))
def test_once_all_is_quiet_each_demand_is_met_or_refused(
    others: list[tuple[tuple[int, int, int], bool]], wanted: tuple[int, int, int], lost: int
) -> None:
    """Also where one pool has room and another one has not, and where what is free is in pieces."""

    def of(name: str, place: Place, sizes: tuple[int, int, int], is_pinned: bool) -> Version:
        parts = {f"gpu{gpu}": size for gpu, size in enumerate(sizes[1:]) if size}
        return version(name, place, sizes[0], is_pinned=is_pinned, **parts)

    up = [of(f"v{n}", "resident", sizes, is_pinned) for n, (sizes, is_pinned) in enumerate(others)]
    waiting = of("w", "absent", wanted, False)
    while True:
        pools = {}
        for gpu in ("gpu0", "gpu1"):
            used = sum(each.devices[gpu].need for each in up if gpu in each.devices)
            pools[gpu] = DevicePool(50, used, max(0, 80 - used - lost))
        demands = [Demand(waiting.id, 1000.0)]
        held = 20 + sum(each.need for each in up)
        step = next_step(Snapshot(1000.0, 100, 20, held, [*up, waiting], demands, devices=pools))
        if not isinstance(step, Evict):
            break
        up = [each for each in up if each.id != step.id]
    assert isinstance(step, Admit | Refuse)
    if isinstance(step, Admit):
        assert all(part.need <= pools[gpu].largest for gpu, part in waiting.devices.items())


# -- what is expected and measured ------------------------------------------------------------------


def manifest(
    name: str = "m", gpus: tuple[int, ...] = (0,), mib: int = 100, count: int = 0, **memory: float
) -> Manifest:
    config = ModelConfig(instances=Instances(count=count, gpus=gpus), memory=Memory(**memory))  # type: ignore[arg-type]
    return Manifest(ModelId(name, "1"), Path("/x"), "onnx", "onnx", config, name, bytes=mib * MIB)


def usage(**processes: int) -> Usage:
    """Device 0 of 8,000 MiB, with MiB by process; those from 100 on are others'."""
    sizes = {int(pid[1:]): size * MIB for pid, size in processes.items()}
    free = 8000 * MIB - sum(sizes.values())
    hosts = {pid: Use() for pid in sizes if pid < OTHERS}
    return Usage(Use(), hosts, 0, {0: DeviceUse(8000 * MIB, free, free, sizes)})


class Up:
    """A lifecycle with one version that runs in these processes."""

    def __init__(self, *processes: int) -> None:
        self.processes = list(processes)

    def servable(self, id: ModelId) -> Any:
        return self


EXPECTED = {
    "by the files, and CUDA's context": (manifest(), {"gpu0": 111 + 512}),
    "a limit of the framework": (manifest(gpu_max_mb=300), {"gpu0": 300 + 512}),
    "for each instance": (manifest(gpus=(0, 1), count=3, gpu_max_mb=300), {"gpu0": 2 * 812, "gpu1": 812}),
    "not of devices without a pool": (manifest(gpus=(7,)), {}),
    "nor of the host": (manifest(gpus=()), {}),
}


@pytest.mark.parametrize("case", EXPECTED)
def test_what_a_version_is_expected_to_take(case: str) -> None:
    wished, wanted = EXPECTED[case]
    found = DevicePools({0: 1, 1: 1}).expected(wished, None)
    assert {name: part.need // MIB for name, part in found.items()} == wanted


def measured(resident: Resident, pools: DevicePools, *processes: int, **sizes: int) -> tuple[int, int]:
    pools.measure([resident], Up(*processes), usage(**sizes))  # type: ignore[arg-type]
    part = resident.devices["gpu0"]
    return part.need // MIB, part.due // MIB


def test_what_was_measured_counts_and_the_most_is_kept() -> None:
    pools = DevicePools({0: 8000 * MIB})
    resident = Resident(manifest(), None, 0.0)  # type: ignore[arg-type]
    resident.devices = pools.expected(resident.manifest, None)
    assert measured(resident, pools, 1, p2=900) == (623, 0)  # of another process; the estimate stays
    assert measured(resident, pools, 1, p1=400) == (412, 12)
    assert measured(resident, pools, 1, p1=600) == (618, 18)
    assert measured(resident, pools, 1, p1=400) == (618, 218)
    assert pools.expected(manifest(mib=1), resident)["gpu0"].need // MIB == 618  # a new version


def test_a_limit_is_promised_until_it_is_taken() -> None:
    pools = DevicePools({0: 8000 * MIB})
    resident = Resident(manifest(gpu_max_mb=1000), None, 0.0)  # type: ignore[arg-type]
    resident.devices = pools.expected(resident.manifest, None)
    assert measured(resident, pools, 1, 2, p1=300, p2=400) == (1512, 812)


def test_what_other_programs_use_is_not_the_servers_and_lowers_its_budget() -> None:
    pools = DevicePools({0: 7000 * MIB})
    (pool,) = pools.pools(usage(p1=1000, p100=3000)).values()
    assert (pool.used // MIB, pool.budget // MIB, pool.largest // MIB) == (1000, 5000, 4000)


def test_where_no_process_is_told_all_that_is_used_counts() -> None:
    found = usage()._replace(devices={0: DeviceUse(8000, 5000, 5000, {})})
    (pool,) = DevicePools({0: 7000}).pools(found).values()
    assert (pool.used, pool.budget) == (3000, 7000)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gpu0=4GiB, gpu1=auto", {0: 4 << 30, 1: int(0.9 * (8 << 30))}),
        ("gpu2=4GiB", "'gpu2=4GiB' names no GPU .* gpu0, gpu1"),
        ("4GiB", "names no GPU"),
        ("gpu0=9GiB", "gpu0 has 8 GiB, not 9GiB"),
        ("gpu0=many", "--memory gpu0"),
    ],
)
def test_budgets_of_devices(text: str, said: Any) -> None:
    uses = dict.fromkeys((0, 1), DeviceUse(8 << 30, 8 << 30, 8 << 30, {}))
    if isinstance(said, dict):
        assert device_budgets(text, uses) == said
        return
    with pytest.raises(InvalidInput, match=said):
        device_budgets(text, uses)


# -- NVML ----------------------------------------------------------------------------------------------


async def test_without_a_driver_a_pool_is_refused() -> None:
    """NVIDIA's own library, on a machine that has no GPU."""
    kernel: Any = SimpleNamespace(terms=SimpleNamespace(forks=None))
    with pytest.raises(
        Unsupported, match=r"tells nothing of GPUs: NVML Shared Library Not Found.*nvidia-smi"
    ):
        await build(kernel, MemoryConfig("8GiB,gpu0=4GiB"))


def test_without_its_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(Unsupported, match=r"nvidia-ml-py.*pip install 'salver\[gpu\]'"):
        NvidiaDevices()


@pytest.mark.parametrize(
    ("visible", "asked"), [(None, ["0", "1"]), ("", []), ("1", ["1"]), ("GPU-ab, 0", ["GPU-ab", "0"])]
)
def test_devices_are_numbered_as_cuda_shows_them(
    visible: str | None, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library's functions are replaced under their own names, with its own records."""
    import pynvml

    handles: list[str] = []
    memory = pynvml.c_nvmlMemory_t(total=800, free=500, used=300)
    running = [SimpleNamespace(pid=7, usedGpuMemory=200), SimpleNamespace(pid=8, usedGpuMemory=None)]
    for name, result in (
        ("nvmlInit", lambda: None),
        ("nvmlDeviceGetCount", lambda: 2),
        ("nvmlDeviceGetHandleByIndex", lambda index: handles.append(str(index))),
        ("nvmlDeviceGetHandleByUUID", handles.append),
        ("nvmlDeviceGetMemoryInfo", lambda _: memory),
        ("nvmlDeviceGetComputeRunningProcesses", lambda _: running),
    ):
        monkeypatch.setattr(pynvml, name, result)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = NvidiaDevices().read()
    assert handles == asked
    assert found == dict.fromkeys(range(len(asked)), DeviceUse(800, 500, 500, {7: 200, 8: 0}))
