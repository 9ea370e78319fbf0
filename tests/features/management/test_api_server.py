"""The management interface of a real server, asked by curl."""

import json
from pathlib import Path

import pytest
from curling import HTTP, REQUEST, curl
from zoo import write_mlp

from salver.testing.process import ServerProcess

TOKEN = "an-example-token-of-a-test"


class Wide(ServerProcess):
    """Other machines reach it, too."""

    host = "0.0.0.0"


@HTTP
def test_what_is_served(server: ServerProcess, flag: str) -> None:
    status, head, body = curl(flag, f"{server.url}/api/v1/served")
    assert status == 200
    assert "content-type: application/json" in head
    (mlp,) = [item for item in json.loads(body)["items"] if item["model"] == "mlp"]
    assert (mlp["version"], mlp["state"], mlp["backend"]) == ("1", "READY", "onnx")


@HTTP
def test_counts_of_requests_grow(server: ServerProcess, flag: str) -> None:
    def count() -> tuple[int, int]:
        items = json.loads(curl(flag, f"{server.url}/api/v1/traffic")[2])["items"]
        (mlp,) = [item for item in items if item["model"] == "mlp"]
        return mlp["ok"], mlp["runs"]

    ok, runs = count()
    assert curl(flag, f"{server.url}/v2/models/mlp/infer", "-d", REQUEST)[0] == 200
    assert count() >= (ok + 1, runs + 1)


def test_where_a_model_runs(server: ServerProcess) -> None:
    assert curl(f"{server.url}/v2/models/mlp/infer", "-d", REQUEST)[0] == 200
    told = json.loads(curl(f"{server.url}/api/v1/models/mlp/placement")[2])
    assert told["cluster"] == {"replicas": [], "lacking": ""}
    assert (told["node"]["runner"], told["node"]["processes"]) == ("thread", [])
    assert told["process"]["rule"] == "drain" and told["process"]["mean_rows"] >= 1


@HTTP
def test_a_browser_that_was_lured_here_sees_nothing(server: ServerProcess, flag: str) -> None:
    for path in ("/api/v1/served", "/api/openapi.json", "/console/"):
        assert curl(flag, "-H", "host: evil.example.org", f"{server.url}{path}")[0] == 403


def test_what_has_not_changed_is_not_sent_again(server: ServerProcess) -> None:
    _, head, _ = curl(f"{server.url}/api/v1/server")
    tag = next(line.partition(": ")[2] for line in head.split("\r\n") if line.startswith("etag"))
    status, _, body = curl("-H", f"if-none-match: {tag}", f"{server.url}/api/v1/server")
    assert (status, body) == (304, b"")


def test_who_may_change_something(tmp_path: Path) -> None:
    write_mlp(tmp_path / "models" / "mlp", 1)
    (tmp_path / "token").write_text(TOKEN)
    guarded = ["--api-token-file", str(tmp_path / "token")]
    servers = ((Wide, [], "refused"), (Wide, guarded, "token"), (ServerProcess, [], "open"))
    for kind, options, changing in servers:
        with kind([tmp_path / "models"], tmp_path / "log", options) as server:
            server.wait_for("/v2/health/live")
            assert json.loads(server.get("/api/v1/server")[1])["changes"] == changing


def test_a_token_that_is_none_keeps_the_server_from_starting(tmp_path: Path) -> None:
    write_mlp(tmp_path / "models" / "mlp", 1)
    (tmp_path / "token").write_text("short")
    options = ["--api-token-file", str(tmp_path / "token")]
    with ServerProcess([tmp_path / "models"], tmp_path / "log", options) as server:
        with pytest.raises(RuntimeError, match="openssl"):
            server.wait_ready()
        assert server.wait() == 1
