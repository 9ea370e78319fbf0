"""The shell of the budget: one load for all callers, and every way in which it can end."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec.structs import replace
from simulated_device import SimulatedDevice
from waiting import PATIENCE_S, auntil

from salver.features.memory.devices import DevicePools
from salver.features.memory.growth import Activations
from salver.features.memory.pools import committed
from salver.features.memory.ports import Usage, Use
from salver.features.memory.residence import Residence
from salver.kernel.lifecycle.ports import Outline
from salver.kernel.serving.ports import Observer
from salver.words.artifacts import Ensemble, EnsembleStep, Instances, Manifest, Memory, ModelConfig
from salver.words.errors import NotReady
from salver.words.events import BatchRan, Served
from salver.words.messages import ModelId, Signature, Timing

MIB = 1 << 20


def m(
    name: str, mib: int = 10, fingerprint: str = "", config: ModelConfig | None = None, **wish: object
) -> Manifest:
    config = config or ModelConfig(memory=Memory(**{"min_s": 0.0, "residence": "lazy", **wish}))  # type: ignore[arg-type]
    return Manifest(
        ModelId(name, "1"), Path("/x"), "other", "none", config, fingerprint or name, bytes=mib * MIB
    )


@dataclass
class Loaded:
    """A loaded version."""

    manifest: Manifest
    processes: list[int]
    limits: dict[str, int]

    @property
    def outline(self) -> Outline:
        return Outline(self.manifest, Signature((), ()), 1, False)

    @property
    def largest_run(self) -> int:
        return self.manifest.config.batching.largest_run

    def limit_rows(self, most: int) -> None:
        self.limits[self.manifest.id.name] = most


class World:
    """A lifecycle whose loads end when the test says so, with a meter that knows what is loaded."""

    def __init__(self, budget_mib: int) -> None:
        self.now = 0.0
        self.held: set[ModelId] = set()
        self.known: list[Manifest] = []
        self.up: dict[ModelId, Manifest] = {}
        self.loads: list[str] = []
        self.failures: dict[str, str] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.extra = self.shared = self.peak = 0
        self.hosts: dict[ModelId, int] = {}  # bytes of versions in host processes
        self.dead: set[int] = set()  # numbers of host processes that have been killed
        self.limits: dict[str, int] = {}  # rows of a run, by model
        self.kept: set[ModelId] = set()  # versions that answer although others are wanted
        self.exact = 0  # measurements that read all memory
        self.may_read = threading.Event()
        self.may_read.set()
        self.residence = Residence(budget_mib * MIB, self, lambda: self.now, self, self.refresh)

    async def serve(self, *known: Manifest) -> None:
        await self.residence.begin()
        self.known = list(known)
        self.refresh()

    def refresh(self) -> None:
        absent = self.residence.absent(self.known)
        for manifest in self.known:
            if manifest.id not in absent and self.up.get(manifest.id) != manifest:
                self.up[manifest.id] = manifest
                self.loads.append(manifest.id.name)
                if servable := self.servable(manifest.id):
                    self.residence.attach(servable)
        wanted = {*self.kept, *(manifest.id for manifest in self.known)} - set(absent)
        for id in self.up.keys() - wanted:
            self.up.pop(id)

    def leases(self, id: ModelId) -> int:
        return int(id in self.held)

    async def outcome(self, id: ModelId) -> str:
        if gate := self.gates.get(id.name):
            await gate.wait()
        return self.failures.get(id.name, "")

    async def ended(self, id: ModelId) -> None:
        if gate := self.gates.get(f"end {id.name}"):
            await gate.wait()

    def servable(self, id: ModelId) -> Loaded | None:
        if id not in self.up:
            return None
        numbers = [
            number for number, other in enumerate(self.hosts) if other == id and number not in self.dead
        ]
        return Loaded(self.up[id], numbers, self.limits)

    def read(self, *, is_exact: bool, trims: bool = False) -> Usage:
        self.may_read.wait(PATIENCE_S)
        self.exact += is_exact
        own = 50 * MIB + self.extra + sum(each.bytes for id, each in self.up.items() if id not in self.hosts)
        uses = {
            number: Use(size, size, size, size + self.peak)
            for number, (id, size) in enumerate(self.hosts.items())
            if number not in self.dead and id in self.up
        }
        return Usage(Use(own, own, own, own), uses, self.shared)

    def forget_peak(self) -> None:
        pass

    def places(self) -> dict[str, str]:
        return {id.name: each.place for id, each in self.residence.residents.all.items()}

    async def are(self, **places: str) -> None:
        await auntil(lambda: self.places() == places, self.places)

    async def ask(self, name: str) -> None:
        self.now += 1.0  # so that what was loaded before has stayed for long enough
        await self.residence.demand(ModelId(name, "1"))

    def gate(self, name: str) -> asyncio.Event:
        self.gates[name] = asyncio.Event()
        return self.gates[name]


@pytest.fixture
async def make() -> Callable[[int], World]:
    return World


async def test_eager_versions_are_loaded_while_there_is_room(make: Callable[[int], World]) -> None:
    world = make(100)
    await world.serve(*(m(name, residence="eager") for name in "abcd"), m("e"))
    await auntil(lambda: "loading" not in world.places().values())
    # One after another, so that each is measured: by their estimates, two would have had room.
    assert world.places() == {"a": "resident", "b": "resident", "c": "resident", "d": "absent", "e": "absent"}
    assert all(each.is_measured for each in world.residence.residents.all.values() if each.is_up)


async def test_a_thousand_callers_load_it_once(make: Callable[[int], World]) -> None:
    world = make(200)
    gate = world.gate("a")
    await world.serve(m("a"))
    asks = [asyncio.create_task(world.ask("a")) for _ in range(1000)]
    await world.are(a="loading")
    for task in asks[::2]:
        task.cancel()
    gate.set()
    outcomes = await asyncio.gather(*asks, return_exceptions=True)
    assert [type(each) for each in outcomes[:2]] == [asyncio.CancelledError, type(None)]
    assert world.loads == ["a"]


async def test_another_makes_room_and_is_drained_first(make: Callable[[int], World]) -> None:
    world = make(80)
    await world.serve(m("a"), m("b"))
    await world.ask("a")
    end = world.gate("end a")
    ask = asyncio.create_task(world.ask("b"))
    await world.are(a="leaving", b="absent")
    end.set()
    await ask
    assert world.places() == {"a": "absent", "b": "resident"}
    assert world.residence.evictions == {"room": 1}


async def test_what_requests_use_stays(make: Callable[[int], World]) -> None:
    world = make(80)
    await world.serve(m("a"), m("b"))
    await world.ask("a")
    world.held.add(ModelId("a", "1"))
    ask = asyncio.create_task(world.ask("b"))
    await world.residence.tick()
    assert world.places() == {"a": "resident", "b": "absent"}
    world.held.clear()
    await world.residence.tick()
    await ask


async def test_no_room_is_told_with_what_is_short_and_what_stays(make: Callable[[int], World]) -> None:
    world = make(100)
    await world.serve(m("a", 20, residence="pinned"), m("b", 20))
    await world.are(a="resident", b="absent")
    text = (
        r"model 'b' needs 47 MiB to load, and 17(\.\d)? MiB of the server's 100 MiB are missing even "
        r"if all that may go were unloaded\. Give the server a larger --memory, or let go of what stays: a:1"
    )
    with pytest.raises(NotReady, match=text):
        await world.ask("b")
    assert world.residence.refusals == 1


async def test_a_failure_is_told_once_to_all_and_the_next_request_hears_it_too(
    make: Callable[[int], World],
) -> None:
    world = make(200)
    world.failures["a"] = "the file is torn"
    await world.serve(m("a"), m("b"))
    outcomes = await asyncio.gather(world.ask("a"), world.ask("a"), return_exceptions=True)
    assert [str(each) for each in outcomes] == ["model 'a': the file is torn"] * 2
    with pytest.raises(NotReady, match="the file is torn"):
        await world.ask("a")
    assert world.residence.residents.all[ModelId("a", "1")].need.resident == 0
    await world.ask("b")


async def test_needs_are_learned_and_kept_for_the_next_time(make: Callable[[int], World]) -> None:
    world = make(200)
    await world.serve(m("a", 10))
    resident = world.residence.residents.all[ModelId("a", "1")]
    assert (resident.need.resident // MIB, resident.is_measured) == (14, False)
    await world.ask("a")
    assert (resident.need.resident // MIB, resident.is_measured) == (10, True)
    world.known = []
    world.refresh()
    await world.serve(m("a", 10))
    assert world.residence.residents.all[ModelId("a", "1")].is_measured


async def test_a_swap_of_known_versions_keeps_nobody_waiting_for_measurements(
    make: Callable[[int], World],
) -> None:
    world = make(100)
    await world.serve(m("a"), m("b"))
    for _ in range(2):
        world.extra = 0
        await world.residence.tick()
        await world.ask("a")
        await world.ask("b")
        world.extra, world.now = 60 * MIB, world.now + 1.0
        await world.residence.tick()
        await world.are(a="absent", b="absent")
    world.extra = 35 * MIB
    await world.residence.tick()
    await world.ask("a")
    await world.are(a="resident", b="absent")
    world.residence.observe([ran("a", 1)])
    exact = world.exact
    gate = world.gate("b")
    ask = asyncio.create_task(world.ask("b"))
    await world.are(a="absent", b="loading")
    world.may_read.clear()
    gate.set()
    await ask
    assert world.places()["b"] == "loading", "it counts with its peak until it is measured"
    world.may_read.set()
    await world.are(a="absent", b="resident")
    assert world.exact == exact


async def test_what_was_learned_of_a_version_outlives_it_until_its_files_change(
    make: Callable[[int], World],
) -> None:
    world = make(80)
    a = ModelId("a", "1")
    await world.serve(m("a"), m("b"))
    assert world.residence.outline(a) is None
    await world.ask("a")
    await world.ask("b")
    outline = world.residence.outline(a)
    assert (outline and outline.manifest.id, world.places()["a"]) == (a, "absent")
    world.known[0] = m("a", fingerprint="new")
    world.refresh()
    assert world.residence.outline(a) is None
    world.known.pop(0)
    world.refresh()
    assert world.residence.outline(a) is None


async def test_idle_versions_go_and_come_back_by_a_request(make: Callable[[int], World]) -> None:
    world = make(200)
    await world.serve(m("a", residence="eager", idle_s=60.0))
    await world.are(a="resident")
    world.now = 59.0
    observer: Observer = world.residence
    observer.observe([Served("a", "1", "oip-http", "ok", 0.01, Timing())])
    world.now = 118.0
    await world.residence.tick()
    assert world.places() == {"a": "resident"}
    world.now = 120.0
    await world.residence.tick()
    await world.are(a="absent")
    await world.residence.tick()
    assert world.places() == {"a": "absent"}  # although it was eager at the start
    await world.ask("a")


async def test_a_leak_is_answered_by_unloading_and_not_by_more(make: Callable[[int], World]) -> None:
    world = make(150)
    await world.serve(m("a"), m("b"))
    await world.ask("a")
    await world.ask("b")
    world.residence.observe([Served("a", "1", "oip-http", "ok", 0.01, Timing())])
    world.extra = 85 * MIB
    world.now += 1.0
    await world.residence.tick()
    await world.are(a="resident", b="absent")
    assert world.residence.evictions == {"over": 1}


async def test_a_version_beyond_its_own_ceiling_is_refused(make: Callable[[int], World]) -> None:
    world = make(200)
    await world.serve(m("a", 20, max_mb=15))
    with pytest.raises(NotReady, match=r"'a' takes 20\.6 MiB, more than its memory\.max_mb"):
        await world.ask("a")
    await world.are(a="absent")


async def test_members_of_ensembles_stay(make: Callable[[int], World]) -> None:
    world = make(100)
    steps = (EnsembleStep("a", inputs={"x": "x"}, outputs={"y": "y"}),)
    await world.serve(m("a", 20), m("both", 0, config=ModelConfig(ensemble=Ensemble(steps))), m("b", 20))
    await world.are(a="resident", both="resident", b="absent")
    with pytest.raises(NotReady, match="let go of what stays: a:1, both:1"):
        await world.ask("b")
    world.known = world.known[::2]
    world.refresh()
    await world.ask("b")
    assert world.places() == {"a": "absent", "b": "resident"}


async def test_changed_files_of_a_loaded_version_are_loaded_at_once(make: Callable[[int], World]) -> None:
    world = make(200)
    await world.serve(m("a"))
    await world.ask("a")
    world.known = [m("a", fingerprint="new")]
    world.refresh()
    await auntil(lambda: world.loads == ["a", "a"] and world.places() == {"a": "resident"})


async def test_a_model_that_is_asked_regularly_is_loaded_ahead_where_there_is_room(
    make: Callable[[int], World],
) -> None:
    world = make(200)
    await world.serve(m("a", idle_s=300.0))
    for turn in range(20):
        world.now = turn * 600.0
        await world.residence.demand(ModelId("a", "1"))
        world.residence.observe([Served("a", "1", "oip-http", "ok", 0.01, Timing())])
        await world.residence.tick()
    world.now += 400.0
    await world.residence.tick()
    await world.are(a="absent")
    world.now += 150.0
    for _ in range(3):
        world.now += 10.0
        await world.residence.tick()
    await world.are(a="resident")
    world.residence.observe([Served("a", "1", "oip-http", "ok", 0.01, Timing())])
    await world.residence.tick()
    account = world.residence.ahead.bets.accounts["gaps"]
    assert (account.used, account.unused) == (1, 0)


def v2(name: str, mib: int = 10) -> Manifest:
    return replace(m(name, mib), id=ModelId(name, "2"), fingerprint=f"{name}2")


async def test_a_new_version_of_a_model_that_answers_is_loaded_although_nobody_waits(
    make: Callable[[int], World],
) -> None:
    world = make(90)
    await world.serve(m("a"), m("b"))
    await world.ask("a")
    await world.ask("b")
    world.now += 1.0
    world.kept = {ModelId("a", "1")}
    world.known[0] = v2("a")
    world.refresh()
    await auntil(lambda: world.loads == ["a", "b", "a"])  # b makes room for it
    await world.are(a="resident", b="absent")


async def test_a_new_version_without_room_beside_the_old_one_waits_until_that_is_gone(
    make: Callable[[int], World],
) -> None:
    world = make(80)
    await world.serve(m("a"))
    await world.ask("a")
    world.kept = {ModelId("a", "1")}
    world.known[0] = v2("a")
    world.refresh()
    await auntil(lambda: ModelId("a", "1") not in world.up)
    assert world.residence.refusals == 1
    await world.residence.tick()
    await world.residence.demand(ModelId("a", "2"))
    assert world.places() == {"a": "resident"}


async def test_whoever_waits_asks_again_when_the_version_is_replaced(make: Callable[[int], World]) -> None:
    world = make(200)
    world.gate("a")
    await world.serve(m("a"))
    ask = asyncio.create_task(world.ask("a"))
    await world.are(a="loading")
    world.known.pop()
    world.refresh()
    await ask  # the lifecycle then knows another version, or none
    assert world.places() == {}


async def test_whoever_waits_when_the_server_stops_is_told(make: Callable[[int], World]) -> None:
    world = make(200)
    world.gate("a")
    await world.serve(m("a"))
    ask = asyncio.create_task(world.ask("a"))
    await world.are(a="loading")
    await world.residence.close()
    with pytest.raises(NotReady, match="the server is shutting down"):
        await ask


def ran(name: str, rows: int) -> BatchRan:
    return BatchRan(name, "1", rows, 1, 0.01, 0.0, 0.0, "full")


async def test_growth_belongs_to_the_only_version_that_ran_more_rows(make: Callable[[int], World]) -> None:
    world = make(200)
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


async def test_a_run_that_ends_as_its_version_goes_is_no_news(make: Callable[[int], World]) -> None:
    world = make(80)
    await world.serve(m("a"), m("b"))
    await world.ask("a")
    end = world.gate("end a")
    ask = asyncio.create_task(world.ask("b"))
    await world.are(a="leaving", b="absent")
    world.residence.observe([ran("a", 8)])
    end.set()
    await ask
    world.residence.observe([ran("a", 8)])
    await world.residence.tick()
    before = world.exact
    await world.residence.tick()
    assert world.exact == before


async def test_who_waits_for_a_known_version_waits_for_its_new_files(make: Callable[[int], World]) -> None:
    world = make(100)
    await world.serve(m("a"))
    for _ in range(2):
        world.extra = 0
        await world.residence.tick()
        await world.ask("a")
        world.extra, world.now = 60 * MIB, world.now + 1.0
        await world.residence.tick()
        await world.are(a="absent")
    world.extra = 0
    await world.residence.tick()
    earlier = world.gate("a")
    ask = asyncio.create_task(world.ask("a"))
    await world.are(a="loading")
    later = world.gate("a")
    world.known[0] = m("a", fingerprint="new")
    world.refresh()
    earlier.set()
    await auntil(lambda: len(world.residence.snapshot().versions) == 1)  # the earlier load is over
    assert not ask.done()
    later.set()
    await ask


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


async def test_where_memory_is_short_each_size_of_run_is_measured_before_the_next(
    make: Callable[[int], World],
) -> None:
    world = make(150)
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


async def test_larger_runs_of_what_is_worth_more_take_the_room_of_others(
    make: Callable[[int], World],
) -> None:
    world = make(150)
    await world.serve(m("a"), m("b", 40))
    await world.ask("b")
    await world.ask("a")
    world.now += 1.0
    world.residence.observe([Served("a", "1", "oip-http", "ok", 0.01, Timing())] * 9)
    assert await climb(world, "a", 4, 4) == [1, 2, 4, 8]
    await world.are(a="resident", b="absent")
    await auntil(lambda: world.limits["a"] == 16)


async def test_room_that_no_run_has_used_is_given_to_those_who_wait(make: Callable[[int], World]) -> None:
    world = make(140)
    await world.serve(m("a"), m("b", 20))
    await world.ask("a")
    await climb(world, "a", 4, 4)
    assert world.limits["a"] == 16
    await world.ask("b")
    await world.are(a="resident", b="resident")
    assert world.limits["a"] == 8


async def test_where_memory_is_plentiful_no_run_is_limited(make: Callable[[int], World]) -> None:
    world = make(1000)
    await world.serve(m("a"))
    await world.ask("a")
    assert world.limits == {"a": 64}


async def test_a_version_that_can_have_no_more_is_loaded_for_small_runs(make: Callable[[int], World]) -> None:
    world = make(130)
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


async def test_what_the_first_load_imports_counts_with_the_server(make: Callable[[int], World]) -> None:
    world = make(400)
    await world.serve(m("a"), m("b"))
    await load(world, "a", 100)
    a, b = (world.residence.residents.all[ModelId(name, "1")] for name in "ab")
    assert (a.need.resident // MIB, a.is_measured) == (14, False)  # by its format and size
    assert world.residence.base // MIB == 50 + 100 - 4
    await world.ask("b")
    assert (b.need.resident // MIB, b.is_measured) == (10, True)
    assert world.residence.base // MIB == 50 + 100 - 4


async def test_a_new_version_is_expected_to_take_what_the_earlier_one_took(
    make: Callable[[int], World],
) -> None:
    world = make(400)
    await world.serve(m("a"), m("b"))
    await world.ask("b")
    await load(world, "a", 100)
    world.known[0] = m("a", 20, fingerprint="new")
    world.refresh()
    assert world.residence.residents.all[ModelId("a", "1")].need.resident // MIB == 226


async def test_a_load_that_is_no_longer_wanted_counts_until_it_is_over(make: Callable[[int], World]) -> None:
    world = make(400)
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


async def test_what_hosts_take_is_their_models_whatever_else_grows(make: Callable[[int], World]) -> None:
    world = make(400)
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


async def test_a_leak_of_a_host_is_its_models_and_not_promised_again(make: Callable[[int], World]) -> None:
    world = make(200)
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


async def test_a_leak_of_a_host_ends_at_its_ceiling(make: Callable[[int], World]) -> None:
    world = make(400)
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


async def test_memory_of_a_host_that_starts_again_stays_promised(make: Callable[[int], World]) -> None:
    world = make(400)
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
