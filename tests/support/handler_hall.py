"""A store of handlers with everything around it but processes."""

import asyncio
import io
import itertools
import json
import tarfile
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from salver.backends.protocol import ArtifactKind
from salver.dialects.torchserve.archive_files import MANIFEST
from salver.dialects.torchserve.engine.engine import HandlerEngine
from salver.dialects.torchserve.handler_store import HandlerStore
from salver.dialects.torchserve.registering import HandlerStoreConfig
from salver.dialects.torchserve.registrations import Registrations
from salver.kernel.lifecycle import Manager
from salver.kernel.repository import Repository
from salver.kernel.serving.controlplane import ControlMode, ControlPlane
from salver.parts import formats
from salver.words.artifacts import Manifest, ModelConfig
from salver.words.errors import (
    LoadFailed,
    NotReady,
)
from salver.words.handlers import HandlerStatus, Workers, WorkerStatus
from salver.words.messages import ModelId

LOOKS_ONCE = ControlMode()


class FakeEngine(HandlerEngine):
    """Workers that are there at once, or never."""

    def __init__(self, workers: Workers, hall: "Hall", handler: str) -> None:
        self.hall = hall
        self.is_bad = handler == "bad.py"
        self.is_sick = False
        self.numbers = itertools.count(9000)
        self.there = [next(self.numbers) for _ in range(workers.least)]

    @property
    def queued(self) -> int:
        return 3

    def workers(self) -> tuple[WorkerStatus, ...]:
        return tuple(WorkerStatus(id, 0.0, "STARTING" if self.is_bad else "READY") for id in self.there)

    async def metadata(self) -> Any:
        if not self.there:
            raise NotReady("no worker")
        return {"about": "fake"}

    def is_healthy(self, now: float) -> bool:
        return not self.is_sick

    async def settled(self) -> int:
        await self.hall.gate.wait()
        return 0 if self.is_bad else len(self.there)

    async def gone(self) -> None:
        await asyncio.sleep(0)


class FakeServable:
    leave = None
    processes: tuple[int, ...] = ()

    def __init__(self, manifest: Manifest, engine: FakeEngine) -> None:
        self.manifest = manifest
        self.engine = engine

    async def warm(self, config: ModelConfig) -> None:
        pass

    async def adjust(self, manifest: Manifest) -> bool:
        workers = manifest.config.workers or Workers()
        self.engine.there = self.engine.there[: workers.least]
        while len(self.engine.there) < workers.least:
            self.engine.there.append(next(self.engine.numbers))
        return True

    async def close(self) -> None:
        self.engine.hall.closed.append(self.manifest.id)


class Hall:
    """A store with everything around it but processes."""

    def __init__(self, folder: Path, config: HandlerStoreConfig, mode: ControlMode, *paths: Path) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.loads: list[Manifest] = []
        self.closed: list[ModelId] = []
        self.now = 0.0
        shelf = msgspec.structs.replace(config.archive_store, store=str(folder))
        config = msgspec.structs.replace(config, archive_store=shelf)
        self.lives: Manager[Any] = Manager(
            self,
            lambda: self.now,
            lambda event: None,
            reclaim=lambda enough: None,
        )
        registrations = Registrations(self.lives)
        repository = Repository(paths, formats(recognise))
        self.plane = ControlPlane(repository, self.lives, mode, lambda: self.now, changes=registrations)
        self.store = HandlerStore(config, registrations, self.plane, self.lives, lambda: self.now)

    async def load(self, manifest: Manifest) -> FakeServable:
        self.loads.append(manifest)
        await asyncio.sleep(0)
        handler = manifest.config.options.get("handler", "")
        if handler == "unloadable.py":
            raise LoadFailed("it does not load")
        return FakeServable(manifest, FakeEngine(manifest.config.workers or Workers(), self, handler))

    def default(self, name: str) -> str:
        lease = self.lives.acquire(name)
        lease.release()
        return lease.id.version


def recognise(path: Path) -> ArtifactKind | None:
    if path.suffix == ".mar":
        return ArtifactKind("torchserve", "torchserve")
    return ArtifactKind("onnx", "onnx") if path.suffix == ".onnx" else None


@asynccontextmanager
async def hall(
    store: Path, *paths: Path, control: ControlMode = LOOKS_ONCE, **config: Any
) -> AsyncIterator[Hall]:
    """Yield a store where requests may do everything, and one worker is the default."""
    settings = HandlerStoreConfig(**{"is_open": True, "workers": 1, "gpus": 0, **config})
    there = Hall(store, settings, control, *paths)
    await there.plane.start()
    await there.store.start()
    try:
        yield there
    finally:
        await there.plane.stop()
        await there.lives.drain(1)
        await there.plane.close()


def mar(folder: Path, file: str = "noop", name: str = "", version: str = "1.0", yaml: str = "") -> None:
    model = {"modelName": name or file, "modelVersion": version, "handler": "noop.py"}
    with zipfile.ZipFile(folder / f"{file}.mar", "w") as opened:
        if yaml:
            model["configFile"] = "c.yaml"
            opened.writestr("c.yaml", yaml)
        opened.writestr(MANIFEST, json.dumps({"model": model}))
        opened.writestr("noop.py", "")


def here(*numbers: int, **settings: Any) -> Workers:
    """Return workers as they are described without a GPU."""
    return Workers(*numbers, device="cpu", **settings)


def stocked(folder: Path) -> Path:
    """Make a model store."""
    folder.mkdir()
    mar(folder)
    mar(folder, "inspect")
    mar(folder, "inspect_v2", "inspect", "2.0")
    mar(
        folder,
        "yaml",
        yaml="minWorkers: 1\nmaxWorkers: 2\nbatchSize: 3\nmaxBatchDelay: 7\nresponseTimeout: 31",
    )
    with tarfile.open(folder / "hostile.tar.gz", "w:gz") as tar:
        said = json.dumps({"model": {"modelName": "hostile", "handler": "noop.py"}}).encode()
        info = tarfile.TarInfo(MANIFEST)
        info.size = len(said)
        tar.addfile(info, io.BytesIO(said))
        info = tarfile.TarInfo("link")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    (folder / "readme.txt").write_text("text")
    (folder / "not_an_archive.mar").write_text("text")
    return folder


def status(hall: Hall, name: str, version: str = "") -> HandlerStatus:
    (found,) = hall.store.describe(name, version)
    return found
