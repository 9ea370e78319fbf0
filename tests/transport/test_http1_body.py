"""Large bodies that are received whole, without a task."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
import uvloop
from waiting import auntil

from salver.transport import http1_body
from salver.transport.budget import Budget
from salver.transport.exchange import Exchange, Prompt
from salver.transport.http1_head import Head
from salver.transport.server import FrontConfig, Listener, bind
from salver.transport.terms import Terms

SIZE = 700_000
BODY = random.Random(1).randbytes(SIZE)
HEAD = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"


class Front:
    """Answers whole bodies without a task and others with one; both tell how much came."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.posted: list[bytes] = []
        self.whole: list[bytes] = []  # received by the application
        self.begun = 0
        self.is_willing = True  # to answer a whole body without a task

    def find_prompt(self, head: Head) -> Prompt:
        return self._ask

    def _ask(self, exchange: Exchange) -> bool:
        body = exchange.body
        if body is None and exchange.large is None:
            return exchange.reserve(self.budget, exchange.expected, 3)
        if not self.is_willing:
            return False
        if body is None:
            assert exchange.large is not None
            body = bytes(exchange.large.view)
            assert np.frombuffer(exchange.large.view, np.int64, 1, 3).flags.aligned
        self.posted.append(body)
        exchange.reply(200, (), b"posted %d" % len(body), "id")
        return True

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.begun += 1
        body, more = b"", True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        self.whole.append(body)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"called %d" % len(body)})


@asynccontextmanager
async def serving(budget: Budget | None = None) -> AsyncIterator[tuple[Front, Terms, int]]:
    front = Front(budget or Budget())
    terms = Terms(front, malformed=b"{}")
    listener = Listener(terms, bind(FrontConfig(port=0)), grace=1.0)
    running = asyncio.create_task(listener.run())
    await listener.started()
    try:
        yield front, terms, listener.port
    finally:
        listener.stop()
        await running


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Awaitable[None]], None]:
    """Runs a coroutine on each kind of event loop: they change protocols in different ways."""

    def go(work: Any) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(work, 60))

    return go


async def answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    return await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))


@pytest.mark.parametrize("size", [SIZE, 100_000, 1 << 16])
def test_a_large_body_is_answered_without_a_task(run: Any, size: int) -> None:
    """However it is cut; and so are the requests around it, on the same connection."""

    async def work() -> None:
        async with serving() as (front, _terms, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for pause in (0, 1):
                sent = HEAD % 3 + b"abc" + HEAD % SIZE + BODY + HEAD % 2 + b"de"
                for at in range(0, len(sent), size):
                    writer.write(sent[at : at + size])
                    await asyncio.sleep(0.001 * pause)
                for text in (b"posted 3", b"posted 700000", b"posted 2"):
                    assert await answer(reader) == text
            assert front.posted == [b"abc", BODY, b"de"] * 2 and not front.begun
            assert front.budget.held == 0
            writer.close()

    run(work())


def test_a_body_that_comes_slowly_is_passed_on_in_pieces(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The application bounds its time."""
    monkeypatch.setattr(http1_body, "RESERVED_S", 0.01)

    async def work() -> None:
        async with serving() as (front, _, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HEAD % SIZE + BODY[:200_000])
            await auntil(lambda: front.begun == 1)
            assert front.budget.held == 0
            writer.write(BODY[200_000:] + HEAD % SIZE + BODY)
            assert await answer(reader) == b"called 700000"
            assert await answer(reader) in (b"called 700000", b"posted 700000")
            assert front.whole[0] == BODY
            writer.close()

    run(work())


def test_a_body_whose_caller_leaves_costs_nothing_more(run: Any) -> None:
    async def work() -> None:
        async with serving() as (front, terms, port):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HEAD % SIZE + BODY[:200_000])
            await auntil(lambda: front.budget.held == SIZE)
            writer.close()
            await auntil(lambda: not terms.open)
            assert front.budget.held == 0 and not front.posted and not front.begun

    run(work())


def test_announced_bodies_take_no_more_than_half_of_the_memory(run: Any) -> None:
    async def work() -> None:
        async with serving(Budget(3 * SIZE)) as (front, _, port):
            _, first = await asyncio.open_connection("127.0.0.1", port)
            first.write(HEAD % SIZE)
            await auntil(lambda: front.budget.held == SIZE)
            reader, second = await asyncio.open_connection("127.0.0.1", port)
            second.write(HEAD % SIZE + BODY)
            assert await answer(reader) == b"called 700000"
            first.close()
            second.close()

    run(work())


def test_a_body_that_needs_a_task_after_all_is_given_to_the_application(run: Any) -> None:
    async def work() -> None:
        async with serving() as (front, _, port):
            front.is_willing = False
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HEAD % SIZE + BODY)
            assert await answer(reader) == b"called 700000"
            assert front.whole == [BODY] and front.budget.held == 0
            writer.close()

    run(work())


def test_a_server_that_parts_waits_for_the_rest_of_a_body(run: Any) -> None:
    async def work() -> None:
        async with serving() as (front, terms, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HEAD % SIZE + BODY[:200_000])
            await auntil(lambda: front.budget.held == SIZE)
            (connection,) = terms.open
            assert connection.is_busy and not connection.is_idle
            connection.end()
            writer.write(BODY[200_000:])
            assert await answer(reader) == b"posted 700000"
            assert await reader.read() == b""
            writer.close()

    run(work())
