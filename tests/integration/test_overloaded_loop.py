"""Requests beyond what a turn of an overloaded event loop lets in get copies of one refusal."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from waiting import PATIENCE_S
from zoo import infer_body, write_mlp

from salver.app import Server
from salver.configuration import ServeConfig
from salver.transport.budget import Budget
from salver.transport.exchange import Exchange
from salver.transport.server import FrontConfig
from salver.transport.terms import Pulse
from salver.words.messages import NO_PLACE_S

pytestmark = pytest.mark.build("pure")  # methods of connections are patched
BODY = json.dumps(infer_body()).encode()
ANSWER = re.compile(
    rb"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n"
    rb"content-length: (\d+)\r\nx-request-id: ([0-9a-z]+)\r\n\r\n(.*)"
)
SIZE = 640_000  # of a large body
TEXT = {"error": "the objective of 50 ms cannot be met: 0 requests wait. Retry later."}


class Overload:
    """Switch of an event loop without places, which counts the decisions and the large bodies received."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_on = False
        self.decided = 0
        self.reserved: list[int] = []
        read, reserve = Pulse.read, Exchange.reserve

        def decide(pulse: Pulse, exchange: Exchange, now: float) -> None:
            read(pulse, exchange, now)
            self.decided += 1
            exchange.lag = NO_PLACE_S if self.is_on else 0.0

        def reserves(exchange: Exchange, budget: Budget, size: int, lead: int) -> bool:
            self.reserved.append(size)
            return reserve(exchange, budget, size, lead)

        monkeypatch.setattr(Pulse, "read", decide)
        monkeypatch.setattr(Exchange, "reserve", reserves)


@pytest.fixture
def overload(monkeypatch: pytest.MonkeyPatch) -> Overload:
    return Overload(monkeypatch)


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[int]:
    write_mlp(folder / "mlp", 1)
    (folder / "mlp" / "salver.toml").write_text('objective = { latency_p99 = "50ms" }\n')
    async with Server(ServeConfig(paths=(str(folder),), front=FrontConfig(port=0))) as server:
        yield server.listeners.port


def request(*headers: str, body: bytes = BODY) -> bytes:
    lines = (
        "POST /v2/models/mlp/infer HTTP/1.1",
        "Host: 127.0.0.1",
        *headers,
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Callers:
    """Kept connections, whose requests of one round are read in one turn."""

    def __init__(self, port: int, count: int) -> None:
        self._sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]

    async def ask(self, *requests: bytes) -> list[bytes]:
        """Send one request on each connection; return the answers."""
        for each, data in zip(self._sockets, requests, strict=True):
            each.sendall(data)  # the loop does not run meanwhile
        return [await asyncio.to_thread(each.recv, 65_536) for each in self._sockets]

    def close(self) -> None:
        for each in self._sockets:
            each.close()


async def refused(port: int) -> float:
    async with httpx.AsyncClient() as client:
        page = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
    counts = re.findall(r'salver_requests_total{model="mlp",outcome="overloaded".*} (\S+)', page)
    reasons = re.findall(r'salver_refused_requests_total{.*reason="objective".*} (\S+)', page)
    assert counts == reasons
    return sum(map(float, counts))


async def test_refusals_of_a_turn_are_copies_with_own_ids(tmp_path: Path, overload: Overload) -> None:
    async with serving(tmp_path) as port:
        callers = Callers(port, 8)
        assert all(b" 200 OK" in answer for answer in await callers.ask(*[request()] * 8))
        overload.is_on, overload.decided = True, 0
        await callers.ask(*[request()] * 8)  # its head is known to be refusable from now on
        before, overload.decided = await refused(port), 0
        answers = [ANSWER.fullmatch(answer) for answer in await callers.ask(*[request()] * 8)]
        assert all(a is not None and json.loads(a[3]) == TEXT and int(a[1]) == len(a[3]) for a in answers)
        assert len({a[2] for a in answers if a is not None}) == 8
        assert overload.decided < 8
        assert await refused(port) == before + 8
        overload.is_on = False  # the connections are kept, and the next turn decides anew
        assert all(b" 200 OK" in answer for answer in await callers.ask(*[request()] * 8))
        callers.close()


async def test_other_bodies_are_refused_alike_and_ids_of_callers_come_back(
    tmp_path: Path, overload: Overload
) -> None:
    bodies = [json.dumps(infer_body(rows=rows)).encode() for rows in (1, 2, 3)]
    async with serving(tmp_path) as port:
        overload.is_on = True
        callers = Callers(port, 4)
        asked = [*(request(body=body) for body in bodies), request("X-Request-Id: mine")]
        for _ in range(3):
            answers = await callers.ask(*asked)
            assert all(answer.startswith(b"HTTP/1.1 503") for answer in answers)
            assert [b"x-request-id: mine\r\n" in answer for answer in answers] == [False] * 3 + [True]
        overload.decided = 0
        await callers.ask(*asked)
        assert overload.decided == 2  # one without an id, and the one with it
        callers.close()


async def test_requests_in_a_row_are_answered_in_order(tmp_path: Path, overload: Overload) -> None:
    async with serving(tmp_path) as port:
        overload.is_on = True
        (caller,) = Callers(port, 1)._sockets
        last = request("Connection: close")
        caller.sendall(request() * 3 + last)
        raw = b""
        while piece := await asyncio.to_thread(caller.recv, 65_536):
            raw += piece
        assert raw.count(b"HTTP/1.1 503") == 4 and raw.count(b"connection: close") == 1
        assert raw.rindex(b"connection: close") > raw.rindex(b"HTTP/1.1 503")
        caller.close()


async def test_calls_of_a_turn_are_refused_alike(tmp_path: Path, overload: Overload) -> None:
    from tritonclient.grpc import service_pb2

    def call(model: str = "mlp", version: str = "") -> bytes:
        request = service_pb2.ModelInferRequest(model_name=model, model_version=version)
        return bytes(request.SerializeToString())

    async with serving(tmp_path) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

        async def ask(message: bytes, **more: Any) -> tuple[grpc.StatusCode, str | None]:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await infer(message, **more)
            return error.value.code(), error.value.details()

        assert (await ask(call()))[0] is grpc.StatusCode.INVALID_ARGUMENT
        overload.is_on = True
        asked = [*[call()] * 20, call(version="1"), call("other")]
        *alike, version, other = await asyncio.gather(*map(ask, asked))
        assert set(alike) == {(grpc.StatusCode.UNAVAILABLE, TEXT["error"])} == {version}
        assert other[0] is grpc.StatusCode.NOT_FOUND
        assert await refused(port) == 21
        assert (await ask(call(), timeout=5))[0] is grpc.StatusCode.UNAVAILABLE
        overload.is_on = False
        assert (await ask(call()))[0] is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_large_call_is_refused_by_its_first_bytes(tmp_path: Path, overload: Overload) -> None:
    from tritonclient.grpc import service_pb2

    message = service_pb2.ModelInferRequest(model_name="mlp", raw_input_contents=[bytes(SIZE)])
    message.inputs.add(name="x", datatype="FP32", shape=[SIZE // 64, 16])
    async with serving(tmp_path) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        raw = message.SerializeToString()
        for _ in range(2):
            await accepted(infer, raw)
        reserved = len(overload.reserved)
        before = await refused(port)  # by the model's own objective, on a busy machine
        overload.is_on = True
        for index in range(10):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await infer(raw, timeout=5 if index % 2 else None)
            assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await refused(port) == before + 10 and len(overload.reserved) == reserved
        overload.is_on = False
        await accepted(infer, raw)


async def accepted(infer: "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]", raw: bytes) -> None:
    """Call until it is answered: 10,000 rows within 50 ms are too much for a busy machine at times."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await infer(raw)
                return
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("sent", [0, 300_000, SIZE - 1])
async def test_a_large_body_is_refused_by_its_head_and_discarded(
    tmp_path: Path, overload: Overload, sent: int
) -> None:
    large = request("Content-Type: application/json", body=bytes(SIZE))
    binary = request("Inference-Header-Content-Length: 70000", body=bytes(SIZE))
    async with serving(tmp_path) as port:
        overload.is_on = True
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for index, asked in enumerate((large, binary, large, binary)):
            begin = len(asked) - SIZE + sent
            writer.write(asked[:begin])
            assert ANSWER.fullmatch(await reader.readuntil(b"}"))
            writer.write(asked[begin:])  # the connection is kept
            assert await refused(port) == index + 1
        overload.is_on = False
        writer.write(request())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
        writer.close()
