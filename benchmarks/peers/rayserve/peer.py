"""Ray Serve."""

from collections.abc import Mapping
from pathlib import Path

import forms
from forms import Form
from processes import Launch
from systems import System, python_of

from models import Model

HERE = Path(__file__).resolve().parent


def _launch(model: Model, port: int, folder: Path) -> Launch:
    server = [str(python_of("rayserve")), str(HERE / "server.py"), str(model.path), str(port)]
    settings = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
    return Launch([*server, "/tmp/salver-bench-ray"], settings, folder)


def _forms(model: Model) -> Mapping[str, Form | str]:
    web = forms.raw("/raw") if model.name == "image" else forms.rows_json("/predict")
    return {"http": web, "grpc": "its gRPC proxy needs a generated service of one's own; not set up"}


SYSTEM = System(
    "rayserve",
    "python",
    _launch,
    _forms,
    "one replica, one proxy, RAY_SERVE_THROUGHPUT_OPTIMIZED, no batching, access log and dashboard off",
    environment="rayserve",
)
