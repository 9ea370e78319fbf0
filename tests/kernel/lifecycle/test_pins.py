"""Which version is asked where none is named: a pinned one stays, and how versions end."""

import asyncio
from pathlib import Path

import msgspec
import pytest
from waiting import PATIENCE_S

from salver.kernel.lifecycle import Manager
from salver.words.artifacts import Manifest, ModelConfig, Versions
from salver.words.errors import LoadFailed, SalverError
from salver.words.handlers import FORMAT, Workers
from salver.words.messages import ModelId, State


class Loaded:
    leave = None
    processes: tuple[int, ...] = ()

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.is_closed = False

    async def warm(self, config: ModelConfig) -> None:
        pass

    async def adjust(self, manifest: Manifest) -> bool:
        self.manifest = manifest
        return True

    async def close(self) -> None:
        self.is_closed = True


class Loading:
    def __init__(self, *bad: str) -> None:
        self.bad = bad
        self.loaded: list[Loaded] = []

    async def load(self, manifest: Manifest) -> Loaded:
        await asyncio.sleep(0)
        if manifest.id.version in self.bad:
            raise LoadFailed(f"no {manifest.id}")
        self.loaded.append(Loaded(manifest))
        return self.loaded[-1]


def handler(version: str, workers: int = 1, name: str = "m", kind: str = FORMAT) -> Manifest:
    config = ModelConfig(versions=Versions(all=True), workers=Workers(workers, workers))
    fingerprint = f"{version} of {workers}"
    return Manifest(
        ModelId(name, version), Path("/x"), kind, kind, config, fingerprint=fingerprint, body=version
    )


def manager(*bad: str) -> tuple[Manager[Loaded], Loading]:
    loading = Loading(*bad)
    return Manager(loading, lambda: 0.0, lambda event: None, reclaim=lambda enough: None), loading


def asked(manager: Manager[Loaded], version: str = "") -> str:
    lease = manager.acquire("m", version)
    lease.release()
    return lease.id.version


@pytest.mark.clause("TS-M6")
@pytest.mark.parametrize("kind", [FORMAT, "onnx"])
async def test_a_pinned_version_is_asked_whatever_else_comes(kind: str) -> None:
    lives, _ = manager()
    lives.pin("m", "1.0")
    lives.apply([handler("1.0", kind=kind), handler("2.0", kind=kind)])
    await lives.settled()
    assert (asked(lives), asked(lives, "2.0")) == ("1.0", "2.0")
    lives.pin("m", "2.0")
    assert (asked(lives), asked(lives, "1.0"), lives.pinned("m")) == ("2.0", "1.0", "2.0")
    lives.apply([handler("1.0", kind=kind), handler("2.0", kind=kind), handler("3.0", kind=kind)])
    await lives.settled()
    assert asked(lives) == "2.0"
    lives.unpin("m")
    assert asked(lives) == "3.0"
    await lives.drain(1)


@pytest.mark.clause("TS-M6")
async def test_a_pinned_version_that_cannot_answer_has_no_stand_in() -> None:
    lives, _ = manager("1.0")
    lives.pin("m", "1.0")
    lives.apply([handler("1.0"), handler("2.0")])
    await lives.settled()
    with pytest.raises(SalverError):
        lives.acquire("m")
    assert asked(lives, "2.0") == "2.0"
    await lives.drain(1)


async def test_a_pinned_version_that_its_owner_wants_no_more_makes_way_until_it_is_wanted_again() -> None:
    def only(*versions: str) -> list[Manifest]:
        config = ModelConfig(versions=Versions(specific=versions))
        return [msgspec.structs.replace(handler(v, kind="onnx"), config=config) for v in ("1", "2")]

    lives, _ = manager()
    lives.pin("m", "1")
    lives.apply(only("1"))
    await lives.settled()
    lives.apply(only("2"))
    assert asked(lives) == "1"  # until the other one can answer
    await lives.load("m")
    assert asked(lives) == "2"
    lives.apply(only("1", "2"))
    await lives.settled()
    assert asked(lives) == "1"
    await lives.drain(1)


@pytest.mark.clause("TS-M6")
async def test_a_model_without_a_pin_is_as_before() -> None:
    lives, _ = manager()
    lives.unpin("m")
    lives.apply([handler("1"), handler("2")])
    await lives.settled()
    assert (asked(lives), lives.pinned("m")) == ("2", "")
    await lives.drain(1)


@pytest.mark.clause("TS-M1")
async def test_the_outcome_of_one_version_is_told() -> None:
    lives, _ = manager("2.0")
    lives.apply([handler("1.0"), handler("2.0")])
    assert await lives.outcome(ModelId("m", "1.0")) == ""
    assert "no m:2.0" in await lives.outcome(ModelId("m", "2.0"))
    assert await lives.outcome(ModelId("m", "9")) == "it was taken out"
    assert lives.servable(ModelId("m", "1.0")) is not None
    assert lives.servable(ModelId("m", "2.0")) is None
    await lives.drain(1)


@pytest.mark.clause("TS-M5")
async def test_a_handler_that_is_taken_out_goes_though_no_other_is_ready() -> None:
    lives, loading = manager("1.0")
    lives.apply([handler("1.0"), handler("2.0")])
    await lives.settled()
    lease = lives.acquire("m", "2.0")
    lives.apply([handler("1.0")])
    ending = asyncio.create_task(lives.ended(ModelId("m", "2.0")))
    with pytest.raises(SalverError):
        lives.acquire("m", "2.0")
    await asyncio.sleep(0)
    assert not ending.done()  # a request is in flight
    lease.release()
    await asyncio.wait_for(ending, PATIENCE_S)
    assert loading.loaded[0].is_closed
    await lives.drain(1)


@pytest.mark.clause("TS-M5")
async def test_who_takes_a_version_out_does_not_wait_for_one_that_is_registered_anew() -> None:
    lives, loading = manager()
    lives.apply([handler("1.0")])
    await lives.settled()
    lease = lives.acquire("m", "1.0")
    lives.apply([])
    ending = asyncio.create_task(lives.ended(ModelId("m", "1.0")))
    await asyncio.sleep(0)
    lives.apply([handler("1.0")])
    await lives.settled()
    await asyncio.sleep(0)
    assert not ending.done()
    lease.release()
    await asyncio.wait_for(ending, PATIENCE_S)
    assert [each.is_closed for each in loading.loaded] == [True, False]
    await lives.drain(1)


@pytest.mark.clause("TS-M5")
async def test_nor_for_one_that_was_on_its_way_up_and_is_wanted_again() -> None:
    lives, loading = manager()
    lives.apply([handler("1.0")])
    lives.apply([])
    ending = asyncio.create_task(lives.ended(ModelId("m", "1.0")))
    await asyncio.sleep(0)
    lives.apply([handler("1.0")])
    await asyncio.wait_for(ending, PATIENCE_S)
    await lives.settled()
    assert lives.acquire("m", "1.0").servable is loading.loaded[-1]
    await lives.drain(0)


@pytest.mark.clause("TS-M2")
async def test_other_workers_are_no_other_version() -> None:
    lives, loading = manager()
    lives.apply([handler("1.0")])
    await lives.settled()
    lives.apply([handler("1.0", workers=3)])
    await lives.settled()
    assert len(loading.loaded) == 1
    assert loading.loaded[0].manifest.config.workers == Workers(3, 3)
    assert [s.state for s in lives.statuses()] == [State.READY]
    await lives.drain(1)
