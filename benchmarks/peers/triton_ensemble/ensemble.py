"""Triton with an ensemble: a step of its Python backend before a network in its native backend.

``TRITON_BACKENDS`` names the folder with the native backend, as for ``triton_onnx``.
"""

import json
import os
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from peers.triton import native
from processes import Launch
from systems import python_of

HERE = Path(__file__).resolve().parent
BACKENDS = "TRITON_BACKENDS"
_BATCHING = "dynamic_batching { }\ninstance_group [ { kind: KIND_CPU count: 1 } ]\n"


def launch(
    step: str,
    network: Path,
    files: Sequence[Path],
    between: Sequence[tuple[str, str, str]],
    output: tuple[str, str],
) -> Callable[[int, Path], Launch]:
    """Return how an ensemble is served for a port and a folder.

    Args:
        step: File of this folder with the first step, which takes BYTES named ``raw``.
        files: What the step reads, put beside it.
        between: Name, type and shape of each tensor from the step to the network.
        output: Name and shape of the network's output.
    """

    def made(port: int, folder: Path) -> Launch:
        models = folder / "models"
        for name in ("step", "network", "both"):
            (models / name / "1").mkdir(parents=True)
        shutil.copy(HERE / step, models / "step" / "1" / "model.py")
        for file in files:
            shutil.copy(file, models / "step" / "1" / file.name)
        shutil.copy(network, models / "network" / "1" / "model.onnx")
        raw = 'input [ { name: "raw" data_type: TYPE_STRING dims: [ 1 ] } ]\n'
        tensors = ", ".join(
            f'{{ name: "{n}" data_type: {kind} dims: [ {dims} ] }}' for n, kind, dims in between
        )
        out = f'output [ {{ name: "{output[0]}" data_type: TYPE_FP32 dims: [ {output[1]} ] }} ]\n'
        head = 'name: "{0}"\nmax_batch_size: 64\n'
        maps = {
            way: " ".join(f'{way} {{ key: "{n}" value: "{n}" }}' for n, _, _ in between)
            for way in ("input_map", "output_map")
        }
        (models / "step" / "config.pbtxt").write_text(
            f'{head.format("step")}backend: "python"\n{raw}output [ {tensors} ]\n{_BATCHING}'
        )
        (models / "network" / "config.pbtxt").write_text(
            f'{head.format("network")}backend: "onnxruntime"\ninput [ {tensors} ]\n{out}{_BATCHING}'
            'parameters { key: "intra_op_thread_count" value: { string_value: "1" } }\n'
        )
        steps = (
            f'{{ model_name: "step" model_version: -1 input_map {{ key: "raw" value: "raw" }} '
            f"{maps['output_map']} }}, "
            f'{{ model_name: "network" model_version: -1 {maps["input_map"]} '
            f'output_map {{ key: "{output[0]}" value: "{output[0]}" }} }}'
        )
        (models / "both" / "config.pbtxt").write_text(
            f'{head.format("both")}platform: "ensemble"\n{raw}{out}'
            f"ensemble_scheduling {{ step [ {steps} ] }}\n"
        )
        flags = ["--http-address=127.0.0.1", "--grpc-address=127.0.0.1", "--allow-metrics=false"]
        flags += [f"--http-port={port}", f"--grpc-port={port + 1}"]
        argv, settings = native.command(python_of("triton").parent.parent, models, folder, flags)
        own = Path(os.environ[BACKENDS]) / "onnxruntime"
        shutil.copytree(own, folder / "backends" / "onnxruntime", dirs_exist_ok=True)
        return Launch(argv, settings, folder)

    return made


def _head(size: int) -> bytes:
    tensor = {
        "name": "raw",
        "shape": [1, 1],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": size + 4},
    }
    asked = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    return json.dumps(asked, separators=(",", ":")).encode()


def body(payload: bytes) -> bytes:
    """Return a request with one row of BYTES, as the binary tensor extension has it."""
    return _head(len(payload)) + struct.pack("<I", len(payload)) + payload


def output(answer: bytes) -> Any:
    """Return the output in an answer, an array of FP32."""
    head, end = json.JSONDecoder().raw_decode(answer.decode("latin-1"))
    return np.frombuffer(answer[end:], np.float32).reshape(head["outputs"][0]["shape"])


def headers(payload: bytes) -> dict[str, str]:
    """Return the headers of that request."""
    return {
        "content-type": "application/octet-stream",
        "inference-header-content-length": str(len(_head(len(payload)))),
    }
