"""Steps that combine models: each beside its formula, and branches that run on their rows only."""

# ruff: noqa: RUF012  # what a suite is given

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline_graphs import planned, signature
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

import salver.pipelines
from salver.features.pipelines.steps.ensembles import Average, Route, Stack, Unsure, Vote
from salver.testing.steps import StepConformance
from salver.words.errors import InvalidInput, LoadFailed

NOWHERE = Path("/nowhere")
RANDOM = np.random.default_rng(6)
A, B = (softmax(RANDOM.normal(size=(4, 3)) * 2, axis=1).astype(np.float32) for _ in range(2))
GATES = np.array([[1, 0], [0, 1], [0.25, 0.75], [0.5, 0.5]], np.float32)


class TestAverage(StepConformance):
    name, inputs, outputs = "average", {"a": A, "b": B}, {"scores": (A + B) / 2}


class TestAverageOfWeights(StepConformance):
    name, options = "average", {"weights": {"b": 3, "a": 1}}
    inputs, outputs = {"a": A, "b": B}, {"scores": A / 4 + B * 3 / 4}


class TestGeometricAverage(StepConformance):
    name, options = "average", {"by": "geometric"}
    inputs, outputs = {"a": A, "b": B}, {"scores": softmax((np.log(A) + np.log(B)) / 2, axis=1)}


class TestAverageByGates(StepConformance):
    name, inputs = "average", {"gates": GATES, "a": A, "b": B}
    outputs = {"scores": A * GATES[:, :1] + B * GATES[:, 1:]}


class TestAverageOfNumbers(StepConformance):
    name, inputs, outputs = "average", {"a": A[:, 0], "b": B[:, 0]}, {"scores": (A + B)[:, 0] / 2}


class TestVote(StepConformance):
    name, inputs = "vote", {"a": [1, 2, 3], "b": [1, 3, 2], "c": [0, 3, 1]}
    outputs = {"index": [1, 3, 3], "share": np.array([2 / 3, 2 / 3, 1 / 3], np.float32)}


class TestVoteOfWeights(StepConformance):
    name, options = "vote", {"weights": {"a": 1, "b": 1, "c": 3}}
    inputs = {"a": [1, 2], "b": [1, 3], "c": [0, 3]}
    outputs = {"index": [0, 3], "share": np.array([0.6, 0.8], np.float32)}


class TestUnsure(StepConformance):
    name, options = "unsure", {"limit": 0.6}
    inputs = {"scores": [[0.6, 0.4], [0.5, 0.5], [0.0, 1.0], [np.nan, 0.9]]}
    outputs = {"unsure": [False, True, False, True]}


class TestUnsureOfOneScore(StepConformance):
    name, inputs = "unsure", {"scores": [[0.05], [0.95], [0.5]]}
    outputs = {"unsure": [False, False, True]}


class TestUnsureByMargin(StepConformance):
    name, options = "unsure", {"by": "margin", "limit": 0.2}
    inputs = {"scores": [[0.5, 0.3, 0.2], [0.4, 0.35, 0.25]]}
    outputs = {"unsure": [False, True]}


class TestUnsureByEntropy(StepConformance):
    name, options = "unsure", {"by": "entropy", "limit": 0.9}
    inputs = {"scores": [[1 / 3] * 3, [0.98, 0.01, 0.01], [1.0, 0.0, 0.0]]}
    outputs = {"unsure": [True, False, False]}


class TestRoute(StepConformance):
    name, options = "route", {"branches": ("day", "night"), "k": 1}
    inputs = {"scores": [[0.9, 0.1], [0.5, 0.5], [0.0, 0.2]]}
    outputs = {"gates": [[1.0, 0], [1, 0], [0, 1]], "day": [True, True, False], "night": [False, False, True]}


class TestRouteOfTwo(StepConformance):
    name, options = "route", {"branches": ("a", "b", "c"), "k": 2}
    inputs = {"scores": [[0.6, 0.1, 0.2], [0.0, 0.0, 0.0]]}
    outputs = {
        "gates": [[0.75, 0.0, 0.25], [0.5, 0.5, 0.0]],
        "a": [True, True],
        "b": [False, True],
        "c": [True, False],
    }


FEATURES = np.concatenate([A, B[:, :1]], axis=1)


class _Stacked(StepConformance):
    name = "stack"
    classes: list[int]

    @pytest.fixture(autouse=True)
    def file(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        fitted = LogisticRegression().fit(FEATURES, self.classes)
        written = {
            "inputs": ["b", "a"],
            "coefficients": np.roll(fitted.coef_, 1, axis=1).tolist(),
            "intercepts": fitted.intercept_.tolist(),
        }
        (tmp_path / "stack.json").write_text(json.dumps(written))


class TestStackOfThreeClasses(_Stacked):
    classes = [0, 1, 2, 0]
    inputs = {"a": A, "b": B[:, 0]}
    outputs = {
        "scores": LogisticRegression().fit(FEATURES, classes).predict_proba(FEATURES).astype(np.float32)
    }


class TestStackOfTwoClasses(_Stacked):
    classes = [0, 1, 1, 0]
    inputs = {"a": A, "b": B[:, 0]}
    outputs = {
        "scores": LogisticRegression().fit(FEATURES, classes).predict_proba(FEATURES).astype(np.float32)
    }


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 6))
def test_a_vote_is_that_of_a_count(seed: int, inputs: int, rows: int) -> None:
    votes = np.random.default_rng(seed).integers(0, 3, (inputs, rows))
    found = Vote().open(NOWHERE)({f"m{k}": own for k, own in enumerate(votes)})
    for row in range(rows):
        own = votes[:, row].tolist()
        best = max(own, key=own.count)  # the first of equals
        assert found["index"][row] == best
        assert found["share"][row] == pytest.approx(own.count(best) / inputs)


@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
def test_gates_are_shares_of_the_branches_that_run(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    k = int(random.integers(1, count + 1))
    names = tuple(f"b{each}" for each in range(count))
    found = Route(branches=names, k=k).open(NOWHERE)({"scores": random.random((7, count))})
    runs = np.stack([found[name] for name in names], axis=1)
    assert (runs.sum(axis=1) == k).all() and ((found["gates"] > 0) <= runs).all()
    np.testing.assert_allclose(found["gates"].sum(axis=1), 1)


WRONG: list[tuple[Any, str]] = [
    (lambda: Average(weights={"a": 1}).check_others(["a", "b"]), "Give one for each of: a, b"),
    (lambda: Average(weights={"a": 0}).check_others(["a"]), "must not be negative, and not all 0"),
    (lambda: Average().check_others([]), "it has no inputs"),
    (lambda: Vote(weights={"a": -1, "b": 2}).check_others(["a", "b"]), "must not be negative"),
    (lambda: Vote().check_others([]), "it has no inputs"),
    (lambda: Unsure(limit=2).open(NOWHERE), "`limit` must be from 0 to 1"),
    (lambda: Route(branches=("a",)).described(NOWHERE), "two names or more"),
    (lambda: Route(branches=("a", "gates")).described(NOWHERE), "none 'gates'"),
    (lambda: Route(branches=("a", "b"), k=3).described(NOWHERE), "`k` must be from 1 to 2"),
    (lambda: Stack().described(NOWHERE), "cannot be read: No such file"),
    (lambda: Stack().check_others(["x"]), "no coefficients for x"),
]


@pytest.mark.parametrize(("act", "said"), WRONG)
def test_options_that_do_not_fit_are_refused(act: Any, said: str) -> None:
    with pytest.raises(LoadFailed) as refused:
        act()
    assert said in f"{refused.value.message} {refused.value.fix}"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"inputs": [], "coefficients": [[1]], "intercepts": [0]}, "has no inputs"),
        ({"inputs": ["a"], "coefficients": [[1], [1, 2]], "intercepts": [0, 0]}, "differ in length"),
        ({"inputs": ["a"], "coefficients": [[1]], "intercepts": []}, "an intercept for each"),
        ({"inputs": ["a"]}, "required field `coefficients`"),
    ],
)
def test_a_wrong_stack_is_refused(written: object, said: str, tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text(json.dumps(written))
    with pytest.raises(LoadFailed, match=said):
        Stack().described(tmp_path)


def test_inputs_that_do_not_fit_a_stack_are_refused(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text(
        '{"inputs":["a"],"coefficients":[[1,2]],"intercepts":[0],"link":"linear"}'
    )
    run = Stack().open(tmp_path)
    assert run({"a": np.array([[1.0, 2.0]])})["scores"].tolist() == [[5.0]]
    with pytest.raises(InvalidInput, match="coefficients for 2 features, and a row has 3"):
        run({"a": np.zeros((1, 3))})


class Counted:
    """Model of scores that counts its rows."""

    def __init__(self, scores: list[float]) -> None:
        self.rows: list[int] = []
        self._scores = np.array(scores, np.float32)
        spec = "FP32"
        self.signature = _signature(spec, len(scores))

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        self.rows.append(len(inputs["x"]))
        return {"scores": np.tile(self._scores, (len(inputs["x"]), 1)) * inputs["x"]}

    def close(self) -> None:
        """Nothing to release."""


def _signature(datatype: str, width: int) -> Any:
    from salver.words.messages import Signature, TensorSpec
    from salver.words.tensor import DataType

    kind = DataType[datatype]
    return Signature((TensorSpec("x", kind, (-1, 1)),), (TensorSpec("scores", kind, (-1, width)),), True)


CASCADE = """
[steps.small]
model = "small"
[steps.unsure]
use = "unsure"
[steps.large]
model = "large"
when = "unsure"
inputs = { x = "x" }
[steps.scores]
use = "merge"
inputs = { first = "large", second = "small" }
"""
MIXTURE = """
[steps.router]
model = "router"
[steps.route]
use = "route"
branches = ["day", "night"]
[steps.d]
model = "day"
when = "route.day"
inputs = { x = "x" }
[steps.n]
model = "night"
when = "route.night"
inputs = { x = "x" }
[steps.of_day]
use = "fill"
inputs = { first = "d" }
[steps.of_night]
use = "fill"
inputs = { first = "n" }
[steps.answer]
use = "average"
inputs = { day = "of_day", night = "of_night" }
"""


def test_a_large_model_runs_on_the_unsure_rows_only(tmp_path: Path) -> None:
    (tmp_path / "pipeline.toml").write_text(CASCADE)
    small, large = Counted([0.95, 0.05]), Counted([0.3, 0.7])
    models: Any = {"small": small, "large": large}
    with salver.pipelines.load(tmp_path, models) as pipeline:
        x = np.array([[1.0], [0.5], [1.0]], np.float32)
        found = pipeline({"x": x})["merged"]
        np.testing.assert_allclose(found, [[0.95, 0.05], [0.15, 0.35], [0.95, 0.05]], rtol=1e-6)
        pipeline({"x": x[:1]})
    assert small.rows == [3, 1] and large.rows == [1]


@pytest.mark.parametrize("k", [1, 2])
def test_a_mixture_runs_the_branches_of_each_row(k: int, tmp_path: Path) -> None:
    (tmp_path / "pipeline.toml").write_text(MIXTURE.replace('"night"]', f'"night"]\nk = {k}'))
    router, day, night = Counted([1.0, 0.25]), Counted([1.0, 2, 3]), Counted([3.0, 2, 1])
    models: Any = {"router": router, "day": day, "night": night}
    with salver.pipelines.load(tmp_path, models) as pipeline:
        found = pipeline({"x": [[1.0], [-1.0], [2.0]]})["scores"]
        alone = pipeline({"x": [[1.0]]})["scores"]
    if k == 1:
        assert found.tolist() == [[1, 2, 3], [-3, -2, -1], [2, 4, 6]]
        assert day.rows == [2, 1] and night.rows == [1]  # of the second request, none is the night's
    else:
        np.testing.assert_allclose(found[0], [1.4, 2.0, 2.6])
        assert day.rows == night.rows == [3, 1]
    np.testing.assert_allclose(alone[0], found[0])


BROKEN = [
    ('first = "n"', 'first = "router"', "router.scores -> of_night: the request's rows are no part"),
    ('day = "of_day"', 'day = "router"', "of_night.filled -> answer.night: FP32[-1,3] where FP32[-1,2]"),
    ('"average"', '"average"\nweights = { a = 1 }', "Give one for each of: day, night"),
    ('"night"]', '"night", "dawn"]', "router.scores -> route.scores: FP32[-1,2] where FLOAT[-1,3] is wanted"),
]


@pytest.mark.parametrize(("right", "wrong", "said"), BROKEN)
def test_a_mixture_that_does_not_fit_is_refused(right: str, wrong: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "pipeline.toml").write_text(MIXTURE.replace(right, wrong))
    models: Any = {"router": Counted([1.0, 0.2]), "day": Counted([1.0, 2, 3]), "night": Counted([3.0, 2, 1])}
    with pytest.raises(LoadFailed) as refused:
        salver.pipelines.load(tmp_path, models)
    assert said in f"{refused.value.message} {refused.value.fix}"


def test_a_cascade_needs_few_names() -> None:
    """The first output that fits is taken, and where none does, what has the name of the input."""
    classifier = signature("text BYTES[-1]", "label BYTES[-1]; probabilities FP32[-1,3]")
    found = planned(
        """
        steps.small.model = "small"
        [steps.unsure]
        use = "unsure"
        [steps.large]
        model = "large"
        when = "unsure"
        [steps.label]
        use = "merge"
        inputs = { first = "large.label", second = "small.label" }
        """,
        {"small": classifier, "large": classifier},
    )
    sources = {node.name: [edge.source for edge in node.edges] for node in found.nodes}
    assert sources["unsure"] == ["small.probabilities"] and sources["large"] == ["text"]
