"""Triton itself, from the nvidia-pytriton wheel, with its Python backend."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import forms
from forms import Form
from models import Model
from peers.triton import native
from processes import Launch
from systems import System, python_of

HERE = Path(__file__).resolve().parent
INSTANCES, BATCH, WAIT_MICROSECONDS = {"medium": 2}, 64, 0  # instances: 1 elsewhere

_CONFIG = """\
name: "{name}"
backend: "python"
max_batch_size: {batch}
input [{{ name: "x", data_type: TYPE_FP32, dims: [{dims}] }}]
output [{{ name: "y", data_type: TYPE_FP32, dims: [{outputs}] }}]
instance_group [{{ count: {instances}, kind: KIND_CPU }}]
dynamic_batching {{ max_queue_delay_microseconds: {wait} }}
"""


def repository(model: Model, folder: Path) -> Path:
    """The model as one of Triton's Python backend, in a repository of its own."""
    made = folder / "models"
    shutil.rmtree(made, ignore_errors=True)
    (made / model.name / "1").mkdir(parents=True)
    shutil.copy(model.path, made / model.name / "1" / "model.onnx")
    shutil.copy(HERE / "model.py", made / model.name / "1" / "model.py")
    dims = ", ".join(map(str, model.shape))
    (made / model.name / "config.pbtxt").write_text(
        _CONFIG.format(
            name=model.name,
            dims=dims,
            outputs=model.outputs,
            batch=BATCH,
            wait=WAIT_MICROSECONDS,
            instances=INSTANCES.get(model.name, 1),
        )
    )
    return made


def _launch(model: Model, port: int, folder: Path) -> Launch:
    flags = ["--http-address=127.0.0.1", "--grpc-address=127.0.0.1", "--allow-metrics=false"]
    flags += [f"--http-port={port}", f"--grpc-port={port + 1}"]
    environment = python_of("triton").parent.parent
    argv, settings = native.command(environment, repository(model, folder), folder, flags)
    return Launch(argv, settings, folder)


def _forms(model: Model) -> Mapping[str, Form | str]:
    return forms.oip(model, port_offset=1)


SYSTEM = System(
    "triton",
    "native",
    _launch,
    _forms,
    f"tritonserver, Python backend, 1 instance (2 on medium), dynamic batching up to {BATCH}, metrics off",
    ports=2,
    counts_batches=True,
    environment="triton",
)
