"""Callers who take their time lose their connection, whatever they speak; others keep theirs."""

import asyncio
from pathlib import Path

import pytest
from waiting import PATIENCE_S
from zoo import write_mlp

from salver.app import Server
from salver.configuration import ServeConfig
from salver.transport import watch
from salver.transport.server import FrontConfig
from salver.transport.watch import ConnectionLimits

pytestmark = pytest.mark.skipif(not watch._TCP_INFO, reason="the kernel tells nothing of connections")
STRICT = ConnectionLimits(per_address=3, least_rate=1e6, patience_s=0.2)
BEGUN = {
    "a head": b"GET / HTTP/1.1\r\nHost: localhost\r\nA: ",
    "a body": b"POST /v2/models/mlp/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    b"\x00\x10\x00\x01\x00\x00\x00\x00\x01",
}


async def drip(port: int, begun: bytes) -> None:
    """Send byte by byte until the connection is cut."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(begun)
    reading = asyncio.ensure_future(reader.read())
    async with asyncio.timeout(PATIENCE_S):
        while not reading.done():
            writer.write(b"a")
            await asyncio.wait((reading,), timeout=0.01)
    reading.exception()  # it may be reset
    writer.close()


@pytest.mark.parametrize("what", BEGUN)
async def test_who_sends_byte_by_byte_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(watch, "_LOOK_S", 0.05)
    write_mlp(tmp_path / "mlp", 1)
    config = ServeConfig(paths=(str(tmp_path / "mlp"),), front=FrontConfig(port=0), connections=STRICT)
    async with Server(config) as server:
        await drip(server.port, BEGUN[what])


async def test_of_an_address_with_too_many_the_newest_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_LOOK_S", 0.05)
    write_mlp(tmp_path / "mlp", 1)
    config = ServeConfig(paths=(str(tmp_path / "mlp"),), front=FrontConfig(port=0), connections=STRICT)
    async with Server(config) as server:
        opened = []
        for _ in range(4):
            opened.append(await asyncio.open_connection("127.0.0.1", server.port))
            opened[-1][1].write(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await opened[-1][0].readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
        async with asyncio.timeout(PATIENCE_S):
            await opened[3][0].read()  # to its end
        opened[0][1].write(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await opened[0][0].readuntil(b"HTTP/1.1 200")
        for _, writer in opened:
            writer.close()
