import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from zoo import write_mlp

from salver.backends.onnx import OnnxBackend
from salver.backends.onnx_cost import cost_of, product_graph


def save(path: Path, nodes: list, inputs: dict, outputs: list, weights: dict) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def test_a_network_of_layers(tmp_path: Path) -> None:
    write_mlp(tmp_path / "mlp", 1)
    cost = cost_of(next(tmp_path.rglob("*.onnx")), {"x": (1, 16)})
    products = 2 * (16 * 64 + 64 * 3)
    assert products <= cost.flops_a_row <= products + 3 * (64 + 3)  # biases and the rectifier
    assert cost.weight_bytes == 4 * (16 * 64 + 64 + 64 * 3 + 3)
    assert cost.bytes_a_row == 4 * (16 + 3)
    assert cost.notes == ()


def test_a_convolution(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3], group=2)
    path = save(tmp_path / "c.onnx", [node], {"x": ["n", 4, 10, 10]}, ["y"], {"w": (6, 2, 3, 3)})
    assert cost_of(path, {}).flops_a_row == 2 * (6 * 8 * 8) * (2 * 3 * 3)


def test_free_extents_take_what_they_are_given(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    path = save(tmp_path / "m.onnx", [node], {"x": ["n", "length", 8]}, ["y"], {"w": (8, 5)})
    assert cost_of(path, {"x": (1, 128, 8)}).flops_a_row == 128 * 2 * 8 * 5
    assert cost_of(path, {}).flops_a_row == 2 * 8 * 5


def test_a_table_of_which_rows_are_looked_up_is_not_read_whole(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "i"], ["e"]),
        helper.make_node("MatMul", ["e", "w"], ["y"]),
    ]
    path = save(tmp_path / "e.onnx", nodes, {"x": ["n", 3]}, ["y"], {"table": (1000, 8), "w": (8, 2)})
    assert cost_of(path, {}).weight_bytes == 4 * 8 * 2


def test_a_recurrent_layer(tmp_path: Path) -> None:
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=5)
    path = save(tmp_path / "r.onnx", [node], {"x": [7, 1, 3]}, ["y"], {"w": (1, 20, 3), "r": (1, 20, 5)})
    assert cost_of(path, {}).flops_a_row == 2 * 7 * (20 * 3 + 20 * 5)


def test_products_between_dequantizers_are_of_8_bit_integers(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("QuantizeLinear", ["w", "s", "z"], ["wq"]),
        helper.make_node("DequantizeLinear", ["wq", "s", "z"], ["wd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["h"]),
        helper.make_node("MatMul", ["h", "v"], ["y"]),
    ]
    weights = {"w": (8, 5), "v": (5, 3), "s": (), "z": ()}
    path = save(tmp_path / "q.onnx", nodes, {"x": ["n", 8]}, ["y"], weights)
    cost = cost_of(path, {})
    assert (cost.int8_ops_a_row, cost.flops_a_row) == (2 * 8 * 5, 2 * 5 * 3)


@pytest.mark.parametrize("int8", [False, True])
def test_the_product_that_shows_the_peak_is_what_it_says(int8: bool, tmp_path: Path) -> None:
    model, feed, operations = product_graph(int8)
    (tmp_path / "p.onnx").write_bytes(model)
    cost = cost_of(tmp_path / "p.onnx", {})
    assert (cost.int8_ops_a_row if int8 else cost.flops_a_row) == operations
    multiply, said = OnnxBackend().product(int8)
    assert said == operations
    assert np.array_equal(multiply()[0], feed["x"].astype(np.int32) @ np.ones((384, 384)))


def test_what_is_not_known_is_named(tmp_path: Path) -> None:
    node = helper.make_node("FusedThing", ["x"], ["y"], domain="com.example")
    path = save(tmp_path / "u.onnx", [node], {"x": ["n", 3]}, ["y"], {})
    assert cost_of(path, {}).notes == ("not counted: FusedThing",)


@pytest.mark.parametrize("content", [b"", b"\x08\x09junk", b"not a model"])
def test_a_broken_file_has_a_size_and_a_note(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "b.onnx"
    path.write_bytes(content)
    cost = cost_of(path, {})
    assert cost.flops_a_row == 0
    assert len(cost.notes) <= 1
    assert cost.weight_bytes in (0, len(content))


def test_without_the_package_the_weights_are_the_files_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"x" * 100)
    monkeypatch.setitem(sys.modules, "onnx", None)
    cost = cost_of(path, {})
    assert cost.weight_bytes == 100
    assert "pip install 'salver[tune]'" in cost.notes[0]
