"""Operations and bytes of a run of an ONNX graph.

Counted from the graph by shape inference. It needs the ``onnx`` package, which serving does not: without it
the weight bytes are the file's size, and the operations are unknown, as stated in the notes.
"""

import contextlib
import importlib
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from salver.backends.protocol import Cost
from salver.words.tensor import Array

_Shape = tuple[int, ...]
_Shapes = Mapping[str, _Shape]
_Count = Callable[[Any, _Shapes], float | None]
#: Nodes that only reinterpret or move memory.
_FREE = frozenset(
    {
        "Cast", "Concat", "Constant", "ConstantOfShape", "DequantizeLinear", "Expand", "Flatten", "Gather",
        "Identity", "Pad", "QuantizeLinear", "Reshape", "Shape", "Slice", "Split", "Squeeze", "Transpose",
        "Unsqueeze",
    }
)  # fmt: skip
_NESTED = frozenset({"If", "Loop", "Scan"})
_INT8 = frozenset({"ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"})
_ROWS, _SIDE = 256, 384  # size of the product that measures a machine's peak: fits in a second-level cache


def cost_of(path: Path, shapes: _Shapes) -> Cost:
    """Return the cost of a run of an ONNX file's main graph.

    Args:
        shapes: Shapes of the inputs with one row; a free extent of an input without a shape counts as 1.
    """
    size = float(path.stat().st_size)
    try:
        onnx: Any = importlib.import_module("onnx")
    except ImportError:
        return Cost(weight_bytes=size, notes=("operations are not counted: pip install 'salver[tune]'",))
    try:
        cost = _count(onnx, onnx.load(str(path), load_external_data=False), shapes)
    except Exception as error:  # protobuf and onnx raise their own exceptions for a broken or too large graph
        return Cost(weight_bytes=size, notes=(f"operations are not counted: {error}",))
    if not cost.notes:
        return cost
    with contextlib.suppress(Exception), tempfile.TemporaryDirectory() as folder:  # then a part must suffice
        folded = _fold(onnx, path, shapes, Path(folder) / "folded.onnx")
        cost = min(cost, _count(onnx, folded, shapes), key=lambda cost: len(cost.notes))
    return cost


def product_graph(int8: bool) -> tuple[bytes, dict[str, Array], float]:
    """Return an ONNX model of a matrix product, its inputs and its number of operations."""
    onnx: Any = importlib.import_module("onnx")
    helper, types = onnx.helper, onnx.TensorProto
    left, right, out = (
        (types.UINT8, types.INT8, types.INT32) if int8 else (types.FLOAT, types.FLOAT, types.FLOAT)
    )
    weights = np.ones((_SIDE, _SIDE), helper.tensor_dtype_to_np_dtype(right))
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger" if int8 else "MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", left, [_ROWS, _SIDE])],
        [helper.make_tensor_value_info("y", out, [_ROWS, _SIDE])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    feed = {"x": np.ones((_ROWS, _SIDE), helper.tensor_dtype_to_np_dtype(left))}
    return model.SerializeToString(), feed, 2.0 * _ROWS * _SIDE * _SIDE


def _fold(onnx: Any, path: Path, shapes: _Shapes, target: Path) -> Any:
    """Return the graph with shape computations made constant by ONNX Runtime, if inference stops at them."""
    ort: Any = importlib.import_module("onnxruntime")
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    settings.optimized_model_filepath = str(target)
    settings.log_severity_level = 4
    for value in onnx.load(str(path), load_external_data=False).graph.input:
        dims = value.type.tensor_type.shape.dim
        for dim, extent in zip(dims, shapes.get(value.name, ()), strict=False):
            if dim.dim_param:
                settings.add_free_dimension_override_by_name(dim.dim_param, extent)
    ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    return onnx.load(str(target), load_external_data=False)


def _fix(value: Any, shape: _Shape) -> None:
    dims = value.type.tensor_type.shape.dim
    for axis, dim in enumerate(dims):
        if len(shape) == len(dims):
            dim.dim_value = shape[axis]
        elif not dim.HasField("dim_value") or dim.dim_value <= 0:
            dim.dim_value = 1


def _count(onnx: Any, model: Any, ends: _Shapes) -> Cost:
    for value in model.graph.input:
        _fix(value, ends.get(value.name, ()))
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")  # it would contradict the inputs
    del model.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes: dict[str, _Shape] = {i.name: tuple(i.dims) for i in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            shapes[value.name] = tuple(d.dim_value for d in tensor.shape.dim)
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    counted = {True: 0.0, False: 0.0}  # unit: products of 8-bit integers
    unknown = set[str]()
    for node in graph.node:
        count = _operations(node, shapes)
        if count is None:
            unknown.add(node.op_type)
        else:
            counted[_is_int8(node, made_by)] += count
    notes = (f"not counted: {', '.join(sorted(unknown))}",) if unknown else ()
    return Cost(counted[False], _weights(onnx, graph), _ends(onnx, graph, shapes), counted[True], notes)


def _is_int8(node: Any, made_by: Mapping[str, str]) -> bool:
    """Return whether the node, or the kernel into which runtimes fuse it, multiplies 8-bit integers."""
    is_fused = node.op_type in _COUNTS and all(
        made_by.get(name) == "DequantizeLinear" for name in node.input[:2]
    )
    return node.op_type in _INT8 or is_fused


def _weights(onnx: Any, graph: Any) -> float:
    """Return the bytes of all weights; of lookup tables only a few rows are read."""
    looked_up = {node.input[0] for node in graph.node if node.op_type == "Gather"}
    read = {name for node in graph.node for name in node.input[node.op_type == "Gather" :]}
    return float(
        sum(
            math.prod(i.dims) * _width(onnx, i.data_type)
            for i in graph.initializer
            if i.name in read or i.name not in looked_up
        )
    )


def _ends(onnx: Any, graph: Any, shapes: _Shapes) -> float:
    """Return the bytes of inputs and outputs."""
    weights = {i.name for i in graph.initializer}  # older graphs list weights among the inputs
    ends = [value for value in (*graph.input, *graph.output) if value.name not in weights]
    return float(
        sum(
            math.prod(shapes[value.name]) * _width(onnx, value.type.tensor_type.elem_type)
            for value in ends
            if value.name in shapes
        )
    )


def _width(onnx: Any, kind: int) -> int:
    try:
        return int(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize)
    except (KeyError, TypeError):
        return 4


def _operations(node: Any, shapes: _Shapes) -> float | None:
    """Return the operations of one node; None if its kind or shapes are unknown."""
    kind = node.op_type
    if kind in _FREE:
        return 0.0
    if kind in _NESTED or node.domain not in ("", "ai.onnx", "ai.onnx.ml"):
        return None
    if kind in _RECURRENT:  # may have optional outputs
        return _recurrent(node, shapes)
    if not node.output or node.output[0] not in shapes:
        return None
    count = _COUNTS.get(kind)
    if count is not None:
        return count(node, shapes)
    return float(math.prod(shapes[node.output[0]]))  # one per element: all others are element-wise


def _known(node: Any, shapes: _Shapes, *places: int) -> list[_Shape] | None:
    names = [node.input[place] if place < len(node.input) else "" for place in places]
    if all(name in shapes for name in names):
        return [shapes[name] for name in names]
    return None


def _convolution(weight: int) -> _Count:
    def count(node: Any, shapes: _Shapes) -> float | None:
        known = _known(node, shapes, weight)
        if known:
            return 2.0 * math.prod(shapes[node.output[0]]) * math.prod(known[0][1:])
        return None

    return count


def _transposed(node: Any, shapes: _Shapes) -> float | None:
    known = _known(node, shapes, 0, 1)
    if known:
        return 2.0 * math.prod(known[0]) * math.prod(known[1][1:])
    return None


def _product(node: Any, shapes: _Shapes) -> float | None:
    known = _known(node, shapes, 0)
    if not known or not known[0]:
        return None
    is_turned = any(a.name == "transA" and a.i for a in node.attribute)
    return 2.0 * math.prod(shapes[node.output[0]]) * known[0][0 if is_turned else -1]


def _recurrent(node: Any, shapes: _Shapes) -> float | None:
    known = _known(node, shapes, 0, 1, 2)
    if not known:
        return None
    steps_and_rows = known[0][0] * known[0][1]
    return 2.0 * steps_and_rows * (math.prod(known[1]) + math.prod(known[2]))


_RECURRENT = frozenset({"GRU", "LSTM", "RNN"})
_COUNTS: dict[str, _Count] = {
    "Conv": _convolution(1),
    "ConvInteger": _convolution(1),
    "QLinearConv": _convolution(3),
    "ConvTranspose": _transposed,
    "Gemm": _product,
    "MatMul": _product,
    "MatMulInteger": _product,
    "QLinearMatMul": _product,
}
