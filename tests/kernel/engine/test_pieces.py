"""Both ends of answers that come in pieces: who waits for whom, and what comes too late."""

import asyncio
import threading
from typing import Any

import numpy as np
import pytest
from waiting import PATIENCE_S

from salver.backends.protocol import Answer
from salver.kernel.engine.control import EndOfPieces, GiveUp, Next, Piece, RunError, TensorsTaken
from salver.kernel.engine.outlets import ResponseSenders
from salver.kernel.engine.pieces import ResponseStream
from salver.words.errors import ModelFailed

FIRST, SECOND = Answer({"x": np.zeros(1)}), ModelFailed("no second")


async def begun() -> tuple[ResponseStream, list[Any]]:
    told: list[Any] = []
    pieces = ResponseStream(7, told.append)
    pieces.begin()
    return pieces, told


async def test_the_next_one_is_asked_for_when_the_last_one_was_taken() -> None:
    pieces, told = await begun()
    pieces.put(FIRST, False)
    assert await pieces.next() == (FIRST, False)
    assert told == []
    waiting = asyncio.ensure_future(pieces.next())
    await asyncio.sleep(0)
    assert told == [Next(7)]
    pieces.put(SECOND, True)
    assert await waiting == (SECOND, True)
    pieces.end()
    assert await pieces.next() is None
    assert told == [Next(7)], "nothing is asked of what is over"
    assert repr(pieces) == "<Pieces 7 over>"


async def test_a_reader_that_is_cancelled_loses_nothing() -> None:
    pieces, told = await begun()
    waiting = asyncio.ensure_future(pieces.next())
    await asyncio.sleep(0)
    waiting.cancel()
    pieces.put(FIRST, False)
    await asyncio.wait([waiting])
    assert await pieces.next() == (FIRST, False)
    assert told == []


async def test_an_end_with_a_reason_comes_behind_what_was_sent() -> None:
    pieces, _ = await begun()
    pieces.put(FIRST, False)
    pieces.end(SECOND)
    pieces.end()
    assert await pieces.next() == (FIRST, False)
    with pytest.raises(ModelFailed, match="no second"):
        await pieces.next()


async def test_who_leaves_says_so_once_and_hears_nothing_more() -> None:
    pieces, told = await begun()
    pieces.put(FIRST, False)
    pieces.close()
    pieces.close()
    assert told == [GiveUp(7)]
    pieces.put(FIRST, False)
    assert not pieces.over.done()
    pieces.end()
    assert pieces.over.done()
    pieces.close()
    assert told == [GiveUp(7)]


async def test_who_leaves_before_the_host_knows_of_it_says_so_afterwards() -> None:
    told: list[Any] = []
    pieces = ResponseStream(7, told.append)
    pieces.close()
    assert told == []
    pieces.begin()
    told.append("the order")
    await asyncio.sleep(0)
    assert told == ["the order", GiveUp(7)]


async def test_a_host_that_does_not_wait_breaks_the_rules() -> None:
    pieces, _ = await begun()
    pieces.put(FIRST, False)
    with pytest.raises(ValueError, match="before the last one was taken"):
        pieces.put(FIRST, False)


class Host:
    """Outlets, and what they said; each piece is heard of by whoever waits for it."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.came = threading.Condition()
        self.overs = 0
        self.outlets = ResponseSenders(self.say, lambda _: (), self.count)

    def say(self, reply: object) -> None:
        with self.came:
            self.said.append(reply)
            self.came.notify_all()

    def count(self) -> None:
        self.overs += 1

    def wait_for(self, count: int) -> None:
        with self.came:
            assert self.came.wait_for(lambda: len(self.said) >= count, PATIENCE_S)


def on_thread(work: Any, *args: Any) -> threading.Thread:
    thread = threading.Thread(target=work, args=args)
    thread.start()
    return thread


def test_a_sender_waits_until_its_response_was_taken() -> None:
    host = Host()
    outlet = host.outlets.open(3)
    thread = on_thread(outlet.send, SECOND, True)
    host.wait_for(1)
    assert host.said == [Piece(3, (), RunError("ModelFailed", "no second"), True)]
    assert thread.is_alive()
    host.outlets.hear(TensorsTaken())
    host.outlets.hear(Next(3))
    thread.join(PATIENCE_S)
    assert not thread.is_alive() and not outlet.is_cancelled()
    outlet.end()
    outlet.end()
    assert host.said[1:] == [EndOfPieces(3)]
    assert (host.overs, len(host.outlets), repr(host.outlets)) == (1, 0, "<Outlets of 0 requests>")
    outlet.send(FIRST, False)
    assert len(host.said) == 2


def test_a_response_of_another_waits_until_the_last_was_copied_and_not_until_it_was_taken() -> None:
    host = Host()
    threads = [on_thread(host.outlets.open(1).send, SECOND, False)]
    host.wait_for(1)
    threads.append(on_thread(host.outlets.open(2).send, SECOND, False))
    threads[1].join(0.05)
    assert len(host.said) == 1
    host.outlets.hear(TensorsTaken())
    host.wait_for(2)
    host.outlets.hear(TensorsTaken())
    host.outlets.hear(Next(2))
    threads[1].join(PATIENCE_S)
    assert threads[0].is_alive() and not threads[1].is_alive()
    host.outlets.hear(GiveUp(1))
    threads[0].join(PATIENCE_S)
    assert not threads[0].is_alive()


def test_who_is_not_heard_any_more_is_told_and_need_not_wait() -> None:
    host = Host()
    one, two = host.outlets.open(1), host.outlets.open(2)
    host.outlets.hear(GiveUp(1))
    host.outlets.hear(GiveUp(9))
    assert one.is_cancelled() and not two.is_cancelled()
    one.send(FIRST, False)
    assert host.said == []
    host.outlets.close()
    assert two.is_cancelled() and len(host.outlets) == 2
    two.end(RunError("ModelFailed", "why"))
    assert host.said == [EndOfPieces(2, RunError("ModelFailed", "why"))]


def test_what_cannot_be_laid_out_is_the_senders_error_and_holds_up_nobody() -> None:
    host = Host()

    def lay_out(_: object) -> Any:
        raise ModelFailed("output 'x' is no tensor")

    host.outlets = ResponseSenders(host.say, lay_out, host.count)
    outlet = host.outlets.open(1)
    for _ in range(2):
        with pytest.raises(ModelFailed, match="no tensor"):
            outlet.send(FIRST, False)
    assert host.said == []
