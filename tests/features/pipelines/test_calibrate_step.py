"""The step ``calibrate``, and the file of its parameters."""

# ruff: noqa: RUF012  # what a suite is given

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, logit, softmax

import salver.pipelines
from salver.features.pipelines.steps.calibrate import Calibrate
from salver.testing.steps import StepConformance
from salver.words.errors import LoadFailed

SCORES = softmax(np.random.default_rng(2).normal(size=(4, 3)) * 2, axis=1)
ONE = SCORES[:, 0].astype(np.float32)


class _Suite(StepConformance):
    name = "calibrate"
    written: dict[str, object] = {}

    @pytest.fixture(autouse=True)
    def file(self, tmp_path: Path) -> None:
        (tmp_path / "calibration.json").write_text(json.dumps(self.written))
        self.folder = tmp_path


class TestTemperature(_Suite):
    written = {"method": "temperature", "columns": 3, "temperature": 2.0, "fitted": {"rows": 7}}
    inputs, outputs = {"scores": SCORES}, {"scores": softmax(np.log(SCORES) / 2, axis=1)}


class TestTemperatureOfLogits(_Suite):
    written = {"method": "temperature", "scores": "logits", "temperature": 0.5}
    inputs, outputs = {"scores": logit(ONE)}, {"scores": expit(2 * logit(ONE))}


class TestSigmoid(_Suite):
    written = {"method": "sigmoid", "slopes": [0.5], "intercepts": [1]}
    inputs, outputs = {"scores": ONE}, {"scores": expit(0.5 * logit(ONE) + 1)}


class TestIsotonicOfColumns(_Suite):
    written = {"method": "isotonic", "curves": [{"x": [0.2, 0.6], "y": [0.1, 0.9]}]}
    inputs = {"scores": np.array([[0.1, 0.4], [0.6, 1.0]])}
    outputs = {"scores": np.array([[0.1, 0.5], [0.9, 0.9]])}


class TestIsotonicOfClasses(_Suite):
    written = {
        "method": "isotonic",
        "columns": 3,
        "curves": [{"x": [0.1, 1.1], "y": [0, 1]}] * 2 + [{"x": [0], "y": [0]}],
    }
    inputs = {"scores": np.array([[0.2, 0.6, 0.2], [0.0, 0.0, 1.0]])}
    outputs = {"scores": np.array([[1 / 6, 5 / 6, 0.0], [1 / 3] * 3])}


class TestNone(_Suite):
    written = {"method": "none", "columns": 3, "scores": "logits"}
    inputs, outputs = {"scores": np.log(SCORES)}, {"scores": SCORES}


FAULTS = [
    ({"method": "warm"}, "Invalid enum value 'warm'"),
    ({"method": "temperature", "temperature": 0}, "`temperature` must be above 0"),
    ({"method": "sigmoid", "columns": 3, "slopes": [1], "intercepts": [1]}, "must have 3 numbers"),
    ({"method": "isotonic"}, "`curves` must be 1"),
    ({"method": "isotonic", "curves": [{"x": [0, 0], "y": [0, 1]}]}, "`x` of a curve must rise"),
    ({"method": "isotonic", "curves": [{"x": [0, 1], "y": [1, 0]}]}, "`y` must not fall"),
    ({"method": "isotonic", "curves": [{"x": [0, 1], "y": [0, 2]}]}, "must be from 0 to 1"),
    ({"method": "none", "columns": 0}, "`columns` must be from 1"),
    ({"method": "none", "slope": [1]}, "unknown field `slope`"),
    ("{", "truncated"),
]


@pytest.mark.parametrize(("written", "said"), FAULTS)
def test_a_wrong_file_is_refused(written: object, said: str, tmp_path: Path) -> None:
    text = written if isinstance(written, str) else json.dumps(written)
    (tmp_path / "calibration.json").write_text(text)
    with pytest.raises(LoadFailed, match=said) as refused:
        Calibrate().described(tmp_path)
    assert "salver calibrate" in refused.value.fix


def test_a_pipeline_checks_the_number_of_classes(tmp_path: Path) -> None:
    document = (
        '[inputs]\nlogits = "FP32[-1,2]"\n[steps.scores]\nuse = "softmax"\n[steps.right]\nuse = "calibrate"\n'
    )
    (tmp_path / "pipeline.toml").write_text(document)
    with pytest.raises(LoadFailed, match=r"calibration.json cannot be read: No such file"):
        salver.pipelines.load(tmp_path)
    (tmp_path / "calibration.json").write_text('{"method": "none", "columns": 3}')
    with pytest.raises(LoadFailed, match=r"scores.scores -> right.scores: FP32\[-1,2\] where FLOAT\[-1,3\]"):
        salver.pipelines.load(tmp_path)
    (tmp_path / "calibration.json").write_text('{"method": "temperature", "columns": 2, "temperature": 2}')
    with salver.pipelines.load(tmp_path) as pipeline:
        found = pipeline({"logits": [[0.0, 4.0]]})["scores"]
    np.testing.assert_allclose(found, [[expit(-2), expit(2)]], rtol=1e-6)
