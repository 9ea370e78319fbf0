"""The budget of a request is counted alike each time, and names the component that exceeds it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
NAMES = ("frames", "models", "forms", "in_process", "budget")


@pytest.fixture
def budget(monkeypatch: pytest.MonkeyPatch) -> Any:
    for tool in ("onnx", "onnxruntime", "grpc", "uvloop"):
        pytest.importorskip(tool)
    monkeypatch.syspath_prepend(FOLDER)
    for name in NAMES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    found = __import__("budget")
    yield found
    for name in NAMES:
        sys.modules.pop(name, None)


def figures(front: float = 100.0, run: float = 1000.0, **more: float) -> dict[str, Any]:
    return {"instructions": {"front": front, "run": run}, "calls": 50.0, "objects held": 4.0, **more}


def count(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(FOLDER / "budget.py"), *arguments]
    return subprocess.run(argv, check=False, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("found", "name"),
    [
        (figures(front=104.0), "instructions, front: 104, the budget is 100"),
        (figures(run=1021.0), "instructions, run: 1021, the budget is 1000"),
        (figures(writes=1.0), "writes: 1, the budget is 0"),
    ],
)
def test_the_component_that_exceeds_the_budget_is_named(budget: Any, found: Any, name: str) -> None:
    assert budget.exceeded({"http 1": figures()}, {"http 1": found}) == [f"http 1: {name}"]


def test_a_little_in_each_component_is_too_much_in_all(budget: Any) -> None:
    parts = dict.fromkeys("abcdefghij", 10.0)
    before = {"instructions": parts}
    after = {"instructions": dict.fromkeys(parts, 12.5)}
    assert budget.exceeded({"x": before}, {"x": after}) == ["x: instructions in all: 125, the budget is 100"]


def test_what_is_within_the_margin_is_not_told(budget: Any) -> None:
    assert not budget.exceeded({"x": figures()}, {"x": figures(front=102.9, run=1016.0)})
    assert not budget.exceeded({"x": figures()}, {"x": figures(front=50.0, run=10.0)})


def instructions(table: str) -> list[float]:
    """All numbers of instructions; on a busy machine a turn of the loop more or less is among thousands."""
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| instructions")]
    return [float(cell) for row in rows for cell in row[2:-1]]


def test_two_runs_count_the_same_and_a_smaller_budget_fails(budget: Any, tmp_path: Path) -> None:
    file = tmp_path / "budget.json"
    first = count("--write", "--file", str(file))
    assert first.returncode == 0, first.stderr
    kept = json.loads(file.read_text())
    assert list(kept["requests"]) == list(budget.CASES)
    for case in kept["requests"].values():
        assert set(case["instructions"]) == set(budget.COMPONENTS)
        assert all(number > 0 for number in case["instructions"].values())
    kept["requests"]["grpc 16"]["instructions"]["admission"] *= 0.9
    file.write_text(json.dumps(kept))
    second = count("--file", str(file))
    assert second.returncode == 1, second.stderr
    assert "\ngrpc 16: instructions, admission: " in second.stdout
    assert instructions(second.stdout) == pytest.approx(instructions(first.stdout), rel=1e-3)
