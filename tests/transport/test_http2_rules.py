"""Callers of HTTP/2 who break its rules."""

import asyncio
import struct
import tracemalloc
from typing import Any

import pytest
from h2.events import StreamReset
from http2_callers import BLOCK, GET, START, Caller, Wire, echo
from small_applications import measuring
from waiting import auntil

from salver.transport import http2_frames
from salver.transport.http1_head import PREFACE
from salver.transport.http2 import Http2
from salver.transport.http2_frames import Fault, frame
from salver.transport.terms import Terms


@pytest.mark.parametrize(
    ("sent", "fault"),
    [
        (PREFACE + frame(http2_frames.PING, 0, 0, bytes(8)), Fault.PROTOCOL_ERROR),
        (START + frame(http2_frames.PING, 0, 0, bytes(7)), Fault.FRAME_SIZE_ERROR),
        (START + frame(http2_frames.PING, 0, 1, bytes(8)), Fault.PROTOCOL_ERROR),
        (START + frame(http2_frames.SETTINGS, 0, 0, bytes(5)), Fault.FRAME_SIZE_ERROR),
        (START + frame(http2_frames.SETTINGS, 1, 0, bytes(6)), Fault.FRAME_SIZE_ERROR),
        (START + frame(http2_frames.SETTINGS, 0, 1, b""), Fault.PROTOCOL_ERROR),
        (START + http2_frames.settings([(4, 1 << 31)]), Fault.FLOW_CONTROL_ERROR),
        (START + http2_frames.settings([(5, 100)]), Fault.PROTOCOL_ERROR),
        (START + http2_frames.settings([(2, 2)]), Fault.PROTOCOL_ERROR),
        (START + http2_frames.window_update(0, 0), Fault.PROTOCOL_ERROR),
        (START + http2_frames.window_update(0, (1 << 31) - 1), Fault.FLOW_CONTROL_ERROR),
        (START + http2_frames.window_update(9, 1), Fault.PROTOCOL_ERROR),
        (START + frame(http2_frames.WINDOW_UPDATE, 0, 0, b"1"), Fault.FRAME_SIZE_ERROR),
        (START + frame(http2_frames.DATA, 0, 0, b"x"), Fault.PROTOCOL_ERROR),
        (START + frame(http2_frames.DATA, 0, 1, b"x"), Fault.PROTOCOL_ERROR),
        (START + frame(http2_frames.HEADERS, 4, 2, BLOCK), Fault.PROTOCOL_ERROR),
        (START + frame(http2_frames.HEADERS, 4, 0, BLOCK), Fault.PROTOCOL_ERROR),
        (START + frame(http2_frames.HEADERS, 4, 1, b"\xff\xff\xff\xff\xff"), Fault.COMPRESSION_ERROR),
        (START + frame(http2_frames.HEADERS, 4, 1, b"\x20" * 17 + BLOCK), Fault.COMPRESSION_ERROR),
        (START + frame(http2_frames.HEADERS, 4, 1, b"\x3f\xe1\x1f" * 20 + BLOCK), Fault.COMPRESSION_ERROR),
        (START + frame(http2_frames.HEADERS, 4, 1, b"\x20" * 70_000 + BLOCK), Fault.ENHANCE_YOUR_CALM),
        (START + frame(http2_frames.HEADERS, 4 | 8, 1, b"\x09" + BLOCK), Fault.PROTOCOL_ERROR),
        (START + frame(http2_frames.HEADERS, 4 | 8, 1, b""), Fault.PROTOCOL_ERROR),
        (
            START + frame(http2_frames.HEADERS, 0, 1, BLOCK) + frame(http2_frames.PING, 0, 0, bytes(8)),
            Fault.PROTOCOL_ERROR,
        ),
        (START + frame(http2_frames.CONTINUATION, 4, 1, BLOCK), Fault.PROTOCOL_ERROR),
        (
            START + frame(http2_frames.HEADERS, 0, 1, BLOCK) + frame(http2_frames.CONTINUATION, 0, 1) * 40,
            Fault.ENHANCE_YOUR_CALM,
        ),
        (
            START
            + frame(http2_frames.HEADERS, 0, 1, bytes(60_000))
            + frame(http2_frames.CONTINUATION, 0, 1, bytes(9000)),
            Fault.ENHANCE_YOUR_CALM,
        ),
        (
            START + frame(http2_frames.HEADERS, 4, 1, b"\x40\x01a\x7f\xa1\x1e" + b"x" * 4000 + b"\xbe" * 50),
            Fault.ENHANCE_YOUR_CALM,
        ),
        (START + frame(http2_frames.PUSH_PROMISE, 4, 1, bytes(4)), Fault.PROTOCOL_ERROR),
        (START + frame(http2_frames.RST_STREAM, 0, 0, bytes(4)), Fault.PROTOCOL_ERROR),
        (START + frame(http2_frames.RST_STREAM, 0, 7, bytes(4)), Fault.PROTOCOL_ERROR),
        (START + frame(http2_frames.RST_STREAM, 0, 1, bytes(3)), Fault.FRAME_SIZE_ERROR),
        (START + frame(http2_frames.PRIORITY, 0, 1, bytes(4)), Fault.FRAME_SIZE_ERROR),
        (START + struct.pack(">BHBBI", 5, 0, 0, 0, 1), Fault.FRAME_SIZE_ERROR),
        (START + frame(http2_frames.PING, 0, 0, bytes(8)) * 1001, Fault.ENHANCE_YOUR_CALM),
        (START + http2_frames.settings([]) * 1001, Fault.ENHANCE_YOUR_CALM),
        (
            START + frame(http2_frames.HEADERS, 4, 1, BLOCK) + frame(http2_frames.DATA, 0, 1) * 1001,
            Fault.ENHANCE_YOUR_CALM,
        ),
        (
            START
            + b"".join(
                frame(http2_frames.HEADERS, 5, 2 * n + 1, BLOCK)
                + http2_frames.rst_stream(2 * n + 1, Fault.CANCEL)
                for n in range(1001)
            ),
            Fault.ENHANCE_YOUR_CALM,
        ),
        (
            START + frame(http2_frames.HEADERS, 5, 1, BLOCK) + frame(http2_frames.DATA, 0, 1, b"x"),
            Fault.STREAM_CLOSED,
        ),
        (START + http2_frames.settings([(99, 0)] * 65), Fault.ENHANCE_YOUR_CALM),
        (START + frame(http2_frames.GOAWAY, 0, 1, bytes(8)), Fault.PROTOCOL_ERROR),
        (START + frame(http2_frames.GOAWAY, 0, 0, bytes(7)), Fault.FRAME_SIZE_ERROR),
        (START + frame(http2_frames.HEADERS, 5, 1, BLOCK) * 2, Fault.STREAM_CLOSED),
        (
            START
            + frame(http2_frames.HEADERS, 4, 1, BLOCK)
            + http2_frames.rst_stream(1, Fault.CANCEL)
            + frame(http2_frames.DATA, 0, 1, b"x"),
            Fault.STREAM_CLOSED,
        ),
        (
            START
            + frame(http2_frames.HEADERS, 5, 1, BLOCK)
            + http2_frames.rst_stream(1, Fault.CANCEL)
            + frame(http2_frames.HEADERS, 5, 1, BLOCK),
            Fault.STREAM_CLOSED,
        ),
        (START + b"".join(frame(http2_frames.HEADERS, 5, id, BLOCK) for id in (5, 3)), Fault.STREAM_CLOSED),
        (
            START
            + b"".join(
                frame(http2_frames.HEADERS, 5, 2 * n + 1, BLOCK)
                + http2_frames.window_update(2 * n + 1, (1 << 31) - 1)
                for n in range(1001)
            ),
            Fault.ENHANCE_YOUR_CALM,
        ),
        (
            START
            + b"".join(
                frame(http2_frames.HEADERS, 4, 2 * n + 1, BLOCK)
                + frame(http2_frames.HEADERS, 4, 2 * n + 1, BLOCK)
                for n in range(1001)
            ),
            Fault.ENHANCE_YOUR_CALM,
        ),
        (
            START
            + b"".join(
                frame(http2_frames.HEADERS, 4, 2 * n + 1, BLOCK + b"\x0f\x0d\x011")  # content-length: 1
                + frame(http2_frames.DATA, 0, 2 * n + 1, b"xx")
                for n in range(1001)
            ),
            Fault.ENHANCE_YOUR_CALM,
        ),
        (
            START
            + frame(http2_frames.HEADERS, 4, 1, BLOCK)
            + frame(http2_frames.DATA, 0, 1, bytes(1 << 18)) * 5,
            Fault.FLOW_CONTROL_ERROR,
        ),
    ],
)
async def test_who_breaks_the_rules_is_told_and_cut(sent: bytes, fault: Fault) -> None:
    async def waits(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    wire = Wire()
    connection = Http2(wire, Terms(waits), "http")  # type: ignore[arg-type]
    connection.data_received(sent)
    await auntil(lambda: wire.is_closed)
    at = wire.sent.rindex(b"\x07\x00\x00\x00\x00\x00")  # GOAWAY, on stream 0
    assert int.from_bytes(wire.sent[at + 10 : at + 14], "big") == fault
    assert not connection.is_busy
    connection.data_received(b"more")  # nothing is made of it


@pytest.mark.parametrize(
    "headers",
    [
        [(":method", "GET"), (":path", "/")],
        [(":path", "/"), (":scheme", "http")],
        [(":method", "GET"), (":path", "a"), (":scheme", "http")],
        [*GET, (":path", "/b")],
        [*GET, (":strange", "1")],
        [*GET[:1], *GET],
        [*GET, ("Upper", "1")],
        [*GET, ("connection", "close")],
        [*GET, ("transfer-encoding", "chunked")],
        [*GET, ("te", "gzip")],
        [*GET, ("a", "b\r\nc: d")],
        [*GET, ("", "1")],
        [*GET, ("content-length", "x")],
        [*GET, ("content-length", "0"), ("content-length", "5")],
        [*GET[:3], ("host", "a"), ("host", "b")],
        [*GET, ("a\x00", "1")],
        [*GET, ("a:b", "1")],
        [*GET, ("é", "1")],
        [(":method", "GET /b HTTP/1.1\r\nx:"), *GET[1:]],
        [(":method", "é"), *GET[1:]],
        [GET[0], (":path", "/b HTTP/1.1"), *GET[2:]],
        [GET[0], (":path", "/b\r\nx: y"), *GET[2:]],
        [*GET[:2], (":scheme", "http\n"), *GET[3:]],
        [*GET[:3], (":authority", "x\r\nevil: 1"), *GET[4:]],
        [*GET[:3], (":authority", "a b"), *GET[4:]],
        [*GET, *[("k", "v")] * 300],
    ],
)
async def test_a_malformed_head_ends_its_stream_alone(headers: list[tuple[str, str]]) -> None:
    caller = Caller(echo, validate_outbound_headers=False, normalize_outbound_headers=False)
    caller.h2.send_headers(1, headers, end_stream=True)
    caller.h2.send_headers(3, GET, end_stream=True)
    caller.talk()
    await caller.ended(3)
    assert [(event.stream_id, event.error_code) for event in caller.of(StreamReset)] == [
        (1, Fault.PROTOCOL_ERROR)
    ]


async def test_others_have_their_turns_while_many_small_frames_are_read() -> None:
    sizes: list[int] = []

    app = measuring(sizes)

    wire = Wire()
    connection = Http2(wire, Terms(app), "http")  # type: ignore[arg-type]
    connection.data_received(START + frame(http2_frames.HEADERS, 4, 1, BLOCK))
    connection.data_received(
        frame(http2_frames.DATA, 0, 1, b"x") * 4000 + frame(http2_frames.DATA, 1, 1, b"x")
    )
    assert wire.is_paused  # the rest of that read comes in turns
    await auntil(lambda: not connection.is_busy)
    assert not wire.is_paused and sum(sizes) == 4001 and len(sizes) > 4


async def test_small_pieces_that_wait_take_no_more_memory_than_they_are_long() -> None:
    async def waits(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    wire = Wire()
    connection = Http2(wire, Terms(waits), "http")  # type: ignore[arg-type]
    connection.data_received(START + frame(http2_frames.HEADERS, 4, 1, BLOCK))
    await asyncio.sleep(0)
    tracemalloc.start()
    try:
        for _ in range(500):
            connection.data_received(frame(http2_frames.DATA, 0, 1, b"x") * 200)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 500_000  # of 100,000 bytes
    connection.connection_lost(None)


async def test_others_have_their_turns_while_long_header_blocks_are_read() -> None:
    paths: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        paths.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    wire = Wire()
    connection = Http2(wire, Terms(app), "http")  # type: ignore[arg-type]
    block = BLOCK + http2_frames.header_block(0, ((b"a", b"x" * 5000),))
    connection.data_received(
        START + b"".join(frame(http2_frames.HEADERS, 5, id, block) for id in range(1, 41, 2))
    )
    await asyncio.sleep(0)
    assert 0 < len(paths) < 20
    await auntil(lambda: len(paths) == 20 and not connection.is_busy)
