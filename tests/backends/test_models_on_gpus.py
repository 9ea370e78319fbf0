"""Models that ask for a GPU where there is none: each load fails in words, and none runs on the CPU."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from packaged import packaged

from salver.backends.discovery import backends
from salver.backends.protocol import LoadOptions, Traits
from salver.backends.torch_device import OnDevice
from salver.kernel.engine.placement import Placement, place
from salver.kernel.serving.bus import Bus
from salver.kernel.serving.loader import Loader
from salver.kernel.serving.loading import Additions, Terms
from salver.testing.backends import manifest_of
from salver.words.artifacts import Instances, Memory, ModelConfig, Steps
from salver.words.errors import LoadFailed

LIMITED = ModelConfig(instances=Instances(gpus=(3,)), memory=Memory(gpu_max_mb=500))


class Twice(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((2,), 2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight + torch.ones(2)


def artefact(folder: Path, kind: str) -> Path:
    path = folder / "m"
    if kind == "onnx":
        return packaged("onnxruntime", "datasets/mul_1.onnx")
    if kind == "scripted":
        torch.jit.trace(Twice(), torch.zeros(2, 2)).save(str(path))
    elif kind == "exported":
        rows = {"x": {0: torch.export.Dim("rows")}}
        torch.export.save(
            torch.export.export(Twice(), (torch.zeros(2, 2),), dynamic_shapes=rows), f"{path}.pt2"
        )
        return folder / "m.pt2"
    elif kind == "xgboost":
        import xgboost

        table = xgboost.DMatrix(np.eye(4), np.arange(4))
        xgboost.train({"max_depth": 1}, table, 1).save_model(folder / "m.ubj")
        return folder / "m.ubj"
    else:
        return packaged("basic-pitch", "icassp_2022/nmp/saved_model.pb").parent
    return path


@pytest.mark.parametrize(
    ("backend", "kind", "said"),
    [
        (
            "onnx",
            "onnx",
            "ONNX Runtime cannot use GPU 3: CUDA .*onnxruntime-gpu.*names",
        ),
        ("torch", "scripted", "PyTorch cannot use GPU 3: .*Install PyTorch with CUDA.*driver"),
        ("xgboost", "xgboost", "XGBoost cannot use GPU 3: it uses cpu instead.*nvidia-smi.*CUDA"),
        ("tensorflow", "savedmodel", r"TensorFlow cannot use GPU 3: it sees 0 GPUs.*tensorflow\[and-cuda\]"),
    ],
)
def test_a_framework_without_the_gpu_says_what_to_install(
    backend: str, kind: str, said: str, tmp_path: Path
) -> None:
    found = backends()[backend]
    manifest = manifest_of(found, artefact(tmp_path, kind), LIMITED)
    with pytest.raises(LoadFailed, match=f"{said}, or leave instances.gpus out"):
        found.load(manifest, LoadOptions(gpu=3))


@pytest.mark.parametrize("kind", ["scripted", "exported"])
def test_tensors_go_to_the_device_of_a_torch_program_and_come_back(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU under another name takes the way of a GPU."""
    monkeypatch.setattr("salver.backends.torch.device_of", lambda *_: "cpu:0")
    devices, moved = set(), OnDevice._moved

    def spy(self: OnDevice, values: object, device: str) -> object:
        devices.add(device)
        return moved(self, values, device)

    monkeypatch.setattr(OnDevice, "_moved", spy)
    backend = backends()["torch"]
    model = backend.load(manifest_of(backend, artefact(tmp_path, kind)), LoadOptions(gpu=0))
    (answer,) = model.run({model.signature.inputs[0].name: np.ones((3, 2), "f4")}).values()
    assert devices == {"cpu:0", "cpu"} and model.signature.batched
    np.testing.assert_array_equal(answer, np.full((3, 2), 3, "f4"))


def test_a_gpu_means_host_processes_and_an_instance_for_each() -> None:
    assert place(Traits(), Instances(gpus=(0, 1)), 4) == Placement("process", 2, 2)


def loader() -> Loader:
    return Loader(backends(), Bus(), time.monotonic, Terms(1), Additions())


async def test_what_knows_no_gpu_refuses_one(tmp_path: Path) -> None:
    (tmp_path / "m.txt").write_text("tree\n")
    with pytest.raises(LoadFailed, match="asks for a GPU, and the lightgbm backend uses none"):
        await loader().load(manifest_of(backends()["lightgbm"], tmp_path / "m.txt", LIMITED))
    steps = replace(LIMITED, steps=Steps(vocabulary="bytes"))
    with pytest.raises(LoadFailed, match="step-wise, and such models run on the CPU"):
        await loader().load(manifest_of(backends()["onnx"], artefact(tmp_path, "onnx"), steps))
