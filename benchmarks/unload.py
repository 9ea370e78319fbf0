"""Claim: what a model took is given back when it is unloaded.

An ONNX model and one of Triton's Python backend, 20 MB each, are loaded, asked and unloaded, again and again.
After each round, resident memory of the process tree comes back to within 5 % of what it was after round 5.

    python benchmarks/unload.py                # a hundred rounds
    python benchmarks/unload.py --rounds 20
"""

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tritonclient.http as triton
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from salver.testing.process import TritonProcess

WIDTH = 2240  # squared, in floats: 20 MB
FROM_ROUND, TOLERANCE, SETTLE_S = 5, 0.05, 5.0
PYTHON = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.weights = np.ones((%d, %d), "f4")

    def execute(self, requests):
        values = [pb_utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", x @ self.weights)]) for x in values]
"""
CONFIG = """
backend: "%s"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: %d }
output { name: "y" data_type: TYPE_FP32 dims: %d }
"""


def write_models(root: Path) -> None:
    """Both sum their input into each element of the output."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", WIDTH])],
        [numpy_helper.from_array(np.ones((WIDTH, WIDTH), np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    files = {"onnxruntime": ("model.onnx", model.SerializeToString())}
    files["python"] = ("model.py", (PYTHON % (WIDTH, WIDTH)).encode())
    for backend, (name, content) in files.items():
        (root / backend / "1").mkdir(parents=True)
        (root / backend / "1" / name).write_bytes(content)
        (root / backend / "config.pbtxt").write_text(CONFIG % (backend, WIDTH, WIDTH))


def one_round(client: triton.InferenceServerClient, server: TritonProcess) -> None:
    """Load, ask and unload; there is at least one model's memory more in between."""
    before = server.resident_bytes()
    for name in ("onnxruntime", "python"):
        client.load_model(name)
        given = triton.InferInput("x", [2, WIDTH], "FP32")
        given.set_data_from_numpy(np.ones((2, WIDTH), np.float32))
        assert (client.infer(name, [given]).as_numpy("y") == WIDTH).all()
    assert server.resident_bytes() > before + 4 * WIDTH * WIDTH, "the measure would notice nothing"
    for name in ("onnxruntime", "python"):
        client.unload_model(name)


def settled(server: TritonProcess, processes: int, limit: float) -> int:
    """Bytes of the process tree once its hosts have ended and it is below the limit; or after a while."""
    until = time.monotonic() + SETTLE_S
    while time.monotonic() < until:
        if len(server.family()) <= processes and server.resident_bytes() <= limit:
            break
        time.sleep(0.02)
    return server.resident_bytes()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=100)
    rounds = parser.parse_args().rounds
    console = Console()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "models"
        write_models(root)
        options = ["--model-control-mode=explicit", "--state-dir="]
        with TritonProcess([root], Path(name) / "log", options) as server:
            server.wait_ready()
            processes = len(server.family())
            found: list[int] = []
            with triton.InferenceServerClient(server.address) as client:
                for number in range(1, rounds + 1):
                    one_round(client, server)
                    limit = math.inf if number < FROM_ROUND else 0.0
                    if number > FROM_ROUND:
                        limit = found[FROM_ROUND - 1] * (1 + TOLERANCE)
                    found.append(settled(server, processes, limit))
    base, largest = found[FROM_ROUND - 1], max(found[FROM_ROUND - 1 :])
    for number in sorted({1, FROM_ROUND, *range(10, rounds, 10), rounds}):
        console.print(f"after round {number:3}: {found[number - 1] / 2**20:7.1f} MiB")
    console.print(f"largest after round {FROM_ROUND}: {100 * (largest / base - 1):+.1f} %")
    return 0 if largest <= base * (1 + TOLERANCE) else 1


if __name__ == "__main__":
    sys.exit(main())
