"""Registering, scaling and taking out handlers while the server runs (TS-M1 to TS-M6)."""

import asyncio
import zipfile
from pathlib import Path

import pytest
from handler_hall import (
    hall,
    here,
    mar,
    status,
    stocked,
)
from waiting import auntil

from salver.dialects.torchserve.archive_files import MANIFEST
from salver.dialects.torchserve.archive_store import ArchiveStoreConfig
from salver.dialects.torchserve.registering import StartupModel
from salver.kernel.repository import NamedModel
from salver.kernel.repository.bounds import machine, most_workers
from salver.kernel.serving.controlplane import ControlMode
from salver.words.artifacts import Versions
from salver.words.errors import (
    BadArchive,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    InvalidInput,
    NoModel,
    NoModelVersion,
    NotReady,
    SalverError,
    StillDefault,
    WorkersFailed,
)
from salver.words.handlers import (
    HandlerStatus,
    ModelListing,
    Registration,
    RegistrationResult,
    Workers,
    WorkerStatus,
)
from salver.words.messages import ModelId, State


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return stocked(tmp_path / "store")


# Registering.


@pytest.mark.clause("TS-M1")
async def test_a_model_is_registered_with_the_servers_number_of_workers(store: Path) -> None:
    async with hall(store) as h:
        assert await h.store.register(Registration("noop.mar")) == RegistrationResult(
            "noop", "1.0", 1, is_done=True
        )
        assert status(h, "noop") == HandlerStatus(
            "noop",
            "1.0",
            "noop.mar",
            here(),
            (WorkerStatus(9000, 0.0),),
            3,
            "python",
            is_default=True,
        )
        assert h.lives.acquire("noop").id == ModelId("noop", "1.0")
    async with hall(store, workers=0) as h:
        assert await h.store.register(Registration("noop.mar")) == RegistrationResult(
            "noop", "1.0", 0, is_done=True
        )


@pytest.mark.clause("TS-M1")
async def test_all_parameters_count(store: Path) -> None:
    order = Registration("noop.mar", "mine", "other.py:run", "python3", 3, 25, 2, True, 33, 44)
    async with hall(store, options={"envelope": "json"}) as h:
        assert await h.store.register(order) == RegistrationResult("mine", "1.0", 2, is_done=True)
        manifest = h.loads[-1]
        assert manifest.config.workers == Workers(2, 2, 3, 25, 33, 44)
        assert manifest.config.options == {
            "envelope": "json",
            "url": "noop.mar",
            "handler": "other.py:run",
            "runtime": "python3",
        }
        assert manifest.path == store / "noop.mar"
        assert status(h, "mine").runtime == "python3"


@pytest.mark.clause("TS-M1", "TS-C12")
async def test_the_archives_own_workers_and_times_go_first(store: Path) -> None:
    order = Registration(
        "yaml.mar", batch_size=2, max_batch_delay_ms=9, initial_workers=2, response_timeout_s=12
    )
    async with hall(store) as h:
        assert (await h.store.register(order)).workers == 1
        assert status(h, "yaml").workers == here(1, 2, 2, 9, 31, 120)


@pytest.mark.clause("TS-M1")
async def test_nobody_waits_where_it_is_not_wanted(store: Path) -> None:
    async with hall(store) as h:
        h.gate.clear()
        order = Registration("noop.mar", waits=False)
        assert await h.store.register(order) == RegistrationResult("noop", "1.0", 1, is_done=False)
        h.gate.set()
        await h.lives.settled()
        assert status(h, "noop").running


@pytest.mark.clause("TS-M1")
async def test_a_negative_number_of_workers_is_none(store: Path) -> None:
    async with hall(store) as h:
        registered = await h.store.register(Registration("noop.mar", initial_workers=-2, batch_size=0))
        assert registered == RegistrationResult("noop", "1.0", 0, is_done=True)
        assert status(h, "noop").workers.batch_size == 0


REFUSED: list[tuple[Registration, type[SalverError], str]] = [
    (Registration(""), NoModel, "empty url"),
    (Registration("nothing.mar"), NoModel, "Model not found at: nothing.mar"),
    (Registration("../store/noop.mar"), NoModel, "Relative path is not allowed in url: ../store/noop.mar"),
    (Registration("ftp://127.0.0.1/none.mar"), NoModel, "Model not found at: ftp://127.0.0.1/none.mar"),
    (Registration("noop.mar", runtime="perl"), InvalidInput, "Invalid RuntimeType value: perl"),
    (Registration("not_an_archive.mar"), BadArchive, "Model name is not defined."),
    (Registration("readme.txt"), BadArchive, "Model name is not defined."),
    (Registration("hostile.tar.gz"), BadArchive, "hostile.tar.gz: 'link' is a link"),
    (Registration("noop.mar", batch_size=-3), InvalidInput, "batch_size is -3, and must be at least 0"),
    (
        Registration("noop.mar", initial_workers=2_000_000_000),
        InvalidInput,
        f"initial_workers is 2000000000, and must be from 0 to {most_workers(machine())}",
    ),
    (Registration("noop.mar", "a\nb"), InvalidInput, "'a\\nb' cannot be a model's name"),
    (Registration("noop.mar", handler="../x.py"), InvalidInput, "The handler '../x.py' lies outside"),
    (Registration("noop.mar", "taken"), Conflict, "A model of another kind is called taken"),
]


@pytest.mark.clause("TS-M1", "TS-R21")
@pytest.mark.parametrize(("order", "kind", "text"), REFUSED)
async def test_what_cannot_be_registered(
    order: Registration, kind: type[SalverError], text: str, store: Path, tmp_path: Path
) -> None:
    (tmp_path / "taken.onnx").write_text("x")
    async with hall(store, tmp_path / "taken.onnx") as h:
        with pytest.raises(kind) as raised:
            await h.store.register(order)
        assert raised.value.message.startswith(text)
        assert h.store.models() == ()


@pytest.mark.clause("TS-M1")
async def test_a_version_is_registered_once(store: Path) -> None:
    async with hall(store) as h:
        await h.store.register(Registration("noop.mar"))
        with pytest.raises(Conflict, match=r"^Model version 1.0 is already registered for model noop"):
            await h.store.register(Registration("inspect.mar", "noop"))
        assert status(h, "noop").url == "noop.mar"


@pytest.mark.clause("TS-M1")
async def test_of_many_who_register_one_version_at_once_one_wins(store: Path) -> None:
    async with hall(store) as h:
        orders = [h.store.register(Registration("noop.mar", initial_workers=2)) for _ in range(20)]
        said = await asyncio.gather(*orders, return_exceptions=True)
        assert sum(isinstance(each, RegistrationResult) for each in said) == 1
        assert sum(isinstance(each, Conflict) for each in said) == 19
        assert len(h.loads) == 1


@pytest.mark.clause("TS-M1")
@pytest.mark.parametrize("handler", ["bad.py", "unloadable.py"])
async def test_a_model_whose_workers_fail_is_taken_out_again(handler: str, store: Path) -> None:
    async with hall(store) as h:
        with pytest.raises(WorkersFailed) as raised:
            await h.store.register(Registration("noop.mar", handler=handler))
        assert raised.value.message == "Failed to start workers for model noop version: 1.0"
        assert h.store.models() == ()
        with pytest.raises(NoModel):
            h.store.describe("noop")
        await h.store.register(Registration("noop.mar"))
        assert h.default("noop") == "1.0"


@pytest.mark.clause("TS-M1")
async def test_who_is_taken_out_while_his_workers_start_harms_no_successor(store: Path) -> None:
    async with hall(store) as h:
        h.gate.clear()
        waiting = asyncio.create_task(h.store.register(Registration("noop.mar", handler="bad.py")))
        await auntil(h.store.models)
        await h.store.unregister("noop")
        await h.store.register(Registration("noop.mar", waits=False))
        h.gate.set()
        with pytest.raises(WorkersFailed):
            await waiting
        await h.lives.settled()
        assert h.default("noop") == "1.0"


@pytest.mark.clause("TS-M1")
async def test_a_closed_store_takes_nothing_from_requests(store: Path) -> None:
    async with hall(store, is_open=False, at_start=(StartupModel("noop.mar"),)) as h:
        with pytest.raises(Forbidden, match="Model API disabled"):
            await h.store.register(Registration("inspect.mar"))
        with pytest.raises(Forbidden, match="Model API disabled"):
            await h.store.unregister("noop")
        assert await h.store.scale("noop", "", 2, None, waits=True) == ("done", 2)


@pytest.mark.clause("TS-C2")
async def test_archives_that_name_no_handler_have_the_servers(store: Path) -> None:
    with zipfile.ZipFile(store / "bare.mar", "w") as opened:
        opened.writestr(MANIFEST, '{"model": {"modelName": "bare"}}')
    async with hall(
        store, default_handler="mine.py", queue=5, response_timeout_s=77, startup_timeout_s=88
    ) as h:
        await h.store.register(Registration("bare.mar"))
        assert h.loads[-1].config.options["handler"] == "mine.py"
        assert status(h, "bare").workers == here(response_timeout_s=77, startup_timeout_s=88, queue=5)
        await h.store.register(Registration("noop.mar"))
        assert "handler" not in h.loads[-1].config.options


# Scaling.


@pytest.mark.clause("TS-M2")
async def test_workers_come_and_go_and_the_model_stays_loaded(store: Path) -> None:
    async with hall(store) as h:
        await h.store.register(Registration("noop.mar"))
        for least, most in ((2, None), (1, None), (1, 3), (0, 0), (4, 4)):
            assert await h.store.scale("noop", "", least, most, waits=True) == ("done", least)
            workers = status(h, "noop").workers
            assert (workers.least, workers.most) == (least, least if most is None else most)
            assert len(status(h, "noop").running) == least
        assert len(h.loads) == 1
        assert h.closed == []


@pytest.mark.clause("TS-M2")
async def test_workers_that_do_not_come_are_told(store: Path) -> None:
    async with hall(store) as h:
        await h.store.register(Registration("noop.mar", handler="bad.py", waits=False))
        await h.lives.settled()
        assert await h.store.scale("noop", "1.0", 2, None, waits=True) == ("partly", 0)
        assert await h.store.scale("noop", "", 1, None, waits=False) == ("begun", 1)


@pytest.mark.clause("TS-M2")
async def test_what_cannot_be_scaled(store: Path) -> None:
    async with hall(store) as h:
        await h.store.register(Registration("noop.mar"))
        with pytest.raises(InvalidInput, match=r"max_worker cannot be less than min_worker\."):
            await h.store.scale("noop", "", 2, 1, waits=True)
        with pytest.raises(InvalidInput, match=r"min_worker is 1025, and must be from 0 to \d+"):
            await h.store.scale("noop", "", 1025, None, waits=True)
        with pytest.raises(InvalidInput, match="min_worker is -1"):
            await h.store.scale("noop", "", -1, None, waits=True)
        with pytest.raises(NoModel, match="Model not found: nobody"):
            await h.store.scale("nobody", "", 1, None, waits=True)
        with pytest.raises(NoModelVersion, match=r"Model version: 7 does not exist for model: noop"):
            await h.store.scale("noop", "7", 1, None, waits=True)
        assert status(h, "noop").workers == here()


# Default versions, and the end.


@pytest.mark.clause("TS-M6", "TS-M5")
async def test_the_first_version_is_the_default_until_another_is_made_so(store: Path) -> None:
    async with hall(store) as h:
        await h.store.register(Registration("inspect.mar", "d"))
        await h.store.register(Registration("inspect_v2.mar", "d"))
        assert h.default("d") == "1.0"
        h.store.set_default("d", "2.0")
        assert (h.default("d"), status(h, "d").version) == ("2.0", "2.0")
        with pytest.raises(NoModelVersion, match=r"^Model version 7 does not exist for model d"):
            h.store.set_default("d", "7")
        with pytest.raises(NoModel):
            h.store.set_default("nobody", "1")
        for version in ("2.0", ""):
            with pytest.raises(StillDefault, match="Cannot remove default version for model d"):
                await h.store.unregister("d", version)
        with pytest.raises(NoModelVersion, match="Model version: 7 does not exist for model: d"):
            await h.store.unregister("d", "7")
        await h.store.unregister("d", "1.0")
        assert [s.version for s in h.store.describe("d", "all")] == ["2.0"]
        await h.store.unregister("d")
        with pytest.raises(NoModel):
            h.store.describe("d", "all")
        assert set(h.closed) == {ModelId("d", "1.0"), ModelId("d", "2.0")}


@pytest.mark.clause("TS-M6")
async def test_the_default_of_a_model_of_any_kind_is_pinned(store: Path, tmp_path: Path) -> None:
    for version in ("1", "2"):
        (tmp_path / "r" / "ranker" / version).mkdir(parents=True)
        (tmp_path / "r" / "ranker" / version / "m.onnx").write_text("x")
    (tmp_path / "r" / "ranker" / "salver.toml").write_text("versions = {all = true}\n")
    async with hall(store, tmp_path / "r") as h:
        await h.lives.settled()
        assert h.default("ranker") == "2"
        h.store.set_default("ranker", "1")
        assert h.default("ranker") == "1"
        with pytest.raises(NoModel):
            h.store.describe("ranker")


async def test_a_label_says_which_version_of_a_handler_is_meant(store: Path, tmp_path: Path) -> None:
    for version in ("1", "2"):
        (tmp_path / "theirs" / version).mkdir(parents=True)
        mar(tmp_path / "theirs" / version, "noop", "theirs", version)
    async with hall(store) as h:
        for meant in ("2", "1", "2"):
            versions = Versions(specific=("1", "2"))
            place = NamedModel(
                "theirs", str(tmp_path / "theirs"), versions, {"champion": meant}, "champion", is_exact=True
            )
            await h.plane.replace([place], "registry")
            await h.lives.settled()
            assert h.default("theirs") == meant
            assert (status(h, "theirs").version, status(h, "theirs").is_default) == (meant, True)
            assert [listed.name for listed in h.store.models()] == ["theirs"]


async def test_a_model_of_the_registry_is_changed_through_the_registry_alone(
    store: Path, tmp_path: Path
) -> None:
    for version in ("1", "2"):
        (tmp_path / "theirs" / version).mkdir(parents=True)
        (tmp_path / "theirs" / version / "m.onnx").write_text("x")
    mar(store, "mine", "theirs", "9.0")
    async with hall(store) as h:
        await h.plane.replace([NamedModel("theirs", str(tmp_path / "theirs"))], "registry")
        await h.lives.settled()
        before = h.default("theirs")
        text = "theirs is a model of the registry, which alone says what is served of it"
        for version in ("1", "2", "9.0"):
            with pytest.raises(Forbidden, match=text):
                h.store.set_default("theirs", version)
        with pytest.raises(Forbidden, match=text):
            await h.store.register(Registration("mine.mar"))
        with pytest.raises(Forbidden, match=text):
            await h.store.scale("theirs", "", 0, None, waits=False)
        with pytest.raises(Forbidden, match=text):
            await h.store.unregister("theirs")
        assert (h.default("theirs"), h.lives.pinned("theirs")) == (before, "")
        await h.plane.replace([], "registry")
        assert (await h.store.register(Registration("mine.mar"))).version == "9.0"


@pytest.mark.clause("TS-M5")
async def test_a_model_that_still_answers_is_told_to_be_going(store: Path) -> None:
    async with hall(store, unregister_timeout_s=0.01) as h:
        await h.store.register(Registration("noop.mar"))
        lease = h.lives.acquire("noop")
        with pytest.raises(DeadlineExceeded, match=r"^Timed out while cleaning resources: noop"):
            await h.store.unregister("noop")
        with pytest.raises(NoModel):
            h.store.describe("noop")
        lease.release()
        await h.lives.ended(ModelId("noop", "1.0"))


# What is told.


@pytest.mark.clause("TS-M3", "TS-M4")
async def test_models_are_told_of(store: Path) -> None:
    async with hall(store) as h:
        for order in ("noop.mar", "inspect.mar", "inspect_v2.mar"):
            await h.store.register(Registration(order))
        assert h.store.models() == (ModelListing("inspect", "inspect.mar"), ModelListing("noop", "noop.mar"))
        told = [(s.version, s.is_default, s.is_loaded_at_startup) for s in h.store.describe("inspect", "all")]
        assert told == [("1.0", True, False), ("2.0", False, False)]
        assert await h.store.metadata("noop", "") == {"about": "fake"}
        await h.store.scale("noop", "", 0, None, waits=True)
        with pytest.raises(NotReady) as raised:
            await h.store.metadata("noop", "1.0")
        assert raised.value.message == (
            'Model "noop" has no worker to serve describe request. '
            "Please use scale workers API to add workers."
        )
        for ask in (h.store.describe, lambda name: h.store.describe(name, "all")):
            with pytest.raises(NoModel, match="Model not found: nobody"):
                ask("nobody")


@pytest.mark.clause("TS-R1")
async def test_a_model_that_is_short_of_workers_makes_the_server_unhealthy(store: Path) -> None:
    async with hall(store) as h:
        await h.store.register(Registration("noop.mar"))
        assert h.store.is_healthy()
        servable = h.lives.servable(ModelId("noop", "1.0"))
        assert servable is not None
        servable.engine.is_sick = True
        assert not h.store.is_healthy()


# Models that the repository found.


@pytest.mark.clause("TS-M2", "TS-M3")
async def test_models_that_were_found_are_told_of_and_scaled(store: Path, tmp_path: Path) -> None:
    mar(tmp_path, "found", yaml="batchSize: 4\n")
    async with hall(store, tmp_path / "found.mar") as h:
        await h.lives.settled()
        assert h.store.models() == (ModelListing("found", "found.mar", True),)
        assert status(h, "found").is_loaded_at_startup
        assert await h.store.scale("found", "", 2, 3, waits=True) == ("done", 2)
        assert status(h, "found").workers == here(2, 3, batch_size=4)
        with pytest.raises(Conflict):
            await h.store.register(Registration("noop.mar", "found"))
        await h.store.unregister("found")
        assert h.store.models() == ()
        assert [s.state for s in h.plane.index()] == [State.GONE]
        await h.store.register(Registration("noop.mar", "found"))
        assert status(h, "found").url == "noop.mar"
        assert len(h.loads) == 2


@pytest.mark.clause("TS-M5")
async def test_what_was_found_comes_again_when_somebody_asks_for_it(store: Path, tmp_path: Path) -> None:
    mar(tmp_path, "found")
    mode = ControlMode("explicit", load=("found",))
    async with hall(store, tmp_path / "found.mar", control=mode) as h:
        await h.lives.settled()
        await h.store.unregister("found")
        h.plane.refresh()
        assert h.store.models() == ()
        await h.plane.load("found")
        assert h.default("found") == "1.0"


@pytest.mark.clause("TS-M6")
async def test_found_versions_have_the_first_as_their_default(store: Path, tmp_path: Path) -> None:
    (there := tmp_path / "there").mkdir()
    for version in ("2.0", "1.0", "3.0"):
        mar(there, f"m{version}", "m", version)
    async with hall(store, there) as h:
        await h.lives.settled()
        assert h.default("m") == "1.0"
        h.store.set_default("m", "3.0")
        await h.store.unregister("m", "1.0")
        h.plane.refresh()
        assert h.default("m") == "3.0"


@pytest.mark.clause("TS-C2")
def test_a_pattern_that_is_none_is_told() -> None:
    with pytest.raises(InvalidInput, match="allowed_urls"):
        ArchiveStoreConfig(allowed_urls=("(",))


@pytest.mark.clause("TS-B10")
async def test_each_change_of_a_request_is_told_and_none_of_the_start(store: Path) -> None:
    told: list[int] = []
    async with hall(store) as h:
        h.store.changed = lambda: told.append(1)
        await h.store.register(Registration("inspect.mar"))
        await h.store.register(Registration("inspect_v2.mar"))
        h.store.set_default("inspect", "2.0")
        await h.store.scale("inspect", "1.0", 2, None, waits=False)
        await h.store.unregister("inspect", "1.0")
        assert len(told) == 5
        with pytest.raises(NoModel):
            await h.store.scale("nobody", "", 1, None, waits=False)
        assert len(told) == 5
