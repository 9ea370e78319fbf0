"""The long runs of benchmarks/soak.py and benchmarks/unload.py, for as long as a test may take."""

import subprocess
import sys
from pathlib import Path

import pytest
from soaking import size

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.soak
def test_mixed_load_with_versions_changing_and_hosts_killed() -> None:
    load = ["--seconds", size("25", "8"), "--rate", "25", "--every", "2"]
    command = [sys.executable, str(BENCHMARKS / "soak.py"), *load]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert "0 requests failed that were not meant to" in done.stdout


@pytest.mark.soak
def test_memory_comes_back_when_models_are_unloaded() -> None:
    options = ["--rounds", size("12", "7"), "--only", size("onnx,python", "onnx")]
    command = [sys.executable, str(BENCHMARKS / "unload.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "rounds of load, infer, unload" in done.stdout
