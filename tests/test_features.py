"""A package of somebody else's adds every kind of part, without a change of Salver."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import grpc
import pytest
from zoo import write_mlp

from salver.configuration import ServeConfig
from salver.feature import Feature, discover
from salver.parts import Kernel, build
from salver.testing.process import ServerProcess
from salver.words.errors import InvalidInput

EXAMPLE = Path(__file__).parents[1] / "examples" / "greeter"
BODY = {"inputs": [{"name": "x", "shape": [1, 16], "datatype": "FP32", "data": [0.5] * 16}]}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the example is installed, as pip does it."""
    folder = tmp_path_factory.mktemp("packages")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(EXAMPLE)], check=True)
    return folder


@pytest.fixture(scope="module")
def server(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server")
    root = folder / "models"
    write_mlp(root / "mlp", 1)
    (root / "salver.toml").write_text('[server.greeter]\ngreeting = "Good day"\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{installed}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        with ServerProcess([root], folder / "log") as server:
            yield server.wait_ready()


def get(server: ServerProcess, path: str, body: object = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", data) as reply:
        return bytes(reply.read())


def test_a_route_and_an_operation_and_a_page(server: ServerProcess) -> None:
    assert get(server, "/hello") == b"Good day, caller!\n"
    assert json.loads(get(server, "/api/v1/greetings/ann")) == {"text": "Good day, ann!"}
    assert "/api/v1/greetings/{name}" in json.loads(get(server, "/api/openapi.json"))["paths"]
    assert b"<h1>Good day</h1>" in get(server, "/greeter/")


def test_a_grpc_method(server: ServerProcess) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        assert channel.unary_unary("/greeter.Greeter/Hello")(b"abc", timeout=60) == b"abc"


def test_a_stage_and_an_observer_count_on_the_metrics_page(server: ServerProcess) -> None:
    before = numbers(server)
    get(server, "/v2/models/mlp/infer", BODY)
    after = numbers(server)
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1]


def numbers(server: ServerProcess) -> list[float]:
    lines = get(server, "/metrics").decode().splitlines()
    found = dict(line.rsplit(" ", 1) for line in lines if line.startswith("greeter_"))
    return [float(found["greeter_served_total"]), float(found["greeter_passed_total"])]


def test_a_command_and_a_table(installed: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed)}

    def salver(*words: str) -> str:
        command = [str(Path(sys.executable).with_name("salver")), *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    assert salver("greet", "--name", "ann") == "Hello, ann!\n"
    assert "greet" in salver("--help")
    assert "greeter" in salver("config", "schema")


class Entry:
    """An entry point that gives this."""

    value = "somewhere:feature"

    def __init__(self, name: str, given: object) -> None:
        self.name = name
        self._given = given

    def load(self) -> object:
        if isinstance(self._given, Exception):
            raise self._given
        return self._given


def test_features_come_after_those_that_they_name() -> None:
    features = [Feature("a", after=("b", "nobody")), Feature("b", after=("c", "a")), Feature("c")]
    found = discover([Entry(feature.name, feature) for feature in features])  # type: ignore[misc]
    assert [feature.name for feature in found] == ["c", "b", "a"]


def test_a_feature_that_cannot_be_imported_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    entries = [Entry("a", ImportError("no module x")), Entry("b", "text"), Entry("c", Feature("c"))]
    assert [feature.name for feature in discover(entries)] == ["c"]  # type: ignore[arg-type]
    assert "no module x" in caplog.text
    assert "no salver.feature.Feature" in caplog.text


@pytest.mark.parametrize("is_asked_for", [False, True])
async def test_a_feature_that_cannot_be_built_is_left_out_unless_it_is_asked_for(is_asked_for: bool) -> None:
    tables: dict[str, dict[str, object]] = {}
    if is_asked_for:
        tables["lacking"] = {}
    kernel = SimpleNamespace(config=ServeConfig(tables=tables), parts=[])
    building = build([Feature("lacking", "salver.no_such_module:build")], cast("Kernel", kernel))
    if is_asked_for:
        with pytest.raises(InvalidInput, match="no_such_module"):
            await building
    else:
        await building
    assert kernel.parts == []
