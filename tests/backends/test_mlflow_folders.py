"""Folders of MLflow as models: the artefact of a flavour, its inputs by the names of columns."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
import xgboost
import yaml
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from salver.backends import reshaped
from salver.backends.discovery import backends, recogniser
from salver.backends.protocol import LoadOptions, RunnableModel
from salver.kernel.repository import Repository
from salver.parts import formats
from salver.stores.sources import silent
from salver.stores.sources.opening import Options, open_source
from salver.words.artifacts import Manifest

TABLE = pd.DataFrame({"age": [20.0, 30.0, 40.0], "rooms": [1.0, 5.0, 2.0]})
PRICES = np.array([1.0, 2.5, 3.25])
COLUMNS = [{"type": "double", "name": "age", "required": True}, {"type": "long", "name": "rooms"}]


def mlmodel(folder: Path, columns: Any, **flavours: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    said = {"flavors": {"python_function": {"loader_module": "mlflow.x"}, **flavours}, "model_id": "m-1"}
    if columns is not None:
        said["signature"] = {"inputs": json.dumps(columns), "outputs": None}
    (folder / "MLmodel").write_text(yaml.safe_dump(said))
    (folder / "requirements.txt").write_text("scikit-learn")
    return folder


def linear(folder: Path, columns: Any = COLUMNS) -> Path:
    mlmodel(folder, columns, sklearn={"pickled_model": "model.skops"})
    skops.io.dump(LinearRegression().fit(TABLE, PRICES), folder / "model.skops")
    return folder


def found(path: Path) -> Manifest:
    (manifest,) = Repository((path,), formats(recogniser(backends()))).scan(0.0)
    return manifest


def load(path: Path) -> RunnableModel:
    manifest = found(path)
    assert not manifest.problem
    return reshaped.load(backends()[manifest.backend], manifest, LoadOptions())


def inputs(model: RunnableModel) -> list[str]:
    return [f"{s.name} {s.datatype.name}{list(s.shape)}" for s in model.signature.inputs]


@pytest.mark.parametrize("place", ["house", "models/house", "models/house/1"])
def test_columns_are_inputs(place: str, tmp_path: Path) -> None:
    linear(tmp_path / place)
    model = load(tmp_path / place.split("/")[0])
    assert inputs(model) == ["age FP64[-1]", "rooms INT64[-1]"]
    assert model.signature.batched
    answer = model.run({"age": np.array([20.0, 40.0]), "rooms": np.array([1, 2])})
    np.testing.assert_allclose(answer["prediction"], [1.0, 3.25], rtol=1e-9)
    model.close()


def test_a_model_that_tells_columns_apart_itself(tmp_path: Path) -> None:
    table = TABLE.assign(city=["a", "b", "a"])
    split = ColumnTransformer([("n", "passthrough", ["age", "rooms"]), ("c", OneHotEncoder(), ["city"])])
    folder = mlmodel(
        tmp_path / "m", [*COLUMNS, {"type": "string", "name": "city"}], sklearn={"pickled_model": "m.skops"}
    )
    skops.io.dump(make_pipeline(split, LinearRegression()).fit(table, PRICES), folder / "m.skops")
    model = load(folder)
    assert inputs(model) == ["age FP64[-1]", "rooms FP64[-1]", "city BYTES[-1]"]


def test_trees(tmp_path: Path) -> None:
    folder = mlmodel(tmp_path / "m", COLUMNS, xgboost={"data": "model.ubj"})
    booster = xgboost.train({"max_depth": 2}, xgboost.DMatrix(TABLE.to_numpy(), PRICES), 3)
    booster.save_model(folder / "model.ubj")
    model = load(folder)
    assert inputs(model) == ["age FP64[-1]", "rooms INT64[-1]"]
    assert model.run({"age": np.array([20.0]), "rooms": np.array([1])})["output"].shape == (1,)


@pytest.mark.parametrize(
    "columns",
    [
        None,
        [{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 2]}}],
        [{"type": "double"}, {"type": "double"}],
        [{"type": "datetime", "name": "when"}, {"type": "double", "name": "age"}],
        [{"type": "double", "name": "age"}, {"type": "double", "name": "age"}],
        [{"type": "double", "name": "age"}],
        [{"type": "string", "name": "age"}, {"type": "double", "name": "rooms"}],
        {"type": "double"},
        [7],
        [{"type": ["double"], "name": "age"}],
    ],
)
def test_without_columns_that_fit_it_is_the_artefact_as_it_is(columns: Any, tmp_path: Path) -> None:
    assert inputs(load(linear(tmp_path / "m", columns))) == ["input FP32[-1, 2]"]


def test_its_owners_words_go_first(tmp_path: Path) -> None:
    linear(tmp_path / "m")
    (tmp_path / "m" / "salver.toml").write_text(
        '[[inputs]]\nname = "input"\ndatatype = "FP32"\nshape = [-1, 2]'
    )
    assert inputs(load(tmp_path / "m")) == ["input FP32[-1, 2]"]


def test_what_is_pushed_keeps_its_columns(tmp_path: Path) -> None:
    """A source puts the artefact beside the MLmodel, whatever folder it was in."""
    linear(tmp_path / "m")
    (tmp_path / "m" / "data").mkdir()
    shutil.move(tmp_path / "m" / "model.skops", tmp_path / "m" / "data" / "model.skops")
    mlmodel(tmp_path / "m", COLUMNS, sklearn={"pickled_model": "data/model.skops"})
    assert inputs(load(tmp_path / "m")) == ["age FP64[-1]", "rooms INT64[-1]"]
    (tmp_path / "in").mkdir()
    fetched = open_source(str(tmp_path / "m"), Options(environment={})).fetch(tmp_path / "in", silent)
    assert (fetched.path / "model.skops").is_file()
    assert inputs(load(fetched.path)) == ["age FP64[-1]", "rooms INT64[-1]"]


def test_a_pyfunc_is_told_as_what_it_is(tmp_path: Path) -> None:
    folder = mlmodel(tmp_path / "m", COLUMNS)
    (folder / "python_model.pkl").write_bytes(b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x01x\x94.")
    said = found(folder).problem
    assert "is a pyfunc of MLflow: Python code that MLflow loads itself" in said
    source = said[said.index("import mlflow") :]
    compile(source, "model.py", "exec")
    assert f"load_model({str(folder)!r})" in source
    assert "'age': (\"FP64\", [-1]), 'rooms': (\"INT64\", [-1])" in source


def test_an_mlmodel_that_is_none(tmp_path: Path) -> None:
    mlmodel(tmp_path / "m", None, spark={"model_data": "x"})
    assert "it has: python_function, spark" in found(tmp_path / "m").problem
    (tmp_path / "m" / "MLmodel").write_text("a: [")
    assert "is not valid YAML" in found(tmp_path / "m").problem
