"""Claim: what a SavedModel costs behind Salver is little more than its own ``tf.function``, and less as ONNX.

    python benchmarks/tensorflow_tax.py [--seconds 3] [--rounds 3] [--connections 1,16] [--publish]

One small network as a SavedModel, served by TensorFlow in a host process (``tensorflow``), by TensorFlow on a
thread of the server (``thread``), and converted to ONNX once (``onnx``); asked over TensorFlow Serving's REST
API in rows, one and 32 in a request, and over gRPC. Beside the load answers are checked. ``bare`` is the CPU
time of the same call of the loaded ``tf.function`` in a loop, on one thread; the tax is what a request costs
beyond it, as a share of the whole. TensorFlow Serving's own binary comes in no package, and is not measured.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import host
import models
import numpy as np
import page
import throughput
from forms import Form
from models import MODELS, Floats, Model
from processes import Launch
from systems import System

from salver.dialects.tensorflow import tf_schema

PAGE = models.ROOT / "docs" / "explanation" / "tensorflow-benchmarks.md"
MODEL = MODELS["tiny"]
BASE = models.CACHE / "savedmodels"
ROWS = {"row/1": 1, "row/32": 32, "grpc/1": 1, "grpc/32": 32}
SERVED = {
    "tensorflow": ("as installed: TensorFlow in a host process", ""),
    "thread": ("TensorFlow on a thread of the server", 'instances = { runner = "thread" }\n'),
    "onnx": ("converted to ONNX when it was loaded first", '[options]\nprefer = "onnx"\n'),
}

_MAKE = """
import sys
import numpy as np, onnx, tensorflow as tf
from onnx import numpy_helper
source, folder = sys.argv[1:]
weights = {w.name: numpy_helper.to_array(w) for w in onnx.load(source).graph.initializer}
module = tf.Module()
module.variables_ = [tf.Variable(weights[name]) for name in ("w0", "b0", "w1", "b1")]
@tf.function(input_signature=[tf.TensorSpec([None, weights["w0"].shape[0]], tf.float32, name="x")])
def serve(x):
    w0, b0, w1, b1 = module.variables_
    return {"y": tf.nn.relu(x @ w0 + b0) @ w1 + b1}
module.serve = serve
tf.saved_model.save(module, folder, signatures={"serving_default": serve})
"""

#: Prints CPU microseconds a call, the least of some spells, for each number of rows.
_BARE = """
import json, sys, time
import numpy as np, tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)
loaded = tf.saved_model.load(sys.argv[1])
call = loaded.signatures["serving_default"]
found = {}
for rows in map(int, sys.argv[2:]):
    x = tf.constant(np.random.default_rng(7).standard_normal((rows, 16)).astype(np.float32))
    best = float("inf")
    for _ in range(7):
        runs, started, until = 0, time.process_time(), time.perf_counter() + 0.3
        while time.perf_counter() < until:
            call(x=x)
            runs += 1
        best = min(best, (time.process_time() - started) / runs)
    found[rows] = round(best * 1e6, 2)
print(json.dumps(found))
"""


def _in_tensorflow(code: str, *arguments: object) -> str:
    """What a program with TensorFlow prints; this process needs none."""
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    argv = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(argv, check=True, capture_output=True, text=True, env=quiet).stdout


def make() -> None:
    """Write the SavedModel, with the weights of the ONNX file, if it is not there yet."""
    models.make()
    for name, (_, settings) in SERVED.items():
        folder = BASE / name / MODEL.name
        if not (folder / "1" / "saved_model.pb").exists():
            (folder / "1").mkdir(parents=True, exist_ok=True)
            _in_tensorflow(_MAKE, MODEL.path, folder / "1")
        (folder / "salver.toml").write_text(settings)


def bare_micros() -> dict[int, float]:
    """CPU microseconds of a bare call, by rows."""
    said = _in_tensorflow(_BARE, BASE / "tensorflow" / MODEL.name / "1", *sorted(set(ROWS.values())))
    return {int(rows): micros for rows, micros in json.loads(said).items()}


def _launch(name: str) -> Callable[[Model, int, Path], Launch]:
    def launch(model: Model, port: int, folder: Path) -> Launch:
        command = Path(sys.executable).with_name("salver")
        argv = [str(command), "serve", str(BASE / name), "--port", str(port), "--threads", "1"]
        return Launch([*argv, "--control", "none"], cwd=folder)

    return launch


def _first(rows: Floats) -> Floats:
    """All rows were the same, so all answers must be."""
    if not (rows == rows[0]).all():
        raise ValueError("equal rows have different answers")
    first: Floats = rows[0]
    return first


def _row_form(model: Model, rows: int) -> Form:
    def encode(row: Floats) -> bytes:
        return json.dumps({"instances": np.repeat(row, rows, 0).tolist()}).encode()

    def decode(body: bytes, headers: Mapping[str, str]) -> Floats:
        return _first(np.asarray(json.loads(body)["predictions"], np.float32))

    return Form("http", f"/v1/models/{model.name}:predict", encode, decode)


def _grpc_form(model: Model, rows: int) -> Form:
    messages = tf_schema.build()

    def encode(row: Floats) -> bytes:
        request = messages["PredictRequest"](model_spec={"name": model.name})
        tensor = request.inputs["x"]
        tensor.dtype = 1  # DT_FLOAT
        for extent in (rows, *model.shape):
            tensor.tensor_shape.dim.add(size=extent)
        tensor.tensor_content = np.repeat(row, rows, 0).tobytes()
        return bytes(request.SerializeToString())

    def decode(message: bytes, headers: Mapping[str, str]) -> Floats:
        tensor = messages["PredictResponse"].FromString(message).outputs["y"]
        values = (
            np.frombuffer(tensor.tensor_content, np.float32) if tensor.tensor_content else tensor.float_val
        )
        return _first(np.asarray(values, np.float32).reshape(rows, -1))

    return Form("grpc", "/tensorflow.serving.PredictionService/Predict", encode, decode)


def _forms(model: Model) -> dict[str, Form | str]:
    kinds = {"row": _row_form, "grpc": _grpc_form}
    return {name: kinds[name.partition("/")[0]](model, rows) for name, rows in ROWS.items()}


def _systems() -> dict[str, System]:
    return {
        name: System(name, "salver", _launch(name), _forms, settings, counts_batches=True, ready_seconds=180)
        for name, (settings, _) in SERVED.items()
    }


def measure(given: argparse.Namespace, chosen: Mapping[str, System]) -> list[dict[str, Any]]:
    """One entry a round: figures by system and cell."""
    rng, rounds = random.Random(given.seed), []
    cells = [("tiny", form, n) for form in ROWS for n in given.connections]
    for number in range(given.rounds):
        got: dict[str, Any] = {}
        order = list(chosen.values())
        rng.shuffle(order)
        for system in order:
            for cell, figures in throughput.turn(system, MODEL, cells, given):
                got[f"{system.name}/{cell[1]}/{cell[2]}"] = figures
                print(
                    f"{number + 1}/{given.rounds} {system.name:10} {cell[1]:7} {cell[2]:3} {figures}",
                    flush=True,
                )
        rounds.append(got)
    return rounds


def median(rounds: list[dict[str, Any]], cell: str, field: str) -> float | None:
    """Over the rounds; None if one of them has no figure."""
    found = [r[cell][field] for r in rounds if r.get(cell, {}).get(field) is not None]
    return statistics.median(found) if len(found) == len(rounds) else None


def tax(cpu_s_per_1000: float, bare_us: float) -> float:
    """Share of a request's CPU time that is not the model's own.

    >>> round(tax(0.1, 25.0), 2)
    0.75
    """
    return 1 - bare_us / (cpu_s_per_1000 * 1000)


def report(result: Mapping[str, Any]) -> str:
    lines = [
        "| served by | asked in | connections | requests/s | p99 ms | CPU µs a request | bare call | tax |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for system in result["systems"]:
        for form, rows in ROWS.items():
            for connections in result["settings"]["connections"]:
                cell = f"{system}/{form}/{connections}"
                rate, p99, cpu = (
                    median(result["rounds"], cell, field) for field in ("rate", "p99_ms", "cpu_s_per_1000")
                )
                bare = result["bare_us"][str(rows)]
                shown = [
                    "–" if rate is None else f"{rate:,.0f}",
                    "–" if p99 is None else f"{p99:.2f}",
                    "–" if cpu is None else f"{cpu * 1000:.0f}",
                    f"{bare:.0f}",
                    "–" if cpu is None else f"{tax(cpu, bare):.0%}",
                ]
                lines.append(f"| {' | '.join([system, form, str(connections), *shown])} |")
    lines.append("| TensorFlow Serving | | | not measured: its binary comes in no package | | | | |")
    failed = sorted(
        {f"{k}: {v['failed'][:120]}" for r in result["rounds"] for k, v in r.items() if "failed" in v}
    )
    return "\n".join([*lines, "", *failed, *([""] if failed else []), page.provenance(result)])


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=page.words, default=list(SERVED), help=",".join(SERVED))
    parser.add_argument("--connections", type=lambda t: [int(n) for n in t.split(",")], default=[1, 16])
    parser.add_argument("--seconds", type=int, default=3, help="of load in each cell and round")
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    page.add_arguments(parser, "tensorflow")
    given = parser.parse_args(argv)
    given.pin, given.tries = False, 4
    make()
    known = _systems()
    chosen = {name: known[name] for name in given.only}
    quiet = host.Quiet()
    bare = bare_micros()
    rounds = measure(given, chosen)
    result = {
        "settings": {name: vars(given)[name] for name in ("seconds", "rounds", "connections")},
        "systems": {name: system.settings for name, system in chosen.items()},
        "bare_us": {str(rows): micros for rows, micros in bare.items()},
        "rounds": rounds,
        "noise": quiet.verdict(),
        "host": host.facts(),
    }
    page.write(given, "tensorflow", result, report(result), PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
