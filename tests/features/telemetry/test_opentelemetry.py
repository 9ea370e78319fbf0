"""Spans of a server process at a collector: OTLP over HTTP, read with OpenTelemetry's own messages."""

import gzip
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.service_pb2 as pb
import tritonclient.grpc.service_pb2_grpc as pb_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from waiting import until
from zoo import write_mlp

from salver.testing.process import ServerProcess, TritonProcess

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
ROW = np.linspace(-1, 1, 16, dtype=np.float32)[None]
ASK = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": ROW.ravel().tolist()}]}


class Collector:
    """Keeps what it is sent; use as a context manager."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.headers: list[dict[str, str]] = []
        keeper = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = gzip.decompress(self.rfile.read(int(self.headers["Content-Length"])))
                keeper.headers.append({"path": self.path, **{k.lower(): v for k, v in self.headers.items()}})
                keeper.requests.append(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Collector":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def spans(self) -> list[Any]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def wait(self, is_enough: Callable[[list[Any]], bool]) -> list[Any]:
        until(lambda: is_enough(self.spans()), lambda: [span.name for span in self.spans()])
        return self.spans()


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


def ask(server: ServerProcess, headers: dict[str, str] | None = None, model: str = "mlp") -> int:
    return server.ask("POST", f"/v2/models/{model}/infer", json.dumps(ASK).encode(), headers)[0]


def of(spans: list[Any], trace: str) -> list[Any]:
    return [span for span in spans if span.trace_id.hex() == trace]


@pytest.mark.clause("TR-O1")
def test_by_opentelemetrys_variables(tmp_path: Path, collector: Collector) -> None:
    write_mlp(tmp_path / "models" / "mlp", 1)
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_HEADERS": "api-key=s%20t",
        "OTEL_SERVICE_NAME": "shop",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    with ServerProcess([tmp_path / "models"], tmp_path / "log", ["--state-dir="], environment) as server:
        server.wait_ready()
        assert ask(server, SAMPLED) == 200
        spans = of(collector.wait(lambda found: len(of(found, TRACE)) >= 5), TRACE)
        (own,) = [span for span in spans if span.name == "InferRequest"]
        assert own.parent_span_id.hex() == CALLER
        assert own.kind == own.SPAN_KIND_SERVER
        assert {s.name for s in spans if s.parent_span_id == own.span_id} == {
            "queue", "compute_input", "compute_infer", "compute_output",
        }  # fmt: skip
        assert abs(own.start_time_unix_nano / 1e9 - time.time()) < 600
        for span in spans:
            assert own.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
            assert span.end_time_unix_nano <= own.end_time_unix_nano
        (resource,) = collector.requests[0].resource_spans
        assert {a.key: a.value.string_value for a in resource.resource.attributes} == {"service.name": "shop"}
        header = collector.headers[0]
        assert (header["path"], header["api-key"]) == ("/v1/traces", "s t")
        assert header["content-type"] == "application/x-protobuf"

        before = len(collector.spans())
        assert (
            ask(server, {"traceparent": f"00-{'12' * 16}-{CALLER}-00"}) == 200
        )  # its caller records nothing
        assert ask(server) == 200  # begins a trace
        spans = collector.wait(lambda found: len(found) >= before + 5)[before:]
        assert not of(spans, "12" * 16)
        assert [s.parent_span_id for s in spans if s.name == "InferRequest"] == [b""]

        before = len(collector.spans())
        assert ask(server, model="none") == 404
        (failed,) = collector.wait(lambda found: len(found) > before)[before:]
        assert failed.status.code == failed.status.STATUS_CODE_ERROR
        assert failed.status.message == "not_found"

        given = triton_grpc.InferInput("x", [1, 16], "FP32")
        given.set_data_from_numpy(ROW)
        trace = "34" * 16
        with triton_grpc.InferenceServerClient(server.address) as client:
            client.infer("mlp", [given], headers={"traceparent": f"00-{trace}-{CALLER}-01"})
        spans = of(collector.wait(lambda found: len(of(found, trace)) >= 5), trace)
        assert [s.parent_span_id.hex() for s in spans if s.name == "InferRequest"] == [CALLER]

        request = pb.ModelInferRequest(model_name="mlp", raw_input_contents=[ROW.tobytes()])
        request.inputs.add(name="x", datatype="FP32", shape=[1, 16])
        with grpc.insecure_channel(server.address) as channel:  # begins a trace, and is told which
            _, call = pb_grpc.GRPCInferenceServiceStub(channel).ModelInfer.with_call(request)
        _, trace, span, flags = dict(call.initial_metadata())["traceparent"].split("-")
        spans = of(collector.wait(lambda found: len(of(found, trace)) >= 5), trace)
        assert [s.span_id.hex() for s in spans if s.name == "InferRequest"] == [span] and flags == "01"
        assert b"salver_spans_lost_total 0.0" in server.get("/metrics")[1]


@pytest.mark.clause("TR-F8")
def test_tritons_mode(tmp_path: Path, collector: Collector) -> None:
    write_mlp(tmp_path / "models" / "mlp", 1)
    settings = (
        "mode=opentelemetry",
        "level=TIMESTAMPS",
        "rate=2",
        f"opentelemetry,url={collector.url}/v1/traces",
        "opentelemetry,resource=service.name=shop",
        "opentelemetry,bsp_schedule_delay=50",
    )
    options = [*(f"--trace-config={setting}" for setting in settings), "--state-dir="]
    with TritonProcess([tmp_path / "models"], tmp_path / "log", options) as server:
        server.wait_ready()
        for _ in range(4):
            assert ask(server) == 200
        assert ask(server, SAMPLED) == 200  # whatever the rate
        spans = collector.wait(lambda found: sum(s.name == "InferRequest" for s in found) >= 3)
        assert len({span.trace_id for span in spans}) == 3
        shown = json.loads(server.get("/v2/trace/setting")[1])
        assert (shown["trace_mode"], shown["trace_level"]) == ("opentelemetry", ["TIMESTAMPS"])
        status, error = server.post("/v2/trace/setting", {"trace_rate": "1"})
        assert status == 501
        assert "OpenTelemetry mode" in error["error"]
        with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.ports['grpc']}") as client:
            with pytest.raises(Exception, match="OpenTelemetry mode"):
                client.update_trace_settings("mlp", {"trace_rate": "1"})
            assert client.get_trace_settings(as_json=True)["settings"]["trace_mode"]["value"] == [
                "opentelemetry"
            ]


@pytest.mark.clause("TR-F8")
def test_a_collector_that_is_not_there_costs_no_answer(tmp_path: Path) -> None:
    write_mlp(tmp_path / "models" / "mlp", 1)
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_BSP_SCHEDULE_DELAY": "20"}
    with ServerProcess([tmp_path / "models"], tmp_path / "log", ["--state-dir="], environment) as server:
        server.wait_ready()
        for _ in range(20):
            assert ask(server) == 200
        assert server.stop() == 0
        assert "spans have been dropped" in server.output()


ENSEMBLE = """
platform: "ensemble"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: 16 }
output { name: "y" data_type: TYPE_FP32 dims: 3 }
ensemble_scheduling {
  step { model_name: "mlp" model_version: -1
         input_map { key: "x" value: "x" } output_map { key: "y" value: "y" } }
}
"""


@pytest.mark.clause("TR-O1")
@pytest.mark.parametrize("headers", [SAMPLED, None], ids=["its caller's trace", "its own trace"])
def test_the_members_of_an_ensemble_are_parts_of_its_request(
    tmp_path: Path, collector: Collector, headers: dict[str, str] | None
) -> None:
    write_mlp(tmp_path / "models" / "mlp", 1)
    (tmp_path / "models" / "both" / "1").mkdir(parents=True)
    (tmp_path / "models" / "both" / "config.pbtxt").write_text(ENSEMBLE)
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
    with ServerProcess([tmp_path / "models"], tmp_path / "log", ["--state-dir="], environment) as server:
        server.wait_ready()
        assert ask(server, headers, "both") == 200
        spans = collector.wait(lambda found: {"InferRequest", "mlp"} <= {s.name for s in found})
        (own,) = [span for span in spans if span.name == "InferRequest"]
        (member,) = [span for span in spans if span.name == "mlp"]
        assert own.parent_span_id.hex() == (CALLER if headers else "")
        assert member.parent_span_id == own.span_id
        assert member.trace_id == own.trace_id
        assert "compute_infer" in {s.name for s in spans if s.parent_span_id == member.span_id}
        attributes = {a.key: a.value.string_value for a in own.attributes}
        assert attributes["triton.model_name"] == "both"
