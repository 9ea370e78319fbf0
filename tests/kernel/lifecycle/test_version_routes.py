"""Labels follow what can answer, and callers by label never wait for a load."""

import asyncio
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import PATIENCE_S, auntil

from salver.kernel.lifecycle import LifecycleConfig, Manager
from salver.kernel.lifecycle.routes import Labels, labels_of, settle
from salver.words.artifacts import Manifest, ModelConfig, Versions
from salver.words.errors import InvalidInput, LoadFailed, NotFound
from salver.words.messages import ModelId, State

VERSIONS = st.sampled_from(["1", "2", "3"])
LABELS = st.dictionaries(st.sampled_from(["stable", "canary"]), VERSIONS)


@given(LABELS, LABELS, st.sets(VERSIONS))
def test_a_label_means_what_is_wanted_or_what_answers(
    wanted: dict[str, str], before: dict[str, str], ready: set[str]
) -> None:
    found = settle(wanted, before, ready)
    assert found.keys() == wanted.keys()
    for label, version in found.items():
        assert version in (wanted[label], before.get(label))
        if version != wanted[label]:
            assert version in ready
            assert wanted[label] not in ready
        if wanted[label] in ready:
            assert version == wanted[label]


@given(LABELS, LABELS, st.sets(VERSIONS))
def test_settling_twice_is_settling_once(
    wanted: dict[str, str], before: dict[str, str], ready: set[str]
) -> None:
    once = settle(wanted, before, ready)
    assert settle(wanted, once, ready) == once


def m(version: str, labels: dict[str, str], *specific: str) -> Manifest:
    config = ModelConfig(versions=Versions(specific=specific), labels=labels)
    return Manifest(ModelId("m", version), Path("/x"), "onnx", "onnx", config, "a")


def test_the_newest_version_says_which_labels_there_are() -> None:
    assert labels_of([m("2", {"stable": "1"}), m("10", {"stable": "2"}), m("9", {})]) == {
        "m": Labels({"stable": "2"})
    }
    assert labels_of([m("2", {"stable": "1"}), m("10", {})]) == {}


class Servable:
    leave = None
    processes: tuple[int, ...] = ()

    async def warm(self, config: ModelConfig) -> None:
        pass

    async def adjust(self, manifest: Manifest) -> bool:
        return True

    async def close(self) -> None:
        pass


class Loader:
    def __init__(self) -> None:
        self.gates: dict[str, asyncio.Event] = {}

    async def load(self, manifest: Manifest) -> Servable:
        if gate := self.gates.get(manifest.id.version):
            await gate.wait()
        return Servable()


def version(manager: Manager[Servable], label: str) -> str:
    lease = manager.acquire("m", label)
    lease.release()
    return lease.id.version


@pytest.mark.clause("TF-L7")
async def test_a_label_moves_when_its_version_is_up_and_keeps_the_old_one_until_then() -> None:
    loader = Loader()
    manager: Manager[Servable] = Manager(loader, lambda: 0.0, lambda event: None, reclaim=lambda enough: None)
    stable = {"stable": "1"}
    manager.apply([m(v, stable, "1", "3") for v in ("1", "2", "3")])
    await manager.settled()
    assert version(manager, "stable") == "1" == manager.version_of_label("m", "stable")
    gate = loader.gates["2"] = asyncio.Event()
    moved = {"stable": "2"}
    manager.apply([m(v, moved, "2", "3") for v in ("1", "2", "3")])
    await asyncio.sleep(0.01)
    assert version(manager, "stable") == "1", "3 is ready, yet 1 is not unloaded while the label means it"
    gate.set()
    await manager.settled()
    assert version(manager, "stable") == "2"
    await auntil(lambda: {s.id.version for s in manager.statuses() if s.state is State.READY} == {"2", "3"})
    manager.apply([m(v, moved, "2", "3") for v in ("2", "3")])
    assert version(manager, "stable") == "2"
    await manager.drain(1)


@pytest.mark.clause("TF-L7")
async def test_labels_of_what_is_not_there() -> None:
    manager: Manager[Servable] = Manager(
        Loader(), lambda: 0.0, lambda event: None, reclaim=lambda enough: None
    )
    manager.apply([m("1", {"stable": "1", "next": "7"}, "1")])
    await manager.settled()
    assert manager.version_of_label("m", "next") == "7"
    with pytest.raises(NotFound, match="'m' version 7 is not found"):
        manager.acquire("m", "next")
    for model, label in (("m", "nothing"), ("n", "stable")):
        with pytest.raises(InvalidInput, match=f"^Unrecognized servable version label: {label}$"):
            manager.version_of_label(model, label)
    await manager.drain(1)


class Failing(Loader):
    """Of which version 2 does not load."""

    async def load(self, manifest: Manifest) -> Servable:
        if manifest.id.version == "2":
            raise LoadFailed("torn")
        return await super().load(manifest)


@pytest.mark.clause("TF-G11")
async def test_versions_that_ended_stay_listed() -> None:
    manager: Manager[Servable] = Manager(
        Failing(), lambda: 0.0, lambda event: None, reclaim=lambda enough: None
    )
    manager.apply([m(v, {}, "1", "2", "3") for v in ("1", "2", "3", "4")])
    await manager.tried({"m"})

    def states() -> dict[str, str]:
        return {s.id.version: s.state.value for s in manager.versions("m")}

    assert states() == {"1": "READY", "2": "FAILED", "3": "READY"}, "nobody wanted 4"
    manager.apply([m("3", {}, "3")])
    await auntil(lambda: states() == {"1": "GONE", "2": "GONE", "3": "READY"})
    manager.apply([])
    await auntil(lambda: states()["3"] == "GONE")
    assert {s.id.version for s in manager.statuses()} == set()
    manager.apply([m("1", {}, "1")])
    await manager.settled()
    assert states() == {"1": "READY", "2": "GONE", "3": "GONE"}
    assert manager.versions("other") == ()
    await manager.drain(1)


@pytest.mark.clause("TF-L5")
async def test_what_failed_once_is_not_waited_for_until_its_last_try() -> None:
    config = LifecycleConfig(retries=5, backoff_s=3600, backoff_factor=1.0)
    manager: Manager[Servable] = Manager(
        Failing(), lambda: 0.0, lambda event: None, config, reclaim=lambda enough: None
    )
    manager.apply([m(v, {}, "1", "2") for v in ("1", "2")])
    async with asyncio.timeout(PATIENCE_S):
        await manager.tried({"m"})
        await manager.tried({"other"})
    assert {s.id.version: s.state for s in manager.versions("m")} == {"1": State.READY, "2": State.FAILED}
    await manager.drain(0.1)


def d(version: str, labels: dict[str, str], default: str, *specific: str) -> Manifest:
    manifest = m(version, labels, *specific)
    config = msgspec.structs.replace(manifest.config, default_label=default)
    return msgspec.structs.replace(manifest, config=config)


async def test_requests_without_a_version_go_to_the_default_label_and_follow_it_without_a_gap() -> None:
    loader = Loader()
    manager: Manager[Servable] = Manager(loader, lambda: 0.0, lambda event: None, reclaim=lambda enough: None)
    manager.apply([d(v, {"champion": "1"}, "champion", "1", "3") for v in ("1", "2", "3")])
    await manager.settled()
    assert version(manager, "") == "1"  # though 3 is newer
    gate = loader.gates["2"] = asyncio.Event()
    manager.apply([d(v, {"champion": "2"}, "champion", "2") for v in ("1", "2", "3")])
    await asyncio.sleep(0.01)
    assert version(manager, "") == "1"
    gate.set()
    async with asyncio.timeout(PATIENCE_S):
        while version(manager, "") == "1":  # which raises where nobody answers
            await asyncio.sleep(0)
    assert version(manager, "") == "2"
    await manager.settled()
    manager.apply([m(v, {}, "2", "3") for v in ("1", "2", "3")])
    await manager.settled()
    assert version(manager, "") == "3"  # there is no default any more
    await manager.drain(1)


async def test_name_at_label_is_a_name_where_no_model_is_called_so() -> None:
    manager: Manager[Servable] = Manager(
        Loader(), lambda: 0.0, lambda event: None, reclaim=lambda enough: None
    )
    other = msgspec.structs.replace(m("7", {}), id=ModelId("m@own", "7"))
    manager.apply([m("1", {"stable": "1", "own": "1", "next": "2"}, "1"), other])
    await manager.settled()
    for name, wanted in (("m@stable", ("m", "1")), ("m@own", ("m@own", "7"))):
        lease = manager.acquire(name)
        assert (lease.id.name, lease.id.version) == wanted
        lease.release()
    lease = manager.other("m@stable", "", lambda servable: True)
    assert lease is not None
    assert lease.id == ModelId("m", "1")
    lease.release()
    assert manager.other("m@nothing", "", lambda servable: True) is None
    for name in ("m@nothing", "n@stable", "@stable", "m@", "m@stable@stable"):
        with pytest.raises(NotFound, match="Request for unknown model"):
            manager.acquire(name)
    with pytest.raises(NotFound, match="version 2 is not found"):
        manager.acquire("m@next")
    with pytest.raises(NotFound):
        manager.acquire("m@stable", "1")
    await manager.drain(1)
