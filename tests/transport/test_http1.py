"""The front that speaks HTTP/1.1 to the letter: heads, bodies, answers, connections."""

import asyncio
import contextlib
import gzip
import random
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop
from http2_callers import SlowWire, Wire
from hypothesis import given
from hypothesis import strategies as st
from small_applications import answering, measuring
from waiting import auntil

from salver.transport import http2_frames
from salver.transport.asgi import _compress
from salver.transport.budget import Budget, Share
from salver.transport.exchange import Prompt
from salver.transport.http1 import Connection
from salver.transport.http1_head import MOST_HEADERS, PREFACE, Head, Heads
from salver.transport.listeners import Listeners
from salver.transport.parting import Parting
from salver.transport.server import (
    HEAD_S,
    IDLE_S,
    PATIENCE_S,
    ExactPorts,
    FrontConfig,
    Listener,
    bind,
    overdue,
)
from salver.transport.terms import Terms
from salver.transport.watch import ConnectionLimits, StreamingPeers


def head(*lines: str) -> bytes:
    return "\r\n".join(lines).encode("latin-1")


def test_a_head_says_what_is_asked_and_keeps_names_as_they_were_sent() -> None:
    found = Heads().parse(
        head("POST /a%20b?x=1&y HTTP/1.1", "Host: h", "X-Gold-One:  1 ", "content-length: 3")
    )
    assert found is not None
    assert (found.method, found.path, found.query, found.version) == ("POST", b"/a%20b", b"x=1&y", "1.1")
    assert found.headers == ((b"host", b"h"), (b"x-gold-one", b"1"), (b"content-length", b"3"))
    assert found.spelled[1] == (b"X-Gold-One", b"1")
    assert (found.length, found.keeps, found.expects) == (3, True, False)


@pytest.mark.parametrize(
    ("first", "path"),
    [
        ("GET http://h:80/a?b HTTP/1.1", b"/a"),
        ("GET HTTPS://h HTTP/1.1", b"/"),
        ("OPTIONS * HTTP/1.1", b"/"),
        ("GET /a#b HTTP/1.1", b"/a"),
        ("GET //a HTTP/1.0", b"//a"),
    ],
)
def test_a_target_may_have_several_forms(first: str, path: bytes) -> None:
    found = Heads().parse(head(first))
    assert found is not None and found.path == path


@pytest.mark.parametrize(
    ("lines", "keeps"),
    [
        (("GET / HTTP/1.1",), True),
        (("GET / HTTP/1.1", "Connection: Close"), False),
        (("GET / HTTP/1.1", "Connection: close", "Connection: x"), False),
        (("GET / HTTP/1.0",), False),
        (("GET / HTTP/1.0", "Connection: keep-alive"), True),
    ],
)
def test_a_connection_is_kept_as_the_version_has_it(lines: tuple[str, ...], keeps: bool) -> None:
    found = Heads().parse(head(*lines))
    assert found is not None and found.keeps is keeps


@pytest.mark.parametrize(
    "lines",
    [
        ("GET / HTTP/2.0",),
        ("GET  / HTTP/1.1",),
        ("GET / HTTP/1.1 ",),
        ("G@T / HTTP/1.1",),
        ("GET * HTTP/1.1",),
        ("GET a HTTP/1.1",),
        ("GET /\x01 HTTP/1.1",),
        ("GET / HTTP/1.1", "Host : h"),
        ("GET / HTTP/1.1", "Host"),
        ("GET / HTTP/1.1", ": h"),
        ("GET / HTTP/1.1", "A: b", " folded"),
        ("GET / HTTP/1.1", "A: b\x00"),
        ("GET / HTTP/1.1", "A: b\rc: d"),
        ("GET / HTTP/1.1", "Host: a", "Host: b"),
        ("POST / HTTP/1.1", "Content-Length: 1", "Content-Length: 2"),
        ("POST / HTTP/1.1", "Content-Length: -1"),
        ("POST / HTTP/1.1", "Content-Length: 1, 1"),
        ("POST / HTTP/1.1", "Content-Length: " + "1" * 19),
        ("POST / HTTP/1.1", "Transfer-Encoding: gzip, chunked"),
        ("POST / HTTP/1.1", "Transfer-Encoding: chunked", "Content-Length: 1"),
        ("POST / HTTP/1.1", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
        ("POST / HTTP/1.0", "Transfer-Encoding: chunked"),
        ("POST / HTTP/1.1", "Expect: something"),
        ("GET / HTTP/1.1", *[f"A{number}: b" for number in range(MOST_HEADERS)]),
    ],
)
def test_what_two_readers_might_read_differently_is_no_head(lines: tuple[str, ...]) -> None:
    assert Heads().parse(head(*lines)) is None


def test_heads_that_came_before_are_known_and_only_so_many() -> None:
    heads = Heads()
    text = head("GET / HTTP/1.1", "A: b")
    assert heads.parse(text) is heads.parse(text)
    for number in range(600):
        assert heads.parse(head(f"GET /{number} HTTP/1.1")) is not None
    long = head("GET / HTTP/1.1", "A: " + "b" * 2000)
    assert heads.parse(long) is not heads.parse(long)
    assert repr(heads) == "<Heads, 89 known>"


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_a_head_or_none(data: bytes, begun: bool) -> None:
    found = Heads().parse(b"GET / HTTP/1.1\r\n" + data if begun else data)
    assert found is None or (found.path.startswith(b"/") and found.length >= -1)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Says what was asked; ``/pieces`` in pieces, ``/breaks`` not to the end, ``/waits`` never."""
    message = await receive()
    path = scope["path"]
    if path == "/waits":
        await receive()
    start: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": [(b"x-one", b"1")]}
    if path.startswith("/status/"):
        start |= {"status": int(path[8:]), "reason": "so and so"}
    if path.startswith("/usual/"):
        start["status"] = int(path[7:])
    if path == "/closes":
        start["headers"].append((b"connection", b"close"))
    if path == "/keeps":
        start["headers"].append((b"connection", b"keep-alive"))
    await send(start)
    if path in ("/pieces", "/breaks"):
        for piece in (b"a", b"", b"bc"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if path == "/breaks":
            return
    await send({"type": "http.response.body", "body": b"%s %d" % (path.encode(), len(message["body"]))})


@asynccontextmanager
async def serving(app: Any = echo, **terms: Any) -> AsyncIterator[tuple[Listener, Terms]]:
    how = Terms(app, **{"most": 1000, "malformed": b"{}", **terms})
    listener = Listener(how, bind(FrontConfig(port=0)), grace=1.0)
    running = asyncio.create_task(listener.run())
    await listener.started()
    try:
        yield listener, how
    finally:
        listener.stop()
        await running


async def talk(listener: Listener, sent: bytes, pause: float = 0.0, size: int = 0) -> bytes:
    """What comes back until the other side closes, or after we do."""
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    if size:
        for index in range(0, len(sent), size):
            writer.write(sent[index : index + size])
            await asyncio.sleep(pause)
    else:
        writer.write(sent)
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        raw = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    return raw


def request(path: str, body: bytes = b"", *headers: str, last: bool = True, version: str = "1.1") -> bytes:
    lines = [f"POST {path} HTTP/{version}", "Host: x", *headers, f"Content-Length: {len(body)}"]
    if last:
        lines.append("Connection: close")
    return head(*lines, "", "") + body


async def test_requests_on_one_connection_are_answered_in_their_order() -> None:
    async with serving() as (listener, _):
        sent = request("/a", b"x" * 7, last=False) + b"\r\n" + request("/pieces", last=False) + request("/b")
        whole = await talk(listener, sent)
        by_bytes = await talk(listener, sent, size=1)
    assert whole == by_bytes
    assert whole == (
        b"HTTP/1.1 200 OK\r\nx-one: 1\r\ncontent-length: 4\r\n\r\n/a 7"
        b"HTTP/1.1 200 OK\r\nx-one: 1\r\ntransfer-encoding: chunked\r\n\r\n"
        b"1\r\na\r\n2\r\nbc\r\n9\r\n/pieces 0\r\n0\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nx-one: 1\r\ncontent-length: 4\r\nconnection: close\r\n\r\n/b 0"
    )


async def test_a_head_that_came_before_may_be_cut_in_the_line_that_ends_it() -> None:
    """Its length is such that the head, less its first bytes, could be taken for the body."""
    known = b"POST /a HTTP/1.1\r\nHost: x\r\nPad: 12345678901\r\nContent-Length: 61"
    bodies: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        bodies.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with serving(app) as (listener, _):
        _, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(known + b"\r\n\r\n" + b"1" * 61)
        await auntil(lambda: len(bodies) == 1)
        writer.write(known + b"\r")
        await asyncio.sleep(0.02)  # it comes by itself
        writer.write(b"\n\r\n" + b"2" * 61)
        await auntil(lambda: len(bodies) == 2)
        writer.close()
    assert bodies == [b"1" * 61, b"2" * 61]


async def answer_at_once(scope: Any, receive: Any, send: Any) -> None:
    """Answer by the head alone."""
    await send({"type": "http.response.start", "status": 503, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


@pytest.mark.parametrize("size", [0, 70_000])
async def test_the_rest_of_a_body_that_nobody_wants_is_dropped(size: int) -> None:
    """Closing would take the answer away from a caller who still sends."""
    whole = request("/early", bytes(300_000), last=False) * 2 + request("/last")
    async with serving(answer_at_once, most=0) as (listener, _):
        raw = await talk(listener, whole, size=size)
    assert re.findall(rb"\r\n\r\n/(early|last)", raw) == [b"early", b"early", b"last"]
    assert raw.count(b"connection: close") == 1


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 99999999",),
        ("Transfer-Encoding: chunked",),
        ("Content-Length: 9", "Expect: 100-continue"),
    ],
)
async def test_a_body_that_is_too_large_to_be_dropped_ends_the_connection(lines: tuple[str, ...]) -> None:
    async with serving(answer_at_once, most=0) as (listener, _):
        raw = await talk(listener, head("POST /early HTTP/1.1", *lines, "", ""))
    assert b"connection: close" in raw and b"100 Continue" not in raw


async def test_a_server_that_parts_waits_for_the_rest_of_a_body_that_is_dropped() -> None:
    async with serving(answer_at_once, most=0) as (listener, terms):
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(request("/early", bytes(99), last=False)[:-1])
        assert b"503" in await reader.readuntil(b"/early")
        (connection,) = terms.open
        connection.end()
        assert not connection.is_idle and connection.is_in_head
        writer.write(b"0")
        assert await reader.read() == b""
        writer.close()


async def test_a_large_answer_is_whole_that_is_compressed_for_a_request_without_a_task() -> None:
    body = random.Random(1).randbytes(1 << 20)

    def find_prompt(head: Head) -> Prompt:
        return lambda exchange: exchange.run(partial(_compress, exchange, b"gzip", (), body, "id")) is None

    app = SimpleNamespace(find_prompt=find_prompt)
    async with serving(app, most=0) as (listener, _):
        raw = await talk(listener, request("/a", last=False) + request("/b"))
    _, first, second = raw.split(b"HTTP/1.1 200 OK")
    for answer in (first, second):
        lines, _, data = answer.partition(b"\r\n\r\n")
        assert gzip.decompress(data) == body and b"content-length: %d" % len(data) in lines


def test_a_burst_of_connections_is_accepted_in_a_few_turns() -> None:
    """Of libuv's one in a turn, the last would wait for 200 turns, each as long as its requests take."""

    async def run() -> int:
        async with serving() as (listener, terms):
            callers = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(200)]
            for _ in range(30):
                await asyncio.sleep(0)
            accepted = len(terms.open)
            callers[-1].sendall(request("/last"))
            raw = await asyncio.to_thread(callers[-1].recv, 1000)
            assert b"/last" in raw
            for caller in callers:
                caller.close()
        return accepted

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(run()) == 200


async def test_a_body_may_come_in_chunks() -> None:
    chunks = b"3;odd=1\r\nabc\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n"
    sent = head("PUT /a HTTP/1.1", "Transfer-Encoding: chunked", "", "") + chunks + request("/b")
    async with serving() as (listener, _):
        for size in (0, 1, 5):
            raw = await talk(listener, sent, size=size)
            assert b"/a 13" in raw and raw.endswith(b"/b 0")
        many = b"1\r\nx\r\n" * 900 + b"0\r\n\r\n"
        raw = await talk(
            listener,
            head("PUT /a HTTP/1.1", "Transfer-Encoding: chunked", "Connection: close", "", "") + many,
        )
        assert raw.endswith(b"/a 900")


@pytest.mark.parametrize("most", [0, 100_000])
@pytest.mark.parametrize("is_known", [True, False])
async def test_a_request_waits_until_the_answer_before_it_is_read(most: int, is_known: bool) -> None:
    wire = SlowWire()
    connection = wire.connection = Connection(Terms(echo, most), "http")
    connection.connection_made(wire)  # type: ignore[arg-type]
    came = b""
    for n in range(30):
        sent = request("/a", b"x", last=False) if is_known else request(f"/{n}", b"x", last=False)
        connection.data_received(sent * (1 if n else 2))
        for _ in range(4):
            await asyncio.sleep(0)
    assert wire.sent.count(b"HTTP/1.1 200 OK") == 1 and connection.is_busy
    for _ in range(40):
        came += wire.read()
        for _ in range(4):
            await asyncio.sleep(0)
    assert came.count(b"HTTP/1.1 200 OK") == 31 and connection.is_idle


@pytest.mark.parametrize("most", [0, 1 << 20])
async def test_no_more_is_read_than_requests_are_answered(most: int) -> None:
    wire, piece, read = Wire(), request("/a", last=False) * 2000, 0
    connection = Connection(Terms(echo, most), "http")
    connection.connection_made(wire)  # type: ignore[arg-type]
    for _ in range(200):
        if not wire.is_paused:
            connection.data_received(piece)
            read += 1
        await asyncio.sleep(0)
    assert wire.sent.count(b"/a 0") > 20 and read == 1
    await auntil(lambda: not wire.is_paused)
    large = head("PUT /b HTTP/1.1", "Transfer-Encoding: chunked", "", "") + b"20000\r\n"
    connection.data_received(request("/a", last=False) * 2000 + large)
    await auntil(lambda: not wire.is_paused)
    for _ in range(2):
        connection.data_received(bytes(1 << 16))
        await auntil(lambda: not wire.is_paused)
    connection.data_received(b"\r\n0\r\n\r\n")
    await auntil(lambda: b"/b " in wire.sent and connection.is_idle)


async def test_a_request_that_waits_for_its_turn_is_answered_though_the_server_ends() -> None:
    wire = SlowWire()
    connection = wire.connection = Connection(Terms(echo), "http")
    connection.connection_made(wire)  # type: ignore[arg-type]
    connection.data_received(request("/a", last=False) * 2)
    await auntil(lambda: bool(wire.sent))
    connection.end()
    assert wire.read().endswith(b"/a 0")
    await auntil(lambda: wire.is_closed)
    assert b"connection: close" in wire.sent and wire.sent.endswith(b"/a 0")


@pytest.mark.parametrize("most", [0, 100_000])
async def test_others_have_their_turns_while_many_small_chunks_are_read(most: int) -> None:
    sizes: list[int] = []

    app = measuring(sizes)

    sent = head("PUT /a HTTP/1.1", "Transfer-Encoding: chunked", "", "")
    wire, terms = Wire(), Terms(app, most)
    connection = Connection(terms, "http")
    connection.connection_made(wire)  # type: ignore[arg-type]
    connection.data_received(sent + b"1\r\nx\r\n" * 5000)
    assert wire.is_paused  # the rest of that read comes in turns
    await auntil(lambda: not wire.is_paused)
    connection.data_received(b"1\r\nx\r\n" * 4 + b"0\r\n\r\n" + request("/a", b"", "Connection: close"))
    await auntil(lambda: wire.is_closed)
    assert wire.sent.count(b"HTTP/1.1 200 OK") == 2 and b"\r\n\r\n5004HTTP" in wire.sent
    assert most or len(sizes) > 4


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", b"400 Bad Request"),
        (b"GET / HTTP/1.1\nA: b\n\n", b"400 Bad Request"),
        (b"\r\n" * 100 + b"GET / HTTP/1.1\r\n\r\n", b"400 Bad Request"),
        (request("/a", b"x" * 1001), b"413 Request Entity Too Large"),
        (b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3E9\r\n", b"413 "),
        (b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFF\r\n", b"413 "),
        (b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", b"400 "),
        (b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", b"400 "),
        (b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\n0\n\n", b"400 "),
        (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", b"400 "),
        (b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 2000, b"400 "),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * 70_000, b"431 "),
        (b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: " + b"x" * 70_000, b"431 "),
    ],
)
async def test_what_is_no_request_is_refused_and_the_connection_closed(sent: bytes, status: bytes) -> None:
    async with serving() as (listener, _):
        raw = await talk(listener, sent)
    assert raw.startswith(b"HTTP/1.1 " + status)
    assert b"connection: close\r\n" in raw
    assert raw.endswith(b"{}") == status.startswith(b"400")


async def test_the_answers_status_phrase_and_fate_of_the_connection_are_as_the_application_says() -> None:
    async with serving() as (listener, _):
        raw = await talk(listener, request("/status/418"))
        assert raw.startswith(b"HTTP/1.1 418 so and so\r\n")
        for status, phrase in (
            (404, b"Not Found"),
            (418, b"Client Error (418)"),
            (599, b"Server Error (599)"),
        ):
            raw = await talk(listener, request(f"/usual/{status}"))
            assert raw.startswith(b"HTTP/1.1 %d %b\r\n" % (status, phrase))
        raw = await talk(listener, request("/status/204"))
        assert b"content-length" not in raw and raw.endswith(b"\r\n\r\n")
        raw = await talk(listener, request("/closes", last=False) + request("/never"))
        assert raw.count(b"HTTP/1.1") == 1
        raw = await talk(listener, request("/keeps", last=False) + request("/keeps"))
        assert (raw.count(b"connection: keep-alive"), raw.count(b"connection: close")) == (1, 1)
        raw = await talk(listener, request("/pieces", version="1.0"))
        assert raw == b"HTTP/1.1 200 OK\r\nx-one: 1\r\nconnection: close\r\n\r\nabc/pieces 0"
        raw = await talk(listener, head("HEAD /pieces HTTP/1.1", "Connection: close", "", ""))
        assert raw.endswith(b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n")
        raw = await talk(listener, request("/breaks", last=False))
        assert not raw.endswith(b"0\r\n\r\n")


async def test_a_caller_who_waits_for_leave_gets_it() -> None:
    async with serving() as (listener, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(
            request("/a", b"", "Expect: 100-continue")[:-4].replace(b"Length: 0", b"Length: 3") + b"\r\n\r\n"
        )
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"abc")
        assert (await asyncio.wait_for(reader.read(), 60)).endswith(b"/a 3")
        writer.close()


async def test_who_hangs_up_cancels_and_there_are_so_many_connections_and_no_more() -> None:
    async with serving(connections=1) as (listener, terms):
        _, first = await asyncio.open_connection("127.0.0.1", listener.port)
        first.write(request("/waits"))
        await auntil(lambda: any(each.is_busy for each in terms.open))
        (mine,) = terms.open
        assert await talk(listener, request("/a")) == b"" and list(terms.open) == [mine]
        first.close()
        await auntil(lambda: not terms.open)


async def test_what_is_in_flight_ends_before_the_listener_does() -> None:
    hold, entered = asyncio.Event(), asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        entered.set()
        await hold.wait()
        await echo(scope, receive, send)

    async with serving(slow) as (listener, _):
        talking = asyncio.create_task(talk(listener, request("/a", last=False)))
        await entered.wait()
        listener.stop()
        await asyncio.sleep(0.05)
        hold.set()
        assert (await talking).endswith(b"/a 0")


async def test_an_answer_that_its_caller_still_reads_is_not_cut_when_the_listener_ends() -> None:
    size = 32 << 20

    app = answering(bytes(size))

    terms = Terms(app)
    listener = Listener(terms, bind(FrontConfig(port=0)), grace=60.0)
    running = asyncio.create_task(listener.run())
    await listener.started()
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    writer.write(request("/a", last=False))
    await auntil(lambda: any(connection.has_unsent for connection in terms.open))
    listener.stop()
    await asyncio.sleep(0.05)
    raw = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    await running
    assert raw.endswith(bytes(100)) and len(raw) > size


async def test_a_server_goes_on_until_callers_of_http2_know_which_streams_are_answered() -> None:
    listeners = Listeners([FrontConfig(port=0)], ConnectionLimits(), Parting(), StreamingPeers())
    await listeners.open([echo], ExactPorts(), 1000)
    reader, writer = await asyncio.open_connection("127.0.0.1", listeners.port)
    writer.write(PREFACE + http2_frames.settings([]))
    await reader.readexactly(9)
    await listeners.leave(0)
    writer.write_eof()
    sent = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    assert sent.count(b"\x08\x07\x00\x00\x00\x00\x00") == 2  # GOAWAY for now, and GOAWAY for good
    await listeners.closed(60)


async def test_connections_of_http2_are_handed_over() -> None:
    async with serving() as (listener, _):
        assert (await talk(listener, PREFACE + bytes(9), size=9))[3] == 4  # SETTINGS, and an error
    async with serving(speaks_http2=False) as (listener, _):
        assert (await talk(listener, PREFACE)).startswith(b"HTTP/1.1 400 ")


def test_connections_that_do_nothing_with_their_time_are_told() -> None:
    def connection(since: float, **state: bool) -> Any:
        return SimpleNamespace(
            since=since, **{"is_busy": False, "is_idle": False, "is_in_head": False, **state}
        )

    now = 1000.0
    slow, busy = connection(now - PATIENCE_S - 1), connection(0, is_busy=True)
    waiting, idle = connection(now - PATIENCE_S - 1, is_idle=True), connection(now - IDLE_S - 1, is_idle=True)
    fresh, head = connection(now), connection(now - HEAD_S - 1, is_in_head=True)
    assert overdue([slow, busy, waiting, idle, fresh, head], now) == [slow, idle, head]  # type: ignore[arg-type]


async def test_large_bodies_count_while_they_come_and_are_refused_where_they_do_not_fit() -> None:
    budget = Budget(150_000)
    async with serving(most=1 << 20, budget=budget) as (listener, _):
        assert (await talk(listener, request("/a", b"x" * 100_000))).endswith(b"/a 100000")
        assert budget.held == 0
        held = Share(budget)
        held.take(100_000)
        told = await talk(listener, request("/a", b"x" * 100_000))
        assert told.startswith(b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n")
        assert (await talk(listener, request("/a", b"x"))).endswith(b"/a 1")
        await auntil(lambda: budget.held == 100_000)
        held.free()
        assert (await talk(listener, request("/a", b"x" * 100_000))).endswith(b"/a 100000")


async def test_callers_are_told_to_close_when_the_server_parts_from_them() -> None:
    async with serving() as (listener, terms):
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(request("/a", last=False))
        assert b"connection: close" not in await reader.readuntil(b"/a 0")
        leaving = asyncio.create_task(listener.leave(60))
        await auntil(lambda: terms.parting.is_told)
        assert (await talk(listener, request("/new", last=False))).endswith(b"/new 0"), "it still listens"
        writer.write(request("/b", last=False))
        answer = await reader.read()
        assert b"connection: close" in answer
        assert answer.endswith(b"/b 0")
        terms.parting.hurry.set()
        await leaving


async def test_a_request_that_is_half_there_when_it_stops_is_heard_out() -> None:
    async with serving() as (listener, terms):
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nab")
        await auntil(lambda: terms.open and not all(each.is_idle for each in terms.open))
        listener.stop()
        await asyncio.sleep(0.05)
        writer.write(b"cd")
        answer = await reader.read()
        assert b"connection: close" in answer
        assert answer.endswith(b"/a 4")
