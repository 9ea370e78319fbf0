"""Triton's layouts of OpenVINO, PyTorch and FIL models, with tritonclient (TR-A1, TR-C16)."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client

from salver.testing.process import TritonProcess

FOREST = """backend: "fil"
max_batch_size: 32
input [ {{ name: "input__0" data_type: TYPE_FP32 dims: [ 4 ] }} ]
output [ {{ name: "output__0" data_type: TYPE_FP32 dims: [ 1 ] }} ]
instance_group [{{ kind: KIND_AUTO }}]
parameters [
  {{ key: "model_type" value: {{ string_value: "{kind}" }} }},
  {{ key: "predict_proba" value: {{ string_value: "false" }} }},
  {{ key: "output_class" value: {{ string_value: "true" }} }},
  {{ key: "threshold" value: {{ string_value: "0.5" }} }},
  {{ key: "storage_type" value: {{ string_value: "AUTO" }} }}
]
"""
SCRIPT = """platform: "pytorch_libtorch"
max_batch_size: 8
input { name: "INPUT__1" data_type: TYPE_FP32 dims: 2 }
input { name: "INPUT__0" data_type: TYPE_FP32 dims: 2 }
output { name: "OUTPUT__1" data_type: TYPE_FP32 dims: 2 }
output { name: "OUTPUT__0" data_type: TYPE_FP32 dims: 2 }
"""


def write_openvino(folder: Path) -> None:
    import openvino

    ops = openvino.opset13
    parameter = ops.parameter(openvino.PartialShape([-1, 3]), openvino.Type.f32, name="x")
    parameter.output(0).tensor.names = {"x"}
    result = ops.result(ops.multiply(parameter, ops.constant(2, openvino.Type.f32)), name="y")
    result.output(0).tensor.names = {"y"}
    openvino.save_model(openvino.Model([result], [parameter], "g"), str(folder / "model.xml"))


def write_torch(folder: Path) -> None:
    import torch

    class Module(torch.nn.Module):
        def forward(self, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return left - right, left * right

    example = (torch.zeros(2, 2), torch.zeros(2, 2))
    torch.jit.trace(Module(), example).save(str(folder / "model.pt"))
    (folder.parent / "config.pbtxt").write_text(SCRIPT)


MODULE = """import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, left, right):
        return self.scale * (left - right)
"""
MODULE_CONFIG = """backend: "pytorch"
runtime: "model.py"
max_batch_size: 8
input { name: "right" data_type: TYPE_FP32 dims: 2 }
input { name: "left" data_type: TYPE_FP32 dims: 2 }
output { name: "OUTPUT__0" data_type: TYPE_FP32 dims: 2 }
"""


def write_module(folder: Path) -> None:
    import torch

    torch.save({"scale": torch.full((1,), 10.0)}, folder / "model.pt")
    (folder / "model.py").write_text(MODULE)
    (folder.parent / "config.pbtxt").write_text(MODULE_CONFIG)


def write_forest(folder: Path, kind: str) -> None:
    import lightgbm
    import xgboost

    values = np.random.default_rng(0).normal(size=(100, 4)).astype("f4")
    classes = (values[:, 0] > 0).astype(int)
    if kind == "lightgbm":
        wish = {"objective": "binary", "verbose": -1, "num_leaves": 4}
        lightgbm.train(wish, lightgbm.Dataset(values, classes), 5).save_model(str(folder / "model.txt"))
    elif kind == "treelite_checkpoint":
        (folder / "checkpoint.tl").write_bytes(bytes(200))
    else:
        wish = {"objective": "binary:logistic", "max_depth": 2}
        booster = xgboost.train(wish, xgboost.DMatrix(values, classes), 5)
        booster.save_model(str(folder / f"xgboost.{'ubj' if kind == 'xgboost_ubj' else 'json'}"))
    (folder.parent / "config.pbtxt").write_text(FOREST.format(kind=kind))


FORESTS = ("xgboost_json", "xgboost_ubj", "lightgbm")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonProcess]:
    root = tmp_path_factory.mktemp("models")
    for name in ("ov", "torch", "module", "treelite_checkpoint", *FORESTS):
        folder = root / name / "1"
        folder.mkdir(parents=True)
        if name == "ov":
            write_openvino(folder)
        elif name == "torch":
            write_torch(folder)
        elif name == "module":
            write_module(folder)
        else:
            write_forest(folder, name)
    flags = [
        "--model-control-mode=explicit",
        "--load-model=ov",
        "--load-model=torch",
        "--exit-on-error=false",
    ]
    flags.append("--load-model=module")
    flags += [f"--load-model={name}" for name in FORESTS]
    with TritonProcess([root], root.parent / "models.log", flags) as server:
        server.wait_ready()
        yield server


def ask(server: TritonProcess, model: str, **values: list[list[float]]) -> dict[str, list[list[float]]]:
    """By gRPC, and the same by HTTP."""
    answers = []
    for triton, address in (
        (grpc_client, f"{server.host}:{server.ports['grpc']}"),
        (http_client, server.address),
    ):
        with triton.InferenceServerClient(address) as client:
            inputs = []
            for name, rows in values.items():
                array = np.array(rows, np.float32)
                given = triton.InferInput(name, list(array.shape), "FP32")
                given.set_data_from_numpy(array)
                inputs.append(given)
            outputs = [o["name"] for o in client.get_model_metadata(model, **JSON[triton])["outputs"]]
            result = client.infer(model, inputs)
            answers.append({name: result.as_numpy(name).tolist() for name in outputs})
    assert answers[0] == answers[1]
    return answers[0]


JSON = {grpc_client: {"as_json": True}, http_client: {}}


@pytest.mark.clause("TR-A1", "TR-C16")
def test_openvino_completes_its_configuration(server: TritonProcess) -> None:
    assert ask(server, "ov", x=[[1, 2, 3], [4, 5, 6]]) == {"y": [[2, 4, 6], [8, 10, 12]]}
    with http_client.InferenceServerClient(server.address) as client:
        config = client.get_model_config("ov")
    said = {key: config[key] for key in ("backend", "platform", "max_batch_size", "default_model_filename")}
    assert said == {
        "backend": "openvino",
        "platform": "",
        "max_batch_size": 4,
        "default_model_filename": "model.xml",
    }
    assert [(t["name"], t["data_type"], t["dims"]) for t in config["input"]] == [("x", "TYPE_FP32", [3])]
    assert [(t["name"], t["data_type"], t["dims"]) for t in config["output"]] == [("y", "TYPE_FP32", [3])]
    assert config["dynamic_batching"]["preferred_batch_size"] == [4]


@pytest.mark.clause("TR-A1")
def test_torchscript_by_the_numbers_of_its_tensors(server: TritonProcess) -> None:
    answer = ask(server, "torch", INPUT__0=[[5, 5]], INPUT__1=[[3, 3]])
    assert answer == {"OUTPUT__0": [[2, 2]], "OUTPUT__1": [[15, 15]]}


@pytest.mark.clause("TR-A1")
def test_a_module_and_its_weights(server: TritonProcess) -> None:
    assert ask(server, "module", left=[[5, 5]], right=[[3, 4]]) == {"OUTPUT__0": [[20, 10]]}
    with http_client.InferenceServerClient(server.address) as client:
        assert client.get_model_config("module")["runtime"] == "model.py"


@pytest.mark.clause("TR-A1")
@pytest.mark.parametrize("kind", FORESTS)
def test_forests_as_fil_has_them(server: TritonProcess, kind: str) -> None:
    assert ask(server, kind, input__0=[[1, 0, 0, 0], [-1, 0, 0, 0]]) == {"output__0": [[1], [0]]}


def test_a_treelite_checkpoint_is_refused_with_what_to_do(server: TritonProcess) -> None:
    with http_client.InferenceServerClient(server.address) as client:
        with pytest.raises(Exception, match="Treelite checkpoints are not served; put the XGBoost"):
            client.load_model("treelite_checkpoint")
        assert not client.is_model_ready("treelite_checkpoint")
