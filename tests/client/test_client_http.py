"""The HTTP/1.1 client against a scripted server: bytes in, bytes out."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest
from relay import Relay

from salver.client.http import Http, NoConnection, Unreachable
from salver.words.errors import SalverError, TooLarge


class Script:
    """A server that answers the n-th request of all connections with the n-th list of chunks."""

    def __init__(self, answers: Sequence[Sequence[bytes]], *, hang_up_after: bool = False) -> None:
        self.answers = list(answers)
        self.hang_up_after = hang_up_after
        self.requests: list[bytes] = []
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while self.answers:
                head = await reader.readuntil(b"\r\n\r\n")
                length = 0
                for line in head.split(b"\r\n"):
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                self.requests.append(head + await reader.readexactly(length))
                for chunk in self.answers.pop(0):
                    writer.write(chunk)
                    await writer.drain()
                    await asyncio.sleep(0)
                if self.hang_up_after:
                    break
        writer.close()


@contextlib.asynccontextmanager
async def running(script: Script) -> AsyncIterator[Http]:
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
    http = Http(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        yield http
    finally:
        await http.close()
        server.close()


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (OK, b"hi"),
        (CHUNKED + b"2\r\nhi\r\n3;x=y\r\n ho\r\n0\r\n\r\n", b"hi ho"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"hi"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    ],
)
@pytest.mark.parametrize("step", [1, 3, 10_000])
async def test_answers_are_whole_however_they_are_cut(raw: bytes, body: bytes, step: int) -> None:
    chunks = [raw[i : i + step] for i in range(0, len(raw), step)]
    async with running(Script([chunks])) as http:
        reply = await http.send(http.request("GET", "/"))
    assert reply.body == body


async def test_a_body_may_end_with_the_connection() -> None:
    script = Script([[b"HTTP/1.0 200 OK\r\n\r\n", b"all ", b"of it"]], hang_up_after=True)
    async with running(script) as http:
        reply = await http.send(http.request("GET", "/"))
    assert reply.body == b"all of it"


async def test_a_connection_is_kept_and_used_again() -> None:
    script = Script([[OK], [OK], [OK]])
    async with running(script) as http:
        for _ in range(3):
            await http.send(http.request("POST", "/x", b"body"))
    assert script.connections == 1
    assert script.requests[0].endswith(b"content-length: 4\r\n\r\nbody")


async def test_connection_close_is_obeyed() -> None:
    closing = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    script = Script([[closing], [OK]])
    async with running(script) as http:
        await http.send(http.request("GET", "/"))
        await http.send(http.request("GET", "/"))
    assert script.connections == 2


async def test_a_kept_connection_that_the_server_closed_is_replaced() -> None:
    script = Script([[OK], [OK]], hang_up_after=True)
    async with running(script) as http:
        await http.send(http.request("GET", "/"))
        reply = await http.send(http.request("GET", "/"))
    assert reply.status == 200
    assert script.connections == 2


async def test_a_request_whose_answer_had_begun_is_not_sent_again() -> None:
    script = Script([[OK], [b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"], [OK]])
    async with running(script) as http:
        await http.send(http.request("GET", "/"))
        script.hang_up_after = True
        with pytest.raises(Unreachable, match="before its answer was whole"):
            await http.send(http.request("GET", "/"))
    assert len(script.requests) == 2


@pytest.mark.parametrize(
    "chunks",
    [
        [b""],
        [b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhi"],
        [b"SSH-2.0-OpenSSH\r\n\r\n"],
        [b"HTTP/1.1 abc\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\ncontent-length: ten\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"],
        [b"x" * 70_000],
    ],
)
async def test_what_is_no_whole_answer_is_unreachable(chunks: list[bytes]) -> None:
    async with running(Script([chunks], hang_up_after=True)) as http:
        with pytest.raises(Unreachable):
            await http.send(http.request("GET", "/"))


@pytest.mark.parametrize(
    "head", [b"content-length: 9999999999999", b"content-length: -1", b"transfer-encoding: chunked"]
)
async def test_an_endless_answer_is_refused(head: bytes) -> None:
    raw = b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\nFFFFFFFFFFFF\r\n"
    async with running(Script([[raw]])) as http:
        with pytest.raises(TooLarge):
            await http.send(http.request("GET", "/"))


async def test_a_cancelled_request_does_not_leave_its_answer_to_the_next() -> None:
    script = Script([[b""], [OK]])
    async with running(script) as http:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await http.send(http.request("GET", "/"))
        assert (await http.send(http.request("GET", "/"))).body == b"hi"
    assert script.connections == 2


async def test_nobody_there() -> None:
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    http = Http(f"http://127.0.0.1:{port}")
    with pytest.raises(Unreachable, match=f"no server answers at http://127.0.0.1:{port}.*salver serve"):
        await http.send(http.request("GET", "/"))


@pytest.mark.parametrize("url", ["ftp://host", "http://", "://"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(SalverError, match="not a server's URL"):
        Http(url)


def test_url_without_a_scheme_and_with_a_path() -> None:
    assert Http("localhost:9").url == "http://localhost:9"
    request = Http("http://u:p@host/salver/").request("GET", "/v2")
    assert request == b"GET /salver/v2 HTTP/1.1\r\nhost: host\r\n\r\n"


def test_a_connection_that_does_not_come_about_is_given_up() -> None:
    async def ask() -> None:
        async with Relay(lambda: asyncio.open_connection("127.0.0.1", 9)) as relay:
            relay.be("dropped")
            http = Http(f"http://127.0.0.1:{relay.port}", connect_s=0.05)
            with pytest.raises(NoConnection, match="no connection in time"):
                await http.send(http.request("GET", "/"))

    asyncio.run(ask())
