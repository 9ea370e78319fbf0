"""Ray Serve."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import forms
from forms import Form
from models import Model
from processes import Launch
from systems import System, python_of

HERE = Path(__file__).resolve().parent
BATCH, WAIT_SECONDS = 0, 0.0
FOLDER = "/tmp/salver-bench-ray"  # its sockets need a short path


def _launch(model: Model, port: int, folder: Path) -> Launch:
    arguments = [str(model.path), str(port), str(port + 1), FOLDER, str(BATCH), str(WAIT_SECONDS)]
    return _start("server.py", arguments, folder)


def swapping(model: Model, names: Sequence[str], slots: int, port: int, folder: Path) -> Launch:
    """Serve copies of a model, which one replica multiplexes."""
    return _start("multiplexed.py", [str(model.path), str(port), str(port + 1), FOLDER, str(slots)], folder)


def _start(script: str, arguments: Sequence[str], folder: Path) -> Launch:
    settings = {
        "PYTHONPATH": f"{HERE}:{HERE.parent.parent}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    }
    return Launch([str(python_of("rayserve")), str(HERE / script), *arguments], settings, folder)


def _forms(model: Model) -> Mapping[str, Form | str]:
    web = forms.raw("/raw") if model.is_image else forms.rows_json("/predict")
    return {"http": web, "grpc": forms.oip_grpc(model, port_offset=1)}


SYSTEM = System(
    "rayserve",
    "python",
    _launch,
    _forms,
    "one replica, one proxy, RAY_SERVE_THROUGHPUT_OPTIMIZED, no batching, access log and dashboard off",
    ports=2,
    environment="rayserve",
)
