"""The whole demo: real models, a real server, every answer right, and calls that work when pasted."""

import json
import signal
import subprocess
import sys
from pathlib import Path

from programs import shell
from soaking import ONLY
from waiting import PATIENCE_S

MAIN = Path(__file__).parents[2] / "examples" / "demo" / "main.py"


def paste(command: str) -> str:
    done = subprocess.run(["bash", "-c", shell(command)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@ONLY
def test_every_model_answers_right_and_the_calls_work_until_ctrl_c() -> None:
    with subprocess.Popen([sys.executable, str(MAIN)], stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        shown = ""
        for line in demo.stdout:
            shown += line
            if line.startswith("Ctrl-C"):
                break
        try:
            assert demo.poll() is None, shown
            for part in (
                "espresso",
                "A4",
                "21/21",
                "tritonclient over gRPC",
                "listening on http://127.0.0.1:",
            ):
                assert part in shown
            assert "WRONG" not in shown
            assert "does not serve" not in shown
            curl, python = shown[shown.index("curl ") : shown.index("Ctrl-C")].split("\n\n", 1)
            assert '"shape":[1,384]' in paste(curl)
            assert 0.5 < float(paste(python).removeprefix("similarity: ")) < 1
        finally:
            demo.send_signal(signal.SIGINT)
        assert demo.wait(PATIENCE_S) == 0


def test_the_log_of_the_server_and_its_frameworks() -> None:
    sys.path.insert(0, str(MAIN.parent))
    from main import loaded

    ready = json.dumps({"timestamp": "t", "event": "model ready", "model": "wine"}, separators=(",", ":"))
    log = f"INFO: something else\n{ready}\n{ready.replace('ready', 'gone')}\n" + ready[:20]
    assert loaded(log) == ["wine"]
