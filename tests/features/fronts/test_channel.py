"""Frames between the processes, in whatever pieces they come, and requests that pass through them."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import auntil

from salver.features.fronts.channel import Channel
from salver.features.fronts.messages import Answer, Begin, Failed, FromHome, Gone, Piece, Pull, Read, Trailers
from salver.features.fronts.passing import PassedRequests

BEGIN = Begin(
    1, "POST", b"/a%20b", b"q", "2", "http", ((b"a", b"b"),), ((b"A", b"b"),), ("127.0.0.1", 1),
    None, 0.0, 0.5, b"one", False, 1,
)  # fmt: skip
MESSAGES = [Pull(1), Answer(2, 200, ((b"a", b"b"),), None, False, bytes(70_000), False), Failed(3)]


class Taken:
    """Transport that keeps what is written."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


@given(st.lists(st.integers(1, 80_000), max_size=6))
def test_frames_come_in_any_pieces(cuts: list[int]) -> None:
    async def main() -> None:
        heard: list[Any] = []
        channel: Channel[FromHome] = Channel(FromHome, heard.append, lambda: None)
        taken = Taken()
        channel.connection_made(taken)  # type: ignore[arg-type]
        for message in MESSAGES:
            channel.send(message)
        assert not taken.data
        await asyncio.sleep(0)  # all in one write, at the end of the turn
        at = 0
        for cut in (*cuts, len(taken.data)):
            channel.data_received(taken.data[at : at + cut])
            at += cut
        assert heard == MESSAGES

    asyncio.run(main())


async def test_the_end_of_the_other_side_is_told_once() -> None:
    mine, theirs = socket.socketpair()
    lost: list[None] = []
    loop = asyncio.get_running_loop()
    channel: Channel[FromHome] = Channel(FromHome, lambda message: None, lambda: lost.append(None))
    await loop.create_unix_connection(lambda: channel, sock=mine)
    theirs.close()
    await auntil(lambda: lost == [None])
    channel.send(Pull(1))
    channel.close()
    await asyncio.sleep(0)
    assert lost == [None]


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Sends the body back, piece by piece, and then trailers."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")], "trailers": True})
    more = True
    while more:
        piece = await receive()
        more = piece["more_body"]
        await send({"type": "http.response.body", "body": piece["body"], "more_body": more})
    await send({"type": "http.response.trailers", "headers": [(b"t", b"u")]})


async def breaks(scope: Any, receive: Any, send: Any) -> None:
    raise ValueError("it is broken")


@pytest.fixture
async def sent() -> AsyncIterator[list[Any]]:
    yield []


async def test_bodies_are_pulled_and_answers_pass_in_pieces(sent: list[Any]) -> None:
    requests = PassedRequests(echo, sent.append)
    requests.begin(Begin(*[*_fields(BEGIN)[:-2], True, 1]))
    await auntil(lambda: Pull(1) in sent)
    requests.hear(Piece(1, b"two", False, 2))
    await auntil(lambda: any(isinstance(each, Trailers) for each in sent))
    assert sent == [
        Answer(1, 200, ((b"x", b"y"),), None, True, b"one", True),
        Pull(1),
        Answer(1, 0, (), None, True, b"two", False),
        Trailers(1, ((b"t", b"u"),)),
    ]


def _fields(message: Any) -> list[Any]:
    return [getattr(message, name) for name in message.__struct_fields__]


async def test_an_application_that_fails_is_told(sent: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    PassedRequests(breaks, sent.append).begin(BEGIN)
    await auntil(lambda: sent == [Failed(1)])
    assert "it is broken" in caplog.text


async def test_who_goes_ends_the_request(sent: list[Any]) -> None:
    cancelled: list[None] = []

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["body"] == b"one"
        try:
            await receive()
        except asyncio.CancelledError:
            cancelled.append(None)
            raise

    requests = PassedRequests(waits, sent.append)
    requests.begin(BEGIN)
    await asyncio.sleep(0)
    requests.hear(Gone(1))
    await auntil(lambda: cancelled == [None])
    assert sent == []


async def test_an_answer_waits_for_its_reader(sent: list[Any]) -> None:
    async def pours(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(10):
            await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    requests = PassedRequests(pours, sent.append)
    requests.begin(BEGIN)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(sent) == 3
    requests.hear(Read(1, 300_000))
    await auntil(lambda: len(sent) == 6)
    for _ in range(3):
        requests.hear(Read(1, 300_000))
        await asyncio.sleep(0)
    await auntil(lambda: len(sent) == 11)
