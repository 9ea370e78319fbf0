"""The whole demo: real models, a real server, every answer right."""

import subprocess
import sys
from pathlib import Path

import pytest

MAIN = Path(__file__).parents[2] / "examples" / "demo" / "main.py"


@pytest.mark.timeout(300)
def test_every_model_answers_right() -> None:
    done = subprocess.run([sys.executable, str(MAIN), "--once"], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    for part in ("espresso", "A4", "listening on http://127.0.0.1:", "tritonclient over gRPC", "21/21"):
        assert part in done.stdout
    assert "WRONG" not in done.stdout
