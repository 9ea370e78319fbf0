"""``salver config``, and the table ``[server]`` of ``salver.toml`` in ``salver serve``."""

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from salver.cli import COMMANDS, app, main
from salver.cli.server_file import find
from salver.configuration import Startup
from salver.dialects.triton.metrics import TritonMetricsConfig
from salver.feature import Feature
from salver.features.telemetry.otlp import SpanConfig
from salver.kernel.logs import LogConfig
from salver.words.errors import InvalidInput

FILE = """\
timeout_ms = 5

[server]
port = 9000
load = ["a", "b c"]
allow_client_shm = true
exit_on_error = false

[server.log]
level = "debug"

[server.metrics]
summaries = true
quantiles = [0.5]
"""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository, with a model's folder in it."""
    for name in [name for name in os.environ if name.startswith("SALVER_")]:
        monkeypatch.delenv(name)
    (tmp_path / "models" / "m").mkdir(parents=True)
    return tmp_path / "models"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Startup]:
    """Configurations of servers that would have been started."""
    found: list[Startup] = []
    monkeypatch.setattr("salver.cli.run", lambda start: found.append(start) or 0)
    return found


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, tuple[Any, str]]:
    assert main(["config", "show", "--json", *words]) == 0
    rows = map(json.loads, capsys.readouterr().out.splitlines())
    return {row["key"]: (row["value"], row["source"]) for row in rows}


def test_a_flag_overrides_a_variable_which_overrides_the_file(
    models: Path, started: list[Startup], monkeypatch: pytest.MonkeyPatch
) -> None:
    (models / "salver.toml").write_text(FILE)
    monkeypatch.setenv("SALVER_LOG_LEVEL", "error")
    monkeypatch.setenv("SALVER_METRICS_HISTOGRAMS", "true")
    monkeypatch.setenv("SALVER_TRACING_URL", "http://c:1/v1/traces")
    monkeypatch.setenv("SALVER_TRACING_DELAY_S", "2")
    assert main(["serve", str(models / "m"), "--port", "9001"]) == 0
    (start,) = started
    config = start.config
    assert (config.front.port, config.front.host) == (9001, "127.0.0.1")
    assert (config.load, config.allow_client_shm, config.exits_on_error) == (("a", "b c"), True, False)
    assert config.table("log", LogConfig).level == "error"
    assert config.table("metrics", TritonMetricsConfig) == TritonMetricsConfig(
        summaries=True, quantiles=(0.5,), histograms=True
    )
    assert config.table("tracing", SpanConfig) == SpanConfig("http://c:1/v1/traces", delay_s=2.0)
    assert start.remark == f"settings of {models / 'salver.toml'} are used"


def test_show_names_the_source_of_each_setting(
    models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (models / "salver.toml").write_text(FILE)
    monkeypatch.setenv("SALVER_TRACE_RATE", "7")
    monkeypatch.setenv("SALVER_TRACING_QUEUE", "4000")
    monkeypatch.setenv("SALVER_REGISTRY", "postgresql://ann:secret@db/salver")
    found = shown(capsys, str(models), "--host=0.0.0.0")
    where = f"{models / 'salver.toml'}"
    assert found["server.host"] == ("0.0.0.0", "--host")
    assert found["server.port"] == (9000, f"{where}:4")
    assert found["server.load"] == (["a", "b c"], f"{where}:5")
    assert found["server.log.level"] == ("debug", f"{where}:10")
    assert found["server.log.format"] == ("auto", "default")
    assert found["server.trace.rate"] == (7, "SALVER_TRACE_RATE")
    assert found["server.metrics.quantiles"] == ([0.5], f"{where}:14")
    assert found["server.metrics.counters"] == (True, "default")
    assert found["server.tracing.queue"] == (4000, "SALVER_TRACING_QUEUE")
    assert found["server.registry"] == ("postgresql://ann:…@db/salver", "SALVER_REGISTRY")


def test_headers_of_spans_are_not_shown(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (models / "salver.toml").write_text('[server.tracing]\nheaders = [["authorization", "secret"]]\n')
    assert shown(capsys, str(models))["server.tracing.headers"][0] == [["authorization", "…"]]


WRONG = """\
[server]
prot = 1
port = "x"
trust_pickle = true
registry = { ledger = "x" }

[server.log]
levle = "debug"
format = "xml"

[server.metrics]
sumaries = true

[server.lgo]
level = "debug"

[server.tracing]
url = "ftp://x"
"""
PROBLEMS = (
    ("2", "prot", "unknown key `server.prot`", "Did you mean `port`?"),
    ("3", "port", "key `server.port`: expected `int`, got `str`", ""),
    ("4", "trust_pickle", "`server.trust_pickle` cannot be set in a file", "Say --trust-pickle when you"),
    ("5", "registry.ledger", "unknown key `server.registry.ledger`", "Did you mean `server.registry`?"),
    ("8", "log.levle", "unknown key `server.log.levle`", "Did you mean `level`?"),
    ("9", "log.format", "key `server.log.format`: must be one of 'auto', 'console', 'json'", ""),
    ("12", "metrics.sumaries", "unknown key `server.metrics.sumaries`", "Did you mean `summaries`?"),
    ("15", "lgo.level", "unknown key `server.lgo.level`", "Did you mean `server.log.level`?"),
    ("17", "tracing", "table `server.tracing`: spans cannot go to 'ftp://x'", "Give the URL"),
)


def test_check_reports_every_problem(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (models / "salver.toml").write_text(WRONG)
    (models / "m" / "salver.toml").write_text("timeout = 5\n")
    assert main(["config", "check", str(models), "--json"]) == 1
    first, *rest = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["where"] == str(models / "m" / "salver.toml")
    assert (first["text"], first["fix"]) == (
        "line 1: unknown key `timeout`",
        "Did you mean `timeout_ms`?",
    )
    found = [(p["where"].rpartition(":")[2], p["key"], p["text"], p["fix"]) for p in rest]
    assert [row[:3] for row in found] == [row[:3] for row in PROBLEMS]
    assert all(row[3].startswith(expected[3]) for row, expected in zip(found, PROBLEMS, strict=True))


def test_serve_refuses_a_wrong_file(
    models: Path, started: list[Startup], capsys: pytest.CaptureFixture[str]
) -> None:
    (models / "salver.toml").write_text(WRONG)
    assert main(["serve", str(models)]) == 1
    assert "salver.toml:2: unknown key `server.prot`. Did you mean `port`?" in capsys.readouterr().err
    assert started == []


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[server\n", "Expected"),
        ("server = 1\n", "`server` must be a table"),
        ("[server.tls]\ncert = 'c.pem'\n", "--tls-cert and --tls-key need each other"),
        ("[server]\ndrain_delay = -1.0\n", "drain delay"),
    ],
)
def test_check_finds_what_no_key_alone_shows(
    models: Path, capsys: pytest.CaptureFixture[str], content: str, problem: str
) -> None:
    (models / "salver.toml").write_text(content)
    assert main(["config", "check", str(models)]) == 1
    assert problem in capsys.readouterr().out


def test_check_of_right_files(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (models / "salver.toml").write_text(FILE.partition("\n")[2])
    assert main(["config", "check", str(models)]) == 0
    assert capsys.readouterr().out == "the configuration is right\n"
    assert main(["config", "check", str(models / "nowhere")]) == 1


def test_the_nearest_file_with_the_table_counts(models: Path) -> None:
    (models.parent / "salver.toml").write_text("[server]\nport = 1\n")
    (models / "m" / "salver.toml").write_text("timeout_ms = 5\n")
    assert find([str(models / "m" / "1" / "model.onnx")]) == find([str(models)])
    (models / "salver.toml").write_text("[server]\nport = 2\n")
    found = find(["s3://bucket/models", str(models / "m")])
    assert found is not None and found.table == {"port": 2}


def test_the_file_of_another_user_is_passed_over(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (models / "salver.toml").write_text("[server]\nport = 1\n")
    os.chown(models / "salver.toml", 12345, -1)
    assert find([str(models)]) is None


def test_a_wrong_variable_of_a_table_is_named(
    models: Path, started: list[Startup], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SALVER_METRICS_SUMMARIES", "perhaps")
    with pytest.raises(InvalidInput, match="SALVER_METRICS_SUMMARIES is 'perhaps'"):
        app()(["serve", str(models)])


class Greeting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Configuration of a feature of another package."""

    text: str = "hello"
    times: int = 1


@pytest.fixture
def greeting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A feature of another package is installed."""
    feature = Feature("greeting", config=Greeting, commands={"greet": "tests_greeting:greet"})
    monkeypatch.setattr("salver.cli.feature_tables.discover", lambda: (feature,))


@pytest.mark.usefixtures("greeting")
def test_a_feature_of_another_package_has_its_table(
    models: Path, started: list[Startup], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (models / "salver.toml").write_text('[server.greeting]\ntext = "ahoy"\ntimes = 2\n')
    monkeypatch.setenv("SALVER_GREETING_TIMES", "3")
    assert main(["serve", str(models)]) == 0
    assert started[0].config.table("greeting", Greeting) == Greeting("ahoy", 3)
    found = shown(capsys, str(models))
    assert found["server.greeting.text"] == ("ahoy", f"{models / 'salver.toml'}:2")
    assert found["server.greeting.times"] == (3, "SALVER_GREETING_TIMES")
    (models / "salver.toml").write_text('[server.greeting]\ntxt = "ahoy"\n')
    assert main(["config", "check", str(models)]) == 1
    assert "unknown key `server.greeting.txt`. Did you mean `text`?" in capsys.readouterr().out


def test_commands_are_where_the_table_says() -> None:
    root = app()
    for name in COMMANDS:
        assert root[name].name == (name,)
