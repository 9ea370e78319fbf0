"""HTTP/2: another implementation as the caller, and frames cut anywhere."""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from h2.events import (
    ConnectionTerminated,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.settings import SettingCodes
from http2_callers import BLOCK, GET, POST, START, Caller, SlowWire, Wire, echo
from hypothesis import given, settings
from hypothesis import strategies as st
from small_applications import answering
from soaking import size
from waiting import auntil

from salver.transport import http2, http2_frames
from salver.transport.http1_head import PREFACE
from salver.transport.http2 import Http2
from salver.transport.http2_frames import Fault, frame
from salver.transport.http2_head import Http2Heads, head_of
from salver.transport.terms import Terms


async def call(scope: Any, receive: Any, send: Any) -> None:
    """Answer as gRPC does."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")], "trailers": True})
    await send({"type": "http.response.body", "body": b"message"})
    await send({"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]})


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
async def test_requests_are_answered_side_by_side(size: int) -> None:
    caller = Caller(echo)
    for stream in (1, 3):
        caller.h2.send_headers(stream, POST)
        caller.h2.send_data(stream, b"one" * stream)
    caller.h2.send_headers(5, GET, end_stream=True)
    caller.h2.send_data(3, b"!", end_stream=True)
    caller.h2.send_data(1, b"", end_stream=True)
    caller.talk(cut=lambda data: (data[at : at + size] for at in range(0, len(data), size)))
    for stream in (1, 3, 5):
        await caller.ended(stream)
    heads = {event.stream_id: dict(event.headers) for event in caller.of(ResponseReceived)}
    assert heads[1] == heads[5] == {b":status": b"201", b"a": b"b"}
    assert caller.body(1) == b"POST /a b=1 2 oneone"[:17] + b""
    assert caller.body(3) == b"POST /a b=1 2 " + b"one" * 3 + b"!"
    assert caller.body(5) == b"GET /a b=1 2 "
    assert caller.connection.is_idle


async def test_an_answer_of_grpc_ends_with_trailers() -> None:
    caller = Caller(call)
    caller.h2.send_headers(1, POST)
    caller.h2.send_data(1, b"x", end_stream=True)
    caller.talk()
    await caller.ended(1)
    assert caller.body(1) == b"message"
    assert [dict(event.headers) for event in caller.of(TrailersReceived)] == [{b"grpc-status": b"0"}]


async def test_a_large_answer_waits_for_the_window() -> None:
    whole = bytes(range(256)) * 2000

    app = answering(whole)

    caller = Caller(app)
    caller.h2.send_headers(1, GET, end_stream=True)
    caller.talk()
    await auntil(lambda: caller.hear() or len(caller.body(1)) == 65_535)  # type: ignore[func-returns-value]
    while not caller.of(StreamEnded):
        for window in (None, 1):
            caller.h2.increment_flow_control_window(60_000, window)
        caller.talk()
    assert caller.body(1) == whole and caller.connection.is_idle


async def test_a_wider_window_is_acknowledged_before_it_is_used() -> None:
    """Until it hears so, a caller counts by the old one, and ends a stream that sends more (as gRPC does)."""

    app = answering(bytes(100_000))

    caller = Caller(app)
    caller.h2.send_headers(1, GET, end_stream=True)
    caller.talk()
    await auntil(lambda: caller.hear() or len(caller.body(1)) == 65_535)  # type: ignore[func-returns-value]
    caller.h2.increment_flow_control_window(1 << 20)
    caller.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1 << 17})
    caller.talk()
    await caller.ended(1)
    assert len(caller.body(1)) == 100_000 and caller.connection.is_idle


@pytest.mark.parametrize("app", [echo, call])
async def test_a_caller_may_do_without_a_table_of_headers(app: Any) -> None:
    caller = Caller(app)
    caller.h2.update_settings({SettingCodes.HEADER_TABLE_SIZE: 0})
    caller.talk()
    for stream in (1, 3):
        caller.h2.send_headers(stream, POST)
        caller.h2.send_data(stream, b"x", end_stream=True)
        caller.talk()
        await caller.ended(stream)
    assert len(caller.of(ResponseReceived)) == 2


async def test_a_large_body_is_received_as_the_application_takes_it() -> None:
    sizes: list[int] = []
    gate = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        more = True
        await gate.wait()
        while more:
            message = await receive()
            more = message["more_body"]
            sizes.append(len(message["body"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    caller, left = Caller(app), 5 << 20
    caller.h2.send_headers(1, POST)
    caller.talk()
    while (window := caller.h2.local_flow_control_window(1)) and left:
        size = min(window, left, caller.h2.max_outbound_frame_size)
        caller.h2.send_data(1, bytes(size))
        left -= size
        caller.talk()
    assert left == 4 << 20  # more is not taken before the application has some
    gate.set()
    while left:
        await asyncio.sleep(0)
        caller.hear()
        size = min(caller.h2.local_flow_control_window(1), left, caller.h2.max_outbound_frame_size)
        caller.h2.send_data(1, bytes(size), end_stream=size == left)
        left -= size
        caller.talk()
    await caller.ended(1)
    assert sum(sizes) == 5 << 20


async def test_who_resets_a_stream_cancels_its_task() -> None:
    over: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            over.append("cancelled")
            raise

    caller = Caller(app)
    for stream in (1, 3):
        caller.h2.send_headers(stream, GET, end_stream=True)
    caller.talk()
    await asyncio.sleep(0)
    caller.h2.reset_stream(1)
    caller.talk()
    await auntil(lambda: over == ["cancelled"])
    assert caller.connection.is_busy
    caller.connection.connection_lost(None)
    await auntil(lambda: over == ["cancelled"] * 2)
    assert not caller.terms.open


async def test_an_application_that_fails_resets_its_stream_alone() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/bad":
            raise RuntimeError("so it is")
        await echo(scope, receive, send)

    caller = Caller(app)
    caller.h2.send_headers(1, [*GET[:1], (":path", "/bad"), *GET[2:]], end_stream=True)
    caller.h2.send_headers(3, GET, end_stream=True)
    caller.talk()
    await caller.ended(3)
    assert [(event.stream_id, event.error_code) for event in caller.of(StreamReset)] == [
        (1, Fault.INTERNAL_ERROR)
    ]


async def test_an_answer_before_the_body_is_whole_ends_the_stream() -> None:
    app = answering(b"no", status=413)

    caller = Caller(app)
    caller.h2.send_headers(1, POST)
    caller.h2.send_data(1, bytes(1000))
    caller.talk()
    await caller.ended(1)
    assert caller.body(1) == b"no" and caller.connection.is_idle
    caller.connection.data_received(frame(http2_frames.DATA, 1, 1, b"late"))  # on its way when it ended
    assert not caller.wire.is_closed


async def test_a_server_that_parts_answers_what_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2, "PARTING_S", 0.01)
    gate = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await gate.wait()
        await echo(scope, receive, send)

    caller = Caller(app)
    caller.h2.send_headers(1, GET, end_stream=True)
    caller.talk()
    caller.connection.end()
    caller.h2.send_headers(3, GET, end_stream=True)  # it has not heard of it yet
    caller.talk()
    await auntil(lambda: caller.hear() or len(caller.of(ConnectionTerminated)) == 2)  # type: ignore[func-returns-value]
    assert [event.last_stream_id for event in caller.of(ConnectionTerminated)] == [(1 << 31) - 1, 3]
    assert not caller.wire.is_closed
    gate.set()
    await auntil(lambda: caller.wire.is_closed)
    assert not caller.wire.is_aborted


@pytest.mark.parametrize("length", [2, 4])
async def test_a_body_of_another_length_than_was_said_ends_its_stream(length: int) -> None:
    caller = Caller(echo, validate_outbound_headers=False)
    caller.h2.send_headers(1, [*POST, ("content-length", str(length))])
    caller.h2.send_data(1, b"abc", end_stream=True)
    caller.talk()
    assert [event.error_code for event in caller.of(StreamReset)] == [Fault.PROTOCOL_ERROR]


async def test_more_streams_than_there_may_be_are_refused() -> None:
    async def waits(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    wire = Wire()
    connection = Http2(wire, Terms(waits), "http")  # type: ignore[arg-type]
    opened = b"".join(frame(http2_frames.HEADERS, 5, 2 * n + 1, BLOCK) for n in range(http2.MOST_STREAMS + 2))
    connection.data_received(START + opened)
    refused = http2_frames.rst_stream(2 * http2.MOST_STREAMS + 3, Fault.REFUSED_STREAM)
    await auntil(lambda: wire.sent.endswith(refused))
    assert wire.sent.count(refused[-4:]) >= 2
    connection.connection_lost(None)


async def test_who_takes_nothing_of_an_answer_for_long_loses_it() -> None:
    app = answering(bytes(100_000))

    caller = Caller(app)
    caller.h2.send_headers(1, GET, end_stream=True)
    caller.talk()
    await auntil(lambda: caller.hear() or len(caller.body(1)) == 65_535)  # type: ignore[func-returns-value]
    now = caller.connection.since
    caller.connection.cut_stalled(now + 60, 60.0)
    assert caller.connection.is_busy
    caller.connection.cut_stalled(now + 61, 60.0)
    await auntil(lambda: caller.hear() or bool(caller.of(StreamReset)))  # type: ignore[func-returns-value]
    assert not caller.connection.is_busy


async def test_who_reads_nothing_is_cut_before_memory_runs_out() -> None:
    wire = Wire()
    connection = Http2(wire, Terms(echo), "http")  # type: ignore[arg-type]
    connection.data_received(START)
    connection.pause_writing()
    wire.waiting = 1 << 27
    connection.data_received(frame(http2_frames.PING, 0, 0, bytes(8)))
    assert wire.is_aborted


@pytest.mark.parametrize("streams", [1, 40])
async def test_answers_leave_in_turns_as_their_caller_reads_however_wide_its_windows_are(
    streams: int,
) -> None:
    size = (80 << 20) // streams

    app = answering(bytes(size))

    wire = SlowWire()
    connection = wire.connection = Http2(wire, Terms(app), "http")  # type: ignore[arg-type]
    widest = (1 << 31) - 1
    opened = http2_frames.settings([(4, widest)]) + http2_frames.window_update(0, widest - 65_535)
    asked = b"".join(frame(http2_frames.HEADERS, 5, 2 * n + 1, BLOCK) for n in range(streams))
    connection.data_received(PREFACE + opened + asked)
    most = came = 0
    while came <= streams * size:
        await asyncio.sleep(0)
        most = max(most, len(wire.sent))
        came += len(wire.read())
    assert not (wire.is_aborted or connection.is_busy)
    assert most < 1 << 20
    connection.connection_lost(None)


async def test_large_answers_of_one_connection_leave_side_by_side() -> None:
    app = answering(bytes(4 << 20))

    caller = Caller(app)
    caller.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1 << 24})
    caller.h2.increment_flow_control_window(1 << 26)
    for stream in (1, 3):
        caller.h2.send_headers(stream, GET, end_stream=True)
    caller.talk()
    await caller.ended(1)
    assert len(caller.body(3)) > 3 << 20
    await caller.ended(3)


@pytest.mark.build("pure")  # it patches a method
async def test_a_window_that_opens_byte_by_byte_costs_a_look_at_one_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pumped: list[int] = []
    pump = http2.Stream.pump
    monkeypatch.setattr(http2.Stream, "pump", lambda stream: pumped.append(stream.id) or pump(stream))

    app = answering(bytes(70_000))

    wire = Wire()
    connection = Http2(wire, Terms(app), "http")  # type: ignore[arg-type]
    asked = b"".join(frame(http2_frames.HEADERS, 5, 2 * n + 1, BLOCK) for n in range(200))
    connection.data_received(START + frame(http2_frames.HEADERS, 5, 1, BLOCK))
    await auntil(lambda: len(pumped) == 1)
    connection.data_received(http2_frames.settings([(4, 0)]) + asked[len(asked) // 200 :])
    await auntil(lambda: len(pumped) >= 200)
    pumped.clear()
    connection.data_received(http2_frames.window_update(0, 1) * 900)
    assert len(pumped) <= 900
    connection.connection_lost(None)


@pytest.mark.soak
@settings(max_examples=size(100, 25))
@given(st.lists(st.integers(1, 4000), min_size=1, max_size=20), st.integers(0, 2**32))
def test_frames_may_be_cut_anywhere(cuts: list[int], seed: int) -> None:
    async def run() -> tuple[bytes, bytes]:
        caller = Caller(echo)
        caller.h2.send_headers(1, [*POST, ("long", "x" * 20_000)])
        caller.h2.send_data(1, seed.to_bytes(5, "big") * 1500)
        caller.h2.send_data(1, b"", end_stream=True)

        def cut(data: bytes) -> Iterator[bytes]:
            for length in cuts:
                yield data[:length]
                data = data[length:]
            yield data

        caller.talk(cut=cut)
        await caller.ended(1)
        return caller.body(1), b"POST /a b=1 2 " + seed.to_bytes(5, "big") * 1500

    found, wanted = asyncio.run(run())
    assert found == wanted


@given(st.binary(max_size=400))
def test_bytes_of_any_kind_break_nothing(data: bytes) -> None:
    async def run() -> None:
        wire = Wire()
        connection = Http2(wire, Terms(echo), "http")  # type: ignore[arg-type]
        connection.data_received(START + data)
        await asyncio.sleep(0)
        connection.connection_lost(None)

    asyncio.run(run())


def test_the_authority_is_the_host() -> None:
    fields = [(name.encode(), value.encode()) for name, value in [*GET, ("host", "other")]]
    head = head_of(fields)
    assert head is not None and head.headers == ((b"host", b"x"), (b"k", b"v"))
    assert SimpleNamespace(**head._asdict()).query == b"b=1"


async def test_a_stream_that_is_reset_at_once_begins_no_task() -> None:
    begun: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        begun.append(scope["path"])
        await receive()

    wire = Wire()
    connection = Http2(wire, Terms(app), "http")  # type: ignore[arg-type]
    opened = frame(http2_frames.HEADERS, 4, 1, BLOCK)  # its body follows
    connection.data_received(START + opened + http2_frames.rst_stream(1, Fault.CANCEL))
    await asyncio.sleep(0)
    assert begun == [] and connection.is_idle


def test_a_block_means_another_head_when_the_table_has_changed() -> None:
    """Though the table has one entry before and after, which may lie where the old one lay."""
    heads = Http2Heads()
    get = bytes.fromhex("828684")  # GET http /

    def entry(letter: bytes) -> bytes:  # so large that no other one has room beside it
        return b"\x40\x01n" + b"\x7f\x89\x1e" + letter * 3976

    def value(block: bytes) -> bytes:
        head = heads.read(block)
        assert head is not None
        return dict(head.headers)[b"n"][:1]

    indexed = get + b"\xbe"
    assert value(get + entry(b"a")) == b"a"
    for letters in (b"bc", b"de", b"fg", b"hi", b"jj", b"jj"):
        assert value(indexed) == value(indexed)
        heads.read(get + entry(letters[:1]) + entry(letters[1:]))
        assert value(indexed) == letters[1:]
