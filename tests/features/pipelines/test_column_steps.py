"""Steps on columns of a table: each against scikit-learn's transformer, and with the conformance suite."""

# ruff: noqa: RUF012  # what a suite is given

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction import FeatureHasher
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    KBinsDiscretizer,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)
from sklearn.utils import murmurhash3_32

import salver.pipelines
from salver.features.pipelines.steps.dates import Dates
from salver.features.pipelines.steps.hashing import Hash, murmur3
from salver.features.pipelines.steps.step import step_class
from salver.testing.steps import StepConformance
from salver.words.errors import InvalidInput, LoadFailed
from salver.words.messages import NULL

NOWHERE = Path("/nowhere")
NAN = math.nan
RANDOM = np.random.default_rng(3)
ROWS = 200


class TestImpute(StepConformance):
    name, options = "impute", {"values": {"age": 4.5, "plan": "basic"}}
    inputs = {"age": [1.0, NAN], "plan": np.array([NULL, b"gold"], object)}
    outputs = {"age": [1.0, 4.5], "plan": ["basic", "gold"]}


class TestScale(StepConformance):
    name, options = "scale", {"values": {"age": [2.0, 4.0]}}
    inputs, outputs = {"age": np.array([2, 10], np.int32)}, {"age": [0.0, 2.0]}


class TestOneHot(StepConformance):
    name = "one-hot"
    options = {"values": {"plan": ["gold", None], "size": [1.0, 3.0]}, "unknown": "zeros"}
    inputs = {"plan": np.array([b"gold", NULL, b"x"], object), "size": [3, 1, 2]}
    outputs = {"plan": [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], "size": [[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]}


class TestOrdinal(StepConformance):
    name, options = "ordinal", {"values": {"plan": ["gold", "basic"]}, "unknown": -1.0}
    inputs = {"plan": np.array([b"basic", b"gold", b"x", NULL], object)}
    outputs = {"plan": [1.0, 0.0, -1.0, NAN]}


class TestBucketise(StepConformance):
    name, options = "bucketise", {"values": {"age": [18.0, 65.0]}}
    inputs, outputs = {"age": [17.9, 18.0, 64.0, 70.0]}, {"age": [0.0, 1.0, 1.0, 2.0]}


class TestHash(StepConformance):
    name, options = "hash", {"columns": ("city",), "features": 4}
    inputs = {"city": np.array([b"Oslo", NULL], object)}
    outputs = {"hashed": FeatureHasher(4).transform([{"city": "Oslo"}, {}]).toarray()}


class TestDates(StepConformance):
    name, options = "dates", {"columns": ("day",), "parts": ("year", "hour", "weekday"), "zone": "Asia/Tokyo"}
    inputs = {"day": np.array([b"2026-01-31", b"2026-01-31T23:00:00-01:00", NULL], object)}
    outputs = {"day": [[2026.0, 9.0, 5.0], [2026.0, 9.0, 6.0], [NAN, NAN, NAN]]}


class TestMatrix(StepConformance):
    name, options = "matrix", {"columns": ("age", "plan")}
    inputs = {"plan": [[1.0, 0.0], [0.0, 1.0]], "age": np.array([3, 4], np.uint8)}
    outputs = {"matrix": np.array([[3, 1, 0], [4, 0, 1]], np.float32)}


def frame() -> pd.DataFrame:
    rows = RANDOM.normal(50, 20, ROWS)
    rows[::7] = NAN
    return pd.DataFrame(
        {
            "age": rows,
            "bill": RANDOM.exponential(30, ROWS),
            "size": RANDOM.integers(0, 4, ROWS),
            "plan": pd.Series(RANDOM.choice(["gold", "basic", "ünder"], ROWS)).where(np.arange(ROWS) % 9 > 0),
            "left": RANDOM.normal(size=ROWS),
        }
    )


TRANSFORMERS = {
    "mean and standard": (["age", "bill"], make_pipeline(SimpleImputer(), StandardScaler())),
    "median and robust": (["age", "bill"], make_pipeline(SimpleImputer(strategy="median"), RobustScaler())),
    "min-max": (["age", "bill"], MinMaxScaler((-1, 3))),
    "constant": (["age"], SimpleImputer(strategy="constant", fill_value=-1)),
    "scale alone": (["age"], StandardScaler(with_mean=False)),
    "one-hot": (
        ["plan"], make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(sparse_output=False)),
    ),
    "one-hot of missing": (["plan"], OneHotEncoder(sparse_output=False)),
    "one-hot of numbers": (["size"], OneHotEncoder(sparse_output=False)),
    "ordinal": (["plan", "size"], OrdinalEncoder()),
    "buckets": (["bill"], KBinsDiscretizer(5, encode="ordinal", quantile_method="averaged_inverted_cdf")),
    "one-hot of buckets": (
        ["bill"], KBinsDiscretizer(5, encode="onehot-dense", quantile_method="averaged_inverted_cdf"),
    ),
}  # fmt: skip
STEPS = ("impute", "bucketise", "scale", "one-hot", "ordinal")


def served(folder: Path, transformer, columns=None) -> salver.pipelines.Pipeline:
    """Return the pipeline of steps with the values of a fitted transformer."""
    values = salver.pipelines.fitted_values(transformer, columns)
    (folder / "fitted.json").write_text(json.dumps(values))
    lines = [f'{kind}_ = {{ use = "{kind}", fitted = "fitted.json" }}' for kind in STEPS if kind in values]
    lines.append('row_ = { use = "matrix", fitted = "fitted.json", to = "FP64" }')
    (folder / "pipeline.toml").write_text("[steps]\n" + "\n".join(lines))
    return salver.pipelines.load(folder)


def columns_of(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return the columns as callers send them."""
    return {
        name: np.array([NULL if value != value else value.encode() for value in values], object)
        if values.dtype.kind == "O" or str(values.dtype) == "str"
        else values.to_numpy()
        for name, values in table.items()
    }


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_steps_give_what_the_fitted_transformer_gives(name, tmp_path):
    columns, transformer = TRANSFORMERS[name]
    table = frame()[columns]
    wanted = transformer.fit(table).transform(table)
    with served(tmp_path, transformer) as pipeline:
        given = columns_of(table)
        np.testing.assert_allclose(pipeline(given)["matrix"], wanted, rtol=1e-12, atol=1e-14)
        one = {column: values[3:4] for column, values in given.items()}
        np.testing.assert_array_equal(pipeline(one)["matrix"], pipeline(given)["matrix"][3:4])


def test_a_column_transformer_becomes_steps_in_its_order(tmp_path):
    table = frame()
    prepare = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["bill", "age"]),
            ("texts", TRANSFORMERS["one-hot"][1], ["plan"]),
            ("as it is", "passthrough", ["size"]),
        ]
    ).fit(table)
    with served(tmp_path, prepare) as pipeline:
        columns = {spec.name: spec.column.kind for spec in pipeline.signature.inputs}
        assert columns == {"bill": "number", "age": "number", "plan": "text", "size": "number"}
        given = columns_of(table.drop(columns="left"))
        np.testing.assert_allclose(pipeline(given)["matrix"], prepare.transform(table), rtol=1e-12)


@pytest.mark.parametrize(
    ("transformer", "said"),
    [
        (PolynomialFeatures(), "there is no step for PolynomialFeatures"),
        (OneHotEncoder(drop="first"), "drop='first'"),
        (SimpleImputer(add_indicator=True), "add_indicator=True"),
        (make_pipeline(StandardScaler(), SimpleImputer()), "impute comes behind scale"),
        (
            ColumnTransformer([("a", StandardScaler(), ["a"]), ("b", "passthrough", ["a"])]),
            "'a' is read twice",
        ),
    ],
)
def test_what_no_step_does_is_refused(transformer, said):
    transformer.fit(pd.DataFrame({"a": [1.0, 2.0]}))
    with pytest.raises(InvalidInput, match=said):
        salver.pipelines.fitted_values(transformer)


@given(st.binary(max_size=40))
def test_murmur3_is_that_of_scikit_learn(data):
    assert murmur3(data) == murmurhash3_32(data, 0)


@given(st.lists(st.tuples(st.text(max_size=12), st.text(max_size=12)), min_size=1, max_size=5), st.booleans())
def test_hashing_is_that_of_feature_hasher(rows, signed):
    run = Hash(columns=("a", "b"), features=7, signed=signed).open(NOWHERE)
    given_ = {name: np.array([row[i].encode() for row in rows], object) for i, name in enumerate("ab")}
    reference = FeatureHasher(7, alternate_sign=signed)
    wanted = reference.transform([{"a": a, "b": b} for a, b in rows]).toarray()
    np.testing.assert_array_equal(run(given_)["hashed"], wanted)


@settings(max_examples=50)
@given(st.integers(0, 4_000_000_000), st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns"]))
def test_parts_of_dates_are_those_of_pandas(seconds, zone):
    """Cycles return to where they began, and a text means the same as its seconds."""
    parts = (
        "year",
        "month",
        "day",
        "hour",
        "minute",
        "second",
        "weekday",
        "day-of-year",
        "epoch",
        "day-cycle",
    )
    time = datetime.fromtimestamp(seconds, UTC).astimezone(ZoneInfo(zone))
    run = Dates(columns=("t",), parts=parts, zone=zone, form="epoch").open(NOWHERE)
    found = run({"t": np.array([seconds])})["t"][0]
    stamp = pd.Timestamp(seconds, unit="s", tz="UTC").tz_convert(zone)
    wanted = [stamp.year, stamp.month, stamp.day, stamp.hour, stamp.minute, stamp.second, stamp.weekday()]
    assert found[:9].tolist() == [*wanted, stamp.day_of_year, seconds]
    angle = math.atan2(found[9], found[10]) / (2 * math.pi) % 1 * 86_400
    of_day = timedelta(hours=time.hour, minutes=time.minute, seconds=time.second).total_seconds()
    assert min(abs(angle - of_day), 86_400 - abs(angle - of_day)) < 1e-6
    text = np.array([time.isoformat().encode()], object)
    iso = Dates(columns=("t",), parts=parts, zone=zone).open(NOWHERE)
    np.testing.assert_array_equal(iso({"t": text})["t"][0], found)


REFUSED = [
    ("one-hot", {"values": {"a": ["x"]}}, {"a": [b"y"]}, "row 0: column 'a' has no category 'y'"),
    ("one-hot", {"values": {"a": ["x"]}}, {"a": [NULL]}, "is missing, and no category stands for that"),
    ("ordinal", {"values": {"a": [1.0]}}, {"a": [1.0, 2.0]}, "row 1: column 'a' has no category '2.0'"),
    ("bucketise", {"values": {"a": [1.0]}}, {"a": [0.0, NAN]}, "row 1: column 'a' is missing"),
    ("dates", {"columns": ("a",)}, {"a": [b"soon"]}, "must be a date of ISO 8601, not 'soon'"),
    ("dates", {"columns": ("a",), "form": "epoch"}, {"a": [1e300]}, "must be seconds since 1970"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "options", "inputs", "said"), REFUSED)
def test_a_value_that_does_not_fit_is_refused_with_its_place(kind, options, inputs, said):
    run = step_class(kind)(**options).open(NOWHERE)
    dtype = object if isinstance(inputs["a"][0], bytes) else float
    with pytest.raises(InvalidInput, match=said):
        run({"a": np.array(inputs["a"], dtype)})


BROKEN = [
    ("impute", {}, "there are no values by column"),
    ("impute", {"values": {"a": [1]}}, "the values of 'a' must be a number or a text"),
    ("impute", {"values": {"a.b": 1}}, "'a.b' is empty or has a dot"),
    ("impute", {"fitted": "fitted.json"}, "has no values for the step impute"),
    ("impute", {"fitted": "../fitted.json"}, "outside"),
    ("impute", {"fitted": "absent.json"}, "cannot be read"),
    ("scale", {"values": {"a": [1, 0]}}, "the scale of 'a' is 0"),
    ("scale", {"fitted": "fitted.json", "columns": ("b",)}, "no values for the column 'b'"),
    ("scale", {"fitted": "fitted.json", "values": {"a": [1, 1]}}, "both `values` and `fitted`"),
    ("one-hot", {"values": {"a": ["x", 1]}}, "must be a list of texts, or of numbers"),
    ("one-hot", {"values": {"a": ["x", "x"]}}, "each once"),
    ("bucketise", {"values": {"a": [2, 1]}}, "ascending numbers"),
    ("matrix", {}, "there are no columns"),
    ("hash", {"columns": ("a",), "features": 0}, "`features` must be from 1"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "options", "said"), BROKEN)
def test_options_that_do_not_fit_are_refused(kind, options, said, tmp_path):
    (tmp_path / "fitted.json").write_text('{"scale": {"a": [0, 1]}}')
    with pytest.raises(LoadFailed, match=said):
        step_class(kind)(**options).described(tmp_path)


def test_an_unknown_time_zone_is_refused():
    with pytest.raises(LoadFailed, match="no time zone 'Mars/Base'"):
        Dates(columns=("a",), zone="Mars/Base").open(NOWHERE)


def test_a_step_with_the_name_of_a_column_is_refused(tmp_path):
    (tmp_path / "pipeline.toml").write_text('[steps]\nage = { use = "impute", values = { age = 1 } }')
    with pytest.raises(LoadFailed, match="step `age` has the name of a column that `age` reads"):
        salver.pipelines.load(tmp_path)
