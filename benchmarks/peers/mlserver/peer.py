"""MLServer with a custom ONNX Runtime runtime."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import forms
from forms import Form
from models import Model
from processes import Launch
from systems import System, python_of

HERE = Path(__file__).resolve().parent
BATCH, WAIT_SECONDS = 0, 0.0


def _launch(model: Model, port: int, folder: Path) -> Launch:
    return _start(model, [model.name], port, folder, loads_at_start=True)


def swapping(model: Model, names: Sequence[str], slots: int, port: int, folder: Path) -> Launch:
    """Serve copies of a model, each of which is loaded and unloaded by requests."""
    return _start(model, names, port, folder, loads_at_start=False)


def _start(model: Model, names: Sequence[str], port: int, folder: Path, *, loads_at_start: bool) -> Launch:
    server = {
        "debug": False,
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": port + 1,
        "metrics_endpoint": None,
        "parallel_workers": 0,
        "metrics_dir": str(folder),
        "environments_dir": str(folder),
        "load_models_at_startup": loads_at_start,
    }
    (folder / "settings.json").write_text(json.dumps(server))
    for name in names:
        described = {
            "name": name,
            "implementation": "runtime.Onnx",
            "max_batch_size": BATCH,
            "max_batch_time": WAIT_SECONDS,
            "parameters": {"uri": str(model.path)},
        }
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "model-settings.json").write_text(json.dumps(described))
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
