"""What the budget believes of real models of several frameworks, beside what the kernel says they take."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from soaking import ONLY
from waiting import until

from salver.features.memory.processes import pss, tree
from salver.testing.process import ServerProcess

WIDE = 2048


def _onnx(folder: Path) -> None:
    """Two layers of 16 MiB."""
    drawn = np.random.default_rng(1)
    weights = [drawn.standard_normal((WIDE, WIDE), np.float32) for _ in range(2)]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("MatMul", ["h", "b"], ["y"])],
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", WIDE])],
        [numpy_helper.from_array(array, name) for array, name in zip(weights, "ab", strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def _torchscript(folder: Path) -> None:
    import torch

    layers = torch.nn.Sequential(torch.nn.Linear(WIDE, WIDE), torch.nn.ReLU(), torch.nn.Linear(WIDE, WIDE))
    torch.jit.script(layers).save(folder / "model.pt")


def _lightgbm(folder: Path) -> None:
    import lightgbm

    drawn = np.random.default_rng(2)
    rows = drawn.standard_normal((2000, 20))
    data = lightgbm.Dataset(rows, rows @ drawn.standard_normal(20))
    settings = {"num_leaves": 127, "verbose": -1, "num_threads": 1, "min_data_in_leaf": 2}
    lightgbm.train(settings, data, 100).save_model(folder / "model.txt")


WRITERS = {"onnx": _onnx, "torchscript": _torchscript, "lightgbm": _lightgbm}
TOML = {
    "torchscript": """
inputs = [{ name = "x", datatype = "FP32", shape = [-1, 2048] }]
outputs = [{ name = "y", datatype = "FP32", shape = [-1, 2048] }]
""",
}


@ONLY
def test_the_estimate_is_within_three_per_cent_of_the_proportional_set(tmp_path: Path) -> None:
    for name, write in WRITERS.items():
        for copy in "ab":
            folder = tmp_path / "models" / f"{name}-{copy}"
            (folder / "1").mkdir(parents=True)
            write(folder / "1")
            (folder / "salver.toml").write_text("memory = { residence = 'lazy' }\n" + TOML.get(name, ""))
    with ServerProcess([tmp_path / "models"], tmp_path / "log", ["--memory", "2GiB"]) as server:
        server.wait_ready()
        for name in WRITERS:
            for copy in "ab":
                status, answer = server.post(
                    f"/v2/models/{name}-{copy}/infer", _request(server, f"{name}-{copy}")
                )
                assert status == 200, answer

        def state() -> Any:
            return json.loads(server.get("/api/v1/memory")[1])

        until(lambda: all(row["place"] == "resident" for row in state()["models"]))
        # The first model of a framework was loaded together with it.
        assert all(row["is_measured"] for row in state()["models"] if row["model"].endswith("-b"))
        found = state()
        believed = found["base"] + sum(row["bytes"] for row in found["models"])
        used = pss(tree(server.pid))
        assert believed == pytest.approx(used, rel=0.03)


def _request(server: ServerProcess, model: str) -> dict[str, Any]:
    """Return a request of one row, by the model's own metadata."""
    (column,) = json.loads(server.get(f"/v2/models/{model}")[1])["inputs"]
    wide = column["shape"][-1]
    row = {"name": column["name"], "shape": [1, wide], "datatype": column["datatype"], "data": [1.0] * wide}
    return {"inputs": [row]}
