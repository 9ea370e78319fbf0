"""``salver doctor``: the machine, and models that load, crash, hang or are none."""

import json
from pathlib import Path

import pytest

from salver.backends.installed import is_installed
from salver.backends.protocol import Traits
from salver.cli import main
from salver.cli.machine import findings, frameworks

GOOD = """
class Model:
    inputs = {"x": ("FP32", [-1, 2])}
    outputs = {"y": ("FP32", [-1, 2])}
    def predict(self, inputs):
        return {"y": inputs["x"]}
"""


def model(folder: Path, name: str, source: str) -> Path:
    (folder / name / "1").mkdir(parents=True)
    (folder / name / "1" / "model.py").write_text(source)
    return folder


def test_a_model_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(model(tmp_path, "good", GOOD))]) == 0
    out = capsys.readouterr().out
    assert out.startswith("good:1 loads\n")
    assert "format  python (backend python)" in out
    assert "input   x FP32[-1, 2]" in out


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        ("import no_such_package", "no_such_package"),
        ("import os; os.abort()", "ended its process (signal 6)"),
        ("import os; os._exit(3)", "ended its process (status 3)"),
        ("import time; time.sleep(60)", "has not loaded within 1.5 s"),
    ],
)
def test_a_model_that_does_not_load_costs_only_its_own_process(
    before: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = model(tmp_path, "bad", f"{before}\n{GOOD}")
    assert main(["doctor", str(path), "--json", "--timeout", "1.5" if "sleep" in before else "30"]) == 1
    check = json.loads(capsys.readouterr().out)
    assert reason in check["problem"]
    assert check["model"] == "bad"


def test_one_bad_model_does_not_hide_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model(tmp_path, "a", "raise ValueError('why')\n" + GOOD)
    model(tmp_path, "b", GOOD)
    assert main(["doctor", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "a:1 does not load" in out
    assert "ValueError: why" in out
    assert "b:1 loads" in out


def test_an_ensemble_is_as_good_as_its_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model(tmp_path, "net", GOOD)
    (tmp_path / "over").mkdir()
    step = '[[ensemble.steps]]\nmodel = "net"\ninputs = { x = "x" }\noutputs = { y = "y" }\n'
    (tmp_path / "over" / "salver.toml").write_text(step)
    assert main(["doctor", str(tmp_path)]) == 0
    assert "over:1 loads" in (out := capsys.readouterr().out)
    assert "an ensemble of net: salver serve checks whether they fit together" in out


def test_paths_that_hold_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(tmp_path / "nowhere")]) == 1
    assert "does not exist" in capsys.readouterr().err
    assert main(["doctor", str(tmp_path)]) == 1
    assert "no model that any installed backend recognises in" in capsys.readouterr().out


def test_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    facts = {fact["what"] for fact in report["machine"]}
    assert {"python", "cores", "memory", "shared memory", "open files"} <= facts
    assert {"onnx", "python", "torch"} <= {b["backend"] for b in report["backends"]}
    assert main(["doctor"]) == 0
    assert "backend" in capsys.readouterr().out


class FakeBackend:
    name, extra, traits = "fake", "fake-extra", Traits()

    def __init__(self, *modules: str) -> None:
        self.modules = modules


def test_a_missing_framework_comes_with_its_extra() -> None:
    (found,) = frameworks({"fake": FakeBackend("no_such_module", "numpy")})  # type: ignore[dict-item]
    assert (found.state, found.missing, found.fix) == (
        "missing", ("no_such_module",), "pip install 'salver[fake-extra]'"
    )  # fmt: skip
    assert "numpy" in found.versions


@pytest.mark.parametrize(("module", "there"), [("numpy", True), ("numpy.nothing", True), ("no.such", False)])
def test_modules_are_found_without_an_import(module: str, there: bool) -> None:
    assert is_installed(module) is there


def test_few_open_files_are_a_problem_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    for soft, hinted in ((1024, True), (65536, False), (resource.RLIM_INFINITY, False)):
        monkeypatch.setattr(resource, "getrlimit", lambda which, soft=soft: (soft, 100_000))
        (limit,) = [f for f in findings() if f.what == "open files"]
        assert bool(limit.hint) is hinted
