"""Programs that serve many models as backends (TR-A5)."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from salver.testing.process import TritonProcess

BACKEND = '''import json
import os

import numpy as np
import scale_helper
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Multiplies by the number in the model's ``factor.txt``."""

    @staticmethod
    def auto_complete_config(config):
        config.add_input({"name": "X", "data_type": "TYPE_FP32", "dims": [2]})
        config.add_output({"name": "Y", "data_type": "TYPE_FP32", "dims": [2]})
        config.add_output({"name": "ARGS", "data_type": "TYPE_STRING", "dims": [1]})
        config.set_max_batch_size(0)
        return config

    def initialize(self, args):
        self.args = args
        place = os.path.join(args["model_repository"], args["model_version"], "factor.txt")
        self.factor = scale_helper.read(place)

    def execute(self, requests):
        args = pb_utils.Tensor("ARGS", np.array([json.dumps(self.args)], object))
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor("Y", request.inputs()[0].as_numpy() * np.float32(self.factor)), args]
            )
            for request in requests
        ]
'''
X = np.array([1, 2], np.float32)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonProcess]:
    folder = tmp_path_factory.mktemp("backends")
    models, backends = folder / "models", folder / "backends"
    (backends / "scaler").mkdir(parents=True)
    (backends / "scaler" / "model.py").write_text(BACKEND)
    (backends / "scaler" / "scale_helper.py").write_text(
        "def read(path):\n    return float(open(path).read())\n"
    )
    shutil.copytree(backends / "scaler", backends / "vllm")
    (backends / "hollow").mkdir()
    (backends / "hollow" / "model.py").write_text("def nothing():\n    pass\n")
    for name, factor in (("twice", "2"), ("thrice", "3"), ("strange", "x")):
        version = models / name / "1"
        version.mkdir(parents=True)
        (version / "factor.txt").write_text(factor)
        (version.parent / "config.pbtxt").write_text(
            'backend: "scaler"\nparameters { key: "own" value: { string_value: "word" } }\n'
        )
    strange = (("absent", "nowhere"), ("empty", "hollow"), ("climbing", "../backends/scaler"))
    for name, backend in (*strange, ("tower", "vllm"), ("pictures", "dali")):
        (models / name / "1").mkdir(parents=True)
        (models / name / "1" / "factor.txt").write_text("1")
        (models / name / "config.pbtxt").write_text(f'backend: "{backend}"\n')
    flags = [f"--backend-directory={backends}", "--exit-on-error=false", "--strict-readiness=false"]
    flags += ["--backend-config=python,shm-default-byte-size=1048576", "--backend-config", "scaler,x=1"]
    with TritonProcess([models], folder / "log", flags) as server:
        yield server.wait_ready()


@pytest.fixture(scope="module")
def client(server: TritonProcess) -> Iterator[Any]:
    with triton_http.InferenceServerClient(server.address) as client:
        yield client


@pytest.mark.clause("TR-A5")
def test_a_program_of_a_backend_that_is_otherwise_refused(client: Any) -> None:
    """Triton's vLLM backend is one."""
    assert ask(client, "tower").as_numpy("Y").tolist() == [1, 2]
    assert client.get_model_config("tower")["backend"] == "vllm"


def ask(client: Any, model: str) -> Any:
    tensor = triton_http.InferInput("X", [2], "FP32")
    tensor.set_data_from_numpy(X)
    return client.infer(model, [tensor])


@pytest.mark.clause("TR-A5")
@pytest.mark.parametrize(("model", "factor"), [("twice", 2), ("thrice", 3)])
def test_one_program_runs_many_models(model: str, factor: int, client: Any) -> None:
    answer = ask(client, model)
    assert answer.as_numpy("Y").tolist() == [factor, 2 * factor]
    args = json.loads(answer.as_numpy("ARGS")[0])
    assert args["model_name"] == model and Path(args["model_repository"]).name == model
    config = json.loads(args["model_config"])
    assert config["backend"] == "scaler"
    assert config["parameters"] == {"own": {"string_value": "word"}}
    assert client.get_model_config(model)["backend"] == "scaler"


@pytest.mark.clause("TR-A5")
@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("strange", "could not convert string to float: 'x'"),
        ("absent", "no model that any installed backend recognises"),
        ("empty", "model.py defines no class TritonPythonModel"),
        ("climbing", "no model that any installed backend recognises"),
        ("pictures", "there is no backend for 'dali'. Known are: onnxruntime, "),
    ],
)
def test_why_a_model_of_such_a_backend_is_not_served(model: str, reason: str, client: Any) -> None:
    with pytest.raises(InferenceServerException):
        ask(client, model)
    (entry,) = [e for e in client.get_model_repository_index() if e["name"] == model]
    assert reason in entry["reason"]


@pytest.mark.clause("TR-F13")
def test_settings_without_an_effect_are_named_with_the_reason(server: TritonProcess) -> None:
    log = server.output()
    said = "--backend-config python,shm-default-byte-size=1048576 is accepted and has no effect here: shared"
    assert said in log
    assert "--backend-config scaler,x=1 is accepted and has no effect here" in log
    assert "--backend-directory is accepted" not in log
    assert "field `parameters` own" not in log
