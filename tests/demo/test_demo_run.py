"""The whole demo: real models, a real server, every answer right, and calls that work when pasted."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pods import Container, limited_memory
from programs import shell
from soaking import ONLY
from waiting import until

MAIN = Path(__file__).parents[2] / "examples" / "demo" / "main.py"


def paste(command: str) -> str:
    done = subprocess.run(["bash", "-c", shell(command)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def repository() -> Path:
    """Return the models of the demo, made by a process that is not confined."""
    code = "import build; print(build.repository(lambda step: None))"
    made = subprocess.check_output([sys.executable, "-c", code], cwd=MAIN.parent, text=True)
    return Path(made.splitlines()[-1])


@ONLY
def test_every_model_answers_right_and_the_calls_work_until_ctrl_c(tmp_path: Path) -> None:
    """As a user with a random number, without rights, on a read-only root, and with little memory.

    ``make demo ARGS=--once`` runs it without limits.
    """
    models, source = repository(), str(MAIN.parents[2])
    cache = str(models.parent)  # the log of the server is written there
    mounts = ["--ro-bind", source, source, "--tmpfs", cache, "--ro-bind", str(models), str(models)]
    variables, command = {"HOME": "/", "SALVER_DEMO_CACHE": cache}, (sys.executable, str(MAIN))
    with limited_memory(2 << 30) as before:
        demo = Container(tmp_path / "log", 0, (), variables, mounts, command=command, before=before)
        try:
            for sign in ("is loaded", "ready in", "\nCtrl-C"):
                until(lambda sign=sign: sign in demo.text() or demo.process.poll() is not None, demo.text)
            shown = demo.text()
            assert demo.process.poll() is None, shown
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
            assert demo.signal(signal.SIGINT) == 0
        finally:
            demo.kill()


def test_the_log_of_the_server_and_its_frameworks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(MAIN.parent)
    from main import loaded

    ready = json.dumps({"timestamp": "t", "event": "model ready", "model": "wine"}, separators=(",", ":"))
    log = f"INFO: something else\n{ready}\n{ready.replace('ready', 'gone')}\n" + ready[:20]
    assert loaded(log) == ["wine"]
