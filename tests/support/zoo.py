"""The models that integration and abuse tests serve, and what is asked of them."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
from onnx import TensorProto, helper, numpy_helper
from waiting import until

from salver.testing.process import ServerProcess

#: One array of two dimensions for each datatype, edge values included.
EXAMPLES: dict[str, np.ndarray] = {
    "BOOL": np.array([[True, False, True]]),
    "UINT8": np.array([[0, 1, 255]], np.uint8),
    "UINT16": np.array([[0, 1, 65535]], np.uint16),
    "UINT32": np.array([[0, 1, 2**32 - 1]], np.uint32),
    "UINT64": np.array([[0, 1, 2**64 - 1]], np.uint64),
    "INT8": np.array([[-128, -1, 127]], np.int8),
    "INT16": np.array([[-32768, -1, 32767]], np.int16),
    "INT32": np.array([[-(2**31), -1, 2**31 - 1]], np.int32),
    "INT64": np.array([[-(2**63), -1, 2**63 - 1]], np.int64),
    "FP16": np.array([[0.5, -65504, 6e-5]], np.float16),
    "FP32": np.array([[0.1, -3.4e38, 1e-38]], np.float32),
    "FP64": np.array([[0.1, -1.7e308, 1e-300]], np.float64),
    "BF16": np.array([[1.0, -2.5, 3.3e38]], ml_dtypes.bfloat16),
    "BYTES": np.array([[b"", b"\x00\xff raw", "ä€".encode()]], dtype=object),
}
JSON_TYPES = [name for name in EXAMPLES if name not in ("FP16", "BF16")]


def mlp_weights(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    shapes = [(16, 64), (64,), (64, 3), (3,)]
    first, bias, second, last = (random.standard_normal(shape).astype(np.float32) / 4 for shape in shapes)
    return first, bias, second, last


def mlp_answer(values: np.ndarray) -> np.ndarray:
    """What ``mlp`` should say."""
    first, bias, second, last = mlp_weights()
    return np.maximum(values @ first + bias, 0) @ second + last


def _save(path: Path, nodes: list[Any], outputs: int, weights: dict[str, np.ndarray]) -> None:
    graph = helper.make_graph(
        nodes,
        "zoo",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", outputs])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())


def write_mlp(folder: Path, version: int) -> None:
    """16 -> 64 -> 3 with a rectifier between."""
    names = ("w1", "b1", "w2", "b2")
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["y"]),
    ]
    weights = dict(zip(names, mlp_weights(), strict=True))
    _save(folder / str(version) / "model.onnx", nodes, 3, weights)


def write_constant(root: Path, version: int) -> None:
    """Says its version, whatever it is asked: ``y = 0 * x[:, :1] + version``."""
    weights = {"zero": np.zeros((16, 1), np.float32), "version": np.array([version], np.float32)}
    nodes = [helper.make_node("Gemm", ["x", "zero", "version"], ["y"])]
    _save(root / "constant" / str(version) / "model.onnx", nodes, 1, weights)


def write_ragged(path: Path) -> Path:
    """Takes R flat, and ENDS; DOUBLE is R twice, flat, and TOTAL has an end a row."""
    sides = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in side]
        for side in ([("R", ["k"]), ("ENDS", ["b"])], [("DOUBLE", ["k"]), ("TOTAL", ["b", 1])])
    ]
    nodes = [
        helper.make_node("Add", ["R", "R"], ["DOUBLE"]),
        helper.make_node("Unsqueeze", ["ENDS", "axes"], ["TOTAL"]),
    ]
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(nodes, "g", *sides, [axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def infer_body(columns: int = 16, rows: int = 1) -> dict[str, Any]:
    """A JSON request to ``mlp`` or ``constant``."""
    data = [0.5] * (rows * columns)
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [rows, columns], "data": data}]}


def moody_body(command: str) -> dict[str, Any]:
    """A JSON request to ``moody``."""
    return {"inputs": [{"name": "do", "datatype": "BYTES", "shape": [1, 1], "data": [command]}]}


def ask_moody(server: ServerProcess, command: str) -> tuple[int, Any]:
    """Have ``moody`` do something; status and reply."""
    return server.post("/v2/models/moody/infer", moody_body(command))


def gauge(server: ServerProcess, model: str, name: str) -> float:
    """One of a model's gauges, now: ``running_batches``, ``queue_depth``."""
    page = server.get("/metrics")[1].decode()
    wanted = f'salver_{name}{{model="{model}",'
    return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(wanted))


@contextlib.contextmanager
def at_work(server: ServerProcess, gate: Path, model: str = "moody") -> Iterator[Future[tuple[int, Any]]]:
    """``moody`` is in the middle of a run, and ends it when the file ``gate`` is made, at last at the end."""
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.post, f"/v2/models/{model}/infer", moody_body(f"hold {gate}"))
        try:
            begun = gate.with_name(f"{gate.name}.begun")  # the model itself has it
            until(lambda: answer.done() or begun.exists())
            until(lambda: answer.done() or gauge(server, model, "running_batches") == 1)
            yield answer
        finally:
            gate.touch()


def wide(triton: ModuleType) -> tuple[np.ndarray, Any]:
    """An input for ``two``, in tritonclient's form."""
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    given = triton.InferInput("x", [2, 3], "FP32")
    given.set_data_from_numpy(values)
    return values, given


_SOURCES = Path(__file__).parent / "models"
_IN_PROCESS = '[instances]\nrunner = "thread"\n'


def _write_python(root: Path, name: str, source: str, config: str) -> None:
    folder = root / name / "1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(source)
    (root / name / "salver.toml").write_text(config)


def write_identity(root: Path, datatype: str) -> None:
    """``identity_<datatype>``: two free dimensions, on a thread of the server."""
    source = (_SOURCES / "identity.py").read_text().replace("DATATYPE", datatype)
    _write_python(root, f"identity_{datatype.lower()}", source, _IN_PROCESS)


def write_two(root: Path) -> None:
    """``two``: the outputs ``same`` and ``double``."""
    _write_python(root, "two", (_SOURCES / "two.py").read_text(), _IN_PROCESS)


def write_moody(root: Path, name: str = "moody", memory_limit_mb: int = 0) -> None:
    """Does as it is told, in a host process; at most eight requests wait for it.

    All of those are counted as waiting: where there are levels, no batch is made ready before a run ends.
    """
    config = (
        "[batching]\nmax_queue = 8\n[priorities]\nlevels = 2\n"
        f'[instances]\nrunner = "process"\nmemory_limit_mb = {memory_limit_mb}\n'
    )
    _write_python(root, name, (_SOURCES / "moody.py").read_text(), config)
