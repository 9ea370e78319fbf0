"""Options by environment variables."""

from pathlib import Path
from typing import Any

import pytest

from salver.cli import app, main
from salver.cli.serve_flags import Limits, Logs, Shutdown, Storage


@pytest.fixture(autouse=True)
def _no_drain_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which all tests have."""
    monkeypatch.delenv("SALVER_DRAIN_DELAY", raising=False)


def given(words: str) -> dict[str, Any]:
    """What a command line and the environment give a command."""
    _, bound, _ = app().parse_args(words.split(), print_error=False, exit_on_error=False)
    return dict(bound.arguments)


@pytest.mark.parametrize(
    ("name", "value", "argument", "expected"),
    [
        ("SALVER_PORT", "8123", "port", 8123),
        ("SALVER_HOST", "0.0.0.0", "host", "0.0.0.0"),
        ("SALVER_TRUST_PICKLE", "true", "trust_pickle", True),
        ("SALVER_LOAD", "a b", "load", ("a", "b")),
        ("SALVER_GRACE_SECONDS", "2.5", "shutdown", Shutdown(grace_seconds=2.5)),
        ("SALVER_MAX_BODY_MB", "3", "limits", Limits(max_body_mb=3)),
        ("SALVER_LOG_LEVEL", "debug", "logs", Logs(level="debug")),
        ("SALVER_REGISTRY", "/r", "storage", Storage(registry="/r")),
    ],
)
def test_options_of_serve(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, argument: str, expected: object
) -> None:
    monkeypatch.setenv(name, value)
    assert given("serve x.onnx") == {"paths": ("x.onnx",), argument: expected}


def test_other_commands_have_their_name_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALVER_BENCH_SECONDS", "3")
    monkeypatch.setenv("SALVER_SECONDS", "4")
    assert given("bench m") == {"model": "m", "seconds": 3.0}
    monkeypatch.setenv("SALVER_NAME", "served")
    assert "served" not in given("registry push m.onnx --name fraud").values()


def test_a_flag_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALVER_PORT", "8123")
    assert given("serve x.onnx --port 1")["port"] == 1


def test_a_wrong_value_is_told_of_with_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SALVER_PORT", "http")
    with pytest.raises(SystemExit) as caught:
        main(["serve", "x.onnx"])
    assert caught.value.code
    said = capsys.readouterr()
    assert "SALVER_PORT" in said.out + said.err


def test_a_service_of_kubernetes_called_salver_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("SALVER_PORT", "tcp://10.0.0.1:8000")
    monkeypatch.setenv("SALVER_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("SALVER_SERVICE_PORT_HTTP", "8000")
    monkeypatch.setenv("SALVER_PORT_8000_TCP_ADDR", "10.0.0.1")
    assert main(["doctor", "--json"]) == 0
    assert given("serve x.onnx") == {"paths": ("x.onnx",)}
