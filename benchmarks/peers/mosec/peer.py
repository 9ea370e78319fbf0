"""mosec: a front in Rust over workers in Python."""

from collections.abc import Mapping
from pathlib import Path

import forms
from forms import Form
from models import Model
from processes import Launch
from systems import System, python_of

HERE = Path(__file__).resolve().parent
BATCH, WAIT_MS = 64, 1


def _launch(model: Model, port: int, folder: Path) -> Launch:
    argv = [str(python_of("mosec")), str(HERE / "server.py"), "--address", "127.0.0.1", "--port", str(port)]
    argv += ["--path", str(folder / "ipc"), "--capacity", "4096", "--log-level", "warning"]
    given = {"BENCH_MODEL": str(model.path), "BENCH_BATCH": str(BATCH), "BENCH_WAIT_MS": str(WAIT_MS)}
    return Launch(argv, given, folder)


def _forms(model: Model) -> Mapping[str, Form | str]:
    return {"http": forms.rows_json("/inference"), "grpc": "speaks no gRPC"}


SYSTEM = System(
    "mosec",
    "native",
    _launch,
    _forms,
    f"1 worker, batches up to {BATCH}, at most {WAIT_MS} ms of waiting",
    environment="mosec",
)
