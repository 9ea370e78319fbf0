"""FastAPI + uvicorn."""

from collections.abc import Mapping
from pathlib import Path

import forms
from forms import Form
from models import Model
from processes import Launch
from systems import System, python_of

HERE = Path(__file__).resolve().parent


def _launch(model: Model, port: int, folder: Path) -> Launch:
    server = [str(python_of("fastapi")), str(HERE / "server.py"), str(model.path), str(port)]
    return Launch(server, cwd=folder)


def _forms(model: Model) -> Mapping[str, Form | str]:
    web = forms.raw("/raw") if model.is_image else forms.rows_json("/predict")
    return {"http": web, "grpc": "speaks no gRPC"}


SYSTEM = System(
    "fastapi",
    "python",
    _launch,
    _forms,
    "one worker, uvloop, httptools, async handler, no batching (a handler per request), no access log",
    environment="fastapi",
)
