"""BentoML."""

import json
from collections.abc import Mapping
from pathlib import Path

import forms
import numpy as np
from forms import Form, Headers
from models import Floats, Model
from processes import Launch
from systems import System, python_of

HERE = Path(__file__).resolve().parent
BATCH, LATENCY_MS = 0, 100


def _launch(model: Model, port: int, folder: Path) -> Launch:
    command = [str(python_of("bentoml").with_name("bentoml")), "serve", "service:service"]
    options = ["--host", "127.0.0.1", "--port", str(port), "--working-dir", str(HERE)]
    settings = {
        "SALVER_BENCH_MODEL": str(model.path),
        "SALVER_BENCH_BATCH": str(BATCH),
        "SALVER_BENCH_LATENCY_MS": str(LATENCY_MS),
        "BENTOML_HOME": str(folder / "home"),
        "BENTOML_DO_NOT_TRACK": "true",
    }
    return Launch([*command, *options], settings, folder)


def _encode(row: Floats) -> bytes:
    return json.dumps({"rows": row.tolist()}).encode()


def _decode(body: bytes, headers: Headers) -> Floats:
    return np.asarray(json.loads(body), np.float32)


def _forms(model: Model) -> Mapping[str, Form | str]:
    web = Form("http", "/predict", _encode, _decode, {"content-type": "application/json"})
    return {
        "http": forms.raw("/raw/") if model.is_image else web,
        "grpc": "speaks no gRPC since 1.4",
    }


SYSTEM = System(
    "bentoml",
    "python",
    _launch,
    _forms,
    "one worker, async API on numpy arrays, no adaptive batching, access log and metrics off; "
    "started anew for each cell, because it slows after a burst",
    is_fragile=True,
    environment="bentoml",
)
