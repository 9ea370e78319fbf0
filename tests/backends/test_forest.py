"""Forests behind FIL's tensors: XGBoost, LightGBM and scikit-learn models, against themselves (TR-C12)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
import skops.io
import xgboost
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from zoo import write_mlp

from salver.backends import reshaped
from salver.backends.lightgbm import LightgbmBackend
from salver.backends.onnx import OnnxBackend
from salver.backends.protocol import Backend, LoadOptions
from salver.backends.sklearn import SklearnBackend
from salver.backends.torch import TorchBackend
from salver.backends.xgboost import XgboostBackend
from salver.words.artifacts import Manifest, ModelConfig
from salver.words.errors import LoadFailed
from salver.words.messages import ModelId, TensorSpec
from salver.words.tensor import Array, DataType

DATA: dict[str, Callable[..., Any]] = {
    "two": load_breast_cancer,
    "three": load_iris,
    "value": load_diabetes,
}
Made = tuple[Backend, Path, str, Array]  # and its own scores on the data: [n] or [n, classes]


def data(kind: str) -> tuple[Array, Array]:
    x, y = DATA[kind](return_X_y=True)
    return x.astype("f4"), y


def xgboosted(folder: Path, kind: str, objective: str = "") -> Made:
    x, y = data(kind)
    objective = objective or {"two": "binary:logistic", "three": "multi:softprob"}.get(
        kind, "reg:squarederror"
    )
    settings = {"objective": objective, "max_depth": 3, "nthread": 1, "verbosity": 0}
    if kind == "three":
        settings["num_class"] = 3
    booster = xgboost.train(settings, xgboost.DMatrix(x, y), 8)
    booster.save_model(folder / "model.ubj")
    booster.set_param({"objective": objective.replace("softmax", "softprob")})
    return XgboostBackend(), folder / "model.ubj", "xgboost-ubj", booster.inplace_predict(x)


def lightgbmed(folder: Path, kind: str) -> Made:
    x, y = data(kind)
    settings = {
        "objective": {"two": "binary", "three": "multiclass"}.get(kind, "regression"),
        "verbosity": -1,
    }
    if kind == "three":
        settings["num_class"] = 3  # type: ignore[assignment]
    booster = lightgbm.train(settings, lightgbm.Dataset(x, y), 8)
    booster.save_model(folder / "model.txt")
    return LightgbmBackend(), folder / "model.txt", "lightgbm", booster.predict(x)


def sklearned(folder: Path, kind: str) -> Made:
    x, y = data(kind)
    cls = RandomForestRegressor if kind == "value" else RandomForestClassifier
    forest = cls(n_estimators=5, max_depth=3, random_state=0).fit(x, y)
    skops.io.dump(forest, folder / "model.skops")
    scores = forest.predict(x) if kind == "value" else forest.predict_proba(x)
    return SklearnBackend(), folder / "model.skops", "skops", scores[:, 1] if kind == "two" else scores


def served(made: Made, **config: Any) -> Any:
    backend, path, kind, _ = made
    options = {"interface": "fil", **config.pop("options", {})}
    if backend.name == "sklearn":
        options["trusted"] = "sklearn.tree._tree.Tree"
    manifest = Manifest(ModelId("m", "1"), path, kind, backend.name, ModelConfig(options=options, **config))
    return reshaped.load(backend, manifest, LoadOptions())


def ask(model: Any, kind: str, name: str = "input__0") -> Array:
    (answer,) = model.run({name: data(kind)[0]}).values()
    assert answer.dtype == np.float32
    return answer


FRAMEWORKS = pytest.mark.parametrize("make", [xgboosted, lightgbmed, sklearned])


@pytest.mark.clause("TR-C12")
@FRAMEWORKS
def test_two_classes(make: Callable[[Path, str], Made], tmp_path: Path) -> None:
    made = make(tmp_path, "two")
    second = np.asarray(made[3])[:, None]
    np.testing.assert_allclose(ask(served(made), "two"), second, rtol=1e-5, atol=1e-6)
    for threshold, options in ((0.5, {}), (0.9, {"threshold": "0.9"})):
        classes = ask(served(made, options={"output_class": "true", **options}), "two")
        np.testing.assert_array_equal(classes, second > threshold)
    both = ask(served(made, options={"output_class": "true", "predict_proba": "true"}), "two")
    np.testing.assert_allclose(both, np.hstack([1 - second, second]), rtol=1e-5, atol=1e-6)


@pytest.mark.clause("TR-C12")
@FRAMEWORKS
def test_three_classes(make: Callable[[Path, str], Made], tmp_path: Path) -> None:
    made = make(tmp_path, "three")
    scores = np.asarray(made[3])
    np.testing.assert_allclose(ask(served(made), "three"), scores, rtol=1e-5)
    np.testing.assert_allclose(
        ask(served(made, options={"predict_proba": "true"}), "three"), scores, rtol=1e-5
    )
    classes = ask(served(made, options={"output_class": "true"}), "three")
    np.testing.assert_array_equal(classes[:, 0], scores.argmax(axis=1))


@pytest.mark.clause("TR-C12")
@FRAMEWORKS
def test_a_regressor(make: Callable[[Path, str], Made], tmp_path: Path) -> None:
    made = make(tmp_path, "value")
    np.testing.assert_allclose(ask(served(made), "value")[:, 0], made[3], rtol=1e-5)


@pytest.mark.clause("TR-C12")
def test_softmax_which_gives_only_the_likeliest_class_has_probabilities(tmp_path: Path) -> None:
    made = xgboosted(tmp_path, "three", "multi:softmax")
    np.testing.assert_allclose(
        ask(served(made, options={"predict_proba": "true"}), "three"), made[3], rtol=1e-5
    )


@pytest.mark.clause("TR-C12")
def test_names_and_dims_are_the_configurations(tmp_path: Path) -> None:
    inputs = (TensorSpec("x", DataType.FP32, (-1, 4)),)
    outputs = (TensorSpec("y", DataType.FP32, (-1, 3)),)
    model = served(xgboosted(tmp_path, "three"), inputs=inputs, outputs=outputs)
    assert (model.signature.inputs, model.signature.outputs) == (inputs, outputs)
    assert ask(model, "three", "x").shape == (150, 3)
    with pytest.raises(LoadFailed, match=r"'y' has shape \[-1, 1\] in the model"):
        served(xgboosted(tmp_path, "three"), outputs=outputs, options={"output_class": "true"})


@pytest.mark.clause("TR-C12")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "treelite_checkpoint"}, "none that is served here"),
        ({"model_type": "lightgbm"}, "model_type says lightgbm, but"),
        ({"threshold": "high"}, "option threshold = 'high' is not a number"),
        ({"output_class": "maybe"}, "option output_class = 'maybe' is unknown"),
        ({"shape": "1"}, "knows no option 'shape'"),
    ],
)
def test_an_option_that_makes_no_sense_is_told_at_load(
    options: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(LoadFailed, match=message):
        served(xgboosted(tmp_path, "two"), options=options)


# -- options of other backends ----------------------------------------------------------------------


def mlp(tmp_path: Path, **options: str) -> Array:
    write_mlp(tmp_path, 1)
    config = ModelConfig(options=options)
    manifest = Manifest(ModelId("mlp", "1"), tmp_path / "1" / "model.onnx", "onnx", "onnx", config)
    model = OnnxBackend().load(manifest, LoadOptions())
    return model.run({"x": np.ones((2, 16), "f4")})["y"]


@pytest.mark.clause("TR-C12")
def test_onnx_sessions_are_set_as_triton_sets_them(tmp_path: Path) -> None:
    plain = mlp(tmp_path)
    options = {
        "execution_mode": "1",
        "inter_op_thread_count": "2",
        "enable_mem_arena": "0",
        "enable_mem_pattern": "0",
        "graph_optimization_level": "basic",
    }
    np.testing.assert_allclose(mlp(tmp_path, **options), plain, rtol=1e-5)
    shrunk = mlp(tmp_path, **{"memory.enable_memory_arena_shrinkage": "cpu:0"})
    np.testing.assert_allclose(shrunk, plain, rtol=1e-5)
    for key, value in (("execution_mode", "x"), ("enable_mem_arena", "2"), ("graph_optimization_level", "9")):
        with pytest.raises(LoadFailed, match=f"option {key}"):
            mlp(tmp_path, **{key: value})


@pytest.mark.clause("TR-C12")
@pytest.mark.parametrize(
    "options",
    [{}, {"inference_mode": "false"}, {"disable_optimized_execution": "true", "num_interop_threads": "1"}],
)
def test_torch_programs_run_in_the_mode_that_is_asked_for(options: dict[str, str], tmp_path: Path) -> None:
    import torch

    class Mode(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    torch.jit.trace(Mode(), torch.ones(2, 3)).save(tmp_path / "model.pt")
    manifest = Manifest(
        ModelId("m", "1"), tmp_path / "model.pt", "torchscript", "torch", ModelConfig(options=options)
    )
    model = TorchBackend().load(manifest, LoadOptions())
    seen = []
    inner = model._call
    model._call = lambda *given: (
        seen.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled())) or inner(*given)
    )
    np.testing.assert_array_equal(
        next(iter(model.run({"x": np.ones((2, 3), "f4")}).values())), np.full((2, 3), 2)
    )
    assert seen == [(options.get("inference_mode") != "false", False)]
    with pytest.raises(LoadFailed, match="num_interop_threads"):
        TorchBackend().load(
            Manifest(
                manifest.id,
                manifest.path,
                "torchscript",
                "torch",
                ModelConfig(options={"num_interop_threads": "0"}),
            ),
            LoadOptions(),
        )
