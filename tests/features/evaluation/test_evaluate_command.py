"""``salver evaluate``: accuracy of pipelines on labelled rows, beside what they cost."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from salver.backends.protocol import LoadOptions
from salver.cli import main
from salver.features.evaluation.measuring import opened, variations
from salver.words.errors import InvalidInput

Run = Callable[..., list[dict[str, Any]]]
MODEL = """
import numpy as np

class Model:
    inputs = {{"x": ("FP32", [-1, 2])}}
    outputs = {{"scores": ("FP32", [-1, 2]), "label": ("BYTES", [-1])}}

    def predict(self, inputs):
        second = {second}
        label = np.where(second > 0.5, b"yes", b"no").astype(object)
        return {{"scores": np.stack([1 - second, second], axis=1), "label": label}}
"""
SMALL = MODEL.format(second='np.clip(inputs["x"][:, 0], 0, 1)')
LARGE = MODEL.format(second='np.where(inputs["x"].sum(axis=1) > 0.9, 0.99, 0.01).astype(np.float32)')
CASCADE = """
[steps.small]
model = "small"
[steps.unsure]
use = "unsure"
limit = 0.8
[steps.large]
model = "large"
when = "unsure"
inputs = { x = "x" }
[steps.scores]
use = "merge"
inputs = { first = "large.scores", second = "small.scores" }
"""
# The small model says x_0; the right answer is whether both add up to more than 0.9.
ROWS = [(0.9, 0.05, "yes"), (0.1, 0.1, "no"), (0.6, 0.1, "no"), (0.4, 0.6, "yes"), (0.7, 0.3, "yes")]


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two models and their cascade, and rows, as the current one."""
    for name, text in {
        "small/1/model.py": SMALL,
        "large/model.py": LARGE,
        "cascade/pipeline.toml": CASCADE,
    }.items():
        path = tmp_path / "models" / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    lines = [f"{x},{y},{label}" for x, y, label in ROWS]
    (tmp_path / "rows.csv").write_text("\n".join(["x_0,x_1,label", *lines]) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "models"


@pytest.fixture
def run(models: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command, and return what --json says of each."""

    def run(*words: str) -> list[dict[str, Any]]:
        assert main(["evaluate", *words, "--on", "rows.csv", "--json"]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def test_models_and_pipelines_are_compared_on_the_same_rows(run: Run) -> None:
    found = run("models/small", "models/large", "models/cascade", "--classes", "no,yes", "--batch", "2")
    cascade = found[-1]
    assert [round(each["accuracy"]["value"], 3) for each in found] == [0.6, 1.0, 1.0]
    assert cascade["difference"]["value"] == pytest.approx(0.4)
    expected = -np.log([0.9, 0.9, 0.99, 0.99, 0.99]).mean()
    assert cascade["log_loss"]["value"] == pytest.approx(expected, rel=1e-4)
    assert cascade["steps"]["small"]["rows"] == 5 and cascade["steps"]["large"]["rows"] == 3
    assert cascade["steps"]["large"]["share"] == pytest.approx(0.6)
    assert all(each["cpu_seconds_per_row"] >= 0 for each in found)


def test_a_threshold_is_varied_for_a_curve(run: Run) -> None:
    found = run("models/large", "models/cascade", "--classes", "no,yes", "--vary", "unsure.limit=0,0.65,1")
    names = [each["name"] for each in found]
    assert names == ["models/large", *(f"models/cascade unsure.limit={value}" for value in (0, 0.65, 1))]
    assert [each["steps"]["large"]["rows"] for each in found[1:]] == [0, 2, 5]
    assert [round(each["accuracy"]["value"], 1) for each in found[1:]] == [0.6, 1.0, 1.0]


def test_labels_are_judged_where_they_are_the_output(run: Run) -> None:
    (found,) = run("models/small", "--output", "label")
    assert found["log_loss"] is None and found["accuracy"]["value"] == pytest.approx(0.6)


def test_people_see_a_table(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "models/large", "models/cascade", "--on", "rows.csv", "--classes", "no,yes"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "small 100%, large 60%" in said and "models run on" in said and "+0.0000" in said


WRONG = [
    ([], "no pipeline is named"),
    (["models/none"], "models/none does not exist"),
    (["models/small", "--batch", "0"], "--batch must be at least 1"),
    (["models/small", "--output", "score"], "there is no output 'score'"),
    (["models/small", "--classes", "a,b"], "row 1 has the label 'yes', which is none of: a, b"),
    (["models/small", "--columns", "z=x_0"], "there is no input z"),
    (["models/cascade", "--vary", "unsur.limit=1"], "there is no step 'unsur'"),
    (["models/cascade", "--vary", "unsure.bound=1"], "unknown option `bound` of unsure"),
    (["models/cascade", "--vary", "unsure.limit"], "is not STEP.OPTION=VALUE"),
    (["models"], "no model that a backend knows, or several"),
]


@pytest.mark.parametrize(("words", "said"), WRONG)
def test_what_is_wrong_is_named(
    words: list[str], said: str, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["evaluate", *words, "--on", "rows.csv", *(["--classes", "no,yes"] * ("z=x_0" in words))]) == 1
    )
    assert said in capsys.readouterr().err


def test_time_is_that_of_the_steps_by_a_clock(models: Path) -> None:
    ticks = iter(range(1000))
    pipeline = opened(models / "cascade", LoadOptions(), {})
    pipeline._clock = lambda: float(next(ticks))
    answers = pipeline.measured({"x": np.array([row[:2] for row in ROWS], np.float32)}, 5)
    pipeline.close()
    assert {name: cost.seconds for name, cost in answers.steps.items()} == dict.fromkeys(answers.steps, 1.0)
    assert answers.seconds == 2 * len(answers.steps) + 1


def test_values_are_varied_in_all_combinations() -> None:
    found = list(variations(["a.k=1,2", "b.by=margin"]))
    assert found == [{"a.k": 1, "b.by": "margin"}, {"a.k": 2, "b.by": "margin"}]
    with pytest.raises(InvalidInput, match=r"--vary 'a=1'"):
        list(variations(["a=1"]))
