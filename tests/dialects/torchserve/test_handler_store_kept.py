"""Handlers of the start, what is written down of them, and changes whose callers leave (TS-B9, TS-B10)."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from handler_hall import (
    hall,
    here,
    mar,
    status,
    stocked,
)
from waiting import auntil

from salver.dialects.torchserve import model_settings
from salver.dialects.torchserve.archive_files import MANIFEST
from salver.dialects.torchserve.registering import StartupModel, name_of, of_snapshot
from salver.words.errors import (
    InvalidInput,
    NotFound,
    WorkersFailed,
)
from salver.words.handlers import ModelListing, Registration
from salver.words.messages import ModelId


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return stocked(tmp_path / "store")


# The start, and what is written down.


@pytest.mark.clause("TS-B9", "TS-C2")
async def test_models_of_the_start_come_up_together_and_one_that_fails_harms_none(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = (
        StartupModel("nothing.mar"),
        StartupModel("noop.mar", "first"),
        StartupModel("inspect_v2.mar"),
        StartupModel("inspect.mar"),
    )
    async with hall(store, at_start=start, workers_at_start=2) as h:
        await h.lives.settled()
        assert h.store.models() == (
            ModelListing("first", "noop.mar", True),
            ModelListing("inspect", "inspect_v2.mar", True),
        )
        assert h.default("inspect") == "2.0"  # it came first
        assert status(h, "first").is_loaded_at_startup
        assert status(h, "first").workers == here(2, 2)
        assert "Failed to load model: nothing.mar" in caplog.text


@pytest.mark.clause("TS-C2")
async def test_everything_in_the_store(store: Path) -> None:
    (store / ".hidden.mar").write_text("x")
    (store / "open" / "MAR-INF").mkdir(parents=True)
    (store / "open" / MANIFEST).write_text('{"model": {"handler": "noop.py"}}')
    async with hall(store, loads_all=True) as h:
        await h.lives.settled()
        assert [name for name, *_ in h.store.models()] == ["inspect", "noop", "open", "yaml"]
        assert h.default("inspect") == "1.0"
    with pytest.raises(InvalidInput, match="cannot be read"):
        async with hall(store / "none", loads_all=True):
            pass


@pytest.mark.clause("TS-C2")
async def test_the_models_setting_says_how(store: Path) -> None:
    said = {"minWorkers": 1, "maxWorkers": 2, "batchSize": 2, "maxBatchDelay": 11, "responseTimeout": 55}
    text = json.dumps({"noop": {"1.0": {"marName": "noop.mar", **said}}})
    settings = {name: dict(versions) for name, versions in model_settings.parse(text).items()}
    async with hall(store, settings=settings, at_start=(StartupModel("noop.mar"),)) as h:
        assert status(h, "noop").workers == here(1, 2, 2, 11, 55)
        await h.store.unregister("noop")
        await h.store.register(Registration("noop.mar", batch_size=4, initial_workers=3))
        assert status(h, "noop").workers == here(3, 3, 4, 11, 55)


@pytest.mark.clause("TS-B10")
async def test_each_change_is_told(store: Path) -> None:
    told: list[list[str]] = []
    async with hall(store) as h:
        h.store.changed = lambda: told.append(sorted(h.store.snapshot()))
        await h.store.register(Registration("noop.mar"))
        await h.store.scale("noop", "", 2, None, waits=True)
        h.store.set_default("noop", "1.0")
        with pytest.raises(WorkersFailed):
            await h.store.register(Registration("inspect.mar", handler="bad.py"))
        await h.store.unregister("noop")
    assert told == [["noop"], ["noop"], ["noop"], ["inspect", "noop"], ["noop"], []]


async def begun(caller: "asyncio.Task[Any]") -> None:
    """Cancel the caller once the change has begun."""
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller


@pytest.mark.clause("TS-M1", "TS-M5")
async def test_changes_go_on_though_their_caller_has_left(store: Path) -> None:
    async with hall(store) as h:
        await begun(asyncio.create_task(h.store.register(Registration("noop.mar"))))
        await auntil(lambda: bool(h.closed or h.lives.servable(ModelId("noop", "1.0"))))
        lease = h.lives.acquire("noop")
        leaving = asyncio.create_task(h.store.unregister("noop"))
        await auntil(lambda: not h.store.models())
        await begun(leaving)
        lease.release()
        await auntil(lambda: h.closed == [ModelId("noop", "1.0")])
        await h.store.register(Registration("noop.mar"))


@pytest.mark.clause("TS-M1")
async def test_one_that_does_not_start_is_taken_out_though_its_caller_has_left(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with hall(store) as h:
        h.gate.clear()
        caller = asyncio.create_task(h.store.register(Registration("noop.mar", handler="bad.py")))
        await auntil(lambda: bool(h.store.models()))
        await begun(caller)
        h.gate.set()
        await auntil(lambda: not h.store.models())
        await auntil(lambda: "a request to change models failed: Failed to start workers" in caplog.text)


@pytest.mark.clause("TS-B10")
async def test_what_is_served_is_written_down_and_found_again(store: Path, tmp_path: Path) -> None:
    mar(tmp_path, "outside")
    outside = (tmp_path / "outside.mar").as_uri()
    async with hall(store) as h:
        await h.store.register(
            Registration("noop.mar", "kept", batch_size=2, response_timeout_s=21, handler="h.py")
        )
        await h.store.register(Registration("inspect.mar"))
        await h.store.register(Registration("inspect_v2.mar", initial_workers=0, runtime="python3"))
        await h.store.register(Registration("yaml.mar"))
        await h.store.register(Registration(outside, "far"))
        h.store.set_default("inspect", "2.0")
        await h.store.scale("yaml", "", 3, 4, waits=True)
        before = h.store.snapshot()
        told = [h.store.describe(name, "all") for name, *_ in h.store.models()]
    assert before["kept"] == {
        "1.0": {
            "defaultVersion": True,
            "marName": "noop.mar",
            "minWorkers": 1,
            "maxWorkers": 1,
            "batchSize": 2,
            "maxBatchDelay": 100,
            "responseTimeout": 21,
            "startupTimeout": 120,
            "runtimeType": "python",
            "handler": "h.py",
        }
    }
    start = of_snapshot(model_settings.parse(json.dumps(before)))
    async with hall(store, at_start=start) as h:
        await h.lives.settled()
        assert h.store.snapshot() == before
        assert [h.store.describe(name, "all") for name, *_ in h.store.models()] == told
        assert h.default("inspect") == "2.0"


def _of_snapshot(**files: str) -> tuple[StartupModel, ...]:
    """Return the models of a snapshot with those archives."""
    said = {name: {"1.0": {"marName": file, "minWorkers": 1}} for name, file in files.items()}
    return of_snapshot(model_settings.parse(json.dumps(said)))


@pytest.mark.clause("TS-B10")
@pytest.mark.parametrize("where", ["", "http://127.0.0.1:9/gone.mar", "file:///nowhere/gone.mar"])
async def test_a_snapshot_without_one_of_its_archives_starts_no_server(store: Path, where: str) -> None:
    said = {"gone": {"2.0": {"marName": "gone.mar", "url": where}}}
    start = of_snapshot(model_settings.parse(json.dumps(said)))
    text = "Model archive file for model gone, version 2.0 not found in model store"
    with pytest.raises(NotFound, match=text):
        async with hall(store, at_start=_of_snapshot(kept="noop.mar") + start):
            pass


@pytest.mark.clause("TS-B10")
async def test_junk_in_the_place_of_a_snapshots_archive_is_listed(store: Path) -> None:
    (store / "junk.mar").write_text("this is no archive")
    (store / "empty.mar").touch()
    start = _of_snapshot(kept="noop.mar", junk="junk.mar", empty="empty.mar")
    async with hall(store, at_start=start) as h:
        await h.lives.settled()
        assert [one.name for one in h.store.models()] == ["empty", "junk", "kept"]
        assert (status(h, "junk").version, status(h, "junk").url) == ("1.0", "junk.mar")
    async with hall(store, at_start=(StartupModel("junk.mar", "junk"),)) as h:  # no snapshot says so
        assert h.store.models() == ()


BAD_SETTINGS: list[tuple[str, str]] = [
    ("{", "models"),
    ("[]", "models"),
    ('{"m": 3}', "models.m"),
    ('{"m": {"1": 3}}', "models.m.1"),
    ('{"m": {"1": {"batchSize": "2"}}}', "models.m.1.batchSize"),
    ('{"m": {"1": {"minWorkers": 1e99}}}', "models.m.1.minWorkers"),
    ('{"m": {"1": {"marName": 2}}}', "models.m.1.marName"),
    ('{"m": {"1": {"defaultVersion": "yes"}}}', "models.m.1.defaultVersion"),
]


@pytest.mark.clause("TS-B10", "TS-C2")
@pytest.mark.parametrize(("text", "field"), BAD_SETTINGS)
def test_what_is_wrong_is_named(text: str, field: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        model_settings.parse(text)
    assert raised.value.field == field
    assert model_settings.parse(" ") == {}


@pytest.mark.clause("TS-C2")
@pytest.mark.parametrize(
    ("url", "name"), [("a/my model-2.mar", "my_model_2"), ("x.model", "x"), ("folder.v1", "folder_v1")]
)
def test_names_of_files(url: str, name: str) -> None:
    assert name_of(url) == name
