"""Answers without a task: to the letter those that a task gives."""

import asyncio
import gc
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from torchserve_fakes import Door, Store, backing, listening, salver
from waiting import PATIENCE_S

from salver.dialects.torchserve.answer import Layouts
from salver.dialects.torchserve.bodies import LARGE
from salver.dialects.torchserve.front import TorchServe
from salver.dialects.torchserve.json_layout import TorchServeReply
from salver.dialects.torchserve.paths import SURFACES
from salver.dialects.torchserve.rules import TorchServeRules
from salver.transport.access import AnnouncingApp
from salver.transport.exchange import Exchange
from salver.words.errors import HandlerFailed, Overloaded
from salver.words.events import Answered
from salver.words.handlers import HandlerReply
from salver.words.messages import InferRequest

RULES = TorchServeRules(cors_origin="http://example.org", max_response=4000)
ID = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def says(*replies: HandlerReply) -> Any:
    return lambda request: replies[0] if len(replies) == 1 else list(replies)


def refuses(request: InferRequest) -> HandlerReply:
    raise Overloaded("full")


def breaks(request: InferRequest) -> HandlerReply:
    raise HandlerFailed("it broke", 507)


MODELS = {
    "ok": says(HandlerReply(b"OK")),
    "made": says(HandlerReply(b"{}", 201, "Made", "text/x", {"X-Gold": "42"})),
    "missing": says(HandlerReply(b"not here", 404)),
    "empty": says(HandlerReply(b"gone", 204)),
    "failed": says(HandlerReply(b"Prediction failed", 503, is_error=True)),
    "large": says(HandlerReply(b"x" * 4001)),
    "refuses": refuses,
    "breaks": breaks,
    "pieces": says(HandlerReply(b"one"), HandlerReply(b"two"), HandlerReply(b"three")),
    "half": says(HandlerReply(b"one"), HandlerReply(b"broke", 503, is_error=True)),
}


@asynccontextmanager
async def serving(**models: Any) -> AsyncIterator[tuple[int, Door, list[Answered]]]:
    door, told = Door(**(models or MODELS)), []
    app = TorchServe(salver, backing(door, Store(), RULES), SURFACES["torchserve-inference"])
    async with listening(AnnouncingApp(app, told.append)) as port:
        yield port, door, told


async def whole(port: int, *lines: str, body: bytes = b"x") -> bytes:
    """Return an answer without what differs between calls, and whether its connection stays usable."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
    writer.write(head.encode() + body)
    async with asyncio.timeout(PATIENCE_S):
        found = await _answer(reader, is_head=lines[0].startswith("HEAD"))
        writer.write(b"GET /ping HTTP/1.0\r\n\r\n")
        with suppress(ConnectionResetError, BrokenPipeError):
            found += b"(and stays open)" if await reader.read() else b""
    writer.close()
    return ID.sub(b"(id)", found)


async def _answer(reader: asyncio.StreamReader, is_head: bool) -> bytes:
    """Return one answer, or the part of it that came before the connection ended."""
    head = await reader.readuntil(b"\r\n\r\n")
    body, has_body = b"", not is_head and b" 204 " not in head.partition(b"\r")[0]
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    is_chunked = b"transfer-encoding: chunked" in head.lower()
    with suppress(ConnectionResetError):
        while has_body and not (
            body.endswith(b"0\r\n\r\n") if is_chunked else length and len(body) >= int(length[1])
        ):
            if not (data := await reader.read(1 << 16)):
                break
            body += data
    return head + body


@pytest.mark.parametrize(
    "more",
    [
        ("POST /predictions/{} HTTP/1.1",),
        ("POST /predictions/{} HTTP/1.1", "Connection: close"),
        ("PUT /predictions/{} HTTP/1.0",),
        ("GET /predictions/{}/1.0/more?x=1 HTTP/1.0", "Connection: keep-alive"),
        ("POST /predictions/{} HTTP/1.1", "ts_request_sequence_id: s"),
        ("POST /predictions/{} HTTP/1.1", "traceparent: 00-" + "a" * 32 + "-" + "b" * 16 + "-01"),
        ("HEAD /predictions/{} HTTP/1.1",),
    ],
    ids=["plain", "closes", "old", "old-keeps", "sequence", "trace", "head"],
)
async def test_an_answer_without_a_task_is_the_same_to_the_letter(more: tuple[str, ...]) -> None:
    async with serving() as (port, door, told):
        is_prompt = not more[0].startswith("HEAD") and "ts_request_sequence_id: s" not in more
        asked = [(more[0].format(name), *more[1:]) for name in MODELS]
        first = await asyncio.gather(*(whole(port, *lines) for lines in asked))
        assert door.posted == 0
        events = sorted((event.status, event.target) for event in told)
        told.clear()
        again = await asyncio.gather(*(whole(port, *lines) for lines in asked))
        assert door.posted == (len(MODELS) if is_prompt else 0)
        assert again == first
        assert sorted((event.status, event.target) for event in told) == events
        assert len(set(first)) == len(MODELS)


async def test_what_a_handler_sees_without_a_task_is_the_same() -> None:
    async with serving(m=says(HandlerReply(b"OK"))) as (port, door, _):
        for _ in range(3):
            await whole(port, "POST /predictions/m/1.0/up?q=1 HTTP/1.1", "X-One: 1", "X-One: 2")
        assert door.posted == 2
        first, second, third = door.asked
        for request in (second, third):
            assert request.parameters == first.parameters and request.version == "1.0"
            assert request.inputs[0].array.tobytes() == b"x"
        assert len({request.id for request in door.asked}) == 3
        assert [call.request_id for call in door.calls] == [request.id for request in door.asked]


async def test_a_large_form_is_read_beside_the_loop() -> None:
    form = "Content-Type: multipart/form-data; boundary=b"
    body = b'--b\r\nContent-Disposition: form-data; name="d"\r\n\r\n' + bytes(LARGE) + b"\r\n--b--"
    async with serving(m=lambda r: HandlerReply(r.inputs[0].array[:2].tobytes())) as (port, door, _):
        for _ in range(2):
            await whole(port, "POST /predictions/m HTTP/1.1", form, body=body)
        assert door.posted == 0 and all(call.is_large for call in door.calls)
        for _ in range(2):
            await whole(port, "POST /predictions/m HTTP/1.1", body=body)
        assert door.posted == 2 and not door.calls[-1].is_large


async def test_requests_on_one_connection_are_answered_in_their_order() -> None:
    async with serving(m=lambda r: HandlerReply(r.inputs[0].array.tobytes())) as (port, door, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        one = b"POST /predictions/m HTTP/1.1\r\nContent-Length: 1\r\n\r\n%d"
        writer.write(b"".join([one % number for number in range(9)]))
        bodies = []
        for _ in range(9):
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
            bodies.append(await reader.readexactly(1))
        assert bodies == [b"%d" % number for number in range(9)] and door.posted == 8
        writer.close()


async def test_an_answer_leaves_no_cycles_behind() -> None:
    async with serving(m=says(HandlerReply(b"OK"))) as (port, door, _):
        gc.collect()
        gc.disable()
        try:
            for _ in range(4):
                await whole(port, "POST /predictions/m HTTP/1.1")
            assert door.posted == 3
            assert not [each for each in gc.get_objects() if isinstance(each, Exchange)]
        finally:
            gc.enable()


async def test_who_hangs_up_gives_the_request_up() -> None:
    gave_up, begun = asyncio.Event(), asyncio.Event()

    async def waits() -> HandlerReply:
        begun.set()
        try:
            await asyncio.sleep(30)
        finally:
            gave_up.set()
        return HandlerReply()

    answers = iter([HandlerReply(b"OK"), waits()])
    async with serving(m=lambda _: next(answers)) as (port, door, told):
        await whole(port, "POST /predictions/m HTTP/1.1")
        told.clear()
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /predictions/m HTTP/1.1\r\nContent-Length: 1\r\n\r\nx")
        await asyncio.wait_for(begun.wait(), PATIENCE_S)
        writer.close()
        await asyncio.wait_for(gave_up.wait(), PATIENCE_S)
        assert door.posted == 1 and told == []


def test_layouts_are_remembered_and_only_so_many() -> None:
    layouts = Layouts([(b"a", b"b")])
    for number in range(300):
        reply = TorchServeReply(200, b"x", ((b"n", b"%d" % number),), "")
        data, keeps = layouts.of(reply, "id", "1.1", True)
        assert keeps and data.startswith(b"HTTP/1.1 200 \r\nn: %d\r\nx-request-id: id\r\na: b\r\n" % number)
        assert data.endswith(b"\r\ncontent-length: 1\r\nconnection: keep-alive\r\n\r\nx")
    assert repr(layouts) == "<Layouts, 44 known>"
    assert layouts.of(TorchServeReply(413, b"", ()), "id", "1.1", True) == (
        b"HTTP/1.1 413 Request Entity Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        False,
    )
