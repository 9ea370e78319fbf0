"""LitServe."""

import base64
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
BATCH, WAIT_SECONDS, QUEUE = 16, 0.0, "zmq"


def _launch(model: Model, port: int, folder: Path) -> Launch:
    form = "base64" if model.is_image else "json"
    server = [str(python_of("litserve")), str(HERE / "server.py"), str(model.path), str(port)]
    return Launch([*server, form, str(BATCH), QUEUE, str(WAIT_SECONDS)], cwd=folder)


def _decode(body: bytes, headers: Headers) -> Floats:
    return np.asarray(json.loads(body)["rows"], np.float32)


def _encode(row: Floats) -> bytes:
    return json.dumps({"b64": base64.b64encode(row.tobytes()).decode()}).encode()


def _forms(model: Model) -> Mapping[str, Form | str]:
    coded = Form("http", "/predict", _encode, _decode, {"content-type": "application/json"})
    return {
        "http": coded if model.is_image else forms.rows_json("/predict"),
        "grpc": "speaks no gRPC",
    }


SYSTEM = System(
    "litserve",
    "python",
    _launch,
    _forms,
    f"one worker, one API server, batches up to {BATCH}, no waiting, {QUEUE} queue; image as base64",
    environment="litserve",
)
