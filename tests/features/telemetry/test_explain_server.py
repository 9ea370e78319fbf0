"""Why was it slow, asked of a real server: the phases of each request add up, and the command tells them."""

import http.client
import json
import re
import sys
import threading
import time
from pathlib import Path

import pytest
from waiting import PATIENCE_S
from zoo import ask_moody, at_work, infer_body, moody_body

from salver.cli import main
from salver.testing.process import ServerProcess

PHASES = ("queue_ms", "formation_ms", "inference_ms", "rest_ms")
#: Two readings of one clock may lie the wrong way round by rounding, in milliseconds.
CLOCK_ERROR = 1e-3


def send(server: ServerProcess, names: list[str], took: dict[str, float]) -> None:
    """Requests one after another, each under its own id, and what each took the caller, in ms."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE_S)
    for index, name in enumerate(names):
        rows = 1 + index % 7
        body = json.dumps(infer_body(rows=rows))
        began = time.monotonic()
        connection.request("POST", "/v2/models/mlp/infer", body, {"x-request-id": name})
        reply = connection.getresponse()
        assert (reply.status, reply.getheader("x-request-id")) == (200, name)
        reply.read()
        took[name] = (time.monotonic() - began) * 1e3
    connection.close()


def test_the_phases_of_each_of_hundreds_of_requests_add_up_to_its_latency(server: ServerProcess) -> None:
    took: dict[str, float] = {}
    names = [[f"explain-{worker}/{number}" for number in range(40)] for worker in range(8)]
    workers = [threading.Thread(target=send, args=(server, mine, took)) for mine in names]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(took) == 320
    for name, seen in took.items():
        status, body = server.get(f"/v2/models/mlp/explain/{name.replace('/', '%2F')}")
        told = json.loads(body)
        assert (status, told["request_id"], told["outcome"]) == (200, name, "ok")
        assert sum(told[phase] for phase in PHASES) == pytest.approx(told["latency_ms"], abs=1e-5)
        assert min(told[phase] for phase in PHASES) >= -CLOCK_ERROR, told
        assert told["latency_ms"] <= seen
        assert told["batch_rows"] >= told["rows"] >= 1


def test_a_sleeping_model_is_to_blame_itself(server: ServerProcess) -> None:
    body = json.dumps(moody_body("sleep 0.4")).encode()
    assert server.ask("POST", "/v2/models/moody/infer", body, {"x-request-id": "sleepy"})[0] == 200
    told = json.loads(server.get("/v2/models/moody/explain/sleepy")[1])
    assert told["verdict"]["phase"] == "inference"
    assert told["inference_ms"] >= 400


def test_unknown_models_and_requests_are_not_explained(server: ServerProcess) -> None:
    assert server.get("/v2/models/nobody/explain")[0] == 404
    assert server.get("/v2/models/mlp/versions/77/explain")[0] == 404
    status, body = server.get("/v2/models/mlp/explain/nobody")
    assert (status, b"no recent request" in body) == (404, True)


@pytest.mark.parametrize("terminal", [False, True])
def test_the_command_in_a_pipe_and_on_a_terminal(
    server: ServerProcess,
    terminal: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.setenv("COLUMNS", "160")  # wide enough for the latencies of a busy machine
    send(server, ["for-the-command"], {})
    assert main(["explain", "mlp", "--url", server.url]) == 0
    said = capsys.readouterr().out
    assert "mlp:1, the last" in said
    assert "of the slow requests' time is" in said
    assert ("█" in said) is terminal
    bars = [line for line in re.sub(r"\x1b\[[\d;]*m", "", said).splitlines() if "█" in line]
    assert all(len(line) <= 160 for line in bars)
    assert main(["explain", "mlp", "--request", "for-the-command", "--url", server.url]) == 0
    said = capsys.readouterr().out
    assert "request for-the-command to mlp:1 over oip-http: ok after" in said
    assert "was closed by" in said


def test_the_command_as_json_and_of_what_it_does_not_know(
    server: ServerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    send(server, ["as-json"], {})
    assert main(["explain", "mlp", "--request", "as-json", "--json", "--url", server.url]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["request_id"], set(PHASES) <= told.keys()) == ("as-json", True)
    assert main(["explain", "two", "--url", server.url]) == 0
    assert main(["explain", "mlp", "--request", "nobody", "--url", server.url]) == 1
    assert "no recent request of model 'mlp' has the id 'nobody'" in capsys.readouterr().err


def test_a_request_that_was_given_up_says_so(
    server: ServerProcess, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert ask_moody(server, "pid")[0] == 200  # nothing of an earlier test runs any more
    with at_work(server, tmp_path / "gate"):
        body = json.dumps({**moody_body("sleep 0"), "parameters": {"timeout": 1000}}).encode()
        status, _ = server.ask("POST", "/v2/models/moody/infer", body, {"x-request-id": "too-late"})
        assert status == 503
        assert main(["explain", "moody", "--request", "too-late", "--url", server.url]) == 0
    said = capsys.readouterr().out
    assert "deadline_exceeded after" in said
    assert "it was given up before it ran: deadline" in said
