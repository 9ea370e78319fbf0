"""Claim: what a model took is given back when it is unloaded.

A model of each backend, on a thread of the server and in a host process, is loaded, asked and unloaded, again
and again, each in a server of its own. After each round the resident memory of the process tree,
with the fork server of host processes, comes back to within 5 % of what it was after round 5.

    python benchmarks/unload.py                       # a hundred rounds
    python benchmarks/unload.py --rounds 20 --only onnx,python
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tritonclient.http as triton
from cold_starts import FILES, write

from salver.testing.process import ServerProcess

WIDTH = 724  # of eight layers: 16.8 MB
FROM_ROUND, TOLERANCE, SETTLE_S = 5, 0.05, 3.0
RUNNERS = ("thread", "process")
#: Further files.
COMPANIONS = {"openvino": ("model.bin",)}
#: Programs with 16.8 MB of weights.
PROGRAMS = {
    "python": """
import numpy as np

class Model:
    inputs = outputs = {"x": ("FP32", [-1, 2048])}
    def load(self, context):
        self.weights = np.ones((2048, 2048), "f4")
    def predict(self, inputs):
        return {"x": inputs["x"] @ self.weights}
""",
    "python.triton": """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.weights = np.ones((2048, 2048), "f4")
    def execute(self, requests):
        values = [pb_utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", x @ self.weights)]) for x in values]
""",
}
CONFIG = """
backend: "python"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: 2048 }
output { name: "y" data_type: TYPE_FP32 dims: 2048 }
"""


def place(kind: str, runner: str, made: Path, model: Path) -> None:
    """Write the folder of a model."""
    (model / "1").mkdir(parents=True)
    if kind == "python.triton":  # in a host process by itself
        (model / "config.pbtxt").write_text(CONFIG)
    else:
        settings = f'instances = {{ runner = "{runner}" }}\n'
        if kind == "sklearn":
            settings += '[options]\ntrusted = "sklearn.tree._tree.Tree"\n'
        (model / "salver.toml").write_text(settings)
    if kind in PROGRAMS:
        (model / "1" / "model.py").write_text(PROGRAMS[kind])
        return
    for file in (made / name for name in (FILES[kind][2], *COMPANIONS.get(kind, ()))):
        copy = shutil.copytree if file.is_dir() else shutil.copy
        copy(file, model / "1" / file.name)


def one_round(client: triton.InferenceServerClient, server: ServerProcess) -> None:
    """Load, ask and unload."""
    client.load_model("model")
    (spec,) = client.get_model_metadata("model")["inputs"]
    rows = np.ones((2, spec["shape"][-1]), np.float32)
    given = triton.InferInput(spec["name"], rows.shape, "FP32")
    given.set_data_from_numpy(rows)
    client.infer("model", [given])
    client.unload_model("model")


def settled(server: ServerProcess, limit: float) -> int:
    """Return the least resident memory of the process tree until it is below a limit, or for a while."""
    least, until = server.resident_bytes(), time.monotonic() + SETTLE_S
    while least > limit and time.monotonic() < until:
        time.sleep(0.05)
        least = min(least, server.resident_bytes())
    return least


def measure(kind: str, runner: str, made: Path, rounds: int) -> list[int]:
    """Return the bytes of the process tree after each round from the fifth."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "models"
        place(kind, runner, made, root / "model")
        options = ["--control", "explicit", "--state-dir="]
        with ServerProcess([root], Path(name) / "log", options) as server:
            server.wait_for("/v2/health/live")
            with triton.InferenceServerClient(
                server.address, network_timeout=300, connection_timeout=300
            ) as client:
                for _ in range(FROM_ROUND):
                    one_round(client, server)
                found = [settled(server, 0)]
                for _ in range(rounds - FROM_ROUND):
                    one_round(client, server)
                    found.append(settled(server, found[0] * (1 + TOLERANCE)))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--only", default=",".join((*FILES, *PROGRAMS)))
    given = parser.parse_args()
    kinds = given.only.split(",")
    print(f"MiB of the process tree, {given.rounds} rounds of load, infer, unload\n")
    print(f"| | runner | after round {FROM_ROUND} | after the last | largest |\n|---|---|---:|---:|---:|")
    is_kept = True
    with tempfile.TemporaryDirectory() as name:
        made = Path(name)
        write(made, WIDTH, kinds)
        for kind in kinds:
            for runner in RUNNERS[kind == "python.triton" :]:
                found = measure(kind, runner, made, given.rounds)
                over = max(found) / found[0] - 1
                is_kept &= over <= TOLERANCE
                first, last = (each / 2**20 for each in (found[0], found[-1]))
                print(f"| {kind} | {runner} | {first:.1f} | {last:.1f} | {over:+.1%} |", flush=True)
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
