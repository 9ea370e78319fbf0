"""What an operator sees of a real server."""

import http.client
import json
import re

import numpy as np
import pytest
import tritonclient.grpc as triton
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from waiting import PATIENCE_S, until
from zoo import ask_moody, infer_body

from salver.testing.process import ServerProcess

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def samples(server: ServerProcess) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    status, page = server.get("/metrics")
    assert status == 200
    return {
        (s.name, frozenset(s.labels.items())): s.value
        for family in parse_text(page.decode())
        for s in family.samples
    }


def count(server: ServerProcess, name: str, **labels: str) -> float:
    return sum(
        value
        for (found, given), value in samples(server).items()
        if found == name and labels.items() <= set(given)
    )


def test_requests_appear_in_the_metrics_by_protocol_and_outcome(server: ServerProcess) -> None:
    def now(**labels: str) -> float:
        return count(server, "salver_requests_total", model="mlp", **labels)

    http_before, grpc_before = now(protocol="oip-http", outcome="ok"), now(protocol="oip-grpc", outcome="ok")
    wrong_before = now(protocol="oip-http", outcome="invalid_input")
    v1_before = now(protocol="tfs-http", outcome="ok")
    for _ in range(3):
        assert server.post("/v2/models/mlp/infer", infer_body())[0] == 200
    assert server.post("/v2/models/mlp/infer", infer_body(columns=17))[0] == 400
    assert server.post("/v1/models/mlp:predict", {"instances": [[0.0] * 16]})[0] == 200
    with triton.InferenceServerClient(server.address) as client:
        given = triton.InferInput("x", [1, 16], "FP32")
        given.set_data_from_numpy(np.zeros((1, 16), np.float32))
        client.infer("mlp", [given])
    assert now(protocol="oip-http", outcome="ok") == http_before + 3
    assert now(protocol="oip-http", outcome="invalid_input") == wrong_before + 1
    assert now(protocol="tfs-http", outcome="ok") == v1_before + 1
    assert now(protocol="oip-grpc", outcome="ok") == grpc_before + 1


def test_the_phases_of_a_sleeping_model_are_told_apart(server: ServerProcess) -> None:
    def spent(phase: str) -> float:
        return count(server, "salver_request_phase_seconds_sum", model="moody", phase=phase)

    before = spent("inference")
    assert ask_moody(server, "sleep 0.3")[0] == 200
    assert spent("inference") - before >= 0.29


def test_unknown_models_never_become_labels(server: ServerProcess) -> None:
    for number in range(20):
        assert server.post(f"/v2/models/made-up-{number}/infer", infer_body())[0] == 404
    page = server.get("/metrics")[1].decode()
    assert "made-up" not in page
    assert count(server, "salver_requests_total", model="_unknown", outcome="not_found") >= 20


def test_openmetrics_on_request(server: ServerProcess) -> None:
    status, page = server.ask("GET", "/metrics", headers={"Accept": "application/openmetrics-text"})
    assert status == 200
    families = {family.name: family.type for family in parse_openmetrics(page.decode())}
    assert families["salver_request_duration_seconds"] == "histogram"
    assert families["salver_model_state"] == "gauge"


def test_gauges_tell_the_present(server: ServerProcess) -> None:
    assert count(server, "salver_model_state", model="mlp", state="READY") == 1
    assert count(server, "salver_loaded_bytes", model="mlp") > 0
    assert count(server, "salver_queue_depth", model="mlp") == 0
    assert count(server, "salver_events_dropped_total") == 0
    assert count(server, "process_resident_memory_bytes") > 10_000_000


def headers_of(server: ServerProcess, **sent: str) -> dict[str, str]:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE_S)
    try:
        body = json.dumps(infer_body())
        connection.request(
            "POST", "/v2/models/mlp/infer", body, {k.replace("_", "-"): v for k, v in sent.items()}
        )
        reply = connection.getresponse()
        reply.read()
        return {name.lower(): value for name, value in reply.getheaders()}
    finally:
        connection.close()


def test_the_request_id_comes_back_or_is_made(server: ServerProcess) -> None:
    assert headers_of(server, x_request_id="my-own-id")["x-request-id"] == "my-own-id"
    made = {headers_of(server)["x-request-id"] for _ in range(5)}
    assert len(made) == 5
    assert "" not in made


def test_the_trace_is_continued(server: ServerProcess) -> None:
    answered = headers_of(server, traceparent=TRACE)["traceparent"]
    assert re.fullmatch(r"00-4bf92f3577b34da6a3ce929d0e0e4736-[0-9a-f]{16}-01", answered)
    assert answered != TRACE
    assert "traceparent" not in headers_of(server, traceparent="nonsense")
    assert "traceparent" not in headers_of(server)


@pytest.mark.clause("TR-O2")
def test_logs_are_json_lines_with_request_and_trace(server: ServerProcess) -> None:
    headers_of(server, x_request_id="find-me", traceparent=TRACE)
    until(lambda: "find-me" in server.output(), server.output)
    lines = [json.loads(line) for line in server.output().splitlines() if line.startswith("{")]
    (line,) = [line for line in lines if line.get("request_id") == "find-me"]
    assert line["event"] == "request"
    assert (line["model"], line["version"], line["protocol"]) == ("mlp", "1", "oip-http")
    assert (line["outcome"], line["level"]) == ("ok", "info")
    assert line["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert not any("0.5, 0.5" in json.dumps(line) for line in lines), "values of tensors are not logged"


def test_a_request_id_that_could_forge_a_line_is_not_taken_over(server: ServerProcess) -> None:
    answered = headers_of(server, x_request_id="a\xe9\x9b")["x-request-id"]
    assert answered.isascii()
    assert answered != ""
    status, body = server.ask("GET", "/v2/health/live", headers={"x-request-id": "a\x7fb"})
    assert status in (200, 400), body
