"""Named columns of models: read from the artefact, and answered as the framework answers a data frame."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaged import load
from real_tables import (
    NUMBERS,
    TEXTS,
    UNREAD,
    categorical,
    patients,
    write_lightgbm,
    write_pipeline,
    write_xgboost,
)

from salver.backends import reshaped
from salver.backends.discovery import backends, recogniser
from salver.backends.lightgbm import LightgbmBackend
from salver.backends.protocol import SIGNATURE, LoadOptions, RunnableModel
from salver.backends.sklearn import SklearnBackend
from salver.backends.xgboost import XgboostBackend
from salver.kernel.repository import Repository
from salver.parts import formats
from salver.testing.backends import manifest_of
from salver.words.artifacts import ModelConfig
from salver.words.errors import InvalidInput, LoadFailed
from salver.words.messages import NULL, Column, TensorSpec
from salver.words.tensor import Array, DataType

MARK = {SIGNATURE: np.array(0)}


@pytest.fixture(scope="module")
def frame() -> Any:
    return patients()


def sent(frame: Any, model: RunnableModel) -> dict[str, Array]:
    """The columns of a data frame as a request brings them."""
    table = model.signature.table
    assert table is not None
    columns = {}
    for spec in table.inputs:
        values = frame[spec.name]
        if spec.datatype is DataType.BYTES:
            texts = [NULL if pd.isna(value) else str(value).encode() for value in values]
            columns[spec.name] = np.array([*texts, b""], object)[:-1]
        elif spec.column is not None and spec.column.is_read:
            columns[spec.name] = values.to_numpy(spec.datatype.dtype)
        else:
            columns[spec.name] = np.full(len(frame), np.nan)
    return columns


def told(model: RunnableModel) -> dict[str, Column | None]:
    table = model.signature.table
    return {spec.name: spec.column for spec in table.inputs} if table else {}


def test_a_pipeline_says_what_its_columns_take(frame: Any, tmp_path: Path) -> None:
    own = write_pipeline(frame, tmp_path)
    model = load(SklearnBackend(), tmp_path / "model.skops")
    assert model.signature.table is model.signature and not model.signature.others
    assert told(model) == {
        UNREAD: Column(takes_null=True, is_read=False),
        "age": Column(takes_null=True),
        "bp": Column(takes_null=True),
        "s1": Column(takes_null=True),
        "weight": Column("text", takes_null=True),
        "sex": Column("text", ("female", "male")),
    }
    rows = frame[:100].drop(columns="fast")
    answer = model.run(sent(rows, model))
    np.testing.assert_allclose(answer["probabilities"], own.predict_proba(rows), atol=1e-12)
    model.close()


@pytest.mark.parametrize("booster", ["gbtree", "dart"])
def test_categories_of_xgboost(booster: str, frame: Any, tmp_path: Path) -> None:
    predict = write_xgboost(frame, tmp_path, booster=booster)
    model = load(XgboostBackend(), tmp_path / "model.ubj")
    assert [spec.name for spec in model.signature.inputs] == ["input"]
    assert told(model)["weight"] == Column("text", ("normal", "obese", "overweight"), takes_null=True)
    np.testing.assert_array_equal(
        model.run({**sent(frame, model), **MARK})["output"], predict(categorical(frame))
    )
    model.close()


def test_categories_of_lightgbm(frame: Any, tmp_path: Path) -> None:
    booster = write_lightgbm(frame, tmp_path)
    model = load(LightgbmBackend(), tmp_path / "model.txt")
    assert told(model)["sex"] == Column("text", ("female", "male"), takes_null=True)
    answer = model.run({**sent(frame, model), **MARK})
    np.testing.assert_array_equal(answer["output"], booster.predict(categorical(frame)))
    wrong = sent(frame[:3], model) | {"sex": np.array([b"male", NULL, b"divers"], object)}
    with pytest.raises(InvalidInput, match="row 2: column 'sex' has no category 'divers'") as refused:
        model.run({**wrong, **MARK})
    assert "Send one of: female, male, or null" in str(refused.value)
    model.close()


@given(st.lists(st.integers(0, 441), min_size=1, max_size=12))
def test_rows_together_answer_as_one_by_one(models: Any, indices: list[int]) -> None:
    for model, columns in models:
        mark = MARK if model.signature.others else {}
        together = model.run({name: values[indices] for name, values in columns.items()} | mark)
        for place, index in enumerate(indices):
            alone = model.run({name: values[[index]] for name, values in columns.items()} | mark)
            for name, values in together.items():
                if values.dtype.kind == "f":
                    np.testing.assert_allclose(values[place], alone[name][0], rtol=1e-12)
                else:
                    assert values[place] == alone[name][0]


@pytest.fixture(scope="module")
def models(frame: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("models")
    write_pipeline(frame, folder)
    write_xgboost(frame, folder)
    write_lightgbm(frame, folder)
    made = [
        load(SklearnBackend(), folder / "model.skops"),
        load(XgboostBackend(), folder / "model.ubj"),
        load(LightgbmBackend(), folder / "model.txt"),
    ]
    yield [(model, sent(frame, model)) for model in made]
    for model in made:
        model.close()


def test_categories_that_are_numbers(tmp_path: Path) -> None:
    import lightgbm

    table = pd.DataFrame({"shop": pd.Categorical([10, 20, 30] * 50), "price": np.arange(150.0)})
    settings = {"objective": "regression", "verbose": -1, "num_threads": 1, "min_data_per_group": 1}
    booster = lightgbm.train(settings, lightgbm.Dataset(table, np.arange(150) % 3), 5)
    booster.save_model(tmp_path / "m.txt")
    model = load(LightgbmBackend(), tmp_path / "m.txt")
    assert told(model)["shop"] == Column("number", (10, 20, 30), takes_null=True)
    columns = {"shop": table.shop.to_numpy("f8"), "price": table.price.to_numpy()}
    np.testing.assert_array_equal(model.run({**columns, **MARK})["output"], booster.predict(table))
    model.close()


def test_boosters_without_names_take_a_matrix_alone(tmp_path: Path) -> None:
    import lightgbm
    import xgboost

    x, y = np.random.default_rng(1).random((50, 3)), np.arange(50) % 2
    lightgbm.train({"verbose": -1, "num_threads": 1}, lightgbm.Dataset(x, y), 2).save_model(
        tmp_path / "m.txt"
    )
    xgboost.train({"nthread": 1}, xgboost.DMatrix(x, y), 2).save_model(tmp_path / "m.json")
    for backend, name in ((LightgbmBackend(), "m.txt"), (XgboostBackend(), "m.json")):
        assert load(backend, tmp_path / name).signature.table is None


def test_an_estimator_of_numbers_takes_both(frame: Any, tmp_path: Path) -> None:
    import skops.io
    from sklearn.linear_model import LinearRegression

    rows = frame[["age", "s1"]]
    own = LinearRegression().fit(rows, frame.fast == "yes")
    skops.io.dump(own, tmp_path / "m.skops")
    model = load(SklearnBackend(), tmp_path / "m.skops")
    assert [spec.name for spec in model.signature.inputs] == ["input"]
    assert told(model) == {"age": Column(), "s1": Column()}  # it takes no gaps
    np.testing.assert_array_equal(model.run({**sent(rows, model), **MARK})["prediction"], own.predict(rows))
    matrix = model.run({"input": rows.to_numpy("f4")})["prediction"]
    np.testing.assert_allclose(matrix, own.predict(rows), rtol=1e-5)
    model.close()


def test_categories_of_histogram_gradient_boosting(frame: Any, tmp_path: Path) -> None:
    import joblib
    from sklearn.ensemble import HistGradientBoostingClassifier

    rows = categorical(frame)
    own = HistGradientBoostingClassifier(max_iter=10, random_state=1).fit(rows, frame.fast)
    joblib.dump(own, tmp_path / "m.joblib")
    backend = SklearnBackend()
    model = backend.load(manifest_of(backend, tmp_path / "m.joblib"), LoadOptions(trust_pickle=True))
    assert {spec.name: spec.datatype.name for spec in model.signature.inputs} == {
        **dict.fromkeys(NUMBERS, "FP64"),
        **dict.fromkeys(TEXTS, "BYTES"),
    }
    np.testing.assert_array_equal(model.run(sent(rows, model))["probabilities"], own.predict_proba(rows))
    model.close()


@pytest.mark.parametrize("kind", ["lightgbm", "xgboost", "pipeline"])
def test_categories_of_boosters_with_the_interface_of_estimators(
    kind: str, frame: Any, tmp_path: Path
) -> None:
    import joblib
    import lightgbm
    import xgboost
    from sklearn.pipeline import make_pipeline

    rows, target = categorical(frame), (frame.fast == "yes").astype(int)
    own: Any = lightgbm.LGBMClassifier(n_estimators=5, verbose=-1, n_jobs=1)
    if kind == "xgboost":
        own = xgboost.XGBClassifier(n_estimators=5, n_jobs=1, enable_categorical=True)
    own = make_pipeline(own) if kind == "pipeline" else own
    joblib.dump(own.fit(rows, target), tmp_path / "m.joblib")
    backend = SklearnBackend()
    model = backend.load(manifest_of(backend, tmp_path / "m.joblib"), LoadOptions(trust_pickle=True))
    assert [spec.name for spec in model.signature.inputs] == ["input"]  # of codes, as before
    assert told(model)["sex"] == Column("text", ("female", "male"), takes_null=True)
    answer = model.run({**sent(rows, model), **MARK})
    np.testing.assert_allclose(answer["probabilities"], own.predict_proba(rows), rtol=1e-6)
    wrong = sent(frame[:2], model) | {"sex": np.array([b"male", b"divers"], object)}
    with pytest.raises(InvalidInput, match="row 1: column 'sex' has no category 'divers'"):
        model.run({**wrong, **MARK})
    model.close()


def test_categories_behind_another_step_are_not_those_of_callers(tmp_path: Path) -> None:
    import joblib
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

    table = pd.DataFrame({"plan": ["Free", "PRO", "pro", "free"]})
    lowered = make_pipeline(FunctionTransformer(lower), OneHotEncoder())
    own = make_pipeline(ColumnTransformer([("plan", lowered, ["plan"])]), LinearRegression())
    joblib.dump(own.fit(table, [1, 2, 2, 1]), tmp_path / "m.joblib")
    backend = SklearnBackend()
    model = backend.load(manifest_of(backend, tmp_path / "m.joblib"), LoadOptions(trust_pickle=True))
    assert told(model) == {"plan": Column("text")}
    answer = model.run({"plan": np.array([b"FREE", b"Pro"], object)})["prediction"]
    np.testing.assert_allclose(answer, [1, 2])
    model.close()


def lower(table: Any) -> Any:
    return table.apply(lambda column: column.str.lower())


def months(table: Any) -> Array:
    found: Array = table.apply(lambda column: column.dt.month).fillna(0).to_numpy("f8")
    return found


def test_dates_of_an_mlflow_signature(tmp_path: Path) -> None:
    import joblib
    import yaml
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    table = pd.DataFrame({"when": pd.date_range("2011-01-01", periods=60, freq="8D"), "rooms": range(60)})
    split = ColumnTransformer(
        [("when", FunctionTransformer(months), ["when"]), ("rooms", "passthrough", ["rooms"])]
    )
    own = make_pipeline(split, LinearRegression()).fit(table, table.when.dt.month * 3.0 + table.rooms)
    joblib.dump(own, tmp_path / "model.pkl")
    columns = [{"type": "datetime", "name": "when"}, {"type": "long", "name": "rooms"}]
    said = {
        "flavors": {"sklearn": {"pickled_model": "model.pkl"}},
        "signature": {"inputs": json.dumps(columns), "outputs": None},
    }
    (tmp_path / "MLmodel").write_text(yaml.safe_dump(said))
    (manifest,) = Repository((tmp_path,), formats(recogniser(backends()))).scan(0.0)
    model = reshaped.load(SklearnBackend(), manifest, LoadOptions(trust_pickle=True))
    assert told(model) == {"when": Column("date", takes_null=True), "rooms": Column()}
    days = np.array([b"2011-03-04T00:00:00", NULL], object)
    lacking = pd.DataFrame({"when": pd.to_datetime(["2011-03-04", None]), "rooms": [1.0, 2.0]})
    answer = model.run({"when": days, "rooms": np.array([1.0, 2.0])})["prediction"]
    np.testing.assert_allclose(answer, own.predict(lacking), rtol=1e-12)
    with pytest.raises(InvalidInput, match="input 'when' holds what is no date"):
        model.run({"when": np.array([b"May"], object), "rooms": np.ones(1)})
    backend = SklearnBackend()
    wrong = msgspec.structs.replace(manifest, columns=(), config=ModelConfig(options={"dates": "day"}))
    with pytest.raises(LoadFailed, match="option dates names 'day', which is no column"):
        backend.load(wrong, LoadOptions(trust_pickle=True))
    model.close()


def test_words_of_the_owner_keep_the_columns(frame: Any, tmp_path: Path) -> None:
    write_pipeline(frame, tmp_path)
    age = ModelConfig(inputs=(TensorSpec("age", DataType.INT64, (-1,)),))
    model = load(SklearnBackend(), tmp_path / "model.skops", age)
    table = model.signature.table
    assert table is not None and table.inputs[1].datatype is DataType.INT64
    model.close()


def test_columns_travel_between_processes(frame: Any, tmp_path: Path) -> None:
    from salver.words.messages import Signature

    write_lightgbm(frame, tmp_path)
    signature = load(LightgbmBackend(), tmp_path / "model.txt").signature
    seen = {spec.column for each in signature.others for spec in each.inputs}
    assert len(seen) > 2
    for column in seen:
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(column), type=Column) == column
        assert json.loads(msgspec.json.encode(column))["takes_null"] is True
    assert isinstance(signature, Signature)
