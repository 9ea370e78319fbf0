"""Large bodies of HTTP/2 that are received whole, without a task."""

import math
import random
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from http2_callers import Caller
from waiting import auntil

from salver.transport import http2_frames, http2_stream
from salver.transport.budget import Budget
from salver.transport.exchange import Exchange, Prompt
from salver.transport.http1_head import Head

SIZE = 2_000_000  # more than a stream's window
MESSAGE = random.Random(2).randbytes(SIZE - 5)
FRAMED = struct.pack(">BI", 0, SIZE - 5) + MESSAGE
POST = [(":method", "POST"), (":path", "/a"), (":scheme", "http"), (":authority", "x")]


class Front:
    """Answers whole bodies without a task, and the others, or those of another size, with one."""

    def __init__(self) -> None:
        self.budget = Budget()
        self.posted: list[bytes] = []
        self.called: list[bytes] = []
        self.begun = 0
        self.refuses = False

    def find_prompt(self, head: Head) -> Prompt:
        return self._ask

    def _ask(self, exchange: Exchange) -> bool:
        if exchange.body is not None:
            return False
        if exchange.large is None:
            assert FRAMED.startswith(exchange.begun) and len(exchange.begun) >= 5
            if self.refuses:
                exchange.reply(503, (), b"refused", "id")
                return False
            return exchange.reserve(self.budget, exchange.expected, 5)
        assert np.frombuffer(exchange.large.view, np.int64, 1, 5).flags.aligned
        self.posted.append(bytes(exchange.large.view))
        exchange.reply(200, (), b"posted", "id")
        return True

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.begun += 1
        body, more = b"", True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        self.called.append(body)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"called"})


def send(
    caller: Caller, stream: int, body: bytes, *, cut: int = 0, frame: int = 16_384, ends: bool = True
) -> None:
    """Send as the windows allow."""

    def pieces(data: bytes) -> Iterator[bytes]:
        for at in range(0, len(data), cut or len(data)):
            yield data[at : at + (cut or len(data))]

    at = 0
    while at < len(body):
        window = caller.h2.local_flow_control_window(stream)
        assert window, "no window is opened"
        piece = body[at : at + min(window, frame)]
        at += len(piece)
        caller.h2.send_data(stream, piece, end_stream=ends and at == len(body))
        if at % (16 * frame) == 0 or at == len(body) or window <= frame:
            caller.talk(cut=pieces)


@pytest.mark.parametrize("cut", [0, 100_000, 16_393, 5_000])
@pytest.mark.parametrize("length", [True, False])
async def test_a_large_body_is_answered_without_a_task(cut: int, length: bool) -> None:
    front = Front()
    caller = Caller(front)
    for stream in (1, 3):
        caller.h2.send_headers(stream, [*POST, ("content-length", str(SIZE))] if length else POST)
        send(caller, stream, FRAMED, cut=cut)
        await caller.ended(stream)
        assert caller.body(stream) == b"posted"
    assert front.posted == [FRAMED] * 2 and not front.begun and front.budget.held == 0
    assert caller.connection.is_idle


async def test_a_body_that_is_refused_by_its_first_bytes_is_dropped() -> None:
    front = Front()
    caller = Caller(front)
    front.refuses = True
    for stream in range(1, 21, 2):  # more than the connection's window, which is opened again
        caller.h2.send_headers(stream, POST)
        pieces = [FRAMED[:16_384], *[bytes(16_384)] * 39]  # those that were under way when the answer came
        caller.talk(b"".join([http2_frames.frame(http2_frames.DATA, 0, stream, piece) for piece in pieces]))
        await caller.ended(stream)
        assert caller.body(stream) == b"refused"
    front.refuses = False
    caller.h2.send_headers(21, POST)
    send(caller, 21, FRAMED)
    await caller.ended(21)
    assert front.posted == [FRAMED] and not front.begun


async def test_an_overloaded_server_lets_callers_send_only_the_beginning() -> None:
    front = Front()
    caller = Caller(front)
    caller.h2.send_headers(1, POST)
    send(caller, 1, FRAMED[:100_000], ends=False)
    caller.terms.pulse.limited_until = math.inf
    for stream in (3, 5):  # the first one tells
        caller.h2.send_headers(stream, POST)
        send(caller, stream, FRAMED)
        await caller.ended(stream)
        assert caller.h2.remote_settings.initial_window_size == 65_535
    send(caller, 1, FRAMED[100_000:])  # one that had begun goes on
    await caller.ended(1)
    assert front.posted == [FRAMED] * 3
    front.refuses = True
    caller.h2.send_headers(7, POST)
    assert caller.h2.local_flow_control_window(7) == 65_535
    send(caller, 7, FRAMED[:16_384], ends=False)
    assert caller.body(7) == b"refused"
    front.refuses = False
    caller.h2.send_headers(9, POST)  # a small body, which the application receives in pieces
    caller.h2.send_data(9, struct.pack(">BI", 0, 100))
    caller.talk()
    await auntil(lambda: front.begun == 1)
    caller.hear()
    assert caller.h2.local_flow_control_window(9) > 65_535
    caller.terms.pulse.limited_until = -math.inf
    caller.h2.send_headers(11, POST)
    send(caller, 11, FRAMED)
    await caller.ended(11)
    assert front.posted == [FRAMED] * 4
    assert caller.h2.remote_settings.initial_window_size == http2_stream.WINDOW


async def test_streams_side_by_side_keep_their_bodies_apart() -> None:
    front = Front()
    caller = Caller(front)
    for stream in (1, 3):
        caller.h2.send_headers(stream, POST)
    for at in range(0, 900_000, 5000):
        for stream in (1, 3):
            caller.h2.send_data(stream, FRAMED[at : at + 5000])
        if at % 50_000 == 0:
            caller.talk()
    for stream in (1, 3):
        send(caller, stream, FRAMED[900_000:])
        await caller.ended(stream)
    assert front.posted == [FRAMED] * 2


async def test_small_frames_fill_a_large_body_too() -> None:
    front = Front()
    caller = Caller(front)
    caller.h2.send_headers(1, POST)
    send(caller, 1, FRAMED, frame=3000)
    await caller.ended(1)
    assert front.posted == [FRAMED]


@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1, SIZE + 100_000])
async def test_a_body_of_another_size_goes_to_the_application(size: int) -> None:
    front = Front()
    caller = Caller(front)
    caller.h2.send_headers(1, POST)
    body = (FRAMED + bytes(100_000))[:size]
    send(caller, 1, body)
    await caller.ended(1)
    assert front.called == [body] and not front.posted and front.budget.held == 0


async def test_a_body_that_comes_slowly_is_passed_on_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The application bounds its time."""
    monkeypatch.setattr(http2_stream, "RESERVED_S", 0.01)
    front = Front()
    caller = Caller(front)
    caller.h2.send_headers(1, POST)
    send(caller, 1, FRAMED[:300_000], ends=False)
    await auntil(lambda: front.begun == 1)
    assert front.budget.held == 0
    caller.hear()
    caller.h2.send_data(1, FRAMED[300_000:316_000], end_stream=True)
    caller.talk()
    await caller.ended(1)
    assert front.called == [FRAMED[:316_000]]


@pytest.mark.parametrize("leaves", ["stream", "connection"])
async def test_a_body_whose_caller_leaves_costs_nothing_more(leaves: str) -> None:
    front = Front()
    caller = Caller(front)
    caller.h2.send_headers(1, POST)
    send(caller, 1, FRAMED[:300_000], ends=False)
    assert front.budget.held == SIZE
    if leaves == "stream":
        caller.h2.reset_stream(1)
        caller.talk()
    else:
        caller.connection.connection_lost(None)
    assert front.budget.held == 0 and not front.posted and not front.begun


async def test_a_body_beyond_its_window_ends_the_connection() -> None:
    front = Front()
    caller = Caller(front)
    caller.h2.send_headers(1, POST)
    caller.talk()
    frame = b"\x00\x40\x00\x00\x00\x00\x00\x00\x01"
    caller.connection.data_received((frame + FRAMED[:16_384]) * 40)
    assert front.budget.held == SIZE
    caller.connection.data_received((frame + FRAMED[:16_384]) * 110)
    assert front.budget.held == 0 and not front.begun
