"""Do the datatypes that numpy or a framework treats apart, BF16 and BYTES, really run?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from packaged import load

from salver.backends.onnx import OnnxBackend
from salver.backends.tensorflow import TensorFlowBackend
from salver.backends.torch import TorchBackend
from salver.words.artifacts import ModelConfig
from salver.words.errors import LoadFailed
from salver.words.messages import TensorSpec
from salver.words.tensor import Array, DataType, as_bytes

BF16 = ml_dtypes.bfloat16
VALUES = np.array([[1, -2.5, 3.3e38], [0, np.inf, 1e-30]], BF16)
RAW = as_bytes([[b"\xff\xd8\x00" * 999, b""], [b"a\x00b", b"\x80"]])
TEXT = as_bytes([["zürich", ""], ["a b", "東京"]])


def onnx_file(path: Path, nodes: Sequence[Any], inputs: dict[str, int], outputs: dict[str, int]) -> Path:
    import onnx

    h = onnx.helper
    values = [
        [h.make_tensor_value_info(n, t, ["n", None]) for n, t in tensors.items()]
        for tensors in (inputs, outputs)
    ]
    graph = h.make_graph(list(nodes), "g", *values)
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 20)], ir_version=9), path)
    return path


class TestOnnxBf16:
    """ONNX Runtime neither takes bfloat16 from numpy nor gives it."""

    @pytest.fixture(scope="class")
    @classmethod
    def path(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        import onnx

        node, types = onnx.helper.make_node, onnx.TensorProto
        nodes = [
            node("Cast", ["x"], ["wide"], to=types.FLOAT),
            node("Add", ["wide", "plus"], ["sum"]),
            node("Cast", ["sum"], ["half"], to=types.BFLOAT16),
            node("Identity", ["x"], ["same"]),
            node("Cast", ["plus"], ["said"], to=types.STRING),
        ]
        return onnx_file(
            tmp_path_factory.mktemp("bf16") / "m",
            nodes,
            {"x": types.BFLOAT16, "plus": types.FLOAT},
            {"half": types.BFLOAT16, "sum": types.FLOAT, "same": types.BFLOAT16, "said": types.STRING},
        )

    def test_it_runs_beside_other_types(self, path: Path) -> None:
        model = load(OnnxBackend(), path)
        kinds = {s.name: s.datatype.name for s in (*model.signature.inputs, *model.signature.outputs)}
        assert kinds["x"] == kinds["half"] == kinds["same"] == "BF16" and kinds["said"] == "BYTES"
        plus = np.array([[0.126, 1, 0], [1, 0, 5]], "f4")
        x = VALUES.view(np.uint16).copy()
        x.setflags(write=False)
        out = model.run({"x": x, "plus": plus})
        model.close()
        wide = VALUES.astype("f4") + plus
        assert np.array_equal(out["sum"], wide)
        assert out["half"].dtype == np.uint16
        assert np.array_equal(out["half"].view(BF16), wide.astype(BF16))
        assert np.array_equal(out["same"], x)
        assert out["said"].tolist() == [[b"0.126", b"1", b"0"], [b"1", b"0", b"5"]]

    def test_bytes_beside_it(self, tmp_path: Path) -> None:
        import onnx

        types = onnx.TensorProto
        nodes = [onnx.helper.make_node("Identity", [n], [n.upper()]) for n in ("half", "text")]
        kinds = {"half": types.BFLOAT16, "text": types.STRING}
        path = onnx_file(tmp_path / "m", nodes, kinds, {n.upper(): t for n, t in kinds.items()})
        model = load(OnnxBackend(), path)
        half = VALUES[:, :2].copy().view(np.uint16)
        for text in (TEXT, RAW):
            out = model.run({"half": half, "text": text})
            assert out["TEXT"].tolist() == text.tolist()
            assert np.array_equal(out["HALF"], half)
        model.close()

    def test_an_empty_batch_is_one(self, path: Path) -> None:
        model = load(OnnxBackend(), path)
        out = model.run({"x": np.empty((0, 3), "u2"), "plus": np.empty((0, 3), "f4")})
        model.close()
        assert out["half"].shape == (0, 3) and out["said"].shape == (0, 3)


class TestOnnxText:
    @pytest.fixture(scope="class")
    @classmethod
    def path(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        import onnx

        string = onnx.TensorProto.STRING
        nodes = [onnx.helper.make_node("StringConcat", ["x", "x"], ["y"])]
        return onnx_file(tmp_path_factory.mktemp("text") / "m", nodes, {"x": string}, {"y": string})

    def test_text_in_and_out(self, path: Path) -> None:
        model = load(OnnxBackend(), path)
        out = model.run({"x": TEXT})["y"]
        model.close()
        assert out.tolist() == (TEXT + TEXT).tolist()

    @pytest.mark.parametrize("given", [RAW, RAW[:1], RAW[:0], TEXT.T], ids=["raw", "row", "none", "text"])
    def test_any_bytes_in_and_out(self, path: Path, given: Array) -> None:
        model = load(OnnxBackend(), path)
        out = model.run({"x": given})["y"]
        model.close()
        assert out.shape == given.shape
        assert out.tolist() == (given + given).tolist()

    def test_bytes_that_the_graph_itself_has(self, tmp_path: Path) -> None:
        """What goes in is text, and what comes out is none."""
        import onnx

        h, string = onnx.helper, onnx.TensorProto.STRING
        tail = h.make_node("Constant", [], ["tail"], value=h.make_tensor("t", string, [1], [b"\x00\xff"]))
        path = onnx_file(
            tmp_path / "m",
            [tail, h.make_node("StringConcat", ["x", "tail"], ["y"])],
            {"x": string},
            {"y": string},
        )
        model = load(OnnxBackend(), path)
        assert model.run({"x": TEXT})["y"].tolist() == [
            [t + b"\x00\xff" for t in row] for row in TEXT.tolist()
        ]
        model.close()


class TestTensorFlow:
    @pytest.fixture(scope="class")
    @classmethod
    def path(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        import tensorflow as tf

        class Module(tf.Module):
            @tf.function(
                input_signature=[
                    tf.TensorSpec([None, 2], tf.string, "text"),
                    tf.TensorSpec([None, 3], tf.bfloat16, "x"),
                ]
            )
            def call(self, text: Any, x: Any) -> dict[str, Any]:
                return {"length": tf.strings.length(text), "joined": text + "!", "half": x / 2}

        folder = tmp_path_factory.mktemp("saved") / "m"
        module = Module()
        tf.saved_model.save(module, str(folder), {"serving_default": module.call})
        return folder

    def test_strings_are_bytes_and_bfloat16_runs(self, path: Path) -> None:
        model = load(TensorFlowBackend(), path)
        raw = np.array([[b"\x00\xff", b""], [b"abc", "ü".encode()]], object)
        out = model.run({"text": raw, "x": VALUES.view(np.uint16)})
        model.close()
        assert out["length"].tolist() == [[2, 0], [3, 2]]
        assert out["joined"].tolist() == [[b"\x00\xff!", b"!"], [b"abc!", "ü!".encode()]]
        assert np.array_equal(out["half"].view(BF16), (VALUES / BF16(2)))


class TestTorch:
    def test_bfloat16_runs(self, tmp_path: Path) -> None:
        import torch

        class Module(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x / 2

        dims = {"x": {0: torch.export.Dim("batch", min=1, max=64)}}
        example = (torch.zeros(2, 3, dtype=torch.bfloat16),)
        torch.export.save(torch.export.export(Module(), example, dynamic_shapes=dims), tmp_path / "m.pt2")
        model = load(TorchBackend(), tmp_path / "m.pt2")
        assert [s.datatype for s in model.signature.inputs] == [DataType.BF16]
        out = model.run({"x": VALUES.view(np.uint16)})["output_0"]
        model.close()
        assert np.array_equal(out.view(BF16), VALUES / BF16(2))

    def test_a_scripted_module_runs_as_declared(self, tmp_path: Path) -> None:
        """With a control flow that no trace keeps, a dictionary of outputs and an optional scalar."""
        import torch

        class Module(torch.nn.Module):
            def forward(self, x: torch.Tensor, times: int) -> dict[str, torch.Tensor]:
                total = torch.zeros_like(x)
                for _ in range(times):
                    total = total + x
                return {"total": total, "rows": x.sum(dim=1)}

        torch.jit.script(Module()).save(tmp_path / "m.pt")
        with pytest.raises(LoadFailed, match="does not say which shapes it takes") as refused:
            load(TorchBackend(), tmp_path / "m.pt")
        assert 'name = "times"\ndatatype = "INT64"\nshape = [1]' in str(refused.value)

        config = ModelConfig(
            inputs=(
                TensorSpec("x", DataType.FP32, (-1, 4)),
                TensorSpec("times", DataType.INT64, (1,)),
            ),
            outputs=(TensorSpec("total", DataType.FP32, (-1, 4)), TensorSpec("rows", DataType.FP32, (-1,))),
        )
        model = load(TorchBackend(), tmp_path / "m.pt", config)
        x = np.arange(8, dtype="f4").reshape(2, 4)
        out = model.run({"x": x, "times": np.array([3])})
        model.close()
        assert out["total"].tolist() == (x * 3).tolist()
        assert out["rows"].tolist() == [6, 22]

    def test_threads_take_turns_with_a_module_that_keeps_state(self, tmp_path: Path) -> None:
        from concurrent.futures import ThreadPoolExecutor

        import torch

        class Counter(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.seen = torch.zeros(1)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                self.seen = self.seen + x.sum()
                return self.seen

        torch.jit.script(Counter()).save(tmp_path / "m.pt")
        config = ModelConfig(inputs=(TensorSpec("x", DataType.FP32, (3,)),))
        model = load(TorchBackend(), tmp_path / "m.pt", config)
        one = {"x": np.array([0.25, 0.25, 0.5], "f4")}
        with ThreadPoolExecutor(4) as pool:
            counts = [out["output_0"].item() for out in pool.map(model.run, [one] * 200)]
        model.close()
        assert sorted(counts) == list(range(1, 201))

    def test_a_wrong_declaration_is_told_with_torchs_own_words(self, tmp_path: Path) -> None:
        import torch

        torch.jit.script(torch.nn.Linear(4, 2)).save(tmp_path / "m.pt")
        config = ModelConfig(inputs=(TensorSpec("input", DataType.FP32, (-1, 5)),))
        with pytest.raises(LoadFailed, match=r"trial run.*shapes cannot be multiplied.*declared inputs"):
            load(TorchBackend(), tmp_path / "m.pt", config)
