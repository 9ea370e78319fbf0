"""``salver tune`` on real models: what it prints, keeps and refuses."""

import asyncio
import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from zoo import write_mlp

from salver.backends.discovery import backends
from salver.cli import main
from salver.features.tuning.loading import LoadTuning
from salver.features.tuning.profiles import ProfileStore
from salver.features.tuning.tune_command import _find, _with
from salver.kernel.repository.toml import parse_toml
from salver.kernel.serving.bus import Bus
from salver.kernel.serving.loader import Loader
from salver.kernel.serving.loading import Additions, Terms
from salver.kernel.serving.servable import Servable
from salver.words.artifacts import Manifest

SALVER = str(Path(sys.executable).with_name("salver"))
P99 = 'objective = { latency_p99 = "50ms" }\n'


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_mlp(tmp_path / "mlp", 1)
    return tmp_path / "mlp"


def configure(model: Path, text: str) -> Path:
    (model / "salver.toml").write_text(text)
    return model


def tune(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    assert main(["tune", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def errors(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main(["tune", *map(str, words)]) == 1
    return capsys.readouterr().err


def test_the_record_has_the_search_the_curve_its_bound_and_the_choice(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "curve.svg"
    found = tune(
        capsys, model, "--objective", "latency_p99=50ms", "--state-dir", tmp_path, "--report", report
    )
    setting, cells = found["setting"], [tuple(m["cell"].values()) for m in found["measured"]]
    assert (setting["instances"], setting["threads"]) in {cell[:2] for cell in cells}
    assert len(cells) == len(set(cells))
    sizes = [point["rows"] for point in found["curve"]]
    assert sizes == sorted({1, 2, 4, 8, 16, 32} | {setting["max_rows"]})
    for point in found["curve"]:
        assert point["rate"] == pytest.approx(setting["instances"] * point["rows"] / point["seconds"])
        assert 0 < point["efficiency"] <= 1
        assert point["bound"] > 0
        assert point["feasible"] >= 0
    assert found["roofline"]["cost"]["weight_bytes"] == 4 * (16 * 64 + 64 + 64 * 3 + 3)
    assert list(found["gains"]) == ["0.3", "0.6", "0.9"]
    fixed = parse_toml(found["toml"].encode(), "salver.toml")
    assert (fixed.instances.count, fixed.instances.threads, fixed.batching.max_rows) == (
        setting["instances"], setting["threads"], setting["max_rows"],
    )  # fmt: skip
    assert "roofline bound" in report.read_text()


def test_the_server_takes_what_was_found_and_measures_nothing(model: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    done = subprocess.run(
        [SALVER, "tune", configure(model, P99), "--state-dir", state, "--json"],
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found["saved"] == str(state)
    (kept,) = (state / "profiles").iterdir()
    before = kept.read_bytes()
    terms = Terms(len(os.sched_getaffinity(0)))
    tuning = LoadTuning(ProfileStore(str(state)), time.monotonic, terms.cores)
    loader = Loader(backends(), Bus(()), time.monotonic, terms, Additions(tuning=tuning))

    async def load() -> Servable:
        servable = await loader.load(_find(model))
        await servable.close()
        return servable

    servable = asyncio.run(load())
    assert servable.engine._max_rows == found["setting"]["max_rows"]
    assert [servable.placement.slots, servable.placement.threads] == [
        found["setting"]["instances"], found["setting"]["threads"],
    ]  # fmt: skip
    assert kept.read_bytes() == before


def test_what_the_owner_has_fixed_stays_and_the_whole_grid_is_compared(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(model, 'objective = "throughput"\n[instances]\ncount = 1\nthreads = 1\n')
    found = tune(capsys, model, "--exhaustive", "--state-dir", "")
    assert (found["setting"]["instances"], found["setting"]["threads"]) == (1, 1)
    assert sorted(m["cell"]["rows"] for m in found["measured"]) == [1, 2, 4, 8, 16, 32]
    compared = found["compared"]
    assert (compared["cells"], compared["quick_cells"]) == (6, 2)
    assert 0 < compared["share"] <= 1
    assert found["saved"] == ""
    assert any("The whole grid of 6 cells" in reason for reason in found["reasons"])


def test_plain_lines_in_a_pipe(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state"
    assert main(["tune", str(model), "--max-rows", "4", "--state-dir", str(state)]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0] == "mlp: measuring"
    assert all(line.endswith("rows/s") for line in lines[1 : lines.index("")])
    assert any(line.split()[:5] == ["rows", "run", "ms", "rows/s", "efficiency"] for line in lines)
    assert "batches of at most 4 rows" in out
    assert f"profile kept in {state}" in out
    assert 'objective = "throughput"' in lines
    assert "max_rows = 4" in lines
    assert "\x1b" not in out


def test_on_a_terminal_the_table_fills_and_the_curve_is_drawn(model: Path) -> None:
    ours, theirs = pty.openpty()
    command = [SALVER, "tune", str(model), "--max-rows", "2", "--state-dir", ""]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "90", "LINES": "40"}
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                seen += os.read(ours, 65536)
            except OSError:  # Linux says so when the other end has closed
                break
        assert process.wait(60) == 0
    os.close(ours)
    text = seen.decode()
    for words in ("mlp: measuring, cell 1 of at most", "━━", "throughput", "length of a run", "chosen 2"):
        assert words in text


def write_picky(path: Path) -> Path:
    """Takes 10, 11 or 12 only; zeros are out of its table."""
    nodes = [
        helper.make_node("Sub", ["x", "ten"], ["i"]),
        helper.make_node("Gather", ["table", "i"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "picky",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["n", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [
            numpy_helper.from_array(np.array([10]), "ten"),
            numpy_helper.from_array(np.ones(3, np.float32), "table"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.parent.mkdir(parents=True)
    path.write_bytes(model.SerializeToString())
    return path.parent.parent


def test_a_model_that_takes_no_zeros_is_measured_on_its_warm_up_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picky = write_picky(tmp_path / "picky" / "1" / "model.onnx")
    assert "does not take inputs of zeros" in errors(capsys, picky, "--state-dir", "")
    request = {"inputs": [{"name": "x", "datatype": "INT64", "shape": [2, 1], "data": [10, 12]}]}
    (picky / "1" / "request.json").write_text(json.dumps(request))
    configure(picky, '[warmup]\nfile = "request.json"\n[batching]\nmax_rows = 3\n')
    found = tune(capsys, picky, "--state-dir", "")
    assert {m["cell"]["rows"] for m in found["measured"]} <= {1, 2, 3}


@pytest.mark.parametrize(
    ("toml", "words", "said"),
    [
        ("", ("--objective", "quick"), "Say latency_p99=50ms, deadline=100ms or throughput."),
        ("", ("--seconds", "0"), "--seconds must be above"),
        ("", ("--max-rows", "-1"), "--max-rows must not be below 0"),
        ("", ("--report", "curve.pdf"), "neither .svg nor .png"),
        ('[steps]\nvocabulary = "bytes"\n', (), "works step by step"),
        ('[sequences]\nstrategy = "direct"\n', (), "serves sequences"),
        (
            '[[ensemble.steps]]\nmodel = "a"\ninputs = { x = "x" }\noutputs = { y = "y" }\n',
            (),
            "is an ensemble, which runs as its models do. Tune those.",
        ),
        ('backend = "abacus"\n', (), "abacus"),
        ("objective = 7\n", (), "objective"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_measured(
    toml: str, words: tuple[str, ...], said: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if toml:
        configure(model, toml)
    assert said in errors(capsys, model, *words, "--state-dir", "")
    assert capsys.readouterr().out == ""


def test_paths_that_are_no_model(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "does not exist" in errors(capsys, tmp_path / "gone.onnx")
    (tmp_path / "notes.txt").write_text("no model")
    assert "no installed backend recognises" in errors(capsys, tmp_path / "notes.txt")
    write_mlp(tmp_path / "other", 1)
    assert "holds several models (mlp, other). Name one" in errors(capsys, tmp_path)
    (tmp_path / "empty").mkdir()
    assert "no model that any installed backend recognises in" in errors(capsys, tmp_path / "empty")


def test_without_matplotlib_nothing_is_measured_for_a_report(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "pip install 'salver[tune]'" in errors(capsys, model, "--report", tmp_path / "curve.png")


def test_the_objective_of_the_command_line_goes_before_that_of_the_configuration(model: Path) -> None:
    def wish(manifest: Manifest, text: str) -> float:
        from salver.features.tuning.objective import parse

        return _with(manifest, parse(text)).config.objective.latency_p99_ms

    own = _find(configure(model, P99))
    assert wish(own, "") == 50
    assert wish(own, "latency_p99=20ms") == 20
    assert wish(own, "throughput") == 0
