"""Archives of TorchServe's registered with a whole server, whose workers are processes (TS-M1 to TS-M6)."""

import asyncio
import functools
import http.server
import json
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from soaking import size

from salver.app import Server
from salver.backends.discovery import backends as find_backends
from salver.configuration import ServeConfig
from salver.dialects.torchserve import model_settings
from salver.dialects.torchserve.archive_files import MANIFEST
from salver.dialects.torchserve.archive_store import ArchiveStoreConfig
from salver.dialects.torchserve.backend import TorchServeBackend
from salver.dialects.torchserve.handler_store import HandlerStore
from salver.dialects.torchserve.registering import HandlerStoreConfig, StartupModel, of_snapshot
from salver.words.errors import Conflict, NoModel, SalverError, WorkersFailed
from salver.words.handlers import Form, ModelListing, Registration, as_request, part, reply_of
from salver.words.messages import Call

HANDLER = """
import json
import os

MARK = "{mark}"


class Handler:
    def initialize(self, context):
        if MARK == "broken":
            raise RuntimeError("this model never starts")
        self.context = context

    def handle(self, data, context):
        about = context.system_properties
        said = {{"mark": MARK, "pid": os.getpid(), "batch": about["batch_size"], "gpu": about["gpu_id"]}}
        try:
            import tiny_salver_need

            said["needs"] = tiny_salver_need.ANSWER
        except ImportError:
            pass
        return [said for _ in data]
"""


def mar(folder: Path, name: str, version: str = "1.0", mark: str = "", **model: Any) -> Path:
    path = folder / f"{name}_{version}.mar"
    with zipfile.ZipFile(path, "w") as opened:
        said = {"modelName": name, "modelVersion": version, "handler": "h.py", **model}
        opened.writestr(MANIFEST, json.dumps({"model": said}))
        opened.writestr("h.py", HANDLER.format(mark=mark or version))
        if "requirementsFile" in model:
            opened.writestr(model["requirementsFile"], "tiny_salver_need==1.0\n")
    return path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    mar(folder, "m")
    mar(folder, "m", "2.0")
    mar(folder, "broken", mark="broken")
    return folder


def server(store: Path, *paths: Path, **config: Any) -> Server:
    handlers = HandlerStoreConfig(
        **{"archive_store": ArchiveStoreConfig(str(store)), "is_open": True, "workers": 1, **config}
    )
    backends = {**find_backends(), "torchserve": TorchServeBackend()}
    given = tuple(str(path) for path in paths)
    return Server(
        ServeConfig(paths=given, opens_ports=False, tables={"torchserve": {"handlers": handlers}}), backends
    )


def living(pids: set[int]) -> list[int]:
    return [pid for pid in pids if Path("/proc", str(pid)).exists()]


def open_gate(gate: Path) -> None:
    gate.touch()


def unpacked(folder: Path, pattern: str) -> list[Path]:
    return [path for path in folder.glob(f"temporary/salver-handlers-{pattern}") if path.is_dir()]


async def ask(there: Server, model: str, version: str = "") -> dict[str, Any]:
    """Return the handler's answer."""
    form = Form((part("body", b"x", "text/plain"),), {})
    call = Call("inner", time.monotonic())
    response = await there.kernel.inner.infer(as_request(model, form, version), call)
    reply = reply_of(response.outputs[0].array, response.parameters)
    assert not reply.is_error, reply
    said: dict[str, Any] = json.loads(reply.body)
    return said


@pytest.mark.clause("TS-M1", "TS-M2", "TS-M6")
async def test_a_model_lives_from_its_registration_to_its_end(store: Path) -> None:
    async with server(store) as there:
        handlers = there.kernel.services.need(HandlerStore)
        for version in ("1.0", "2.0"):
            registered = await handlers.register(Registration(f"m_{version}.mar", batch_size=3))
            assert (registered.version, registered.workers, registered.is_done) == (version, 1, True)
        assert await ask(there, "m") == {"mark": "1.0", "pid": ANY, "batch": 3, "gpu": None}
        assert (await ask(there, "m", "2.0"))["mark"] == "2.0"
        handlers.set_default("m", "2.0")
        assert (await ask(there, "m"))["mark"] == "2.0"
        assert await handlers.scale("m", "2.0", 3, None, waits=True) == ("done", 3)
        (status,) = handlers.describe("m")
        pids = {worker.pid for worker in status.running}
        assert len(pids) == 3
        seen = {said["pid"] for said in await asyncio.gather(*(ask(there, "m") for _ in range(60)))}
        assert seen <= pids
        assert await handlers.scale("m", "2.0", 1, None, waits=True) == ("done", 1)
        assert len(handlers.describe("m")[0].running) == 1
        await handlers.unregister("m", "1.0")
        await handlers.unregister("m")
        assert not living(pids)
        with pytest.raises(NoModel):
            handlers.describe("m")


@pytest.mark.clause("TS-Y2")
async def test_workers_of_all_models_are_given_gpus_in_turn(store: Path) -> None:
    async with server(store, gpus=2) as there:
        for version in ("1.0", "2.0"):
            await there.kernel.services.need(HandlerStore).register(Registration(f"m_{version}.mar"))
        assert [(await ask(there, "m", version))["gpu"] for version in ("1.0", "2.0")] == [0, 1]
        (status, _) = there.kernel.services.need(HandlerStore).describe("m", "all")
        assert (status.workers.device, [worker.gpu for worker in status.running]) == ("gpu", [0])


@pytest.mark.clause("TS-M1")
async def test_a_model_that_never_starts_is_taken_out_and_leaves_nothing(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    async with server(store) as there:
        await there.kernel.services.need(HandlerStore).register(Registration("m_1.0.mar"))
        with pytest.raises(WorkersFailed) as raised:
            await there.kernel.services.need(HandlerStore).register(Registration("broken_1.0.mar"))
        assert raised.value.message == "Failed to start workers for model broken version: 1.0"
        assert there.kernel.services.need(HandlerStore).models() == (ModelListing("m", "m_1.0.mar"),)
        assert len(unpacked(tmp_path, "*/*")) == 1
        assert (await ask(there, "m"))["mark"] == "1.0"
    assert unpacked(tmp_path, "*") == []


@pytest.mark.clause("TS-M1")
@pytest.mark.soak
async def test_many_registrations_and_removals_at_once_leave_what_is_said(store: Path) -> None:
    async with server(store, workers=0) as there:
        handlers = there.kernel.services.need(HandlerStore)

        async def once(number: int) -> str:
            order = Registration(f"m_{1 + number % 2}.0.mar", f"n{number % 5}", initial_workers=number % 2)
            try:
                id = await handlers.register(order)
                if number % 3 == 0:
                    await handlers.unregister(id.name, id.version)
            except (Conflict, SalverError) as error:
                return type(error).__name__
            return "done"

        said = await asyncio.gather(*(once(number) for number in range(size(60, 20))))
        assert set(said) <= {"done", "Conflict", "StillDefault", "WorkersFailed", "NoModel", "NoModelVersion"}
        for name, *_ in handlers.models():
            assert {status.version for status in handlers.describe(name, "all")} <= {"1.0", "2.0"}
        for name, *_ in handlers.models():
            for status in sorted(handlers.describe(name, "all"), key=lambda status: status.is_default):
                await handlers.unregister(name, status.version)
        assert handlers.models() == ()
        assert there.control.statuses() == ()


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "www").mkdir()
    mar(tmp_path / "www", "far")
    serve = functools.partial(Quiet, directory=str(tmp_path / "www"))
    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve)
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}"
    listening.shutdown()
    thread.join()
    listening.server_close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@pytest.mark.clause("TS-M1", "TS-M5")
async def test_an_archive_of_another_machine_comes_and_goes(store: Path, remote: str) -> None:
    async with server(store) as there:
        await there.kernel.services.need(HandlerStore).register(Registration(f"{remote}/far_1.0.mar"))
        assert (await ask(there, "far"))["mark"] == "1.0"
        assert (store / "far_1.0.mar").exists()
        with pytest.raises(Conflict, match=r"Model file already exists far_1\.0\.mar"):
            await there.kernel.services.need(HandlerStore).register(
                Registration(f"{remote}/far_1.0.mar", "again")
            )
        await there.kernel.services.need(HandlerStore).unregister("far")
        assert not (store / "far_1.0.mar").exists()


@pytest.mark.clause("TS-B10", "TS-B9")
async def test_a_server_starts_again_as_the_last_one_was(store: Path) -> None:
    start = (
        StartupModel("m_1.0.mar"),
        StartupModel("m_2.0.mar"),
        StartupModel("broken_1.0.mar"),
        StartupModel("none.mar"),
    )
    async with server(store, at_start=start) as there:
        assert (await ask(there, "m"))["mark"] == "1.0"
        there.kernel.services.need(HandlerStore).set_default("m", "2.0")
        await there.kernel.services.need(HandlerStore).scale("m", "2.0", 2, None, waits=True)
        before = there.kernel.services.need(HandlerStore).snapshot()
    again = of_snapshot(model_settings.parse(json.dumps(before)))
    async with server(store, at_start=again) as there:
        assert there.kernel.services.need(HandlerStore).snapshot() == before
        assert (await ask(there, "m"))["mark"] == "2.0"


@pytest.mark.clause("TS-R1", "TS-M7")
async def test_the_server_is_ready_when_each_handler_has_a_worker(store: Path, tmp_path: Path) -> None:
    path, gate = mar(store, "late"), tmp_path / "gate"
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr(MANIFEST, '{"model": {"modelName": "late", "handler": "h.py"}}')
        code = HANDLER.format(mark="late")
        wait = f"while not os.path.exists({str(gate)!r}): __import__('time').sleep(0.01)"
        opened.writestr("h.py", code.replace("        self.context", f"        {wait}\n        self.context"))
    start = (StartupModel("m_1.0.mar"), StartupModel("late_1.0.mar"))
    async with server(store, at_start=start) as there:
        await ask(there, "m")
        assert await there.control.is_ready("m")
        assert not await there.control.is_ready("late")
        assert not await there.control.is_ready()
        open_gate(gate)
        await ask(there, "late")
        assert await there.control.is_ready()
        await there.kernel.services.need(HandlerStore).scale("late", "", 0, None, waits=True)
        assert await there.control.is_ready()  # none is wanted


@pytest.mark.clause("TS-A1")
async def test_an_ordinary_repository_holds_archives_too(store: Path) -> None:
    async with server(store / "none", store) as there:
        assert (await ask(there, "m"))["mark"] == "1.0"  # the first, until it is another's turn
        assert (await ask(there, "m", "2.0"))["mark"] == "2.0"
        assert await there.kernel.services.need(HandlerStore).scale("m", "1.0", 2, None, waits=True) == (
            "done",
            2,
        )


@pytest.mark.clause("TS-C2", "TS-A8")
async def test_handlers_import_what_was_installed_for_them_alone(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    info = "tiny_salver_need-1.0.dist-info"
    with zipfile.ZipFile(wheels / "tiny_salver_need-1.0-py3-none-any.whl", "w") as opened:
        opened.writestr("tiny_salver_need.py", "ANSWER = 42\n")
        opened.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny_salver_need\nVersion: 1.0\n")
        opened.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        opened.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    mar(store, "needs", requirementsFile="requirements.txt")
    for installs, needs in ((True, 42), (False, None)):
        async with server(store, installs_requirements=installs) as there:
            for url in ("needs_1.0.mar", "m_1.0.mar"):
                await there.kernel.services.need(HandlerStore).register(Registration(url))
            assert (await ask(there, "needs")).get("needs") == needs
            assert "needs" not in await ask(there, "m")
