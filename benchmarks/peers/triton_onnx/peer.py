"""Triton with its native ONNX Runtime backend, one instance and two.

The wheel has no such backend: ``TRITON_BACKENDS`` names a folder with
``onnxruntime/libtriton_onnxruntime.so``,
built from Triton's sources of release 24.10.
"""

import dataclasses
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import forms
from forms import Form
from models import Model
from peers.triton import native
from processes import Launch
from systems import System, python_of

BACKENDS, BATCH = "TRITON_BACKENDS", 64

_CONFIG = """\
name: "{name}"
backend: "onnxruntime"
max_batch_size: {batch}
dynamic_batching {{ {policy} }}
instance_group [ {{ kind: KIND_CPU count: {instances} }} ]
parameters {{ key: "intra_op_thread_count" value: {{ string_value: "1" }} }}
"""
#: Requests that wait for longer are refused, and those that find a full queue.
_POLICY = """\
default_queue_policy {{
  timeout_action: REJECT default_timeout_microseconds: {micros:.0f} max_queue_size: {size}
}}"""


def _launch(instances: int, model: Model, port: int, folder: Path, policy: str = "") -> Launch:
    return _start(_repository(model, [model.name], folder, instances, policy), port, folder)


def swapping(model: Model, names: Sequence[str], slots: int, port: int, folder: Path) -> Launch:
    """Serve copies of a model, each of which is loaded and unloaded by requests."""
    return _start(_repository(model, names, folder), port, folder, "--model-control-mode=explicit")


def _repository(
    model: Model, names: Sequence[str], folder: Path, instances: int = 1, policy: str = ""
) -> Path:
    made = folder / "models"
    shutil.rmtree(made, ignore_errors=True)
    for name in names:
        (made / name / "1").mkdir(parents=True)
        shutil.copy(model.path, made / name / "1" / "model.onnx")
        config = _CONFIG.format(name=name, batch=BATCH, instances=instances, policy=policy)
        (made / name / "config.pbtxt").write_text(config)
    return made


def _start(made: Path, port: int, folder: Path, *more: str) -> Launch:
    flags = ["--http-address=127.0.0.1", "--grpc-address=127.0.0.1", "--allow-metrics=false", *more]
    flags += [f"--http-port={port}", f"--grpc-port={port + 1}"]
    environment = python_of("triton").parent.parent
    argv, settings = native.command(environment, made, folder, flags, Path(os.environ[BACKENDS]))
    return Launch(argv, settings, folder)


def _forms(model: Model) -> Mapping[str, Form | str]:
    return forms.oip(model, port_offset=1)


def queued(seconds: float, size: int) -> System:
    """One instance whose queue refuses what waits for longer, and what finds so many requests waiting."""
    policy = _POLICY.format(micros=seconds * 1e6, size=size)
    settings = f"a queue of {size}, of which what waits {seconds * 1e3:g} ms is refused"

    def launch(model: Model, port: int, folder: Path) -> Launch:
        return _launch(1, model, port, folder, policy)

    return dataclasses.replace(_system(1), name="triton", launch=launch, settings=settings)


def _system(instances: int) -> System:
    return System(
        f"triton_onnx_{instances}",
        "native",
        partial(_launch, instances),
        _forms,
        f"tritonserver, native ONNX Runtime backend, {instances} instances of one thread, "
        f"dynamic batching up to {BATCH}, metrics off",
        ports=2,
        counts_batches=True,
        environment="triton",
        folder=BACKENDS,
    )


SYSTEMS = (_system(1), _system(2))
