"""TorchServe: a Java front with Python workers. Needs Java 17."""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import forms
import frames
import numpy as np
from forms import Form, Headers
from models import Floats, Model
from processes import Launch
from systems import System, python_of

HERE = Path(__file__).resolve().parent
WORKERS, BATCH, WAIT_MS = 1, 64, 1


def _launch(model: Model, port: int, folder: Path, queue: int = 1000) -> Launch:
    store = folder / "store"
    archive = store / model.name
    shutil.rmtree(folder / "store", ignore_errors=True)
    (archive / "MAR-INF").mkdir(parents=True)
    shutil.copy(model.path, archive / model.path.name)
    shutil.copy(HERE / "handler.py", archive / "handler.py")
    described = {
        "modelName": model.name,
        "serializedFile": model.path.name,
        "handler": "handler.py",
        "modelVersion": "1.0",
        "configFile": "model-config.yaml",
    }
    manifest = {"runtime": "python", "model": described, "archiverVersion": "0.12.0"}
    (archive / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    (archive / "model-config.yaml").write_text(
        f"minWorkers: {WORKERS}\nmaxWorkers: {WORKERS}\nbatchSize: {BATCH}\nmaxBatchDelay: {WAIT_MS}\n"
    )
    names = ("inference_address", "management_address", "metrics_address")
    addresses = "".join(f"{name}=http://127.0.0.1:{port + i}\n" for i, name in enumerate(names))
    (folder / "config.properties").write_text(
        addresses
        + f"grpc_inference_port={port + 3}\ngrpc_management_port={port + 4}\n"
        + f"enable_envvars_config=false\ninstall_py_dep_per_model=false\njob_queue_size={queue}\n"
        + f"default_workers_per_model={WORKERS}\ndisable_system_metrics=true\nvmargs=-Xmx1g\n"
    )
    bin_folder = python_of("torchserve").parent
    argv = [str(bin_folder / "torchserve"), "--start", "--foreground", "--no-config-snapshots"]
    argv += ["--disable-token-auth", "--ts-config", str(folder / "config.properties")]
    argv += ["--log-config", str(HERE / "log4j2.xml")]
    argv += ["--model-store", str(store), "--models", f"{model.name}={model.name}"]
    path = f"{bin_folder}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return Launch(argv, {"PATH": path, "LOG_LOCATION": str(folder / "logs")}, folder)


def _grpc(model: Model) -> Form:
    def encode(row: Floats) -> bytes:
        request = frames.PredictionsRequest(model_name=model.name)
        request.input.add(key="data", value=row.tobytes())
        return bytes(request.SerializeToString())

    def decode(message: bytes, headers: Headers) -> Floats:
        return np.frombuffer(frames.PredictionResponse.FromString(message).prediction, np.float32)

    return Form("grpc", frames.TORCHSERVE_PATH, encode, decode, port_offset=3)


def _forms(model: Model) -> Mapping[str, Form | str]:
    path = f"/predictions/{model.name}"
    web = forms.raw(path) if model.is_image else forms.rows_json(path)
    return {"http": web, "grpc": _grpc(model)}


SYSTEM = System(
    "torchserve",
    "native",
    _launch,
    _forms,
    f"{WORKERS} worker, batches up to {BATCH} within {WAIT_MS} ms, system metrics off, "
    "logs from WARN on; its own gRPC method",
    ports=5,
    environment="torchserve",
    requires="java",
    warm_up_seconds=5,
)


def queued(size: int) -> System:
    """One whose queue refuses what finds so many requests waiting."""
    forms_of = {"http": "json", "grpc": "grpc"}

    def named(model: Model) -> Mapping[str, Form | str]:
        return {forms_of[name]: form for name, form in _forms(model).items()}

    launch = partial(_launch, queue=size)
    return dataclasses.replace(SYSTEM, launch=launch, forms=named, settings=f"a queue of {size}")
