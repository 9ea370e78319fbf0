"""Versions that are wanted, but not in memory: who decides it, and who brings them back."""

import asyncio
from collections.abc import Sequence, Set
from pathlib import Path

import pytest
from managing import ManagerRig
from msgspec.structs import replace
from waiting import auntil

from salver.kernel.lifecycle.ports import LifecycleConfig, Outline
from salver.kernel.serving.leases import until_resident
from salver.words.artifacts import Manifest, ModelConfig, Versions
from salver.words.errors import DeadlineExceeded, LoadFailed, NotReady, NotResident, SalverError
from salver.words.messages import ModelId, State


def m(name: str, version: str = "1", fingerprint: str = "a", *, all: bool = False) -> Manifest:
    config = ModelConfig(versions=Versions(all=all))
    return Manifest(ModelId(name, version), Path("/x"), "onnx", "onnx", config, fingerprint, bytes=7)


class FakeResidence:
    """Residence of a set of versions, which grows by demand."""

    def __init__(self, rig: ManagerRig, *away: str) -> None:
        self.rig = rig
        self.away = {ModelId(*name.split(":")) for name in away}
        self.demanded: list[str] = []
        self.known: Sequence[Manifest] = ()

    def absent(self, chosen: Sequence[Manifest]) -> Set[ModelId]:
        return self.away & {manifest.id for manifest in chosen}

    def outline(self, id: ModelId) -> Outline | None:
        return None

    async def demand(self, id: ModelId) -> None:
        self.demanded.append(str(id))
        self.away.discard(id)
        self.rig.manager.apply(self.known)
        if reason := await self.rig.manager.outcome(id):
            raise LoadFailed(reason)


@pytest.fixture
async def rig() -> ManagerRig:
    return ManagerRig()


async def up(rig: ManagerRig, residence: FakeResidence, *known: Manifest) -> None:
    residence.known = known
    rig.manager.residence = residence
    rig.manager.apply(known)
    await rig.manager.settled()


async def test_an_absent_version_is_known_and_not_loaded(rig: ManagerRig) -> None:
    await up(rig, FakeResidence(rig, "a:1"), m("a"), m("b"))
    assert rig.states() == {"a:1": "GONE", "b:1": "READY"}
    (status,) = rig.manager.versions("a")
    assert status.reason == "not in memory; the next request loads it"
    assert rig.manager.ready()
    assert rig.manager.wanted() == {"b"}


async def test_a_request_brings_it_back(rig: ManagerRig) -> None:
    residence = FakeResidence(rig, "a:1")
    await up(rig, residence, m("a"))
    with pytest.raises(NotResident, match="'a' is not in memory") as caught:
        rig.manager.acquire("a")
    assert caught.value.arrives is not None
    await caught.value.arrives()
    assert rig.manager.acquire("a").id == ModelId("a", "1")
    assert residence.demanded == ["a:1"]


async def test_what_becomes_absent_is_drained_first(rig: ManagerRig) -> None:
    residence = FakeResidence(rig)
    await up(rig, residence, m("a"))
    lease = rig.manager.acquire("a")
    assert rig.manager.leases(ModelId("a", "1")) == 1
    residence.away.add(ModelId("a", "1"))
    rig.manager.apply([m("a")])
    with pytest.raises(NotResident):
        rig.manager.acquire("a")
    assert rig.states() == {"a:1": "DRAINING"}
    lease.release()
    await auntil(lambda: rig.states() == {"a:1": "GONE"})
    assert rig.manager.leases(ModelId("a", "1")) == 0


@pytest.mark.parametrize(("retries", "is_awaited"), [(1, True), (0, False)])
async def test_a_version_that_is_tried_again_is_waited_for(retries: int, is_awaited: bool) -> None:
    rig = ManagerRig(LifecycleConfig(retries=retries, backoff_s=10))
    rig.loader.errors["a:1@a"] = LoadFailed("its host was killed")
    rig.manager.residence = FakeResidence(rig)
    rig.manager.apply([m("a")])
    await auntil(lambda: rig.states() == {"a:1": "FAILED"})
    await asyncio.sleep(0)  # its task ends
    with pytest.raises(SalverError) as caught:
        rig.manager.acquire("a")
    assert isinstance(caught.value, NotResident) == is_awaited
    await rig.manager.drain(0)


async def test_a_load_under_way_is_dropped_when_it_becomes_absent(rig: ManagerRig) -> None:
    residence = FakeResidence(rig)
    gate = rig.loader.shut("load a:1@a")
    residence.known = (m("a"),)
    rig.manager.residence = residence
    rig.manager.apply(residence.known)
    residence.away.add(ModelId("a", "1"))
    rig.manager.apply(residence.known)
    gate.set()
    await auntil(lambda: rig.states() == {"a:1": "GONE"})
    assert [event.after for event in rig.events if event.after is State.READY] == []


def meant(rig: ManagerRig, version: str) -> str:
    """The absent version for which a request would wait."""
    with pytest.raises(NotResident) as caught:
        rig.manager.acquire("a", version)
    (id,) = caught.value.arrives.args  # type: ignore[union-attr]
    return str(id)


async def test_the_version_that_a_request_means(rig: ManagerRig) -> None:
    residence = FakeResidence(rig, "a:1", "a:2")
    await up(rig, residence, m("a", "1", all=True), m("a", "2", all=True))
    assert [meant(rig, version) for version in ("", "1")] == ["a:2", "a:1"]
    rig.manager.pin("a", "1")
    assert meant(rig, "") == "a:1"
    await residence.demand(ModelId("a", "1"))
    assert rig.manager.acquire("a").id.version == "1"


async def test_an_order_to_load_brings_it_back_and_says_what_failed(rig: ManagerRig) -> None:
    residence = FakeResidence(rig, "a:1", "b:1")
    rig.loader.errors["b:1@a"] = LoadFailed("the file is torn")
    await up(rig, residence, m("a"), m("b"))
    await rig.manager.load("a")
    rig.manager.acquire("a").release()
    with pytest.raises(LoadFailed, match="the file is torn"):
        await rig.manager.load("b")


async def test_changed_files_of_an_absent_version_are_loaded_by_the_next_request(rig: ManagerRig) -> None:
    residence = FakeResidence(rig, "a:1")
    await up(rig, residence, m("a"))
    residence.known = (replace(m("a"), fingerprint="b"),)
    rig.manager.apply(residence.known)
    assert rig.states() == {"a:1": "GONE"}
    await residence.demand(ModelId("a", "1"))
    assert rig.manager.acquire("a").servable.tag == "a:1@b"


async def test_waiting_ends_with_the_deadline_of_the_request() -> None:
    loaded = asyncio.Event()

    async def arrives() -> None:
        await loaded.wait()

    absent = NotResident("model 'a' is not in memory")
    with pytest.raises(NotResident):
        await until_resident(absent, None, lambda: 5.0)
    absent.arrives = arrives
    with pytest.raises(DeadlineExceeded, match="'a' is not in memory, and was not loaded by the deadline"):
        await until_resident(absent, 5.0, lambda: 5.0)
    loaded.set()
    await until_resident(absent, None, lambda: 5.0)
    assert isinstance(absent, NotReady)
