"""OpenVINO models: beside their weights, of several types, without a word to anybody (TR-A1, TR-C16)."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from salver.backends.discovery import recogniser
from salver.backends.openvino import OpenVinoBackend, OpenVinoModel
from salver.backends.protocol import LoadOptions
from salver.kernel.repository import Repository
from salver.parts import formats
from salver.words.artifacts import Batching, Manifest, ModelConfig
from salver.words.errors import LoadFailed, ModelFailed
from salver.words.messages import ModelId, TensorSpec
from salver.words.tensor import DataType

openvino = pytest.importorskip("openvino")
BACKEND = OpenVinoBackend()


def write(folder: Path, shape: list[int], datatype: str = "f32", name: str = "m") -> Path:
    """A model that doubles what it is asked."""
    ops, kind = openvino.opset13, getattr(openvino.Type, datatype)
    parameter = ops.parameter(openvino.PartialShape(shape), kind, name="x")
    parameter.output(0).tensor.names = {"x"}
    two = ops.constant(2, kind)
    result = ops.result(ops.multiply(parameter, two), name="y")
    result.output(0).tensor.names = {"y"}
    path = folder / f"{name}.xml"
    openvino.save_model(openvino.Model([result], [parameter], "g"), str(path), compress_to_fp16=False)
    return path


def load(path: Path, threads: int = 1, **config: object) -> OpenVinoModel:
    form = BACKEND.recognise(path) or "onnx"
    manifest = Manifest(ModelId("m", "1"), path, form, "openvino", ModelConfig(**config))  # type: ignore[arg-type]
    return BACKEND.load(manifest, LoadOptions(threads))


@pytest.mark.clause("TR-A1")
@pytest.mark.parametrize(
    "datatype", ["f32", "f64", "f16", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64"]
)
def test_every_number_goes_through(tmp_path: Path, datatype: str) -> None:
    model = load(write(tmp_path, [-1, 3], datatype))
    (spec,) = model.signature.inputs
    assert spec == TensorSpec("x", spec.datatype, (-1, 3))
    values = np.arange(6, dtype=spec.datatype.dtype).reshape(2, 3)
    assert np.array_equal(model.run({"x": values})["y"], values * 2)
    model.close()


@pytest.mark.clause("TR-C16")
def test_what_the_file_says_of_its_batch(tmp_path: Path) -> None:
    assert load(write(tmp_path, [-1, 3])).signature.batched
    assert not load(write(tmp_path, [2, 3])).signature.batched
    assert not load(write(tmp_path, [-1, 3]), batching=Batching(has_rows=False)).signature.batched
    bounded = openvino.Core().read_model(str(write(tmp_path, [-1, 3])))
    bounded.reshape([openvino.Dimension(1, 8), 3])
    openvino.save_model(bounded, str(tmp_path / "b.xml"))
    signature = load(tmp_path / "b.xml").signature
    assert (signature.batched, signature.max_rows, signature.platform) == (True, 8, "openvino")


def test_many_threads_and_many_lengths(tmp_path: Path) -> None:
    model = load(write(tmp_path, [-1, 3]), threads=1)
    questions = [np.full((rows % 5 + 1, 3), rows, np.float32) for rows in range(100)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda values: model.run({"x": values})["y"], questions))
    assert all(np.array_equal(answer, asked * 2) for asked, answer in zip(questions, answers, strict=True))
    model.close()
    with pytest.raises(ModelFailed, match="closed"):
        model.run({"x": questions[0]})


def test_an_answer_is_not_overwritten_by_the_next(tmp_path: Path) -> None:
    model = load(write(tmp_path, [-1, 3]))
    first = model.run({"x": np.ones((2, 3), np.float32)})["y"]
    model.run({"x": np.zeros((2, 3), np.float32)})
    assert np.array_equal(first, np.full((2, 3), 2, np.float32))


def test_what_cannot_be_served_is_told(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="input 'x' is bf16"):
        load(write(tmp_path, [-1, 3], "bf16"))
    path = write(tmp_path, [-1, 3])
    with pytest.raises(LoadFailed, match="the model has no 'z' among its inputs"):
        load(path, inputs=(TensorSpec("z", DataType.FP32, (-1, 3)),))
    path.with_suffix(".bin").unlink()
    with pytest.raises(LoadFailed, match="could not be loaded as openvino-ir"):
        load(path)


@pytest.mark.clause("TR-A1")
def test_it_is_found_beside_its_weights_and_runs_onnx_where_asked(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    for name in ("ir", "graph"):
        (tmp_path / name / "1").mkdir(parents=True)
    write(tmp_path / "ir" / "1", [-1, 3], name="model")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "graph" / "1" / "model.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "graph" / "config.pbtxt").write_text('backend: "openvino"')
    from salver.backends.onnx import OnnxBackend

    recognise = recogniser({"onnx": OnnxBackend(), "openvino": BACKEND})
    onnx, ir = Repository([tmp_path], formats(recognise)).scan(0.0)
    assert (ir.format, ir.backend, ir.path.name, ir.problem) == ("openvino-ir", "openvino", "model.xml", "")
    assert (onnx.format, onnx.backend, onnx.problem) == ("onnx", "openvino", "")
    negated = BACKEND.load(onnx, LoadOptions()).run({"x": np.ones((2, 1), np.float32)})["y"]
    assert negated.tolist() == [[-1], [-1]]


SCRIPT = """
import socket, sys
from pathlib import Path
def refuse(*_): raise SystemExit("a connection was opened")
socket.socket.connect = refuse
from salver.words.artifacts import Manifest
from salver.backends.openvino import OpenVinoBackend
from salver.backends.protocol import LoadOptions
from salver.words.messages import ModelId
path = Path(sys.argv[1])
OpenVinoBackend().load(Manifest(ModelId("m", "1"), path, "openvino-ir", "openvino"), LoadOptions()).close()
assert "openvino" in sys.modules
assert not [name for name in sys.modules if name.startswith("openvino_telemetry")]
"""


def test_loading_a_model_tells_nobody(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SCRIPT, str(write(tmp_path, [-1, 3]))]
    subprocess.run(command, env=environment, check=True, timeout=60)
    assert list(home.iterdir()) == []
