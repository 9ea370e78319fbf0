"""The published suite on all nine built-in backends, each with a small model of known answers."""

from pathlib import Path

import numpy as np
import pytest

from salver.backends.lightgbm import LightgbmBackend
from salver.backends.litert import LiteRtBackend
from salver.backends.onnx import OnnxBackend
from salver.backends.openvino import OpenVinoBackend
from salver.backends.python import PythonBackend
from salver.backends.sklearn import SklearnBackend
from salver.backends.tensorflow import TensorFlowBackend
from salver.backends.torch import TorchBackend
from salver.backends.xgboost import XgboostBackend
from salver.testing.backends import BackendConformance, Case
from salver.words.artifacts import ModelConfig
from salver.words.errors import LoadFailed

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(90, 5)).astype("f4")
Y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0.5)
W = RANDOM.normal(size=(5, 3)).astype("f4")


class TestOnnx(BackendConformance):
    backend = OnnxBackend()

    @staticmethod
    def make_case(folder: Path) -> Case:
        import onnx

        h = onnx.helper
        graph = h.make_graph(
            [h.make_node("MatMul", ["x", "w"], ["m"]), h.make_node("Relu", ["m"], ["y"])],
            "g",
            [h.make_tensor_value_info("x", 1, ["n", 5])],
            [h.make_tensor_value_info("y", 1, ["n", 3])],
            [onnx.numpy_helper.from_array(W, "w")],
        )
        path = folder / "m.onnx"
        onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=9), path)
        return Case(path, {"x": X[:4]}, {"y": np.maximum(X[:4] @ W, 0)})


class TestOnnxFolder(TestOnnx):
    """TR-L1: the file in a folder of its name, beside its external data."""

    keeps_suffix = True

    @staticmethod
    def make_case(folder: Path) -> Case:
        case = TestOnnx.make_case(folder)
        inner = folder / "model.onnx"
        inner.mkdir()
        case.path.rename(inner / "model.onnx")
        return Case(inner, case.inputs, case.outputs)


class TestOpenVino(BackendConformance):
    backend = OpenVinoBackend()

    @staticmethod
    def make_case(folder: Path) -> Case:
        import openvino

        case = TestOnnx.make_case(folder)
        model = openvino.Core().read_model(str(case.path))
        openvino.save_model(model, str(folder / "m.xml"), compress_to_fp16=False)
        return Case(folder / "m.xml", case.inputs, case.outputs)


class _Torch(BackendConformance):
    backend = TorchBackend()

    @staticmethod
    def module():
        import torch

        layer = torch.nn.Linear(5, 3, bias=False)
        layer.weight.data = torch.from_numpy(W.T.copy())
        return torch, torch.nn.Sequential(layer, torch.nn.ReLU()).eval()


class TestTorchExport(_Torch):
    @staticmethod
    def make_case(folder: Path) -> Case:
        torch, module = _Torch.module()
        dims = ({0: torch.export.Dim("batch", max=3)},)
        program = torch.export.export(module, (torch.zeros(2, 5),), dynamic_shapes=dims)
        torch.export.save(program, folder / "m.pt2")
        return Case(folder / "m.pt2", {"input": X[:7]}, {"output_0": np.maximum(X[:7] @ W, 0)})


class TestTorchTraced(_Torch):
    @staticmethod
    def make_case(folder: Path) -> Case:
        torch, module = _Torch.module()
        traced = torch.jit.trace(module, torch.zeros(2, 5))
        traced.save(folder / "m.pt")
        return Case(folder / "m.pt", {"input": X[:4]}, {"output_0": np.maximum(X[:4] @ W, 0)})


class TestTensorFlow(BackendConformance):
    backend = TensorFlowBackend()

    @staticmethod
    def make_case(folder: Path) -> Case:
        import tensorflow as tf

        class Module(tf.Module):
            def __init__(self):
                self.w = tf.Variable(W)

            @tf.function(input_signature=[tf.TensorSpec([None, 5], tf.float32, "x")])
            def call(self, x):
                return {"y": tf.nn.relu(x @ self.w)}

        module = Module()
        tf.saved_model.save(module, str(folder / "m"), {"serving_default": module.call})
        return Case(folder / "m", {"x": X[:4]}, {"y": np.maximum(X[:4] @ W, 0)})


class TestLiteRt(BackendConformance):
    backend = LiteRtBackend()

    @staticmethod
    def make_case(folder: Path) -> Case:
        import tensorflow as tf

        function = tf.function(lambda x: {"y": tf.nn.relu(x @ tf.constant(W))})
        concrete = function.get_concrete_function(tf.TensorSpec([None, 5], tf.float32, "x"))
        converted = tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()
        (folder / "m.tflite").write_bytes(converted)
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(folder / "m.tflite"))
        source = interpreter.get_input_details()[0]["name"]
        sink = interpreter.get_output_details()[0]["name"]
        signatures = interpreter.get_signature_list()
        if len(signatures) == 1:
            (one,) = signatures.values()
            source, sink = one["inputs"][0], one["outputs"][0]
        return Case(folder / "m.tflite", {source: X[:4]}, {sink: np.maximum(X[:4] @ W, 0)})


class TestSklearn(BackendConformance):
    backend = SklearnBackend()

    @staticmethod
    def make_case(folder: Path) -> Case:
        import skops.io
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression().fit(X, np.array(["a", "b", "c"])[Y])
        skops.io.dump(model, folder / "m.skops")
        label = np.array([s.encode() for s in model.predict(X[:4])], dtype=object)
        return Case(
            folder / "m.skops",
            {"input": X[:4]},
            {"label": label, "probabilities": model.predict_proba(X[:4])},
        )


class TestXgboost(BackendConformance):
    backend = XgboostBackend()
    suffix = "json"

    @classmethod
    def make_case(cls, folder: Path) -> Case:
        import xgboost

        settings = {"objective": "multi:softprob", "num_class": 3, "nthread": 1}
        booster = xgboost.train(settings, xgboost.DMatrix(X, Y), 5)
        path = folder / f"m.{cls.suffix}"
        booster.save_model(path)
        return Case(path, {"input": X[:4]}, {"output": booster.predict(xgboost.DMatrix(X[:4]))})


class TestXgboostUbj(TestXgboost):
    suffix = "ubj"


class TestLightgbm(BackendConformance):
    backend = LightgbmBackend()

    @staticmethod
    def make_case(folder: Path) -> Case:
        import lightgbm

        settings = {"objective": "multiclass", "num_class": 3, "verbose": -1, "num_threads": 1}
        booster = lightgbm.train(settings, lightgbm.Dataset(X, Y), 20)
        booster.save_model(folder / "m.txt")
        expected = booster.predict(X[:4])
        text = (folder / "m.txt").read_text()
        # what follows the trees is a record of the training, which a cut may take
        (folder / "m.txt").write_text(text[: text.index("end of trees") + len("end of trees\n")])
        return Case(folder / "m.txt", {"input": X[:4]}, {"output": expected})


class TestPython(BackendConformance):
    backend = PythonBackend()
    keeps_suffix = True

    @staticmethod
    def make_case(folder: Path) -> Case:
        (folder / "m.py").write_text(
            "class Model:\n"
            '    inputs = {"x": ("FP32", [-1, 5])}\n'
            '    outputs = {"y": ("FP32", [-1])}\n'
            "    def predict(self, inputs):\n"
            '        return {"y": inputs["x"].sum(axis=1)}\n'
        )
        return Case(folder / "m.py", {"x": X[:4]}, {"y": X[:4].sum(axis=1)}, ModelConfig(), cut=False)

    def test_an_unknown_option_is_refused_by_name(self, tmp_path: Path) -> None:
        """Here by the model: options are its own, and its load is told all of them."""
        (tmp_path / "m.py").write_text(
            "class Model:\n"
            '    inputs = outputs = {"x": ("FP32", [-1])}\n'
            "    def load(self, context):\n"
            "        raise ValueError(f'I know no {dict(context.options)}')\n"
            "    def predict(self, inputs):\n"
            "        return inputs\n"
        )
        with pytest.raises(LoadFailed, match=r"I know no \{'no_such_option': '1'\}"):
            self.load(tmp_path / "m.py", ModelConfig(options={"no_such_option": "1"}))
