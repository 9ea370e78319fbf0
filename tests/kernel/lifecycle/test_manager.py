"""The manager under everything that goes wrong while versions come and go."""

import asyncio
import gc
from pathlib import Path

import pytest
from managing import FakeServable, ManagerRig
from msgspec.structs import replace
from waiting import auntil

from salver.kernel.lifecycle import LifecycleConfig
from salver.machine import give_back_memory
from salver.words.artifacts import Manifest, ModelConfig, Versions
from salver.words.errors import HostKilled, LoadFailed, NotFound, NotReady, NoVersion
from salver.words.messages import ModelId, State


def m(version: str, fingerprint: str = "a", name: str = "m", problem: str = "", **policy: object) -> Manifest:
    config = ModelConfig(versions=Versions(**policy))  # type: ignore[arg-type]
    return Manifest(
        ModelId(name, version), Path("/x"), "onnx", "onnx", config, fingerprint, problem=problem, bytes=7
    )


@pytest.fixture
async def rig() -> ManagerRig:
    return ManagerRig()


async def up(rig: ManagerRig, *known: Manifest) -> None:
    rig.manager.apply(known)
    await rig.manager.settled()


# -- leases ------------------------------------------------------------------------------------


async def test_a_loaded_version_is_handed_out(rig: ManagerRig) -> None:
    await up(rig, m("1"))
    lease = rig.manager.acquire("m")
    assert (lease.id, lease.servable.tag, lease.servable.warmed) == (ModelId("m", "1"), "m:1@a", 1)
    assert rig.manager.acquire("m", "1").servable is lease.servable
    assert [e.after for e in rig.events] == [State.LOADING, State.WARMING, State.READY]
    assert rig.manager.ready()
    (status,) = rig.manager.statuses()
    assert (status.state, status.backend, status.bytes, status.reason) == (State.READY, "onnx", 7, "")


async def test_the_default_is_the_newest_by_number(rig: ManagerRig) -> None:
    await up(rig, *(m(v, all=True) for v in ("9", "10", "2")))
    assert rig.manager.acquire("m").id.version == "10"
    assert rig.manager.acquire("m", "2").id.version == "2"


async def test_unknown_models_and_versions(rig: ManagerRig) -> None:
    await up(rig, m("1"))
    with pytest.raises(NotFound, match=r"^Request for unknown model: 'x' is not found"):
        rig.manager.acquire("x")
    with pytest.raises(NotFound, match=r"^Request for unknown model: 'm' version 7 is not found"):
        rig.manager.acquire("m", "7")
    with pytest.raises(NoVersion, match=r"^failed to get model version from .* 'one'"):
        rig.manager.acquire("m", "one")
    with pytest.raises(NoVersion):
        rig.manager.acquire("x", "one")
    await up(rig, m("1"), m("1", name="k"), m("2", name="k"))
    with pytest.raises(NotFound, match=r"^Request for unknown model: 'k' version 1 is not found"):
        rig.manager.acquire("k", "1")  # which the policy does not want


async def test_a_known_version_that_cannot_answer_says_why(rig: ManagerRig) -> None:
    rig.loader.errors["m:1@a"] = LoadFailed("the file is torn")
    await up(rig, m("1"), m("1", name="bad", problem="nobody knows this file"))
    with pytest.raises(NotReady, match=r"'m' version 1 is not at ready state .*FAILED: the file is torn"):
        rig.manager.acquire("m", "1")
    with pytest.raises(NotReady, match="nobody knows this file"):
        rig.manager.acquire("bad", "1")
    for name in ("m", "bad"):  # TR-R30
        with pytest.raises(
            NotFound, match=rf"^Request for unknown model: '{name}' has no available versions$"
        ):
            rig.manager.acquire(name)
    assert not rig.manager.ready()


async def test_a_model_on_its_way_up_may_be_asked_again_soon(rig: ManagerRig) -> None:
    gate = rig.loader.shut("load m:1@a")
    rig.manager.apply([m("1")])
    with pytest.raises(NotReady, match="'m' has no available versions"):
        rig.manager.acquire("m")
    gate.set()
    await rig.manager.settled()
    rig.manager.acquire("m").release()


async def test_a_version_outside_the_policy_is_known_but_not_loaded(rig: ManagerRig) -> None:
    await up(rig, m("1"), m("2"))
    with pytest.raises(NotFound, match="version 1 is not found"):
        rig.manager.acquire("m", "1")
    assert rig.states() == {"m:1": "GONE", "m:2": "READY"}
    assert rig.manager.ready()


@pytest.mark.clause("TF-G11")
async def test_versions_that_have_ended_stay_listed(rig: ManagerRig) -> None:
    def told(name: str) -> dict[str, str]:
        return {s.id.version: s.state.value for s in rig.manager.versions(name)}

    await up(rig, m("1"), m("2"), m("1", name="other"))
    assert told("m") == {"2": "READY"}  # the policy never wanted the first one
    await up(rig, m("2"), m("3"), m("1", name="other"))
    await auntil(lambda: told("m") == {"2": "GONE", "3": "READY"})
    await up(rig, m("3"), m("1", name="other"))
    assert told("m") == {"2": "GONE", "3": "READY"}
    rig.manager.apply([m("1", name="other")])
    await auntil(lambda: told("m") == {"2": "GONE", "3": "GONE"})
    assert told("other") == {"1": "READY"}
    assert told("nobody") == {}
    assert "m:3" not in rig.states()
    await up(rig, m("3"))
    assert told("m") == {"2": "GONE", "3": "READY"}


async def test_releasing_twice_counts_once(rig: ManagerRig) -> None:
    await up(rig, m("1"))
    first, second = rig.manager.acquire("m"), rig.manager.acquire("m")
    first.release()
    first.release()
    rig.manager.apply([])
    await asyncio.sleep(0)
    assert rig.states() == {"m:1": "DRAINING"}
    second.release()
    await auntil(lambda: rig.states() == {})


# -- a change of version -----------------------------------------------------------------------


async def test_callers_always_find_a_version_during_a_swap(rig: ManagerRig) -> None:
    await up(rig, m("1"))
    seen: list[str] = []
    stop = asyncio.Event()

    async def caller() -> None:
        while not stop.is_set():
            lease = rig.manager.acquire("m")
            await asyncio.sleep(0)
            assert lease.servable.closed == 0, "a leased version was closed"
            seen.append(lease.id.version)
            lease.release()

    callers = [asyncio.create_task(caller()) for _ in range(8)]
    for version in range(2, 8):
        await up(rig, m(str(version)))
        await auntil(lambda v=str(version): seen[-1:] == [v])  # type: ignore[misc]
    stop.set()
    await asyncio.gather(*callers)
    assert seen == sorted(seen)
    await auntil(lambda: len(rig.states()) == 1)
    assert [s.closed for s in rig.loader.loaded] == [1] * 6 + [0]


async def test_the_new_version_takes_over_only_when_warm(rig: ManagerRig) -> None:
    await up(rig, m("1"))
    gate = rig.loader.shut("warm m:2@a")
    rig.manager.apply([m("1"), m("2")])
    await auntil(lambda: rig.states()["m:2"] == "WARMING")
    assert rig.manager.acquire("m").id.version == "1"
    assert not rig.manager.ready()
    gate.set()
    await rig.manager.settled()
    assert rig.manager.acquire("m").id.version == "2"
    assert rig.manager.ready()


@pytest.mark.parametrize("errors", ["errors", "warm_errors"])
async def test_a_version_that_fails_leaves_the_running_one(rig: ManagerRig, errors: str) -> None:
    await up(rig, m("1"))
    getattr(rig.loader, errors)["m:2@a"] = RuntimeError("no memory")
    await up(rig, m("1"), m("2"))
    assert rig.states() == {"m:1": "READY", "m:2": "FAILED"}
    assert rig.reason("m:2") == "RuntimeError: no memory"
    running = rig.manager.acquire("m")
    assert running.id.version == "1"
    running.release()
    assert not rig.manager.ready()
    assert [s.closed for s in rig.loader.loaded[1:]] == [1] * (errors == "warm_errors")
    tries = len(rig.loader.loaded)
    await up(rig, m("1"), m("2"))
    assert len(rig.loader.loaded) == tries, "not tried again while its files are the same"
    await up(rig, m("1"), m("2", "b"))
    await auntil(lambda: rig.states() == {"m:1": "GONE", "m:2": "READY"})


async def test_files_that_change_under_a_version_reload_it_beside(rig: ManagerRig) -> None:
    await up(rig, m("1", "a"))
    old = rig.manager.acquire("m")
    await up(rig, m("1", "b"))
    assert rig.manager.acquire("m", "1").servable.tag == "m:1@b"
    assert old.servable.closed == 0
    old.release()
    await auntil(lambda: old.servable.closed == 1)


async def test_a_failed_reload_tells_why_the_old_files_still_serve(rig: ManagerRig) -> None:
    await up(rig, m("1", "a"))
    rig.loader.errors["m:1@b"] = LoadFailed("torn")
    await up(rig, m("1", "b"))
    assert rig.states() == {"m:1": "READY"}
    assert rig.reason("m:1") == "still the files of before, because the new ones did not load: torn"
    await up(rig, m("1", "c", problem="line 3 is wrong"))
    assert rig.reason("m:1") == "still the files of before, because now: line 3 is wrong"
    assert rig.manager.acquire("m").servable.tag == "m:1@a"


# -- unloading ---------------------------------------------------------------------------------


async def test_draining_waits_for_the_last_lease(rig: ManagerRig) -> None:
    await up(rig, m("1"))
    leases = [rig.manager.acquire("m") for _ in range(3)]
    rig.manager.apply([])
    with pytest.raises(NotFound, match=r"'m' has no available versions$"):
        rig.manager.acquire("m")
    for lease in leases:
        assert lease.servable.closed == 0
        lease.release()
    await auntil(lambda: rig.states() == {})
    assert leases[0].servable.closed == 1
    assert rig.reclaimed == 1
    with pytest.raises(NotFound, match=r"'m' has no available versions$"):
        rig.manager.acquire("m")
    with pytest.raises(NotFound, match=r"'m' version 1 is not found$"):
        rig.manager.acquire("m", "1")


async def test_a_folder_is_vacated_when_the_last_copy_on_it_is_gone(rig: ManagerRig) -> None:
    await up(rig, m("1"))
    lease = rig.manager.acquire("m")
    waiting = asyncio.create_task(rig.manager.vacated(Path("/x")))
    await rig.manager.vacated(Path("/y"))
    rig.manager.apply([])
    await asyncio.sleep(0)
    assert not waiting.done()
    lease.release()
    await waiting
    assert rig.states() == {}


async def test_unwanted_while_it_loads_is_closed_when_it_has_loaded(rig: ManagerRig) -> None:
    gate = rig.loader.shut("load m:1@a")
    rig.manager.apply([m("1")])
    await auntil(lambda: rig.states() == {"m:1": "LOADING"})
    rig.manager.apply([])
    gate.set()
    await auntil(lambda: rig.states() == {})
    assert [s.closed for s in rig.loader.loaded] == [1]
    assert State.READY not in [e.after for e in rig.events]


async def test_wanted_again_before_it_has_loaded_goes_on(rig: ManagerRig) -> None:
    gate = rig.loader.shut("load m:1@a")
    rig.manager.apply([m("1")])
    await auntil(lambda: rig.states() == {"m:1": "LOADING"})
    rig.manager.apply([])
    rig.manager.apply([m("1")])
    gate.set()
    await rig.manager.settled()
    assert len(rig.loader.loaded) == 1
    assert rig.manager.ready()


async def test_unwanted_before_its_turn_never_loads(rig: ManagerRig) -> None:
    gates = [rig.loader.shut(f"load {n}:1@a") for n in "abcd"]
    rig.manager.apply([m("1", name=n) for n in "abcde"])
    await auntil(lambda: rig.loader.loading == 4)
    rig.manager.apply([m("1", name=n) for n in "abcd"])
    for gate in gates:
        gate.set()
    await rig.manager.settled()
    assert sorted(s.tag for s in rig.loader.loaded) == ["a:1@a", "b:1@a", "c:1@a", "d:1@a"]


async def test_a_close_that_raises_is_logged_and_over(
    rig: ManagerRig, caplog: pytest.LogCaptureFixture
) -> None:
    await up(rig, m("1"))
    rig.loader.close_errors["m:1@a"] = RuntimeError("stuck")
    rig.manager.apply([])
    await auntil(lambda: rig.states() == {})
    assert "m:1 did not close cleanly" in caplog.text


# -- loading -----------------------------------------------------------------------------------


async def test_a_load_that_takes_long_is_told_of_until_it_ends(
    rig: ManagerRig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("salver.kernel.supervise.REPORT_S", 0.001)
    caplog.set_level("INFO", "salver.lifecycle")
    load, warm = rig.loader.shut("load m:1@a"), rig.loader.shut("warm m:1@a")
    rig.manager.apply([m("1")])
    await auntil(lambda: rig.states() == {"m:1": "LOADING"})
    rig.now = 21.0
    await auntil(lambda: caplog.text.count("m:1 LOADING, 21 s so far") >= 2)
    load.set()
    await auntil(lambda: "m:1 WARMING, 21 s so far" in caplog.text)
    warm.set()
    await rig.manager.settled()
    caplog.clear()
    await asyncio.sleep(0.01)
    assert "so far" not in caplog.text


async def test_loads_run_side_by_side_within_the_bound(rig: ManagerRig) -> None:
    await up(rig, *(m("1", name=f"m{n}") for n in range(20)))
    assert rig.loader.most_loading == 4
    assert rig.manager.ready()


async def test_two_loads_at_once_of_one_model_load_once(rig: ManagerRig) -> None:
    gate = rig.loader.shut("load m:1@a")
    rig.manager.apply([m("1")])
    both = [asyncio.create_task(rig.manager.load("m")) for _ in range(2)]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*both)
    assert len(rig.loader.loaded) == 1


async def test_a_cancelled_wait_does_not_stop_the_load(rig: ManagerRig) -> None:
    gate = rig.loader.shut("load m:1@a")
    rig.manager.apply([m("1")])
    waiting = asyncio.create_task(rig.manager.load("m"))
    await auntil(lambda: rig.loader.loading == 1)
    waiting.cancel()
    await asyncio.wait([waiting])
    gate.set()
    await rig.manager.settled()
    assert rig.manager.ready()


async def test_load_tells_the_reason_and_tries_again(rig: ManagerRig) -> None:
    rig.loader.errors["m:1@a"] = LoadFailed("torn")
    rig.manager.apply([m("1")])
    with pytest.raises(
        LoadFailed, match=r"^load failed for model 'm': version 1 is at UNAVAILABLE state: torn$"
    ):
        await rig.manager.load("m")
    with pytest.raises(LoadFailed):
        await rig.manager.load("m")
    del rig.loader.errors["m:1@a"]
    await rig.manager.load("m")
    assert rig.manager.ready()


async def test_load_of_what_cannot_be_loaded(rig: ManagerRig) -> None:
    rig.manager.apply([m("1", problem="no model in there"), m("3", name="s", specific=("7",))])
    with pytest.raises(LoadFailed, match="version 1 is at UNAVAILABLE state: no model in there"):
        await rig.manager.load("m")
    with pytest.raises(LoadFailed, match="at least one version must be available under the version policy"):
        await rig.manager.load("s")
    with pytest.raises(NotFound):
        await rig.manager.load("x")
    assert not rig.manager.ready()


async def test_a_broken_version_that_nobody_wants_is_no_reason_to_refuse(rig: ManagerRig) -> None:
    rig.manager.apply([m("1", problem="torn"), m("2")])
    await rig.manager.load("m")
    rig.manager.apply([m("2"), m("3", problem="torn")])
    with pytest.raises(
        LoadFailed, match=r"^load failed for model 'm': version 3 is at UNAVAILABLE state: torn$"
    ):
        await rig.manager.load("m")
    assert rig.manager.acquire("m").id.version == "2"


async def test_retries_back_off_and_end() -> None:
    rig = ManagerRig(LifecycleConfig(retries=2, backoff_s=10))
    rig.loader.errors["m:1@a"] = LoadFailed("torn")
    for now, expected in ((0.0, 1), (9.9, 1), (10.0, 2), (29.9, 2), (30.0, 3), (1e9, 3)):
        rig.now = now
        rig.manager.apply([m("1")])
        await auntil(lambda: rig.states() == {"m:1": "FAILED"})
        tries = sum(e.after is State.LOADING for e in rig.events)
        assert tries == expected
    assert rig.states() == {"m:1": "FAILED"}


async def test_a_version_whose_host_was_killed_is_tried_again() -> None:
    """By the system that ran out of memory, for instance: nothing is wrong with its files."""
    rig = ManagerRig(LifecycleConfig(backoff_s=10))
    rig.loader.errors["m:1@a"] = HostKilled("SIGKILL")
    rig.manager.apply([m("1")])
    await auntil(lambda: rig.states() == {"m:1": "FAILED"})
    del rig.loader.errors["m:1@a"]
    rig.now = 10.0
    rig.manager.apply([m("1")])
    await auntil(lambda: rig.states() == {"m:1": "READY"})


@pytest.mark.clause("TR-F2")
async def test_who_waits_for_a_load_waits_for_its_further_tries() -> None:
    rig = ManagerRig(LifecycleConfig(retries=3, backoff_s=0))
    rig.loader.errors["m:1@a"] = LoadFailed("torn")
    await up(rig, m("1"))
    assert sum(e.after is State.LOADING for e in rig.events) == 4


async def test_the_outcome_of_a_load_is_that_of_its_last_try() -> None:
    rig = ManagerRig(LifecycleConfig(backoff_s=0))
    rig.loader.errors["m:1@a"] = HostKilled("SIGKILL")
    rig.manager.apply([m("1")])
    assert await rig.manager.outcome(ModelId("m", "1")) == "SIGKILL"
    assert sum(e.after is State.LOADING for e in rig.events) == 3


async def test_nothing_is_reclaimed_here_for_a_model_in_host_processes(rig: ManagerRig) -> None:
    await up(rig, m("1"))
    rig.loader.loaded[0].processes = (7,)
    rig.manager.apply([])
    await auntil(lambda: rig.states() == {})
    assert rig.reclaimed == 0


# -- shutting down -----------------------------------------------------------------------------


async def test_drain_waits_for_leases_then_closes_all(rig: ManagerRig) -> None:
    await up(rig, m("1"), m("1", name="n"))
    lease = rig.manager.acquire("m")
    draining = asyncio.create_task(rig.manager.drain(60))
    await auntil(lambda: rig.states() == {"m:1": "DRAINING"})
    assert not rig.manager.ready()
    rig.manager.apply([m("1")])
    with pytest.raises(NotReady):
        rig.manager.acquire("m")
    assert not draining.done()
    lease.release()
    await draining
    assert [s.closed for s in rig.loader.loaded] == [1, 1]
    assert rig.states() == {}
    assert rig.reclaimed == 1, "once for all models"


async def test_drain_does_not_wait_longer_than_the_grace(rig: ManagerRig) -> None:
    await up(rig, m("1"))
    lease = rig.manager.acquire("m")
    await rig.manager.drain(0)
    assert lease.servable.closed == 1
    lease.release()
    assert rig.states() == {}


async def test_drain_cancels_a_load_that_hangs(rig: ManagerRig) -> None:
    rig.loader.shut("load m:1@a")
    rig.loader.shut("warm m:2@a")
    rig.manager.apply([m("1", all=True), m("2", all=True)])
    await auntil(lambda: rig.states() == {"m:1": "LOADING", "m:2": "WARMING"})
    await rig.manager.drain(0)
    assert [s.closed for s in rig.loader.loaded] == [1]
    assert rig.states() == {}


async def test_drain_of_nothing(rig: ManagerRig) -> None:
    assert not rig.manager.ready(), "nobody has said yet what should be served"
    rig.manager.apply([])
    assert rig.manager.ready(), "a server of no models is ready for them"
    await rig.manager.drain(60)
    assert not rig.manager.ready()


async def test_nothing_keeps_an_unloaded_servable_alive(rig: ManagerRig) -> None:
    await up(rig, m("1"))
    rig.manager.acquire("m").release()
    await up(rig)
    await auntil(lambda: rig.states() == {})
    rig.loader.loaded.clear()
    await asyncio.sleep(0)
    gc.collect()
    assert not [o for o in gc.get_objects() if isinstance(o, FakeServable)]


def test_memory_is_given_back_without_error() -> None:
    give_back_memory()
    assert gc.garbage == []


# -- changes in place --------------------------------------------------------------------------------


def sized(fingerprint: str, body: str = "same") -> Manifest:
    return replace(m("1", fingerprint), body=body)


@pytest.mark.clause("TR-L4")
async def test_other_instances_alone_are_changed_in_place(rig: ManagerRig) -> None:
    await up(rig, sized("a"))
    lease = rig.manager.acquire("m")
    gate = rig.loader.shut("adjust m:1@b")
    rig.manager.apply([sized("b")])
    rig.manager.apply([sized("b")])  # told again meanwhile
    await asyncio.sleep(0)
    assert rig.manager.acquire("m").servable is lease.servable  # it answers all the while
    gate.set()
    await rig.manager.load("m")
    assert rig.manager.acquire("m").servable is lease.servable and lease.servable.tag == "m:1@b"
    assert (len(rig.loader.loaded), lease.servable.closed, lease.servable.warmed) == (1, 0, 1)
    await up(rig, sized("c", body="new"))
    assert rig.manager.acquire("m").servable.tag == "m:1@c" and len(rig.loader.loaded) == 2


@pytest.mark.clause("TR-L4")
@pytest.mark.parametrize("raises", [False, True])
async def test_what_cannot_change_in_place_is_loaded_anew(rig: ManagerRig, raises: bool) -> None:
    await up(rig, sized("a"))
    if raises:
        rig.loader.errors["adjust m:1@b"] = LoadFailed("no memory")
    else:
        rig.loader.rigid.add("m:1@b")
    rig.manager.apply([sized("b")])
    await rig.manager.load("m")
    assert [servable.tag for servable in rig.loader.loaded] == [rig.loader.loaded[0].tag, "m:1@b"]
    assert rig.manager.acquire("m").servable is rig.loader.loaded[1]
    await auntil(lambda: rig.loader.loaded[0].closed == 1)


@pytest.mark.clause("TR-L4")
async def test_a_model_that_is_unloaded_while_it_changes_goes(rig: ManagerRig) -> None:
    await up(rig, sized("a"))
    gate = rig.loader.shut("adjust m:1@b")
    rig.manager.apply([sized("b")])
    rig.manager.apply([])
    gate.set()
    await auntil(lambda: not rig.states())
    assert rig.loader.loaded[0].closed == 1 and len(rig.loader.loaded) == 1
