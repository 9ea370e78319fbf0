"""Which servers are measured?

Each is a :class:`System`: how it starts, in what forms it can be asked, and how it is set. The
peers live in ``peers/NAME/peer.py``, each with its pinned ``requirements.txt`` and server file.
"""

import importlib
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import forms
from forms import Form
from models import ROOT, Model
from processes import Launch

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = ROOT / ".envs"
#: The folder of the accelerated build.
ACCELERATED = ROOT / "build" / "accelerated"


@dataclass(frozen=True)
class System:
    """One server under test.

    Attributes:
        kind: ``salver``, ``floor`` (our own bare programs), ``python`` (a server whose front is
            Python) or ``native`` (whose front is not).
        launch: Command line for one model on one port; the last argument is a folder for files.
        forms: Transport -> form, or the reason why there is none.
        settings: What was set, for the published table.
        ports: Consecutive ports that it takes.
        is_fragile: Started anew for each cell.
        counts_batches: Answers the statistics route of the Open Inference Protocol's extension.
        environment: Its virtual environment under ``.envs``, if it has one.
        warm_up_seconds: Load before its first cell, on top of each cell's own warm-up.
        requires: A program that must be on the path.
        folder: An environment variable that must name a folder.
        built: A folder that must be there; ``make`` has a target of its name.
    """

    name: str
    kind: str
    launch: Callable[[Model, int, Path], Launch]
    forms: Callable[[Model], Mapping[str, Form | str]]
    settings: str
    ports: int = 1
    is_fragile: bool = False
    counts_batches: bool = False
    environment: str = ""
    requires: str = ""
    folder: str = ""
    built: Path | None = None
    ready_seconds: float = 60
    warm_up_seconds: int = 0

    def missing(self) -> str:
        """Why it cannot run here, or nothing."""
        if self.environment and not self.python.exists():
            return f"not installed: python benchmarks/peers/environment.py {self.environment}"
        if self.requires and not shutil.which(self.requires):
            return f"needs {self.requires}, which is not on this machine"
        if self.built and not self.built.is_dir():
            return f"not built: make {self.built.name}"
        if self.folder and not Path(os.environ.get(self.folder, "/nowhere")).is_dir():
            return f"{self.folder} names no folder"
        return ""

    @property
    def python(self) -> Path:
        return python_of(self.environment)


def python_of(environment: str) -> Path:
    """The interpreter of a peer's own virtual environment."""
    return ENVIRONMENTS / environment / "bin" / "python"


def _salver(model: Model, port: int, folder: Path) -> Launch:
    command = Path(sys.executable).with_name("salver")
    argv = [str(command), "serve", str(model.path), "--port", str(port), "--threads", "1"]
    return Launch(argv, cwd=folder)


def _accelerated(model: Model, port: int, folder: Path) -> Launch:
    pure = _salver(model, port, folder)
    return Launch(pure.argv, {**pure.env, "PYTHONPATH": str(ACCELERATED)}, folder)


def _two_fronts(model: Model, port: int, folder: Path) -> Launch:
    one = _salver(model, port, folder)
    return Launch([*one.argv, "--fronts", "2"], one.env, folder)


def _two_accelerated(model: Model, port: int, folder: Path) -> Launch:
    one = _accelerated(model, port, folder)
    return Launch([*one.argv, "--fronts", "2"], one.env, folder)


def _ours(script: str) -> Callable[[Model, int, Path], Launch]:
    def launch(model: Model, port: int, folder: Path) -> Launch:
        return Launch([sys.executable, str(HERE / script), str(model.path), "--port", str(port)], cwd=folder)

    return launch


OURS = (
    System(
        "salver",
        "salver",
        _salver,
        forms.oip,
        "as installed, --threads 1: drains the queue, instances automatic",
        counts_batches=True,
    ),
    System(
        "salver_accelerated",
        "salver",
        _accelerated,
        forms.oip,
        "the accelerated build, set alike",
        counts_batches=True,
        built=ACCELERATED,
    ),
    System(
        "salver_fronts_2",
        "salver",
        _two_fronts,
        forms.oip,
        "two fronts, set alike",
        counts_batches=True,
    ),
    System(
        "salver_accelerated_fronts_2",
        "salver",
        _two_accelerated,
        forms.oip,
        "the accelerated build with two fronts, set alike",
        counts_batches=True,
        built=ACCELERATED,
    ),
    System(
        "prototype",
        "floor",
        _ours("prototype.py"),
        forms.oip,
        "drains the queue, up to 64 rows, on the loop",
        counts_batches=True,
    ),
    System("floor", "floor", _ours("echo_floor.py"), forms.oip, "same front, answers ready-made"),
)


def all_systems() -> dict[str, System]:
    """By name, ours first."""
    names = sorted(path.parent.name for path in HERE.glob("peers/*/peer.py"))
    peers = [importlib.import_module(f"peers.{name}.peer") for name in names]
    found = [system for peer in peers for system in getattr(peer, "SYSTEMS", ()) or (peer.SYSTEM,)]
    return {system.name: system for system in (*OURS, *found)}
