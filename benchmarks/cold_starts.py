"""Claim: a forked host process answers first after the time that its weights need.

    python benchmarks/cold_starts.py [--rounds 5] [--only torch,tensorflow] [--size big]

For each framework, from nothing to the first answer: ``bare``, a script that has imported the framework and
loads the model with it; ``executed``, a host process as a new interpreter; ``forked``, one by a fork server.
Wall and CPU seconds, medians of rounds in which the three take turns. Held to: forked at most 1.3 times bare
(TensorFlow and XGBoost 2), and at most a fifth of executed for PyTorch and TensorFlow.
"""

import argparse
import asyncio
import functools
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from time import perf_counter

import numpy as np
from rich.console import Console
from rich.table import Table

from salver.backends.discovery import backends
from salver.backends.protocol import ForkableBackend, LoadOptions
from salver.kernel.engine.fork_client import ForkServers
from salver.kernel.engine.process import ProcessRunner
from salver.words.artifacts import Manifest, ModelConfig
from salver.words.messages import ModelId
from salver.words.tensor import DataType

ROUNDS, LAYERS = 5, 8
MOST = {"tensorflow": 2.0, "xgboost": 2.0}
FIFTH = ("torch", "torchscript", "torch-export", "tensorflow")
#: Width of a layer: 134 MB of weights, or 131 kB.
WIDTHS = {"big": 2048, "tiny": 64}
#: Written by a script of its own: a process that has run a framework cannot measure its import.
WRITE = {
    "onnx": """
from onnx import TensorProto as T, helper as h, numpy_helper as n, save
at, nodes = "x", []
for i in range(len(W)):
    nodes += [h.make_node("MatMul", [at, f"w{i}"], [f"m{i}"]), h.make_node("Relu", [f"m{i}"], [f"y{i}"])]
    at = f"y{i}"
sides = [[h.make_tensor_value_info(name, T.FLOAT, ["b", D])] for name in ("x", at)]
graph = h.make_graph(nodes, "g", *sides, [n.from_array(w, f"w{i}") for i, w in enumerate(W)])
save(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=9), "model.onnx")
""",
    "openvino": """
import openvino
openvino.save_model(openvino.convert_model("model.onnx"), "model.xml")
""",
    "torch": """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Linear(D, D, bias=False) for _ in range(8)])
    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x
net = Net().eval()
net.load_state_dict({f"layers.{i}.weight": torch.from_numpy(w.T.copy()) for i, w in enumerate(W)})
torch.jit.trace(net, torch.zeros(2, D)).save("script.pt")
batch = torch.export.Dim("b")
torch.export.save(torch.export.export(net, (torch.zeros(2, D),), dynamic_shapes=({0: batch},)), "model.pt2")
""",
    "tensorflow": """
import tensorflow as tf
class Net(tf.Module):
    def __init__(self):
        self.w = [tf.Variable(w) for w in W]
    @tf.function(input_signature=[tf.TensorSpec([None, D], tf.float32)])
    def __call__(self, x):
        for w in self.w:
            x = tf.nn.relu(tf.matmul(x, w))
        return x
net = Net()
tf.saved_model.save(net, "saved")
concrete = net.__call__.get_concrete_function()
open("model.tflite", "wb").write(tf.lite.TFLiteConverter.from_concrete_functions([concrete], net).convert())
""",
    "sklearn": """
import skops.io
from sklearn.ensemble import RandomForestRegressor
forest = RandomForestRegressor(25 if IS_BIG else 2, random_state=0).fit(X, Y)
skops.io.dump(forest, "forest.skops")
""",
    "lightgbm": """
import lightgbm
rules = dict(num_leaves=2047 if IS_BIG else 7, verbose=-1, num_threads=1, min_data_in_leaf=1)
lightgbm.train(rules, lightgbm.Dataset(X, Y), 30 if IS_BIG else 2).save_model("lightgbm.txt")
""",
    "xgboost": """
import xgboost
rules = dict(max_depth=14 if IS_BIG else 2, nthread=1, eta=.05, tree_method="hist", max_bin=64)
xgboost.train(rules, xgboost.DMatrix(X, Y), 12 if IS_BIG else 2).save_model("xgboost.ubj")
""",
}
#: Formats that another framework writes, or needs.
WRITERS = {
    "openvino": ("onnx", "openvino"),
    "torchscript": ("torch",),
    "torch-export": ("torch",),
    "litert": ("tensorflow",),
}
#: What a script does with the framework alone: its imports, and its load and first answer.
BARE = {
    "onnx": ("import onnxruntime", 'onnxruntime.InferenceSession("model.onnx").run(None, {"x": x})'),
    "torchscript": ("import torch", 'torch.jit.load("script.pt")(torch.from_numpy(x))'),
    "torch-export": (
        "import torch, torch.export",
        'torch.export.load("model.pt2").module()(torch.from_numpy(x))',
    ),
    "tensorflow": (
        "import tensorflow as tf",
        """v1 = tf.compat.v1
session = v1.Session(graph=tf.Graph())
said = v1.saved_model.load(session, ["serve"], "saved").signature_def["serving_default"]
(given,), (wanted,) = said.inputs.values(), said.outputs.values()
session.run(wanted.name, {given.name: x})""",
    ),
    "litert": (
        "from ai_edge_litert.interpreter import Interpreter",
        """found = Interpreter("model.tflite")
index = found.get_input_details()[0]["index"]
found.allocate_tensors()
found.set_tensor(index, x)
found.invoke()""",
    ),
    "sklearn": (
        "import skops.io, sklearn.ensemble",
        'skops.io.load("forest.skops", trusted=skops.io.get_untrusted_types(file="forest.skops")).predict(x)',
    ),
    "lightgbm": ("import lightgbm", 'lightgbm.Booster(model_file="lightgbm.txt").predict(x)'),
    "xgboost": ("import xgboost", 'xgboost.Booster(model_file="xgboost.ubj").inplace_predict(x)'),
}
FILES = {
    "onnx": ("onnx", "onnx", "model.onnx"),
    "openvino": ("openvino", "openvino", "model.xml"),
    "torchscript": ("torch", "torchscript", "script.pt"),
    "torch-export": ("torch", "torch-export", "model.pt2"),
    "tensorflow": ("tensorflow", "savedmodel", "saved"),
    "litert": ("litert", "tflite", "model.tflite"),
    "sklearn": ("sklearn", "skops", "forest.skops"),
    "lightgbm": ("lightgbm", "lightgbm", "lightgbm.txt"),
    "xgboost": ("xgboost", "xgboost-ubj", "xgboost.ubj"),
}
TIMES = """
import os, time, warnings
import numpy as np
warnings.simplefilter("ignore")
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_USE_LEGACY_KERAS"] = "1"
%s
x = np.ones((1, %d), "f4")
cpu, wall = time.process_time(), time.perf_counter()
%s
print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)
os._exit(0)
"""
Seconds = tuple[float, float]


def write(folder: Path, width: int, kinds: Iterable[str]) -> None:
    """Write the models of some kinds."""
    wanted = {writer for kind in kinds for writer in WRITERS.get(kind, (kind,))}
    start = (
        f"import os; os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'\nimport numpy as np; D = {width}\n"
        "r = np.random.default_rng(0)\n"
        f"W = [(r.standard_normal((D, D)) / np.sqrt(D)).astype('f4') for _ in range({LAYERS})]\n"
        "IS_BIG = D > 64\nX = r.standard_normal((20000 if IS_BIG else 500, 20)).astype('f4')\n"
        "Y = X[:, 0] * X[:, 1]\n"
    )
    for name, code in WRITE.items():
        if name not in wanted:
            continue
        done = subprocess.run(
            [sys.executable, "-c", start + code],
            cwd=folder,
            check=False,
            capture_output=True,
            text=True,
            timeout=300,
        )
        if done.returncode:
            raise SystemExit(f"the models of {name} could not be written:\n{done.stderr[-2000:]}")


def bare(kind: str, folder: Path, width: int) -> Seconds:
    """Load and answer in a script, the framework being imported."""
    imports, work = BARE[kind]
    code = TIMES % (imports, width, work)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    wall, cpu = map(float, done.stdout.split()[-2:])
    return wall, cpu


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, with its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


async def hosted(kind: str, folder: Path, width: int, servers: ForkServers | None) -> Seconds:
    """Start a host process and ask it once."""
    name, form, file = FILES[kind]
    backend = backends()[name]
    manifest = Manifest(ModelId(kind, "1"), folder / file, form, name, ModelConfig())
    starter = None
    if servers is not None:
        assert isinstance(backend, ForkableBackend)
        starter = functools.partial(servers.start, names=backend.preloads(manifest))
    kind_of = backend if isinstance(backend, type) else type(backend)
    options = LoadOptions(len(os.sched_getaffinity(0)), trust_pickle=True)
    began = perf_counter()
    runner = await ProcessRunner.start(
        f"{kind_of.__module__}:{kind_of.__qualname__}", manifest, options, starter=starter
    )
    spec = runner.signature.inputs[0]
    assert spec.datatype is DataType.FP32
    await runner.run({spec.name: np.ones((1, width), np.float32)})
    wall = perf_counter() - began
    cpu = cpu_seconds(runner.pids[0])
    await runner.close()
    return wall, cpu


async def measure(kind: str, folder: Path, width: int, rounds: int) -> dict[str, list[Seconds]]:
    """Take turns; the first round of each way warms up and is dropped."""
    found: dict[str, list[Seconds]] = {"bare": [], "executed": [], "forked": []}
    servers = ForkServers()
    try:
        for _ in range(rounds + 1):
            found["bare"].append(await asyncio.to_thread(bare, kind, folder, width))
            found["executed"].append(await hosted(kind, folder, width, None))
            found["forked"].append(await hosted(kind, folder, width, servers))
    finally:
        await servers.close()
    return {way: times[1:] for way, times in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", default=",".join(BARE))
    parser.add_argument("--size", choices=tuple(WIDTHS), default="big")
    parser.add_argument("--models", type=Path, help="folder to keep the models in")
    given = parser.parse_args()
    table = Table(title=f"first answer, {given.size} models: wall / CPU seconds, medians")
    for column in ("", "bare", "executed", "forked", "forked / bare", "forked / executed", "held to"):
        table.add_column(column, justify="right")
    is_held = True
    with tempfile.TemporaryDirectory() as name:
        folder = given.models or Path(name)
        if not (folder / "xgboost.ubj").exists():
            folder.mkdir(parents=True, exist_ok=True)
            write(folder, WIDTHS[given.size], BARE)
        for kind in given.only.split(","):
            width = 20 if kind in ("sklearn", "lightgbm", "xgboost") else WIDTHS[given.size]
            found = asyncio.run(measure(kind, folder, width, given.rounds))
            middle = {way: [statistics.median(s) for s in zip(*t, strict=True)] for way, t in found.items()}
            over = [middle["forked"][i] / max(middle["bare"][i], 1e-3) for i in (0, 1)]
            part = middle["forked"][0] / middle["executed"][0]
            most = MOST.get(kind, 1.3)
            is_kept = over[0] <= most and (kind not in FIFTH or part <= 0.2)
            is_held &= is_kept
            cells = [f"{wall:.3f} / {cpu:.2f}" for wall, cpu in middle.values()]
            verdict = f"{most:g}: " + ("kept" if is_kept else "missed")
            table.add_row(kind, *cells, f"{over[0]:.2f} / {over[1]:.2f}", f"{part:.2f}", verdict)
    Console(width=120).print(table)
    return 0 if is_held else 1


if __name__ == "__main__":
    sys.exit(main())
