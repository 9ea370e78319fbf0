"""Registries that tests use: on either database, with a clock that stands and ids that count."""

import itertools
import threading
from collections.abc import Mapping
from pathlib import Path

from databases import migrated_ledger
from waiting import PATIENCE_S

from salver.features.ledger.ledger import Ledger
from salver.features.registry.artifacts import Artifacts, ArtifactsFailed
from salver.features.registry.records import Actor, Description, FileEntry, InspectedModel
from salver.features.registry.registry import ModelRegistry

KINDS = ("sqlite", "postgresql")
ANN = Actor("ann")
SIGNATURE = {
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}],
    "batched": True,
}


class Clock:
    """Unix seconds, which pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.25

    def __call__(self) -> float:
        return self.now


def counted(prefix: str = "id") -> "itertools.chain[str]":
    return itertools.chain.from_iterable([f"{prefix}{number}"] for number in itertools.count(1))


async def open_registry(kind: str, folder: Path, clock: Clock | None = None) -> ModelRegistry:
    ledger = await Ledger.open(_url(kind, folder))
    return ModelRegistry(ledger, Artifacts(folder), clock or Clock(), counted().__next__)


def _url(kind: str, folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    return migrated_ledger(kind, folder)


def found(folder: Path, files: Mapping[str, bytes] | None = None, **said: object) -> InspectedModel:
    """Files that somebody pushes, as an inspector has found them."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for number, (path, content) in enumerate((files or {"model.onnx": b"weights"}).items()):
        source = folder / f"source{number}"
        source.write_bytes(content)
        paths[path] = source
    about = {"framework": "onnx", "format": "onnx", "signature": SIGNATURE, **said}
    return InspectedModel(paths, Description(**about))  # type: ignore[arg-type]


class Distant(Artifacts):
    """A folder that says that it is far away, and what it was asked."""

    is_distant = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.asked: list[str] = []
        self.left: frozenset[tuple[str, int]] = frozenset()
        self.is_away = False
        self.may_come = threading.Event()
        self.may_come.set()

    def bring(self, model: str, number: int, files: tuple[FileEntry, ...]) -> None:  # type: ignore[override]
        assert self.may_come.wait(PATIENCE_S)
        self.asked.append(f"bring {model}/{number} {len(files)}")
        if self.is_away:
            raise ArtifactsFailed("nobody answers")

    def brought(self) -> frozenset[tuple[str, int]]:
        return self.left

    def forget(self, model: str, number: int) -> None:
        self.asked.append(f"forget {model}/{number}")
