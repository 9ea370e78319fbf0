"""Models of Triton's Python backend, written to disk and loaded in the test's own process."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from salver.backends.protocol import LoadOptions, RequestModel
from salver.dialects.triton.python_backend import FORMAT
from salver.dialects.triton.python_backend.backend import TritonPythonBackend
from salver.words.artifacts import Batching, Manifest, ModelConfig
from salver.words.messages import InferRequest, ModelId, Parameter, RequestedOutput, TensorSpec
from salver.words.tensor import DataType, Tensor, datatype_of

BACKEND = TritonPythonBackend()
HEAD = "import json\nimport numpy as np\nimport triton_python_backend_utils as pb_utils\n\n\n"
X = TensorSpec("X", DataType.FP32, (-1, 2))
Y = TensorSpec("Y", DataType.FP32, (-1, 2))
BATCHED = ModelConfig(inputs=(X,), outputs=(Y,), batching=Batching(max_rows=8))
DOUBLE = """class TritonPythonModel:
    def execute(self, requests):
        x = [pb_utils.get_input_tensor_by_name(r, "X").as_numpy() for r in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", a * 2)]) for a in x]
"""


@pytest.fixture(autouse=True)
def own_process() -> Iterator[None]:
    """As in a host process: what a model leaves behind goes with it."""
    places, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = places
    for name in set(sys.modules) - modules:
        if name == "triton_python_backend_utils" or (name.endswith(".model") and name[0].isdigit()):
            del sys.modules[name]


def write(folder: Path, body: str) -> Path:
    path = folder / "m" / "1" / "model.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEAD + body)
    return path


def load(path: Path, config: ModelConfig = BATCHED, text: str = "", instance: int = 0) -> RequestModel:
    form = BACKEND.recognise(path)
    assert form == FORMAT
    manifest = Manifest(ModelId("m", "1"), path, form, "python", config)
    options = LoadOptions(own_process=True, config=text, instance=instance)
    model = BACKEND.load(manifest, options)
    assert isinstance(model, RequestModel)
    return model


def request(
    inputs: dict[str, Any], outputs: tuple[str, ...] = ("Y",), id: str = "", **parameters: Parameter
) -> InferRequest:
    tensors = []
    for name, value in inputs.items():
        array = np.asarray(value)
        tensors.append(Tensor(name, datatype_of(array.dtype), array))
    return InferRequest("m", tuple(tensors), "1", id, tuple(map(RequestedOutput, outputs)), parameters)
