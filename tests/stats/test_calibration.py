"""Calibration of scores, beside scikit-learn's, and how good probabilities are."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss

from salver.stats.calibration import (
    METHODS,
    Calibration,
    Floats,
    Labels,
    Method,
    calibrated,
    log_odds,
    log_probabilities,
)
from salver.stats.calibration_fitting import cross_calibrated, fit, isotonic
from salver.stats.scoring import bins_of, mean_of, quality_of, tried
from salver.words.errors import InvalidInput

ORDER = np.random.default_rng(8).permutation(900)


def drawn(classes: int, rows: int = 600, temperature: float = 2.0, seed: int = 3) -> tuple[Floats, Labels]:
    """Logits that are ``temperature`` times too large, and labels."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(rows, classes)) * 3
    right = np.exp(logits / temperature)
    right /= right.sum(axis=1, keepdims=True)
    labels = (random.random((rows, 1)) > right.cumsum(axis=1)[:, :-1]).sum(axis=1)
    return logits, labels


class Told:
    """Classifier whose scores are its features, for scikit-learn's calibration."""

    def __init__(self, classes: int) -> None:
        self.classes_ = np.arange(classes)
        self.n_features_in_ = classes

    def fit(self, x: Floats, y: Labels) -> "Told":
        return self

    def decision_function(self, x: Floats) -> Floats:
        return x[:, 0] if len(self.classes_) == 2 else x

    def predict(self, x: Floats) -> Labels:
        return np.asarray(self.decision_function(x).argmax(axis=1))

    def __sklearn_tags__(self):  # type: ignore[no-untyped-def]
        return LogisticRegression().__sklearn_tags__()


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("method", ["temperature", "sigmoid"])
def test_parameters_are_those_of_scikit_learn(classes: int, method: Method) -> None:
    logits, labels = drawn(classes)
    if classes == 2:
        values = (logits[:, 1] - logits[:, 0])[:, None]
        logs = log_probabilities(values, are_logits=True)
    else:
        logs = log_probabilities(logits, are_logits=True)
        values = logits
        if method == "sigmoid":  # Salver's sigmoid is over the log-odds of each class
            values = log_odds(logs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = CalibratedClassifierCV(FrozenEstimator(Told(classes)), method=method, ensemble=False)
        reference.fit(values, labels)
    found = calibrated(fit(method, logs, labels), logs)
    np.testing.assert_allclose(found, reference.predict_proba(values), atol=2e-4)


@given(st.integers(0, 2**32 - 1), st.integers(2, 60))
def test_the_isotonic_curve_is_that_of_scikit_learn(seed: int, rows: int) -> None:
    random = np.random.default_rng(seed)
    shares = random.integers(0, 20, rows) / 19
    labels = random.random(rows) < shares
    edge = 1 / (rows + 2)
    reference = IsotonicRegression(y_min=edge, y_max=1 - edge, out_of_bounds="clip").fit(shares, labels)
    curve = isotonic(shares, labels)
    asked = np.linspace(0, 1, 77)
    np.testing.assert_allclose(np.interp(asked, *curve), reference.predict(asked), atol=1e-9)
    assert list(curve.x) == sorted(set(curve.x)) and list(curve.y) == sorted(curve.y)


@given(st.sampled_from(METHODS), st.integers(2, 4), st.integers(0, 2**32 - 1))
def test_calibrated_rows_are_probabilities(method: Method, classes: int, seed: int) -> None:
    logits, _ = drawn(classes, 40, seed=seed)
    labels = np.arange(40) % classes
    logs = log_probabilities(logits * 50, are_logits=True)
    found = calibrated(fit(method, logs, labels), logs)
    assert np.isfinite(found).all() and (found >= 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-9)


@pytest.mark.parametrize("classes", [2, 3])
def test_scores_and_logits_are_two_words_for_one_thing(classes: int) -> None:
    logits, labels = drawn(classes)
    by_logits = log_probabilities(logits, are_logits=True)
    by_scores = log_probabilities(np.exp(by_logits), are_logits=False)
    np.testing.assert_allclose(by_logits, by_scores, atol=1e-9)
    if classes == 2:
        column = log_probabilities(np.exp(by_logits[:, 1]), are_logits=False)
        np.testing.assert_allclose(column, by_logits, atol=1e-9)
    assert quality_of(np.exp(by_logits), labels).rows == 600


@pytest.mark.parametrize("method", METHODS)
def test_certain_scores_stay_finite(method: Method) -> None:
    logs = log_probabilities(np.array([0.0, 1.0, 0.0, 1.0, 1.0]), are_logits=False)
    labels = np.array([0, 1, 0, 1, 0])
    assert np.isfinite(calibrated(fit(method, logs, labels), logs)).all()


def test_quality_is_that_of_scikit_learn() -> None:
    for classes in (2, 4):
        logits, labels = drawn(classes)
        shares = np.exp(log_probabilities(logits, are_logits=True))
        found = quality_of(shares, labels)
        assert found.log_loss.value == pytest.approx(log_loss(labels, shares))
        reference = shares[:, 1] if classes == 2 else shares
        assert found.brier.value == pytest.approx(brier_score_loss(labels, reference, scale_by_half="auto"))
        assert found.accuracy.low < found.accuracy.value < found.accuracy.high


def test_bins_have_equal_width_and_all_rows() -> None:
    shares = np.array([0.0, 0.05, 0.1, 0.11, 0.5, 1.0])
    found = bins_of(np.stack([1 - shares, shares], axis=1), np.array([0, 0, 1, 0, 1, 1]), 10)
    assert [(each.low, each.high, each.rows) for each in found] == [
        (0.0, 0.1, 3),
        (0.1, 0.2, 1),
        (0.4, 0.5, 1),
        (0.9, 1.0, 1),
    ]
    assert found[0].observed == pytest.approx(1 / 3) and found[0].predicted == pytest.approx(0.05)
    assert quality_of(np.stack([1 - shares, shares], axis=1), np.array([0, 0, 1, 0, 1, 1]), 10).ece == (
        pytest.approx((3 * (1 / 3 - 0.05) + 0.11 + 0.5 + 0) / 6)
    )


def test_no_row_is_judged_by_parameters_that_have_seen_it() -> None:
    random = np.random.default_rng(11)
    logs = log_probabilities(random.normal(size=400), are_logits=True)
    labels = np.arange(400) % 2  # which the scores say nothing about
    seen = quality_of(calibrated(fit("isotonic", logs, labels), logs), labels)
    unseen = quality_of(cross_calibrated("isotonic", logs, labels, 5, random.permutation(400)), labels)
    assert seen.log_loss.value < np.log(2) < unseen.log_loss.value


def test_a_method_is_used_only_if_it_is_certainly_better() -> None:
    for temperature, wanted in ((2.5, "temperature"), (1.0, "none")):
        logits, labels = drawn(3, 900, temperature)
        trials, best = tried(log_probabilities(logits, are_logits=True), labels, order=ORDER)
        assert best == wanted
        assert [trial.method for trial in trials] == list(METHODS)
    # A shift of one class is nothing that a temperature can mend.
    logits, labels = drawn(2, 900, 1.0)
    logits[:, 1] += 2
    assert tried(log_probabilities(logits, are_logits=True), labels, order=ORDER)[1] == "sigmoid"
    assert (
        tried(log_probabilities(logits, are_logits=True), labels, ["isotonic"], order=ORDER)[1] == "isotonic"
    )


def test_too_few_rows_are_refused_by_class() -> None:
    logs = log_probabilities(np.zeros((9, 3)), are_logits=True)
    with pytest.raises(InvalidInput, match="1 of 3 classes have no row, class 1 among them"):
        fit("sigmoid", logs, np.array([0, 2] * 4 + [0]))
    with pytest.raises(InvalidInput, match="class 2 has 1 rows, which are too few for 5 folds"):
        cross_calibrated("sigmoid", logs, np.array([0, 1] * 4 + [2]), 5, np.arange(9))
    assert mean_of(np.array([1.0])).high == np.inf
    assert calibrated(Calibration(), logs).shape == (9, 3)
