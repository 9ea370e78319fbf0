"""The ASGI application: limits, ids, hang-ups, gRPC exchanges; no sockets."""

import asyncio
import gzip
import json
import struct
from unittest.mock import Mock

import numpy as np
import pytest
import tritonclient.grpc.service_pb2 as pb
from fronts import FrontRig, served
from waiting import PATIENCE_S

from salver.kernel.serving.dataplane import DataPlane
from salver.words.artifacts import LoadOrder
from salver.words.errors import Overloaded
from salver.words.messages import ANYBODY, Standing

ASK = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}


async def test_infer_over_http():
    async with FrontRig() as rig:
        status, headers, body = await rig.http("POST", "/v2/models/m/infer", json.dumps(ASK).encode())
        assert status == 200
        assert json.loads(body)["outputs"][0]["data"] == [2, 4]
        assert int(headers[b"content-length"]) == len(body)
        assert headers[b"x-request-id"] == b"0000000000000001"
        (event,) = rig.served()
        assert (event.model, event.version, event.protocol, event.outcome) == ("m", "1", "oip-http", "ok")
        assert event.rows == 1 and event.latency >= event.timing.inference


@pytest.mark.parametrize("given", [True, False])
async def test_an_answer_over_grpc_names_its_span(given):
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = [("content-type", "application/grpc")]
    headers += [("traceparent", f"00-{trace}-00f067aa0ba902b7-01")] if given else []
    async with FrontRig() as rig:
        message = struct.pack(">?I", False, 0)
        sent = await rig.call("POST", "/inference.GRPCInferenceService/ServerLive", (message,), headers)
        found = dict(sent[0]["headers"]).get(b"traceparent", b"").decode()
        assert found.startswith(f"00-{trace}-") == given
        assert "00f067aa0ba902b7" not in found


@pytest.mark.clause("TR-R37")
async def test_a_server_that_stops_takes_no_more_over_grpc():
    async with FrontRig() as rig:
        rig.front._grpc.stop()
        code, text, _ = await rig.grpc("ModelInfer", pb.ModelInferRequest(model_name="m").SerializeToString())
        assert (code, text) == (
            14,
            "GRPC server is shutting down and has stopped accepting new requests.",
        )
        assert (await rig.grpc("ServerLive", b""))[0] == 0


async def test_infer_in_chunks_and_compressed():
    async with FrontRig() as rig:
        body = gzip.compress(json.dumps(ASK).encode())
        status, _, body = await rig.http(
            "POST",
            "/v2/models/m/infer",
            headers=(("content-encoding", "gzip"),),
            chunks=[body[:5], b"", body[5:]],
        )
        assert (status, json.loads(body)["outputs"][0]["data"]) == (200, [2, 4])


async def test_ids_and_trace_context_are_taken_and_answered():
    async with FrontRig() as rig:
        trace = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
        _, headers, _ = await rig.http(
            "GET", "/v2", headers=(("x-request-id", "mine"), ("traceparent", trace))
        )
        assert headers[b"x-request-id"] == b"mine"
        version, trace_id, span, flags = headers[b"traceparent"].decode().split("-")
        assert (version, trace_id, flags) == ("00", "ab" * 16, "01")
        assert span != "cd" * 8
        _, headers, _ = await rig.http(
            "GET", "/v2", headers=(("x-request-id", "a\tb"), ("traceparent", "junk"))
        )
        assert headers[b"x-request-id"] != b"a\tb"
        assert b"traceparent" not in headers


@pytest.mark.parametrize(
    ("chunks", "headers"),
    [
        ([b"x", b""], (("content-length", "20000"),)),
        ([b"x" * 6000, b"x" * 6000], ()),
        ([gzip.compress(b"x" * 20_000)], (("content-encoding", "gzip"),)),
    ],
)
async def test_a_body_over_the_limit(chunks, headers):
    async with FrontRig() as rig:
        status, _, body = await rig.http("POST", "/v2/models/m/infer", chunks=chunks, headers=headers)
        assert status == 400
        assert b"10000" in body
        assert rig.model.runs == 0


async def test_a_request_that_can_only_be_late_is_refused_by_its_head(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def foresee(*of: object) -> None:
        raise Overloaded("no", retry_after=2.0)

    monkeypatch.setattr(DataPlane, "foresee", foresee)
    async with FrontRig() as rig:
        chunks = [b"x" * 6000, b"x" * 6000]  # more than is taken
        status, headers, _ = await rig.http("POST", "/v2/models/m/infer", chunks=chunks)
        assert (status, headers[b"retry-after"]) == (503, b"2")


@pytest.mark.parametrize(
    ("verb", "path", "status", "text"),
    [
        ("GET", "/nowhere", 404, "Not Found"),
        ("PUT", "/v2/models/m/infer", 405, "Method Not Allowed"),
        ("POST", "/v2/models/x/infer", 404, "Request for unknown model: 'x' is not found"),
        ("POST", "/v2/models/m/infer", 400, ""),
        ("POST", "/v2/repository/models/m/unload", 503, "not allowed if polling"),
        ("GET", "/v2/repository/models/m/load", 405, "Method Not Allowed"),
        ("POST", "/v2/repository/one/models/m/load", 501, "'repository_name' specification is not supported"),
        ("POST", "/v2/repository/one/models/m/unload", 501, "'repository_name' specification is not"),
        ("GET", "/v2/models/x", 404, "unknown model"),
    ],
)
async def test_errors_have_the_protocols_form(verb, path, status, text):
    async with FrontRig() as rig:
        got, headers, body = await rig.http(verb, path, b"{" if "infer" in path else b"")
        assert got == status
        assert text in json.loads(body)["error"]
        assert headers[b"content-type"].startswith(b"application/json")


@pytest.mark.parametrize(
    ("path", "status", "key"),
    [
        ("/", 200, "version"),
        ("/v2", 200, "extensions"),
        ("/v2/health/live", 200, "live"),
        ("/v2/health/ready", 200, "ready"),
        ("/v2/models/m/ready", 200, "ready"),
        ("/v2/models/x/ready", 400, "ready"),
        ("/v2/models/m", 200, "inputs"),
        ("/v2/models/m/versions/1", 200, "inputs"),
        ("/v2/models/m/config", 200, "max_batch_size"),
        ("/v2/models/m/versions/1/config", 200, "max_batch_size"),
        ("/v2/models/m/versions/8/config", 404, "error"),
        ("/v2/models/m/stats", 200, "model_stats"),
        ("/v2/models/m/explain", 200, "explained"),
        ("/v2/models/m/versions/1/explain", 200, "explained"),
        ("/v2/models/x/explain", 404, "error"),
        ("/v2/models/m/explain/a%2Fb", 200, "explained"),
        ("/v1/models", 200, "models"),
        ("/v1/models/m", 200, "ready"),
        ("/openapi.json", 200, "paths"),
    ],
)
async def test_looking(path, status, key):
    async with FrontRig() as rig:
        got, _, body = await rig.http("GET", path)
        assert got == status
        assert key in json.loads(body)
        got, _, body = await rig.http("HEAD", path)
        assert (got, body) == (status, b"")


async def test_index_and_load():
    async with FrontRig() as rig:
        _, _, body = await rig.http("POST", "/v2/repository/index")
        assert {(e["name"], e["state"], e["reason"]) for e in json.loads(body)} == {
            ("m", "READY", ""),
            ("n", "UNAVAILABLE", "broken"),
        }
        given = b'{"parameters":{"config":"{}"}}'
        status, _, reply = await rig.http("POST", "/v2/repository/models/n/load", given)
        assert (status, reply) == (200, b"")
        assert rig.control.calls == [("load", "n", LoadOrder("{}"))]
        _, _, named = await rig.http("POST", "/v2/repository/one/index")
        assert (named, len(json.loads(body))) == (body, 2)


async def test_a_defect_of_ours_is_an_incident_not_a_traceback():
    async with FrontRig() as rig:
        rig.control.statuses = lambda: 1 / 0
        status, _, body = await rig.http("POST", "/v2/repository/index")
        assert status == 500
        assert "incident" in json.loads(body)["error"]
        assert b"division" not in body


@pytest.mark.parametrize(
    ("tenant_header", "headers", "standing"),
    [
        (b"x-tenant", (), ANYBODY),
        (b"x-tenant", (("x-tenant", "acme"),), Standing("acme")),
        (b"x-org", (("x-tenant", "acme"), ("x-org", "beta")), Standing("beta")),
        (b"", (("x-tenant", "acme"),), ANYBODY),
        (b"", (("x-service-class", "bulk"), ("x-priority", "3")), Standing("", 3, "bulk")),
    ],
)
async def test_headers_and_metadata_say_for_whom_a_request_is(tenant_header, headers, standing):
    async with FrontRig(tenant_header=tenant_header) as rig:
        seen = []
        rig.control.servable = served(
            lambda *given: seen.append(given[3]) or rig.engine.infer(*given[:3]),
        )
        status, _, _ = await rig.http("POST", "/v2/models/m/infer", json.dumps(ASK).encode(), headers)
        assert status == 200
        assert (await rig.grpc("ModelInfer", ask(), headers))[0] == 0
        assert seen == [standing, standing]


@pytest.mark.parametrize(
    ("header", "value"), [("x-priority", "high"), ("x-service-class", "vip"), ("x-tenant", "\xe9")]
)
async def test_a_header_that_says_nonsense_of_the_caller_is_refused(header, value):
    async with FrontRig() as rig:
        headers = ((header, value),)
        status, _, body = await rig.http("POST", "/v2/models/m/infer", json.dumps(ASK).encode(), headers)
        assert (status, header in json.loads(body)["error"]) == (400, True)
        status, message, _ = await rig.grpc("ModelInfer", ask(), headers)
        assert (status, header in message) == (3, True)
        assert (await rig.http("GET", "/v2/health/live", headers=headers))[0] == 200


async def test_a_grpc_refusal_has_trailers_only_and_says_when_to_come_back():
    async with FrontRig() as rig:
        busy = Mock(side_effect=Overloaded("busy", retry_after=0.25))
        rig.control.servable = served(busy)
        message = ask()
        sent = await rig.call(
            "POST",
            "/inference.GRPCInferenceService/ModelInfer",
            (struct.pack(">?I", False, len(message)) + message,),
            (("content-type", "application/grpc"),),
        )
        start, end = sent
        headers = dict(start["headers"])
        assert (headers[b"grpc-status"], headers[b"grpc-retry-pushback-ms"]) == (b"14", b"250")
        assert headers[b"content-type"] == b"application/grpc"
        assert (start.get("trailers"), end["body"]) == (None, b"")


def ask(**kwargs):
    request = pb.ModelInferRequest(model_name="m", **kwargs)
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    tensor.contents.fp32_contents.extend([1, 2])
    return request.SerializeToString()


async def test_infer_over_grpc():
    async with FrontRig() as rig:
        status, _, body = await rig.grpc("ModelInfer", ask(id="q"))
        assert status == 0
        reply = pb.ModelInferResponse.FromString(body)
        assert reply.id == "q"
        assert np.frombuffer(reply.raw_output_contents[0], "f4").tolist() == [2, 4]
        assert rig.served()[0].protocol == "oip-grpc"


async def test_a_grpc_message_in_pieces():
    async with FrontRig() as rig:
        message = ask()
        framed = struct.pack(">?I", False, len(message)) + message
        status, _, _ = await rig.grpc("ModelInfer", b"", chunks=[framed[:3], framed[3:9], framed[9:], b""])
        assert status == 0


@pytest.mark.parametrize(
    ("method", "message", "headers", "status", "text"),
    [
        ("Nothing", b"", (), 12, "Method not found: inference.GRPCInferenceService/Nothing"),
        ("ModelInfer", b"\xff\xff", (), 3, ""),
        ("ModelInfer", pb.ModelInferRequest(model_name="x").SerializeToString(), (), 5, "unknown model"),
        ("ModelInfer", ask(), (("grpc-timeout", "1n"),), 4, ""),
        ("ModelInfer", ask(), (("grpc-timeout", "soon"),), 3, "soon"),
        ("ModelInfer", b"x" * 20_000, (), 8, ""),
        (
            "RepositoryModelUnload",
            pb.RepositoryModelUnloadRequest(model_name="m").SerializeToString(),
            (),
            14,
            "",
        ),
        ("ModelMetadata", pb.ModelMetadataRequest(name="x").SerializeToString(), (), 5, "x"),
    ],
)
async def test_grpc_errors(method, message, headers, status, text):
    async with FrontRig() as rig:
        got, said, _ = await rig.grpc(method, message, headers)
        assert got == status
        assert text in said


async def test_grpc_looking():
    async with FrontRig() as rig:
        for method, request, reply, field, value in [
            ("ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse, "live", True),
            ("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse, "ready", True),
            ("ModelReady", pb.ModelReadyRequest(name="x"), pb.ModelReadyResponse, "ready", False),
            ("ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse, "name", "salver"),
            ("ModelMetadata", pb.ModelMetadataRequest(name="m"), pb.ModelMetadataResponse, "versions", ["1"]),
        ]:
            status, _, body = await rig.grpc(method, request.SerializeToString())
            assert status == 0, method
            assert getattr(reply.FromString(body), field) == value
        asked = pb.ModelConfigRequest(name="m").SerializeToString()
        _, _, body = await rig.grpc("ModelConfig", asked)
        config = pb.ModelConfigResponse.FromString(body).config
        assert (config.name, config.max_batch_size, list(config.input[0].dims)) == ("m", 8, [2])
        status, _, body = await rig.grpc("Check", b"", service="grpc.health.v1.Health")
        assert (status, body) == (0, b"\x08\x01")


@pytest.mark.parametrize("kind", ["http", "grpc"])
async def test_a_caller_who_hangs_up_frees_the_queue(kind):
    async with FrontRig() as rig:
        import threading

        gate = threading.Event()
        rig.model.gate = lambda: gate.wait(PATIENCE_S)
        first = asyncio.create_task(rig.http("POST", "/v2/models/m/infer", json.dumps(ASK).encode()))
        while not rig.engine.running:
            await asyncio.sleep(0)
        if kind == "http":
            call = rig.call("POST", "/v2/models/m/infer", [json.dumps(ASK).encode()])
        else:
            message = ask()
            framed = struct.pack(">?I", False, len(message)) + message
            call = rig.call(
                "POST",
                "/inference.GRPCInferenceService/ModelInfer",
                [framed, b""],
                (("content-type", "application/grpc"),),
            )
        gone = asyncio.create_task(call)
        while not rig.engine.queued:
            await asyncio.sleep(0)
        gone.cancel()  # as the connection does whose caller has gone
        assert await asyncio.wait_for(gone, PATIENCE_S) == []
        assert rig.engine.queued == 0
        gate.set()
        assert (await first)[0] == 200
        assert rig.model.runs == 1
        assert {e.outcome for e in rig.served()} == {"ok", "cancelled"}


async def test_a_caller_who_leaves_while_sending_gets_no_answer():
    async with FrontRig() as rig:
        sent = []

        async def receive():
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http",
            "http_version": "2",
            "method": "GET",
            "path": "/v2",
            "raw_path": b"/v2",
            "headers": [],
        }
        await rig.front(scope, receive, send)
        assert sent == []


async def test_messages_that_only_ask_are_short():
    async with FrontRig(max_body=4 << 20) as rig:
        for size, expected in ((1 << 19, 5), (1 << 20, 8)):  # NOT_FOUND, RESOURCE_EXHAUSTED
            message = pb.ModelMetadataRequest(name="m" * size).SerializeToString()
            status, _, _ = await rig.grpc("ModelMetadata", message)
            assert status == expected
