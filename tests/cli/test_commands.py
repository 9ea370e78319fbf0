"""The program itself: its words, its exit status, its errors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import salver
from salver.cli import main
from salver.features.tuning.bench_command import _split
from salver.terminal.output import plain_table

SALVER = str(Path(sys.executable).with_name("salver"))


def run(*words: str, env: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [SALVER, *words], capture_output=True, text=True, timeout=60, env={**os.environ, **(env or {})}
    )


def test_version_and_help_import_neither_server_nor_numpy() -> None:
    code = (
        "import sys; from salver.cli import main; main(['--version']); main(['serve', '--help']); "
        "print([m for m in ('numpy', 'salver.app', 'uvloop', 'google.protobuf') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith(salver.__version__)
    assert done.stdout.rstrip().endswith("[]")


@pytest.mark.parametrize("words", [("--help",), ("serve", "--help"), ("models", "-h"), ("bench", "-h")])
def test_help_ends_well(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert "Usage: salver" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("srve",), 'Did you mean "serve"'),
        (("serve", "--nope"), "Unknown option"),
        (("serve", "x", "--port", "many"), "many"),
        (("infer",), "MODEL"),
    ],
)
def test_a_wrong_command_line_exits_with_2(words: tuple[str, ...], said: str) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert said in done.stdout + done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("models",),
        ("models", "load", "m"),
        ("models", "unload", "m"),
        ("infer", "m"),
        ("explain", "m"),
        ("bench", "m"),
    ],
)
def test_nobody_at_the_url(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--url", "http://127.0.0.1:1"]) == 1
    text = capsys.readouterr().err
    reason = "no server answers at http://127.0.0.1:1 (Connection refused)"
    assert text == f"error: {reason}. Start one with: salver serve PATH\n"


def test_the_url_may_come_from_the_environment() -> None:
    done = run("models", env={"SALVER_URL": "http://127.0.0.1:2"})
    assert "http://127.0.0.1:2" in done.stderr


def test_errors_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json", "--url", "http://127.0.0.1:1"]) == 1
    out = capsys.readouterr()
    assert json.loads(out.out)["error"]["fix"] == "Start one with: salver serve PATH"
    assert out.err == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("serve",), "no model is given. Say: salver serve PATH"),
        (("serve", "x", "--tls-cert", "c.pem"), "need each other"),
        (("serve", "x", "--tenant-header", "x tenant"), "'x tenant' is not a header name"),
        (("bench", "m", "--rate", "0"), "must be above 0"),
        (("bench", "m", "--rate", "1e9"), "20 million"),
        (("tune", "nowhere.onnx"), "nowhere.onnx does not exist"),
    ],
)
def test_settings_that_make_no_sense(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 1
    assert said in capsys.readouterr().err


def test_the_split_is_the_difference_of_two_looks() -> None:
    before = {"queue": (10, 5_000_000), "compute_infer": (10, 0)}
    after = {"queue": (20, 25_000_000), "compute_infer": (10, 0)}
    assert _split(before, after) == {"queue_ms": 2.0, "compute_ms": None}
    assert _split({}, after) == {"queue_ms": None, "compute_ms": None}


def test_tables_in_a_pipe_have_no_box() -> None:
    assert plain_table(("a", "bb"), [("xxx", "1\n2"), ("", "")]) == ["a    bb", "xxx  1 2", ""]
