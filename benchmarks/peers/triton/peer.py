"""Triton itself, from the nvidia-pytriton wheel, with its Python backend."""

import shutil
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import forms
from forms import Form
from processes import Launch
from systems import System, python_of

from models import Model

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
    environment = python_of("triton").parent.parent
    packages = next(environment.glob("lib/python3*/site-packages"))
    version = packages.parent.name.removeprefix("python")
    bundled = packages / "pytriton" / "tritonserver"

    backends = folder / "backends"
    shutil.rmtree(backends, ignore_errors=True)
    shutil.copytree(bundled / "backends", backends)
    stub = backends / "python" / "triton_python_backend_stub"
    shutil.copy(bundled / "python_backend_stubs" / version / stub.name, stub)
    stub.chmod(0o755)

    argv = [str(bundled / "bin" / "tritonserver"), f"--model-repository={repository(model, folder)}"]
    argv += [f"--backend-directory={backends}", "--http-address=127.0.0.1", "--grpc-address=127.0.0.1"]
    argv += [f"--http-port={port}", f"--grpc-port={port + 1}", "--allow-metrics=false"]
    libraries = [
        packages / "nvidia_pytriton.libs",
        sysconfig.get_config_var("LIBDIR"),
    ]  # the stub's libpython
    settings = {
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "PYTHONPATH": str(packages),
        "PATH": f"{environment / 'bin'}:/usr/bin:/bin",
    }
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
