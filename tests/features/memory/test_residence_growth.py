"""The shell of the budget: what versions grow by, in the server, in hosts and on devices."""

import asyncio

import pytest
from residence_world import MIB, World, leaving, m, ran
from simulated_device import SimulatedDevice
from waiting import auntil

from salver.features.memory.devices import DevicePools
from salver.features.memory.growth import Activations
from salver.features.memory.pools import committed
from salver.features.memory.ports import Usage, Use
from salver.features.memory.reserve import Reserve
from salver.words.artifacts import Instances, Manifest, Memory, ModelConfig
from salver.words.errors import NotReady
from salver.words.events import Served
from salver.words.messages import ModelId, Timing


async def test_growth_belongs_to_the_only_version_that_ran_more_rows() -> None:
    world = World(200)
    await world.serve(m("a"), m("b"))
    await asyncio.gather(world.ask("a"), world.ask("b"))
    a, b = (world.residence.residents.all[ModelId(name, "1")] for name in "ab")
    for rows, extra in ((8, 4), (16, 8)):
        world.residence.observe([ran("a", rows), ran("a", 1)])
        world.extra = extra * MIB
        await world.residence.tick()
    assert a.activations.points == {8: 4 * MIB, 16: 8 * MIB}
    assert a.activations.at(32) == 16 * MIB and a.activations.at(4) == 4 * MIB
    assert a.kept(16) == a.grown * 1.03 // 1 and a.rows == 32  # the next size is promised
    assert a.bytes == a.need.resident + a.kept(32)
    # What no new size explains is nobody's; what two versions explain is shared by them.
    for events in ([ran("a", 16)], [ran("a", 32), ran("b", 8)]):
        world.residence.observe(events)
        world.extra += 4 * MIB
        await world.residence.tick()
    assert a.activations.bytes == 10 * MIB and b.activations.bytes == 2 * MIB
    assert Activations({8: 800}).at(4) == 800


async def test_a_run_that_ends_as_its_version_goes_is_no_news() -> None:
    world, end, ask = await leaving()
    world.residence.observe([ran("a", 8)])
    end.set()
    await ask
    world.residence.observe([ran("a", 8)])
    await world.residence.tick()
    before = world.exact
    await world.residence.tick()
    assert world.exact == before


async def test_the_reserve_follows_what_runs_take_for_a_moment() -> None:
    world = World(400)
    world.residence.reserve = Reserve(10 * MIB, 300 * MIB)
    await world.serve(m("a", 52), m("b", 52))
    await world.ask("a")
    gate = world.gate("b")
    asked = asyncio.create_task(world.ask("b"))
    await auntil(lambda: "b" in world.loads)
    world.surge = 200 * MIB
    await world.residence.tick()  # that may be the load
    assert world.residence.reserve.bytes == 10 * MIB
    world.surge = 0
    gate.set()
    await asked
    await world.residence.tick()
    await world.are(a="resident", b="resident")
    world.surge = 166 * MIB
    world.now += 1.0
    await world.residence.tick()
    assert world.residence.reserve.bytes == 249 * MIB
    await world.residence.tick()
    await auntil(lambda: "absent" in world.places().values())  # 154 MiB are used, 151 are left


@pytest.mark.parametrize(
    ("again", "is_trimmed", "surge"),
    [
        (0, False, 40),  # beyond what was known before: what stays until a trim is used by then
        (15, False, 25),  # but for what a version has grown by as it did before
        (0, True, 20),  # after a trim, what stays is growth
        (15, True, 20),
    ],
)
def test_a_surge_is_what_exceeds_what_was_known(again: int, is_trimmed: bool, surge: int) -> None:
    growing = World(200).residence._growing
    growing._again = again
    before, after = Use(100, 100, 100, 105), Use(120, 120, 120, 140)
    assert growing.surge(before, after, is_trimmed=is_trimmed) == surge
    assert growing.surge(before, before._replace(peak=90), is_trimmed=is_trimmed) == 0


def test_a_surge_that_does_not_come_again_fades() -> None:
    reserve = Reserve(10, 1000)
    reserve.note(100)
    for _ in range(69):
        reserve.note(0)
    assert 70 < reserve.bytes < 80
    for _ in range(300):
        reserve.note(0)
    assert reserve.bytes == 10


async def climb(world: World, name: str, mib_a_row: float, runs: int) -> list[int]:
    """Do runs as large as a version may, each with its growth; return their rows."""
    found = []
    for _ in range(runs):
        rows = world.limits[name]
        found.append(rows)
        world.residence.observe([ran(name, rows)])
        world.extra = max(world.extra, int(mib_a_row * (rows - 1) * MIB))
        await auntil(lambda: not world.residence._growing.has_news)
        await asyncio.sleep(0)
    return found


async def test_where_memory_is_short_each_size_of_run_is_measured_before_the_next() -> None:
    world = World(150)
    await world.serve(m("a"), m("b", 20))
    await world.ask("a")
    assert await climb(world, "a", 4, 7) == [1, 2, 4, 8, 16, 16, 16]  # 32 rows would take 124 MiB
    assert world.residence.snapshot().wish is not None
    a = world.residence.residents.all[ModelId("a", "1")]
    assert a.activations.points == {2: 4 * MIB, 4: 12 * MIB, 8: 28 * MIB, 16: 60 * MIB}
    # Nothing else is loaded where they are promised, and they are known when it is loaded again.
    world.extra = 0
    await world.ask("b")
    await world.are(a="absent", b="resident")
    await world.ask("a")
    await world.are(a="resident", b="resident")
    assert world.limits["a"] == 16


async def test_larger_runs_of_what_is_worth_more_take_the_room_of_others() -> None:
    world = World(150)
    await world.serve(m("a"), m("b", 40))
    await world.ask("b")
    await world.ask("a")
    world.now += 1.0
    world.residence.observe([Served("a", "1", "oip-http", "ok", 0.01, Timing())] * 9)
    assert await climb(world, "a", 4, 4) == [1, 2, 4, 8]
    await world.are(a="resident", b="absent")
    await auntil(lambda: world.limits["a"] == 16)


async def test_room_that_no_run_has_used_is_given_to_those_who_wait() -> None:
    world = World(140)
    await world.serve(m("a"), m("b", 20))
    await world.ask("a")
    await climb(world, "a", 4, 4)
    assert world.limits["a"] == 16
    await world.ask("b")
    await world.are(a="resident", b="resident")
    assert world.limits["a"] == 8


async def test_where_memory_is_plentiful_no_run_is_limited() -> None:
    world = World(1000)
    await world.serve(m("a"))
    await world.ask("a")
    assert world.limits == {"a": 64}


async def test_a_version_that_can_have_no_more_is_loaded_for_small_runs() -> None:
    world = World(130)
    await world.serve(m("a"), m("b", 20))
    await world.ask("a")
    await climb(world, "a", 4, 5)
    world.residence.residents.all[ModelId("b", "1")].stays = "pinned"
    world.extra = 0
    await world.ask("b")
    await world.are(a="absent", b="resident")
    await world.ask("a")
    await world.are(a="resident", b="resident")
    assert await climb(world, "a", 4, 5) == [1, 2, 4, 8, 8]


async def load(world: World, name: str, extra_mib: int) -> None:
    """Ask for a model whose load takes more than its bytes."""
    gate = world.gate(name)
    asked = asyncio.create_task(world.ask(name))
    await auntil(lambda: name in world.loads)
    world.extra += extra_mib * MIB
    gate.set()
    await asked


async def test_what_the_first_load_imports_counts_with_the_server() -> None:
    world = World(400)
    await world.serve(m("a"), m("b"))
    await load(world, "a", 100)
    a, b = (world.residence.residents.all[ModelId(name, "1")] for name in "ab")
    assert (a.need.resident // MIB, a.is_measured) == (14, False)  # by its format and size
    assert world.residence.base // MIB == 50 + 100 - 4
    await world.ask("b")
    assert (b.need.resident // MIB, b.is_measured) == (10, True)
    assert world.residence.base // MIB == 50 + 100 - 4


async def test_a_new_version_is_expected_to_take_what_the_earlier_one_took() -> None:
    world = World(400)
    await world.serve(m("a"), m("b"))
    await world.ask("b")
    await load(world, "a", 100)
    world.known[0] = m("a", 20, fingerprint="new")
    world.refresh()
    new = world.residence.residents.all[ModelId("a", "1")]
    assert (new.need.resident // MIB, new.is_measured, new.version(0.0).is_guess) == (226, False, False)


async def test_a_load_that_is_no_longer_wanted_counts_until_it_is_over() -> None:
    world = World(400)
    await world.serve(m("a", 100))
    gate = world.gate("a")
    asked = asyncio.create_task(world.ask("a"))
    await auntil(lambda: "a" in world.loads)
    world.known = []
    world.refresh()
    await asked
    assert committed(world.residence.snapshot()) > (50 + 200) * MIB
    gate.set()
    await auntil(lambda: not world.residence.snapshot().versions)


async def test_what_hosts_take_is_their_models_whatever_else_grows() -> None:
    world = World(400)
    world.hosts[ModelId("a", "1")], world.peak = 30 * MIB, 10 * MIB
    await world.serve(m("a"), m("b"))
    gate = world.gate("a")
    asked = asyncio.create_task(world.ask("a"))
    await auntil(lambda: world.loads == ["a"])
    world.extra, world.shared = 100 * MIB, 60 * MIB  # others grow, and a fork server imports
    gate.set()
    await asked
    a = world.residence.residents.all[ModelId("a", "1")]
    assert [size // MIB for size in a.need] == [30, 44] and a.is_measured
    assert world.residence.base // MIB == 50 + 60


async def test_a_leak_of_a_host_is_its_models_and_not_promised_again() -> None:
    world = World(200)
    id = ModelId("a", "1")
    world.hosts[id] = 20 * MIB
    await world.serve(m("a"), m("b"))
    await world.ask("b")
    await world.ask("a")
    a = world.residence.residents.all[id]
    world.residence.observe([ran("a", 1), *[Served("a", "1", "oip-http", "ok", 0.01, Timing())] * 9])
    world.hosts[id] = 25 * MIB
    await world.residence.tick()
    assert a.grown > 4 * MIB and not a.leaked  # its first run
    world.hosts[id] = 145 * MIB
    world.now += 1.0
    await world.residence.tick()
    await world.are(a="absent", b="resident")  # though it is worth more
    assert (world.residence.evictions, a.bytes // MIB) == ({"over": 1}, 25)


async def test_a_leak_of_a_host_ends_at_its_ceiling() -> None:
    world = World(400)
    id = ModelId("a", "1")
    world.hosts[id] = 20 * MIB
    await world.serve(m("a", max_mb=30))
    await world.ask("a")
    world.hosts[id] = 31 * MIB
    await world.residence.tick()
    await world.are(a="absent")
    assert world.residence.evictions == {"ceiling": 1}
    world.hosts[id] = 20 * MIB
    await world.ask("a")


async def test_memory_of_a_host_that_starts_again_stays_promised() -> None:
    world = World(400)
    world.hosts[ModelId("a", "1")], world.peak = 20 * MIB, 30 * MIB
    await world.serve(m("a"))
    await world.ask("a")
    before = committed(world.residence.snapshot())
    world.dead.add(0)
    await world.residence.tick()
    assert committed(world.residence.snapshot()) - before > 30 * MIB


class DeviceWorld(World):
    """A lifecycle whose models take a fixed size of one simulated device, in a host process each."""

    def __init__(self, sizes: dict[str, int]) -> None:
        super().__init__(2000)
        self.device = SimulatedDevice(4000 * MIB)
        self.sizes = {ModelId(name, "1"): size * MIB for name, size in sizes.items()}
        self.residence.pools = DevicePools({0: 3000 * MIB})

    def read(self, *, is_exact: bool, trims: bool = False) -> Usage:
        for id in self.up:
            self.hosts.setdefault(id, 5 * MIB)
        for number, id in enumerate(self.hosts):
            self.device.free(number)
            if id in self.up:
                assert self.device.take(number, self.sizes[id])
        return super().read(is_exact=is_exact)._replace(devices={0: self.device.use()})


def on_gpu(name: str, **wish: object) -> Manifest:
    memory = Memory(**{"min_s": 0.0, "residence": "lazy", **wish})  # type: ignore[arg-type]
    return m(name, config=ModelConfig(memory=memory, instances=Instances(gpus=(0,))))


async def test_models_make_room_for_each_other_on_a_device() -> None:
    world = DeviceWorld({"a": 1400, "b": 1400, "c": 1400})
    await world.serve(on_gpu("a"), on_gpu("b"), on_gpu("c", gpu_max_mb=900))
    await world.ask("a")
    await world.ask("b")
    await world.are(a="resident", b="resident", c="absent")
    assert {gpu: pool.used // MIB for gpu, pool in world.residence.device_pools().items()} == {"gpu0": 2800}
    world.now += 100.0
    await world.ask("c")
    await world.are(a="absent", b="resident", c="resident")
    assert world.residence.evictions == {"room": 1}
    resident = world.residence.residents.all[ModelId("a", "1")]
    assert resident.devices["gpu0"].need == int(1400 * MIB * 1.03)  # as it was measured
    await world.residence.close()


async def test_a_model_that_no_device_has_room_for_is_refused_with_the_pool() -> None:
    world = DeviceWorld({"a": 1400, "b": 2000})
    await world.serve(on_gpu("a", residence="pinned"), on_gpu("b", gpu_max_mb=2000))
    await world.are(a="resident", b="absent")
    said = (
        r"needs 2.45 GiB to load, and 954 MiB of the 2.93 GiB of gpu0 are missing.*let go of what stays: a:1"
    )
    with pytest.raises(NotReady, match=said):
        await world.ask("b")
    await world.residence.close()
