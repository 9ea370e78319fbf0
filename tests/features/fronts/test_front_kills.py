"""The long run of benchmarks/front_kills.py, for as long as a test may take."""

import subprocess
import sys
from pathlib import Path

from soaking import ONLY

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "front_kills.py"

pytestmark = ONLY


def test_only_what_was_in_a_killed_process_is_lost() -> None:
    command = [sys.executable, str(SCRIPT), "--seconds", "30", "--every", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert "0 faults" in done.stdout
