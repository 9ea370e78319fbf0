"""Which argument is INPUT__1, and which result OUTPUT__0? As with Triton's PyTorch backend (TR-A1, TR-C4)."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from salver.backends.protocol import LoadOptions
from salver.backends.torch import TorchBackend
from salver.words.artifacts import Manifest, ModelConfig
from salver.words.errors import LoadFailed, ModelFailed
from salver.words.messages import ModelId, TensorSpec
from salver.words.tensor import DataType

BACKEND = TorchBackend()


class Module(torch.nn.Module):
    def forward(self, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return left - right, left * right


def specs(*names: str) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, DataType.FP32, (-1, 2)) for name in names)


@pytest.fixture(scope="module", params=["scripted", "traced", "exported"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, example = tmp_path_factory.mktemp("torch"), (torch.zeros(2, 2), torch.zeros(2, 2))
    if request.param == "exported":
        rows = torch.export.Dim("rows")
        shapes = {"left": {0: rows}, "right": {0: rows}}
        torch.export.save(torch.export.export(Module(), example, dynamic_shapes=shapes), folder / "m.pt2")
        return folder / "m.pt2"
    make = torch.jit.script(Module()) if request.param == "scripted" else torch.jit.trace(Module(), example)
    make.save(str(folder / "m.pt"))
    return folder / "m.pt"


def ask(path: Path, inputs: tuple[str, ...], outputs: tuple[str, ...], **values: float) -> dict[str, float]:
    config = ModelConfig(inputs=specs(*inputs), outputs=specs(*outputs), only_outputs=bool(outputs))
    form = BACKEND.recognise(path) or ""
    model = BACKEND.load(Manifest(ModelId("m", "1"), path, form, "torch", config), LoadOptions())
    assert [spec.name for spec in model.signature.inputs if spec.name in inputs]
    answer = model.run({name: np.full((1, 2), value, np.float32) for name, value in values.items()})
    model.close()
    return {name: float(array[0, 0]) for name, array in answer.items()}


@pytest.mark.clause("TR-A1")
@pytest.mark.parametrize("inputs", [("INPUT__0", "INPUT__1"), ("INPUT__1", "INPUT__0")])
@pytest.mark.parametrize("outputs", [("OUTPUT__0", "OUTPUT__1"), ("OUTPUT__1", "OUTPUT__0")])
def test_by_number(path: Path, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
    answer = ask(path, inputs, outputs, INPUT__0=5, INPUT__1=3)
    assert answer == {"OUTPUT__0": 2, "OUTPUT__1": 15}


@pytest.mark.clause("TR-A1")
@pytest.mark.parametrize("inputs", [("left", "right"), ("right", "left")])
def test_by_the_names_of_the_arguments(path: Path, inputs: tuple[str, ...]) -> None:
    answer = ask(path, inputs, ("OUTPUT__1", "OUTPUT__0"), left=5, right=3)
    assert answer == {"OUTPUT__0": 2, "OUTPUT__1": 15}


def test_without_outputs_of_its_owner_it_gives_all(path: Path) -> None:
    assert list(ask(path, ("INPUT__1", "INPUT__0"), (), INPUT__0=5, INPUT__1=3).values()) == [2, 15]


@pytest.mark.clause("TR-A1")
def test_other_names_stand_in_order(tmp_path: Path) -> None:
    torch.jit.script(Module()).save(str(tmp_path / "m.pt"))
    assert ask(tmp_path / "m.pt", ("b", "a"), ("y", "x"), b=5, a=3) == {"y": 2, "x": 15}
    assert ask(tmp_path / "m.pt", ("b", "a"), ("OUTPUT__1",), b=5, a=3) == {"OUTPUT__1": 15}


def test_what_cannot_be_is_told(tmp_path: Path) -> None:
    torch.jit.script(Module()).save(str(tmp_path / "m.pt"))
    with pytest.raises(LoadFailed, match="two inputs have the same number: A__1, B__1"):
        ask(tmp_path / "m.pt", ("A__1", "B__1"), (), A__1=1, B__1=1)
    with pytest.raises(ModelFailed, match="gave 2 results, and output 7 is wanted"):
        ask(tmp_path / "m.pt", ("A__0", "A__1"), ("Y__7",), A__0=1, A__1=1)


def a_package(folder: Path) -> Path:
    """As AOTInductor packs it, without the machine code."""
    path = folder / "model.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        for name in (
            "data/aotinductor/model/a.wrapper.so",
            "data/aotinductor/model/a.wrapper.cpp",
            "byteorder",
        ):
            archive.writestr(f"model/{name}", b"")
    return path


@pytest.mark.clause("TR-A1")
def test_a_compiled_program_runs_where_machine_code_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = a_package(tmp_path)
    assert BACKEND.recognise(path) == "torch-aoti"
    opened: list[str] = []

    def opens(package: str, run_single_threaded: bool) -> Module:
        opened.append(package)
        return Module()

    monkeypatch.setattr(torch._inductor, "aoti_load_package", opens)
    names = {"inputs": specs("INPUT__1", "INPUT__0"), "outputs": specs("OUTPUT__1")}
    manifest = Manifest(ModelId("m", "1"), path, "torch-aoti", "torch", ModelConfig(**names))
    with pytest.raises(LoadFailed, match="--trust-pickle"):
        BACKEND.load(manifest, LoadOptions())
    untold = Manifest(ModelId("m", "1"), path, "torch-aoti", "torch")
    with pytest.raises(LoadFailed, match="does not say which tensors"):
        BACKEND.load(untold, LoadOptions(trust_pickle=True))
    assert opened == []
    model = BACKEND.load(manifest, LoadOptions(trust_pickle=True))
    asked = {f"INPUT__{i}": np.full((1, 2), value, np.float32) for i, value in ((0, 5), (1, 3))}
    assert model.run(asked)["OUTPUT__1"].tolist() == [[15, 15]]
    assert (opened, model.signature.batched) == ([str(path)], True)


NET = "class Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
NET += "        self.scale = torch.nn.Parameter(torch.ones(1))\n\n"
NET += "    def forward(self, left, right):\n        return self.scale * (left - right)\n"


@pytest.mark.clause("TR-A1")
@pytest.mark.parametrize(
    ("code", "weights", "reason"),
    [
        (f"import torch\n\n\n{NET}", {"scale": torch.ones(1)}, ""),
        (f"import torch\n\n\n{NET}", {"other": torch.ones(1)}, "Missing key"),
        (f"import torch\n\n\n{NET}\n\nclass B(Net):\n    pass\n", {}, "must define one subclass .* Net, B"),
        ("import torch\nfrom torch.nn import Module\n", {}, "must define one subclass .*: none"),
        ("import nothing_there\n", {}, "ModuleNotFoundError"),
        (None, {}, "is missing"),
    ],
)
def test_a_class_beside_its_weights(
    tmp_path: Path, code: str | None, weights: dict[str, torch.Tensor], reason: str
) -> None:
    torch.save(weights, tmp_path / "model.pt")
    if code is not None:
        (tmp_path / "model.py").write_text(code)
    config = ModelConfig(inputs=specs("right", "left"), outputs=specs("y"), options={"module": "model.py"})
    manifest = Manifest(ModelId("m", "1"), tmp_path / "model.pt", "torch-weights", "torch", config)
    with pytest.raises(LoadFailed, match="a process of its own"):
        BACKEND.load(manifest, LoadOptions())
    if reason:
        with pytest.raises(LoadFailed, match=reason):
            BACKEND.load(manifest, LoadOptions(own_process=True))
        return
    model = BACKEND.load(manifest, LoadOptions(own_process=True))
    asked = {"left": np.full((1, 2), 5, np.float32), "right": np.full((1, 2), 3, np.float32)}
    assert model.run(asked)["y"].tolist() == [[2, 2]]


def test_a_class_beside_its_weights_needs_declared_tensors(tmp_path: Path) -> None:
    config = ModelConfig(options={"module": "model.py"})
    manifest = Manifest(ModelId("m", "1"), tmp_path / "model.pt", "torch-weights", "torch", config)
    with pytest.raises(LoadFailed, match="does not say which tensors"):
        BACKEND.load(manifest, LoadOptions(own_process=True))
