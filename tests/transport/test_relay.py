"""Connections that go on at another front."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from waiting import PATIENCE_S

from salver.transport.relay import Relay


@asynccontextmanager
async def relayed(path: str) -> AsyncIterator[int]:
    """The port of a server that passes each connection on once something has come of it."""

    class First(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            assert isinstance(self.transport, asyncio.Transport)
            self.transport.set_protocol(Relay(self.transport, data, path))

    server = await asyncio.get_running_loop().create_server(First, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "far")


async def test_bytes_pass_both_ways_until_one_side_ends(path: str) -> None:
    ended = asyncio.Event()

    async def far(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data.upper())
            await writer.drain()
        ended.set()
        writer.close()

    async with await asyncio.start_unix_server(far, path), relayed(path) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        much = b"abc" * 700_000
        writer.write(much)
        assert await asyncio.wait_for(reader.readexactly(len(much)), PATIENCE_S) == much.upper()
        writer.close()
        await asyncio.wait_for(ended.wait(), PATIENCE_S)


async def test_a_caller_sees_the_other_side_end(path: str) -> None:
    async def far(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(2)
        writer.write(b"bye")
        writer.close()

    async with await asyncio.start_unix_server(far, path), relayed(path) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hi")
        assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b"bye"
        writer.close()


async def test_nobody_on_the_other_side_ends_the_connection(path: str) -> None:
    async with relayed(path) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hi")
        with pytest.raises(ConnectionResetError):
            if not await asyncio.wait_for(reader.read(), PATIENCE_S):
                raise ConnectionResetError
        writer.close()


async def test_a_caller_may_leave_before_there_is_anybody(path: str) -> None:
    seen = asyncio.get_running_loop().create_future()

    async def far(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.set_result(await reader.read())
        writer.close()

    async with await asyncio.start_unix_server(far, path), relayed(path) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hi")
        writer.close()
        assert await asyncio.wait_for(seen, PATIENCE_S) == b"hi"
