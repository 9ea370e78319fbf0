"""``salver serve`` as a process: the start-up block, its calls, and its end."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from programs import shell
from waiting import PATIENCE_S

SALVER = str(Path(sys.executable).with_name("salver"))

MODEL = """
import numpy as np
class Model:
    inputs = {"text": ("BYTES", [-1])}
    outputs = {"length": ("INT64", [-1])}
    def predict(self, inputs):
        return {"length": np.array([len(t) for t in inputs["text"]])}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "length.py").write_text(MODEL)
    return tmp_path / "length.py"


def test_the_block_in_a_pipe_and_its_calls(path: Path) -> None:
    with subprocess.Popen(
        [SALVER, "serve", str(path), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout is not None
        shown = ""
        for line in server.stdout:
            shown += line
            if line.startswith("print("):
                break
        try:
            assert shown.isascii()  # no box, no colour
            assert "\x1b" not in shown
            assert re.search(r"^length  1 +READY  python +[\d.]+ s +text BYTES\[-1\]", shown, re.M)
            curl = next(line for line in shown.splitlines() if line.startswith("curl"))
            answer = subprocess.run(["bash", "-c", shell(curl)], capture_output=True, timeout=PATIENCE_S)
            assert list(json.loads(answer.stdout).values()) == [[4]]
            snippet = shown[shown.index("import numpy") :]
            python = [sys.executable, "-c", snippet]
            called = subprocess.run(python, capture_output=True, text=True, timeout=PATIENCE_S)
            assert called.stdout == "[4]\n", called.stderr
        finally:
            server.send_signal(signal.SIGINT)
        assert server.wait() == 0


def test_the_block_as_json(path: Path) -> None:
    with subprocess.Popen(
        [SALVER, "serve", str(path), "--port", "0", "--json", "--name", "n", "--host", "0.0.0.0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout is not None
        record = json.loads(server.stdout.readline())
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 0
    assert record["event"] == "ready"
    assert [(m["name"], m["state"]) for m in record["models"]] == [("n", "READY")]


def test_a_path_that_does_not_exist_is_one_line_and_an_exit_status(tmp_path: Path) -> None:
    words = [SALVER, "serve", str(tmp_path / "nowhere"), "--port", "0"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 1
    assert "nowhere does not exist" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("empty", "in {root}/empty (it holds: nothing). Expected"),
        ("notes", "(it holds: notes.txt). Expected"),
        ("empti", "empti does not exist. Did you mean {root}/empty?"),
        ("hf://org/name", "optimum-cli export onnx --model org/name exported"),
        ("app:predict", "class Model:"),
    ],
)
def test_a_path_without_a_model_is_an_error_that_says_what_would_be_one(
    name: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").write_text("no model")
    path = name if ":" in name else str(tmp_path / name)
    done = subprocess.run(
        [SALVER, "serve", path, "--port", "0"], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 1
    assert words.format(root=tmp_path) in done.stderr
    assert "Traceback" not in done.stderr
