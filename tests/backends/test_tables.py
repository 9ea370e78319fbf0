"""Estimators on tables: named columns of mixed types, linear boosters, and the files they come in."""

import bz2
import gzip
import lzma
import pickle
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaged import load

from salver.backends.lightgbm import LightgbmBackend
from salver.backends.protocol import LoadOptions
from salver.backends.sklearn import SklearnBackend
from salver.backends.xgboost import XgboostBackend
from salver.testing.backends import manifest_of
from salver.words.artifacts import ModelConfig
from salver.words.errors import InvalidInput, LoadFailed
from salver.words.messages import TensorSpec
from salver.words.tensor import Array, DataType, as_bytes

TRUSTING = LoadOptions(trust_pickle=True)


def customers(count: int) -> tuple[dict[str, Array], Array]:
    """Who leaves: short contracts, high bills, no partner. Made, with a little chance in it."""
    random = np.random.default_rng(5)
    table = {
        "tenure": random.integers(0, 72, count),
        "contract": random.choice(["month", "year", "two years"], count),
        "monthly": random.uniform(20, 120, count).round(2),
        "partner": random.choice(["yes", "no"], count),
    }
    risk = (
        (table["contract"] == "month") * 2.0
        + (table["monthly"] - 70) / 25
        - table["tenure"] / 24
        + (table["partner"] == "no") * 0.5
        + random.normal(0, 0.3, count)
    )
    return table, np.where(risk > 0.5, "leaves", "stays")


class TestMixedTypes:
    @pytest.fixture(scope="class")
    @classmethod
    def churn(cls, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
        import pandas
        import skops.io
        from sklearn.compose import ColumnTransformer
        from sklearn.impute import SimpleImputer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import OneHotEncoder, StandardScaler

        table, left = customers(600)
        prepare = ColumnTransformer(
            [
                ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["tenure", "monthly"]),
                ("words", OneHotEncoder(handle_unknown="ignore"), ["contract", "partner"]),
            ]
        )
        pipeline = make_pipeline(prepare, LogisticRegression()).fit(pandas.DataFrame(table), left)
        path = tmp_path_factory.mktemp("churn") / "model.skops"
        skops.io.dump(pipeline, path)
        return path, pipeline

    def test_each_column_is_an_input(self, churn: tuple[Path, Any]) -> None:
        model = load(SklearnBackend(), churn[0])
        kinds = {s.name: s.datatype.name for s in model.signature.inputs}
        assert kinds == {"tenure": "FP64", "contract": "BYTES", "monthly": "FP64", "partner": "BYTES"}
        assert model.signature.batched and all(s.shape == (-1,) for s in model.signature.inputs)
        model.close()

    def test_answers_are_the_pipelines_own(self, churn: tuple[Path, Any]) -> None:
        import pandas

        path, pipeline = churn
        table, left = customers(900)
        held = {name: values[600:] for name, values in table.items()}
        model = load(SklearnBackend(), path)
        sent = {n: as_bytes(v) if v.dtype.kind == "U" else v.astype("f8") for n, v in held.items()}
        out = model.run(sent)
        model.close()
        frame = pandas.DataFrame(held)
        np.testing.assert_allclose(out["probabilities"], pipeline.predict_proba(frame), atol=1e-12)
        labels = [value.decode() for value in out["label"].tolist()]
        assert labels == pipeline.predict(frame).tolist()
        assert np.mean(np.array(labels) == left[600:]) > 0.9

    def test_gaps_and_unknown_words_are_what_the_pipeline_makes_of_them(
        self, churn: tuple[Path, Any]
    ) -> None:
        model = load(SklearnBackend(), churn[0])
        out = model.run(
            {
                "tenure": np.array([np.nan]),
                "monthly": np.array([50.0]),
                "contract": np.array([b"decade"], object),
                "partner": np.array([b"no"], object),
            }
        )
        assert np.isfinite(out["probabilities"]).all()
        bad = {"contract": np.array([b"\xff"], object), "partner": np.array([b"no"], object)}
        with pytest.raises(InvalidInput, match="'contract' holds text that is not UTF-8"):
            model.run({"tenure": np.ones(1), "monthly": np.ones(1), **bad})
        model.close()


@pytest.fixture(scope="module")
def estimator() -> Any:
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=300).fit(*load_iris(return_X_y=True))


def pack(method: str, level: int) -> Callable[[Any, Path], Any]:
    import joblib

    return lambda model, path: joblib.dump(model, path, compress=(method, level))


class TestPickles:
    WRITERS = (
        pytest.param(lambda m, p: p.write_bytes(pickle.dumps(m)), id="pickle"),
        pytest.param(lambda m, p: p.write_bytes(pickle.dumps(m, 2)), id="protocol 2"),
        pytest.param(lambda m, p: pack("zlib", 0)(m, p), id="joblib"),
        *(
            pytest.param(lambda m, p, kind=kind, level=level: pack(kind, level)(m, p), id=f"{kind} {level}")
            for kind in ("zlib", "gzip", "bz2", "xz", "lzma")
            for level in (1, 3, 9)
        ),
    )

    @pytest.mark.parametrize("write", WRITERS)
    def test_it_is_refused_with_both_ways_out_and_served_when_trusted(
        self, write: Callable[[Any, Path], Any], estimator: Any, tmp_path: Path
    ) -> None:
        path = tmp_path / "model.pkl"
        write(estimator, path)
        backend = SklearnBackend()
        assert backend.recognise(path) == "pickle"
        with pytest.raises(LoadFailed) as refused:
            load(backend, path)
        for part in (
            str(path),
            "runs whatever code its maker put into it",
            "--trust-pickle",
            "skops.io.dump",
        ):
            assert part in str(refused.value)
        model = backend.load(manifest_of(backend, path), TRUSTING)
        x = np.array([[5.1, 3.5, 1.4, 0.2], [6.2, 2.9, 5.4, 2.3]], "f4")
        assert model.run({"input": x})["label"].tolist() == [0, 2]
        model.close()

    def test_another_version_of_scikit_learn_is_told(
        self,
        estimator: Any,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("sklearn.base.__version__", "1.2.3")
            (tmp_path / "m.pkl").write_bytes(pickle.dumps(estimator))
        backend = SklearnBackend()
        backend.load(manifest_of(backend, tmp_path / "m.pkl"), TRUSTING).close()
        (record,) = caplog.records
        assert "model model:1 was saved by scikit-learn 1.2.3 and runs on" in record.getMessage()

    def test_the_way_out_works_as_written(self, estimator: Any, tmp_path: Path) -> None:
        import subprocess
        import sys

        (tmp_path / "model.pkl").write_bytes(pickle.dumps(estimator))
        with pytest.raises(LoadFailed) as refused:
            load(SklearnBackend(), tmp_path / "model.pkl")
        code = "import joblib" + str(refused.value).partition("import joblib")[2]
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)
        model = load(SklearnBackend(), tmp_path / "model.skops")
        assert model.run({"input": np.array([[5.1, 3.5, 1.4, 0.2]], "f4")})["label"].tolist() == [0]
        model.close()

    def test_recognition_and_refusal_run_nothing(self, tmp_path: Path) -> None:
        class Trap:
            def __reduce__(self) -> tuple[Any, ...]:
                return (Path.touch, (tmp_path / "sprung",))

        for number, content in enumerate((pickle.dumps(Trap()), zlib.compress(pickle.dumps(Trap())))):
            path = tmp_path / f"{number}.pkl"
            path.write_bytes(content)
            with pytest.raises(LoadFailed, match="trust-pickle"):
                load(SklearnBackend(), path)
        assert not (tmp_path / "sprung").exists()

    @pytest.mark.parametrize("compress", [zlib.compress, gzip.compress, bz2.compress, lzma.compress])
    @pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps({"a": 1}), pickle.dumps(np.ones(9))])
    def test_other_compressed_files_are_nothing(
        self, compress: Callable[[bytes], bytes], content: bytes, tmp_path: Path
    ) -> None:
        (tmp_path / "m").write_bytes(compress(content))
        assert SklearnBackend().recognise(tmp_path / "m") is None

    def test_a_bomb_costs_a_bounded_look(self, tmp_path: Path) -> None:
        bomb = zlib.compress(bytes(64 << 20), 9)
        (tmp_path / "m").write_bytes(bomb)
        assert len(bomb) < 100_000
        import tracemalloc

        tracemalloc.start()
        assert SklearnBackend().recognise(tmp_path / "m") is None
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 4 << 20


def test_types_that_skops_does_not_trust_are_named(tmp_path: Path) -> None:
    import skops.io
    from sklearn.preprocessing import FunctionTransformer

    skops.io.dump(FunctionTransformer(np.fliplr).fit(np.ones((3, 2))), tmp_path / "m.skops")
    with pytest.raises(LoadFailed) as refused:
        load(SklearnBackend(), tmp_path / "m.skops")
    said = str(refused.value)
    assert "holds types that skops does not trust: numpy.fliplr" in said
    assert '[options] trusted = "numpy.fliplr"' in said
    model = load(SklearnBackend(), tmp_path / "m.skops", ModelConfig(options={"trusted": "numpy.fliplr"}))
    assert model.run({"input": np.array([[1, 2]], "f4")})["output"].tolist() == [[2, 1]]
    model.close()


def estimators() -> Iterator[Any]:
    """What to save, fitted on the first 100 rows of a set, and which of its methods answers."""
    from sklearn.cluster import KMeans
    from sklearn.datasets import load_diabetes, load_iris
    from sklearn.decomposition import PCA
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LinearRegression
    from sklearn.svm import LinearSVC

    rows, target = load_diabetes(return_X_y=True)
    flowers, kinds = load_iris(return_X_y=True)
    yield "regressor", LinearRegression().fit(rows, target), rows, {"prediction": "predict"}
    yield "several", LinearRegression().fit(rows[:, 2:], rows[:, :2]), rows[:, 2:], {"prediction": "predict"}
    yield "margins only", LinearSVC().fit(flowers, kinds), flowers, {"label": "predict"}
    yield "clusters", KMeans(3, n_init=1, random_state=1).fit(flowers), flowers, {"label": "predict"}
    yield "transformer", PCA(2).fit(flowers), flowers, {"output": "transform"}
    forest = RandomForestClassifier(5, n_jobs=1, random_state=1).fit(flowers, kinds)
    yield "forest", forest, flowers, {"label": "predict", "probabilities": "predict_proba"}


def test_kinds_of_estimators_answer_as_they_do_themselves(tmp_path: Path) -> None:
    import skops.io

    for name, estimator, rows, methods in estimators():
        path = tmp_path / f"{name}.skops"
        skops.io.dump(estimator, path)
        trees = {"trusted": "sklearn.tree._tree.Tree"} if name == "forest" else {}
        model = load(SklearnBackend(), path, ModelConfig(options=trees))
        x = rows.astype("f4")
        out = model.run({"input": x})
        model.close()
        assert set(out) == set(methods), name
        for output, method in methods.items():
            expected = getattr(estimator, method)(x.astype("f8"))
            np.testing.assert_allclose(out[output], expected, rtol=1e-4, atol=1e-5, err_msg=name)


class TestTexts:
    """A pipeline that begins with a vectoriser takes texts, one a row."""

    GOOD = ("a warm friendly helpful place", "lovely food and friendly people", "helpful staff, warm soup")
    BAD = ("cold soup and rude staff", "slow, rude, dirty", "dirty cold place, never again")

    @pytest.fixture(scope="class", params=["tfidf", "hashing"])
    @classmethod
    def path(cls, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
        import skops.io
        from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        first = TfidfVectorizer() if request.param == "tfidf" else HashingVectorizer(n_features=4096)
        pipeline = make_pipeline(first, LogisticRegression()).fit(
            cls.GOOD + cls.BAD, ["good"] * 3 + ["bad"] * 3
        )
        path = tmp_path_factory.mktemp("texts") / "m.skops"
        skops.io.dump(pipeline, path)
        return path

    def test_it_reads_them(self, path: Path) -> None:
        model = load(SklearnBackend(), path)
        (spec,) = model.signature.inputs
        assert (spec.datatype.name, spec.shape) == ("BYTES", (-1,))
        out = model.run({"input": as_bytes(["friendly and warm", "rude and dirty", "", "日本"])})
        assert out["label"].tolist()[:2] == [b"good", b"bad"]
        assert out["probabilities"].shape == (4, 2)
        with pytest.raises(InvalidInput, match="'input' holds text that is not UTF-8"):
            model.run({"input": np.array([b"\xff"], object)})
        model.close()


@pytest.mark.parametrize("wish", ["value", "margin"])
def test_lightgbm_gives_scores_or_margins(wish: str, tmp_path: Path) -> None:
    import lightgbm
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    settings = {"objective": "binary", "verbose": -1, "num_threads": 1}
    booster = lightgbm.train(settings, lightgbm.Dataset(x, y), 10)
    booster.save_model(tmp_path / "m.txt")
    double = (TensorSpec("input", DataType.FP64, (-1, 30)),)
    model = load(LightgbmBackend(), tmp_path / "m.txt", ModelConfig(inputs=double, options={"output": wish}))
    out = model.run({"input": x})["output"]
    model.close()
    assert np.array_equal(out, booster.predict(x, raw_score=wish == "margin"))


class TestXgboost:
    def booster(self, path: Path, **settings: Any) -> tuple[Any, Array]:
        import xgboost
        from sklearn.datasets import load_wine

        x, y = load_wine(return_X_y=True)
        x = x.astype("f4")
        settings = {"nthread": 1, "verbosity": 0, "seed": 1} | settings
        booster = xgboost.train(settings, xgboost.DMatrix(x, y), 10)
        booster.save_model(path)
        return booster, x

    @pytest.mark.parametrize("kind", ["gbtree", "dart", "gblinear"])
    @pytest.mark.parametrize("wish", ["value", "margin"])
    def test_each_booster_answers_as_it_does_itself(self, kind: str, wish: str, tmp_path: Path) -> None:
        import xgboost

        settings = {"booster": kind, "objective": "multi:softprob", "num_class": 3}
        booster, x = self.booster(tmp_path / "m.json", **settings)
        model = load(XgboostBackend(), tmp_path / "m.json", ModelConfig(options={"output": wish}))
        out = model.run({"input": x})["output"]
        model.close()
        expected = booster.predict(xgboost.DMatrix(x), output_margin=wish == "margin")
        np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)

    def test_threads_share_a_linear_booster(self, tmp_path: Path) -> None:
        from concurrent.futures import ThreadPoolExecutor

        _, x = self.booster(tmp_path / "m.json", booster="gblinear", objective="reg:squarederror")
        model = load(XgboostBackend(), tmp_path / "m.json")
        expected = model.run({"input": x})["output"]
        with ThreadPoolExecutor(4) as pool:
            for out in pool.map(model.run, [{"input": x}] * 40):
                assert np.array_equal(out["output"], expected)
        model.close()

    @pytest.mark.parametrize("start", [b"binf", b"bs64"])
    def test_the_old_binary_format_is_refused_with_a_way_out(self, start: bytes, tmp_path: Path) -> None:
        (tmp_path / "m.model").write_bytes(start + bytes(200))
        with pytest.raises(LoadFailed, match=r"old binary format.*save_model\('model.ubj'\)"):
            load(XgboostBackend(), tmp_path / "m.model")
