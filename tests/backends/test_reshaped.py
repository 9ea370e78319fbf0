"""A model behind other shapes: the same elements in the same order."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from salver.backends import reshaped
from salver.backends.onnx import OnnxBackend
from salver.backends.protocol import Answer, LoadOptions, RequestModel, RunnableModel
from salver.testing.backends import manifest_of
from salver.words.artifacts import Manifest, ModelConfig, Reshape
from salver.words.errors import LoadFailed, ModelFailed, SalverError
from salver.words.messages import InferRequest, Signature, TensorSpec
from salver.words.tensor import Array, DataType, Tensor


def spec(name: str, *shape: int) -> TensorSpec:
    return TensorSpec(name, DataType.FP32, shape)


class Doubling:
    """Takes and gives ``[n, k, 4]``."""

    signature = Signature((spec("x", -1, -1, 4),), (spec("y", -1, -1, 4), spec("n", -1)), True, "p")
    closed = False

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        assert inputs["x"].ndim == 3
        return {"y": inputs["x"] * 2, "n": inputs["x"].sum((1, 2))}

    def close(self) -> None:
        self.closed = True


@pytest.mark.clause("TR-C4", "TR-C5")
def test_callers_see_their_shapes_and_the_model_its_own() -> None:
    """TR-C4, TR-C5: free extents stand for the same numbers, and what has no reshape is left alone."""
    own = Doubling()
    seen = Signature((spec("x", -1, 2, -1, 2),), (spec("y", -1, 1, -1, 4), spec("n", -1)))
    with_reshape = reshaped.ReshapedModel(own, seen, Reshape({"x": (-1, 1, -1, 4)}), ("y",))
    assert [s.shape for s in with_reshape.signature.inputs] == [(-1, 2, -1, 2)]
    assert [s.name for s in with_reshape.signature.outputs] == ["y"]
    both = reshaped.ReshapedModel(own, seen, Reshape({"x": (-1, -1, 4)}, {"y": (-1, -1, 4)}), ("y", "n"))
    assert [s.shape for s in both.signature.outputs] == [(-1, 1, -1, 4), (-1,)]
    assert (both.signature.batched, both.signature.platform) == (True, "p")
    values = np.arange(3 * 2 * 5 * 2, dtype=np.float32).reshape(3, 2, 5, 2)
    answer = both.run({"x": values})
    assert answer["y"].shape == (3, 1, 5, 4)
    np.testing.assert_array_equal(answer["y"].ravel(), values.ravel() * 2)
    np.testing.assert_array_equal(answer["n"], values.sum((1, 2, 3)))
    both.close()
    assert own.closed


class ByRequest(Doubling):
    def answer(self, requests: Sequence[InferRequest]) -> Sequence[Answer | SalverError]:
        outputs = [self.run({t.name: t.array for t in r.inputs}) for r in requests]
        return [Answer(o) if o["n"][0] >= 0 else ModelFailed("negative") for o in outputs]


class ByRequestBackend(OnnxBackend):
    def load(self, manifest: Manifest, options: LoadOptions) -> RunnableModel:
        return ByRequest()


@pytest.mark.clause("TR-C4", "TR-C5", "TR-A2")
@pytest.mark.parametrize("sign", [1, -1])
def test_requests_one_by_one(tmp_path: Path, sign: int) -> None:
    """TR-C4, TR-C5, TR-A2: and each has its own error."""
    config = ModelConfig(
        inputs=(spec("x", -1, 2, -1, 2),),
        outputs=(spec("y", -1, 1, -1, 4),),
        only_outputs=True,
        reshape=Reshape({"x": (-1, -1, 4)}, {"y": (-1, -1, 4)}),
    )
    backend = ByRequestBackend()
    model = reshaped.load(backend, manifest_of(backend, tmp_path, config), LoadOptions())
    assert isinstance(model, RequestModel)
    assert [s.name for s in model.signature.outputs] == ["y", "n"], "it may add outputs of its own"
    values = np.full((1, 2, 5, 2), sign, np.float32)
    good = InferRequest("m", (Tensor("x", DataType.FP32, np.ones((1, 2, 5, 2), np.float32)),))
    tried = InferRequest("m", (Tensor("x", DataType.FP32, values),))
    first, second = model.answer([good, tried])
    assert isinstance(first, Answer)
    assert first.outputs["y"].shape == (1, 1, 5, 4)
    assert isinstance(second, Answer if sign > 0 else ModelFailed)


def write_identity(path: Path, shape: list[str | int]) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("own", "inside", "seen_in", "seen_out", "given"),
    [
        (["n", 4], (-1, 4), (-1, 2, 2), (-1, 1, 4), (3, 2, 2)),
        (["n"], (-1,), (-1, 1), (-1, 1), (3, 1)),
        ([2, 2], (2, 2), (4,), (1, 4), (4,)),
    ],
)
def test_a_file_is_loaded_with_its_own_shapes(
    tmp_path: Path,
    own: list[str | int],
    inside: tuple[int, ...],
    seen_in: tuple[int, ...],
    seen_out: tuple[int, ...],
    given: tuple[int, ...],
) -> None:
    """TR-C4, TR-C5: with a batch dimension, down to no other, and without."""
    write_identity(tmp_path / "model.onnx", own)
    config = ModelConfig(
        inputs=(spec("x", *seen_in),),
        outputs=(spec("y", *seen_out),),
        reshape=Reshape({"x": inside}, {"y": inside}),
    )
    backend = OnnxBackend()
    model = reshaped.load(backend, manifest_of(backend, tmp_path / "model.onnx", config), LoadOptions())
    assert [s.shape for s in model.signature.inputs] == [seen_in]
    values = np.arange(np.prod(given), dtype=np.float32).reshape(given)
    answer = model.run({"x": values})["y"]
    assert answer.shape == tuple(given[0] if n < 0 else n for n in seen_out)
    np.testing.assert_array_equal(answer.ravel(), values.ravel())
    model.close()


@pytest.mark.clause("TR-C5")
def test_outputs_that_the_configuration_leaves_out_are_not_given(tmp_path: Path) -> None:
    """TR-C5."""
    given, *outputs = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in "xyz")
    nodes = [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["z"])]
    graph = helper.make_graph(nodes, "g", [given], outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    backend = OnnxBackend()
    for only, names in ((True, ["z"]), (False, ["y", "z"])):
        config = ModelConfig(outputs=(spec("z", -1, 2),), only_outputs=only)
        loaded = reshaped.load(backend, manifest_of(backend, tmp_path / "model.onnx", config), LoadOptions())
        assert [s.name for s in loaded.signature.outputs] == names
        answer = loaded.run({"x": np.ones((1, 2), np.float32)})
        assert sorted(answer) == names
        assert answer["z"].tolist() == [[-1, -1]]
        loaded.close()


def test_a_reshape_that_the_file_does_not_have_is_refused(tmp_path: Path) -> None:
    write_identity(tmp_path / "model.onnx", ["n", 4])
    config = ModelConfig(inputs=(spec("x", -1, 4),), reshape=Reshape({"x": (-1, 2, 2)}))
    backend = OnnxBackend()
    with pytest.raises(LoadFailed, match=r"'x' has shape \[-1, 4\] in the model and \[-1, 2, 2\] in its"):
        reshaped.load(backend, manifest_of(backend, tmp_path / "model.onnx", config), LoadOptions())
