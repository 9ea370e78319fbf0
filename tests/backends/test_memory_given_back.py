"""Does a closed model give its memory back? Rounds of load, run and close, in a process of its own."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from soaking import size

FROM_ROUND, ROUNDS, BOUND = 5, size(20, 10), 10 << 20
WIDTH = 2240  # 2,240 squared floats are 20 MB

SCRIPT = f"""
import gc, importlib, sys
from pathlib import Path
import numpy as np, psutil
from salver.backends.protocol import LoadOptions
from salver.machine import give_back_memory, trim_heap
from salver.testing.backends import manifest_of

module, _, kind = sys.argv[1].partition(":")
backend = getattr(importlib.import_module(module), kind)()
manifest = manifest_of(backend, Path(sys.argv[2]))
x = np.ones((4, {WIDTH}), "f4")
resident, loaded = [], 0
give_back = give_back_memory  # collects
if sys.argv[3] == "by itself":
    gc.disable()
    give_back = trim_heap
for _ in range({ROUNDS}):
    model = backend.load(manifest, LoadOptions())
    (spec,) = model.signature.inputs
    model.run({{spec.name: x}})
    loaded = max(loaded, psutil.Process().memory_info().rss)
    model.close()
    del model
    give_back()
    resident.append(psutil.Process().memory_info().rss)
print(resident[-1] - resident[{FROM_ROUND}], loaded - resident[-1])
"""


def onnx_file(folder: Path) -> Path:
    import onnx

    h = onnx.helper
    weights = np.random.default_rng(0).normal(size=(WIDTH, WIDTH)).astype("f4")
    graph = h.make_graph(
        [h.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [h.make_tensor_value_info("x", 1, ["n", WIDTH])],
        [h.make_tensor_value_info("y", 1, ["n", WIDTH])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=9), folder / "m.onnx")
    return folder / "m.onnx"


def torch_file(folder: Path) -> Path:
    import torch

    module = torch.nn.Linear(WIDTH, WIDTH, bias=False).eval()
    dims = ({0: torch.export.Dim("batch", min=1, max=64)},)
    program = torch.export.export(module, (torch.zeros(2, WIDTH),), dynamic_shapes=dims)
    torch.export.save(program, folder / "m.pt2")
    return folder / "m.pt2"


def python_file(folder: Path) -> Path:
    (folder / "m.py").write_text(
        "import numpy as np\n"
        "class Model:\n"
        f'    inputs = outputs = {{"x": ("FP32", [-1, {WIDTH}])}}\n'
        "    def load(self, context):\n"
        f"        self.weights = np.ones(({WIDTH}, {WIDTH}), 'f4')\n"
        "        self.me = self  # a cycle\n"
        "    def predict(self, inputs):\n"
        '        return {"x": inputs["x"] @ self.weights}\n'
    )
    return folder / "m.py"


@pytest.mark.soak
@pytest.mark.parametrize(
    ("backend", "make", "how"),
    [
        ("salver.backends.onnx:OnnxBackend", onnx_file, "by itself"),
        ("salver.backends.torch:TorchBackend", torch_file, "by itself"),
        ("salver.backends.python:PythonBackend", python_file, "by a collection"),
    ],
    ids=["onnx", "torch", "python"],
)
def test_resident_memory_stays_flat(
    backend: str, make: Callable[[Path], Path], how: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, backend, make(tmp_path), how]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    growth, given_back = map(int, done.stdout.split())
    assert growth < BOUND
    assert given_back > 15 << 20  # the weights, that is: the measure would notice
