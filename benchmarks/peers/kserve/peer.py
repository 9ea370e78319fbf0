"""KServe's Python model server."""

from collections.abc import Mapping
from pathlib import Path

import forms
from forms import Form
from models import Model
from processes import Launch
from systems import System, python_of

HERE = Path(__file__).resolve().parent


def _launch(model: Model, port: int, folder: Path) -> Launch:
    server = [str(python_of("kserve")), str(HERE / "server.py"), str(model.path), str(port), str(port + 1)]
    return Launch(server, cwd=folder)


def _forms(model: Model) -> Mapping[str, Form | str]:
    return forms.oip(model, port_offset=1)


SYSTEM = System(
    "kserve",
    "python",
    _launch,
    _forms,
    "one worker, uvloop, async predict, no batching (it has none of its own), latency and access logs off",
    ports=2,
    environment="kserve",
)
