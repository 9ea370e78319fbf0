"""The shell of the budget: one load for all callers, and every way in which it can end."""

import asyncio

import pytest
from msgspec.structs import replace
from residence_world import MIB, World, leaving, m, ran
from waiting import auntil

from salver.kernel.serving.ports import Observer
from salver.words.artifacts import Ensemble, EnsembleStep, Manifest, ModelConfig
from salver.words.errors import NotReady
from salver.words.events import Served
from salver.words.messages import ModelId, Timing


async def test_eager_versions_are_loaded_while_there_is_room() -> None:
    world = World(100)
    await world.serve(*(m(name, residence="eager") for name in "abcd"), m("e"))
    await auntil(lambda: "loading" not in world.places().values())
    # One after another, so that each is measured: by their estimates, two would have had room.
    assert world.places() == {"a": "resident", "b": "resident", "c": "resident", "d": "absent", "e": "absent"}
    assert all(each.is_measured for each in world.residence.residents.all.values() if each.is_up)


async def test_a_thousand_callers_load_it_once() -> None:
    world = World(200)
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


async def test_another_makes_room_and_is_drained_first() -> None:
    world, end, ask = await leaving()
    end.set()
    await ask
    assert world.places() == {"a": "absent", "b": "resident"}
    assert world.residence.evictions == {"room": 1}


async def test_what_requests_use_stays() -> None:
    world = World(80)
    await world.serve(m("a"), m("b"))
    await world.ask("a")
    world.held.add(ModelId("a", "1"))
    ask = asyncio.create_task(world.ask("b"))
    await world.residence.tick()
    assert world.places() == {"a": "resident", "b": "absent"}
    world.held.clear()
    await world.residence.tick()
    await ask


async def test_no_room_is_told_with_what_is_short_and_what_stays() -> None:
    world = World(100)
    await world.serve(m("a", 20, residence="pinned"), m("b", 20))
    await world.are(a="resident", b="absent")
    text = (
        r"model 'b' needs 47 MiB to load, and 17(\.\d)? MiB of the server's 100 MiB are missing even "
        r"if all that may go were unloaded\. Give the server a larger --memory, or let go of what stays: a:1"
    )
    with pytest.raises(NotReady, match=text):
        await world.ask("b")
    assert world.residence.refusals == 1


async def test_a_failure_is_told_once_to_all_and_the_next_request_hears_it_too() -> None:
    world = World(200)
    world.failures["a"] = "the file is torn"
    await world.serve(m("a"), m("b"))
    outcomes = await asyncio.gather(world.ask("a"), world.ask("a"), return_exceptions=True)
    assert [str(each) for each in outcomes] == ["model 'a': the file is torn"] * 2
    with pytest.raises(NotReady, match="the file is torn"):
        await world.ask("a")
    assert world.residence.residents.all[ModelId("a", "1")].need.resident == 0
    await world.ask("b")


async def test_needs_are_learned_and_kept_for_the_next_time() -> None:
    world = World(200)
    await world.serve(m("a", 10))
    resident = world.residence.residents.all[ModelId("a", "1")]
    assert (resident.need.resident // MIB, resident.is_measured) == (14, False)
    assert resident.version(0.0).is_guess
    await world.ask("a")
    assert (resident.need.resident // MIB, resident.is_measured) == (10, True)
    world.known = []
    world.refresh()
    await world.serve(m("a", 10))
    assert world.residence.residents.all[ModelId("a", "1")].is_measured


async def test_a_swap_of_known_versions_keeps_nobody_waiting_for_measurements() -> None:
    world = World(100)
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


async def test_who_waits_for_a_known_version_waits_for_its_new_files() -> None:
    world = World(100)
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


async def test_what_was_learned_of_a_version_outlives_it_until_its_files_change() -> None:
    world = World(80)
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


async def test_idle_versions_go_and_come_back_by_a_request() -> None:
    world = World(200)
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


async def test_a_leak_is_answered_by_unloading_and_not_by_more() -> None:
    world = World(150)
    await world.serve(m("a"), m("b"))
    await world.ask("a")
    await world.ask("b")
    world.residence.observe([Served("a", "1", "oip-http", "ok", 0.01, Timing())])
    world.extra = 85 * MIB
    world.now += 1.0
    await world.residence.tick()
    await world.are(a="resident", b="absent")
    assert world.residence.evictions == {"over": 1}


async def test_a_version_beyond_its_own_ceiling_is_refused() -> None:
    world = World(200)
    await world.serve(m("a", 20, max_mb=15))
    with pytest.raises(NotReady, match=r"'a' takes 20\.6 MiB, more than its memory\.max_mb"):
        await world.ask("a")
    await world.are(a="absent")


async def test_members_of_ensembles_stay() -> None:
    world = World(100)
    steps = (EnsembleStep("a", inputs={"x": "x"}, outputs={"y": "y"}),)
    await world.serve(m("a", 20), m("both", 0, config=ModelConfig(ensemble=Ensemble(steps))), m("b", 20))
    await world.are(a="resident", both="resident", b="absent")
    with pytest.raises(NotReady, match="let go of what stays: a:1, both:1"):
        await world.ask("b")
    world.known = world.known[::2]
    world.refresh()
    await world.ask("b")
    assert world.places() == {"a": "absent", "b": "resident"}


async def test_changed_files_of_a_loaded_version_are_loaded_at_once() -> None:
    world = World(200)
    await world.serve(m("a"))
    await world.ask("a")
    world.known = [m("a", fingerprint="new")]
    world.refresh()
    await auntil(lambda: world.loads == ["a", "a"] and world.places() == {"a": "resident"})


async def test_a_model_that_is_asked_regularly_is_loaded_ahead_where_there_is_room() -> None:
    world = World(200)
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


async def test_a_new_version_of_a_model_that_answers_is_loaded_although_nobody_waits() -> None:
    world = World(90)
    await world.serve(m("a"), m("b"))
    await world.ask("a")
    await world.ask("b")
    world.now += 1.0
    world.kept = {ModelId("a", "1")}
    world.known[0] = v2("a")
    world.refresh()
    await auntil(lambda: world.loads == ["a", "b", "a"])  # b makes room for it
    await world.are(a="resident", b="absent")


async def test_a_new_version_without_room_beside_the_old_one_waits_until_that_is_gone() -> None:
    world = World(80)
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


async def test_whoever_waits_asks_again_when_the_version_is_replaced() -> None:
    world = World(200)
    world.gate("a")
    await world.serve(m("a"))
    ask = asyncio.create_task(world.ask("a"))
    await world.are(a="loading")
    world.known.pop()
    world.refresh()
    await ask  # the lifecycle then knows another version, or none
    assert world.places() == {}


async def test_whoever_waits_when_the_server_stops_is_told() -> None:
    world = World(200)
    world.gate("a")
    await world.serve(m("a"))
    ask = asyncio.create_task(world.ask("a"))
    await world.are(a="loading")
    await world.residence.close()
    with pytest.raises(NotReady, match="the server is shutting down"):
        await ask
