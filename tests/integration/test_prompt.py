"""Everyday requests reach the model without a task, through all that a port puts around the application."""

import asyncio
import json
from pathlib import Path

import pytest
from zoo import infer_body, write_mlp

from salver.app import Server
from salver.configuration import ServeConfig
from salver.transport.exchange import never
from salver.transport.http1_head import Heads
from salver.transport.http2_head import head_of
from salver.transport.server import FrontConfig
from salver.transport.terms import Terms

HEAD = b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9%b"
CALL = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/inference.GRPCInferenceService/ModelInfer"),
    (b":authority", b"127.0.0.1"),
    (b"content-type", b"application/grpc"),
]


def terms(server: Server) -> Terms:
    (listener,) = server.listeners._listeners
    return listener._terms


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_mlp(tmp_path / "mlp", 1)
    return tmp_path


async def test_everyday_requests_need_no_task(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ServeConfig(paths=(str(folder),), front=FrontConfig(port=0))
    async with Server(config) as server:
        how = terms(server)

        def prompt(path: bytes, more: bytes = b"") -> object:
            head = Heads().parse(HEAD % (path, more))
            assert head is not None
            return how.prompt(head)

        assert prompt(b"/v2/models/mlp/infer") not in (None, never)
        for path in (b"/v2/models/mlp/ready", b"/v2/repository/models/mlp/load", b"/nowhere"):
            assert prompt(path) is never
        for header in (b"X-Request-Id: 7", b"Traceparent: 00-x"):
            assert prompt(b"/v2/models/mlp/infer", b"\r\n" + header) not in (None, never)
        for header in (b"X-Tenant: t", b"Content-Encoding: gzip"):
            assert prompt(b"/v2/models/mlp/infer", b"\r\n" + header) is never
        await ask(server.listeners.port)  # by then the methods of gRPC are made
        head = head_of(CALL)
        assert head is not None and how.prompt(head) not in (None, never)
        strange = head_of([*CALL[:3], (b":authority", b"evil.example"), *CALL[4:]])
        assert strange is not None and how.prompt(strange) is never


async def ask(port: int) -> None:
    import grpc

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        assert await live(b"")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps(infer_body()).encode()
    head = "POST /v2/models/mlp/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
    writer.close()
