"""MLServer with a custom ONNX Runtime runtime."""

import json
from collections.abc import Mapping
from pathlib import Path

import forms
from forms import Form
from models import Model
from processes import Launch
from systems import System, python_of

HERE = Path(__file__).resolve().parent
BATCH, WAIT_SECONDS = 0, 0.0


def _launch(model: Model, port: int, folder: Path) -> Launch:
    server = {
        "debug": False,
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": port + 1,
        "metrics_endpoint": None,
        "parallel_workers": 0,
        "metrics_dir": str(folder),
        "environments_dir": str(folder),
    }
    (folder / "settings.json").write_text(json.dumps(server))
    described = {
        "name": model.name,
        "implementation": "runtime.Onnx",
        "max_batch_size": BATCH,
        "max_batch_time": WAIT_SECONDS,
        "parameters": {"uri": str(model.path)},
    }
    (folder / "model-settings.json").write_text(json.dumps(described))
    command = python_of("mlserver").with_name("mlserver")
    return Launch([str(command), "start", str(folder)], {"PYTHONPATH": str(HERE)}, folder)


def _forms(model: Model) -> Mapping[str, Form | str]:
    web: Form | str = forms.oip_json(model)
    if model.is_image:
        web = "has no binary tensors over HTTP"
    return {"http": web, "grpc": forms.oip_grpc(model, port_offset=1)}


SYSTEM = System(
    "mlserver",
    "python",
    _launch,
    _forms,
    "in-process (parallel_workers 0), uvloop 0.21, no adaptive batching, metrics off",
    ports=2,
    environment="mlserver",
)
