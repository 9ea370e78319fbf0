"""``salver tune`` for a pipeline: settings of its steps for one objective of the whole."""

import json
import math
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.cli import main
from salver.features.pipelines.local import plan_of
from salver.features.pipelines.running import Running
from salver.features.tuning.graph_bench import knobs_of
from salver.features.tuning.graph_search import GraphMeasurement, GraphSearch, Knob
from salver.words.artifacts import Objective

ROWS = (0, 1, 4, 16)
COUNTS = (0, 1, 2)


def searched(steps, rate, p99=lambda settings: 0.1, objective=None, refused=lambda settings: False):
    """Search over rows and instances of each step."""
    knobs = [
        Knob(step, [{key: value} for value in values[1:]])
        for step in steps
        for key, values in (("max_rows", ROWS), ("instances", COUNTS))
    ]
    search = GraphSearch({step: Running() for step in steps}, knobs, objective or Objective(throughput=True))
    while (settings := search.ask()) is not None:
        if search.measured and refused(settings):
            search.refuse(settings)
            continue
        found = GraphMeasurement(dict(settings), rate(settings), p99(settings))
        best = search.best
        search.tell(found, found if best is None else best)
    return search


@given(st.lists(st.tuples(st.permutations(range(4)), st.permutations(range(3))), min_size=1, max_size=3))
def test_settings_that_add_up_are_found_in_a_few_measurements(worth):
    """Each setting has a worth of its own, in any order: the best of each is the best of all."""

    def rate(settings):
        return 100 + sum(
            10 * rows[ROWS.index(how.max_rows)] + 10 * counts[COUNTS.index(how.instances)]
            for how, (rows, counts) in zip(settings.values(), worth, strict=True)
        )

    search = searched([f"s{n}" for n in range(len(worth))], rate)
    most = 100 + 50 * len(worth)
    # The file's own value is not tried again once another one was better.
    assert search.best.rate <= most and search.best.rate == max(found.rate for found in search.measured)
    if all(rows[0] != 3 and counts[0] != 2 for rows, counts in worth):
        assert search.best.rate == most
    assert len(search.measured) <= 1 + 2 * 5 * len(worth) * (1 + 2 * len(worth))
    known = [json.dumps(msgspec.to_builtins(found.settings)) for found in search.measured]
    assert len(set(known)) == len(known)


def test_noise_is_no_gain_and_a_limit_comes_first():
    assert searched("a", lambda settings: 100 + settings["a"].max_rows / 10).best.settings["a"] == Running()

    def p99(settings):
        return 0.01 * max(1, settings["a"].max_rows)

    def rate(settings):
        return 10.0 * (1 + settings["a"].max_rows)

    limit = Objective(latency_p99_ms=50)
    search = searched("a", rate, p99, limit)
    assert search.best.settings["a"].max_rows == 4 and search.meets(search.best)
    nearest = searched("a", rate, lambda settings: 1 / (1 + settings["a"].instances), limit)
    assert nearest.best.settings["a"].instances == 2 and not nearest.meets(nearest.best)


def test_what_cannot_be_loaded_is_left_out():
    search = searched(
        "a", lambda settings: 1.0 + settings["a"].instances, refused=lambda s: s["a"].instances == 2
    )
    assert search.best.settings["a"].instances == 1
    assert {how.instances for how in (settings["a"] for settings in search.refused)} == {2}
    first = GraphSearch({"a": Running()}, [], Objective())
    first.refuse(first.ask())
    assert first.ask() is None and first.best is None


MODEL = """
import time
class Model:
    inputs = {"text": ("BYTES", [-1])}
    outputs = {"length": ("INT64", [-1])}
    def predict(self, inputs):
        time.sleep(0.004)
        return {"length": [len(text) for text in inputs["text"]]}
"""
TOML = """
[steps.clean]
use = "text-normalise"
[steps.model]
model = "model.py"
placement = "thread"
instances = 1
[steps.shift]
use = "cast"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "pipeline.toml").write_text(TOML)
    return tmp_path


def test_only_what_the_file_leaves_open_and_what_can_be_is_tried(folder):
    settings, knobs = knobs_of(plan_of(folder)[0], 4)
    assert settings["model"] == Running(placement="thread", instances=1)
    assert [(knob.step, [*knob.changes]) for knob in knobs] == [
        ("model", [{"max_rows": 1}, {"max_rows": 4}, {"max_rows": 16}])
    ]
    (folder / "pipeline.toml").write_text('[steps.t]\nuse = "text-normalise"\nplacement = "process"\n')
    _, knobs = knobs_of(plan_of(folder)[0], 4)
    assert [(knob.step, [*knob.changes]) for knob in knobs] == [
        ("t", [{"instances": 2}, {"instances": 4}, {"instances": 8}])
    ]


def test_tune_measures_the_whole_and_tells_what_it_gains(folder, capsys):
    assert main(["tune", str(folder), "--seconds", "6", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    rates = {found["settings"]["model"]["max-rows"]: found["rate"] for found in told["measured"]}
    # A run takes 4 ms whatever its rows are, so that one row a run is the slowest by far.
    assert 1 not in rates or rates[1] < rates[0] / 2
    assert told["best"]["rate"] >= rates[0] * 0.5 and told["meets"] and 0 in rates
    assert math.isfinite(told["best"]["p99_s"])
    assert main(["tune", str(folder), "--max-rows", "4"]) == 1
    assert "are for models, and not for pipelines" in capsys.readouterr().err
    (folder / "pipeline.toml").write_text('[steps.photo]\nuse = "image"\nheight = 8\nwidth = 8\n')
    assert main(["tune", str(folder), "--seconds", "1"]) == 1
    assert "warmup.file" in capsys.readouterr().err
