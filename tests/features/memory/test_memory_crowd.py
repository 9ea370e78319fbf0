"""Fifty models in memory for ten: Zipf traffic with new versions, broken files, and callers that give up."""

import contextlib
import http.client
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from soaking import ONLY

from salver.features.memory.processes import pss, tree
from salver.testing.process import ServerProcess

WIDE = 1024
COUNT, ASKS, CALLERS = 50, 500, 4
BUDGET = 220 << 20
BROKEN = 7


def write(folder: Path, factor: int, version: int) -> None:
    """Write a version of 8 MiB that multiplies by a factor, under its name only when it is whole."""
    weights = [np.eye(WIDE, dtype=np.float32) * each for each in (1, factor)]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("MatMul", ["h", "b"], ["y"])],
        "times",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", WIDE])],
        [numpy_helper.from_array(array, name) for array, name in zip(weights, "ab", strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    made = folder / f".{version}"
    made.mkdir(parents=True)
    (made / "model.onnx").write_bytes(model.SerializeToString())
    made.rename(folder / str(version))


@ONLY
def test_fifty_models_in_memory_for_ten(tmp_path: Path) -> None:
    root = tmp_path / "models"
    for number in range(COUNT):
        write(root / f"m{number}", number, 1)
    torn = root / f"m{BROKEN}" / "1" / "model.onnx"
    torn.write_bytes(torn.read_bytes()[: 1 << 20])
    (torn.parents[1] / "salver.toml").write_text("memory = { residence = 'lazy' }")
    draw = np.random.default_rng(1)
    weights = np.arange(1, COUNT + 1) ** -0.9
    numbers = draw.choice(COUNT, ASKS, p=weights / weights.sum())
    seen: list[int] = []
    wrong: list[Any] = []
    is_over = threading.Event()
    options = ["--memory", f"{BUDGET >> 20}MiB", "--poll-seconds", "0.5"]
    with ServerProcess([root], tmp_path / "log", options) as server:
        server.wait_ready()

        def watch() -> None:
            while not is_over.wait(0.05):
                seen.append(pss(tree(server.pid)))

        def ask(turn: int) -> None:
            number = int(numbers[turn])
            if turn % 100 == 50:
                write(root / f"m{turn % COUNT}", turn % COUNT + 1000, 2 + turn // 100)
            if turn % 25 == 0:
                give_up(server, number)
            status, answer = infer(server, number)
            if number == BROKEN and status in (404, 503):
                return
            if status != 200 or answer["outputs"][0]["data"][3] not in (number, number + 1000):
                wrong.append((turn, number, status, str(answer)[:300]))

        watcher = threading.Thread(target=watch)
        watcher.start()
        with ThreadPoolExecutor(CALLERS) as pool:
            list(pool.map(ask, range(ASKS)))
        found = json.loads(server.get("/api/v1/memory")[1])
        is_over.set()
        watcher.join()
    assert wrong == []
    assert max(seen) <= BUDGET
    loads = sum(row["loads"] for row in found["models"])
    assert COUNT < loads < ASKS / 2
    assert found["refusals"] == 0
    assert found["used"] <= BUDGET


BODY = {"inputs": [{"name": "x", "shape": [1, WIDE], "datatype": "FP32", "data": [1.0] * WIDE}]}


def infer(server: ServerProcess, number: int) -> tuple[int, Any]:
    return server.post(f"/v2/models/m{number}/infer", BODY)


def give_up(server: ServerProcess, number: int) -> None:
    """Ask, and close the connection before the answer can have come."""
    body = json.dumps(BODY)
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port)) as connection:
        connection.request("POST", f"/v2/models/m{number}/infer", body)


CROWD = Path(__file__).parents[3] / "benchmarks" / "crowd.py"
NAMES = "magika,vad,vad_16k_sequence,face-back,landmark-face,landmark-iris,torn,leaking,notes-onnx,magika-ov"


@ONLY
def test_real_models_answer_whatever_goes_wrong(tmp_path: Path) -> None:
    """Its times and its memory, which first loads beside others may exceed, are the benchmark's to tell."""
    out = tmp_path / "crowd.json"
    options = ["--only", NAMES, "--seconds", "15", "--policies", "value", "--memory", "300"]
    command = [sys.executable, str(CROWD), *options, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert out.exists(), done.stdout + done.stderr
    (row,) = json.loads(out.read_text())["rows"]
    assert (row["wrong"], row["oom"]) == ({}, 0)
    assert row["evictions"] and row["events"]["kill"] and row["events"]["update"]
