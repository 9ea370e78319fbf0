"""Each answer at a port is announced (TS-B12, TS-B13)."""

from typing import Any

import pytest

from salver.transport.access import AnnouncingApp
from salver.transport.exchange import Exchange
from salver.transport.http1 import Connection, Http1Exchange
from salver.transport.http1_head import Head, Heads
from salver.transport.terms import Terms
from salver.words.events import Answered

SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/predictions/m",
    "raw_path": b"/predictions/m",
    "query_string": b"q=1",
    "http_version": "1.1",
    "client": ("127.0.0.1", 57540),
    "headers": [],
}
GRPC = {**SCOPE, "path": "/org.x.Y/Z", "headers": [(b"content-type", b"application/grpc+proto")]}


async def asked(scope: dict[str, Any], *messages: dict[str, Any], fails: bool = False) -> list[Answered]:
    async def app(_: Any, __: Any, send: Any) -> None:
        for message in messages:
            await send(message)
        if fails:
            raise RuntimeError

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    sent: list[dict[str, Any]] = []
    times = iter([10.0, 12.5])
    found: list[Answered] = []
    enter = AnnouncingApp(app, found.append, lambda: next(times))
    try:
        await enter(scope, None, send)  # type: ignore[arg-type]
    except RuntimeError:
        assert fails
    assert sent == list(messages)
    return found


START = {"type": "http.response.start", "status": 404, "headers": []}


@pytest.mark.clause("TS-B12")
async def test_an_answer_with_its_status_and_time() -> None:
    assert await asked(SCOPE, START, {"type": "http.response.body", "body": b""}) == [
        Answered("127.0.0.1:57540", "POST", "/predictions/m?q=1", "HTTP/1.1", 404, 12.5, 2.5)
    ]


@pytest.mark.clause("TS-B12")
async def test_a_unix_socket_has_no_caller() -> None:
    (found,) = await asked({**SCOPE, "client": None, "query_string": b""}, START)
    assert (found.caller, found.target) == ("unix", "/predictions/m")


async def test_a_key_in_a_target_is_not_told() -> None:
    key = b"slv_0123456789ABCDEFGHIJKLMNOPQRST2cU0lY"
    (found,) = await asked({**SCOPE, "query_string": b"a=1&key=" + key + b"&b=slv_"}, START)
    assert found.target == "/predictions/m?a=1&key=slv_0123…&b=slv_…"


@pytest.mark.clause("TS-B12")
async def test_who_hangs_up_gets_no_answer_and_no_line() -> None:
    assert await asked(SCOPE) == []
    assert len(await asked(SCOPE, START, fails=True)) == 1


@pytest.mark.clause("TS-B12")
@pytest.mark.parametrize(
    "message, code",
    [
        ({"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}, 0),
        ({"type": "http.response.start", "status": 200, "headers": [(b"grpc-status", b"7")]}, 7),
        ({"type": "http.response.start", "status": 200, "headers": []}, 2),
    ],
)
async def test_grpc_has_codes_of_its_own(message: dict[str, Any], code: int) -> None:
    (found,) = await asked(GRPC, message)
    assert (found.verb, found.target, found.protocol, found.status) == ("gRPC", "org.x.Y/Z", "HTTP/2.0", code)


class Prompt:
    """An application that answers by itself, later, or leaves it to a task."""

    def __init__(self) -> None:
        self.takes = True
        self.exchanges: list[Exchange] = []

    def find_prompt(self, head: Head) -> Any:
        return self.ask

    def ask(self, exchange: Exchange) -> bool:
        self.exchanges.append(exchange)
        return self.takes

    async def __call__(self, *_: Any) -> None:
        raise AssertionError


@pytest.mark.clause("TS-B12")
async def test_an_answer_without_a_task_is_announced_when_it_is_there() -> None:
    found: list[Answered] = []
    times = iter([10.0, 12.5, 20.0, 21.0])
    app = Prompt()
    enter = AnnouncingApp(app, found.append, lambda: next(times))
    head = Heads().parse(b"POST /predictions/m?q=1 HTTP/1.1")
    assert head is not None and enter.find_prompt is not None
    prompt = enter.find_prompt(head)
    assert prompt is not None
    connection = Connection(Terms(enter, 10), "http")
    connection.client = ("127.0.0.1", 57540)
    for status in (201, 0):  # who hangs up has none
        exchange = Http1Exchange(connection, head, b"")
        assert prompt(exchange) and not found
        exchange.status = status
        exchange.on_end()
        assert found == [
            Answered("127.0.0.1:57540", "POST", "/predictions/m?q=1", "HTTP/1.1", status, 12.5, 2.5)
        ] * bool(status)
        found.clear()


@pytest.mark.clause("TS-B12")
async def test_what_a_task_answers_is_not_announced_twice() -> None:
    found: list[Answered] = []
    app = Prompt()
    app.takes = False
    enter = AnnouncingApp(app, found.append, lambda: 1.0)
    head = Heads().parse(b"GET / HTTP/1.1")
    assert head is not None and enter.find_prompt is not None
    prompt = enter.find_prompt(head)
    assert prompt is not None
    exchange = Http1Exchange(Connection(Terms(enter, 10), "http"), head, b"")
    assert not prompt(exchange)
    exchange.status = 200
    exchange.on_end()
    assert found == []
    assert AnnouncingApp(lambda *_: app(), found.append).find_prompt is None


@pytest.mark.clause("TS-B12")
async def test_other_kinds_of_scopes_pass() -> None:
    assert await asked({"type": "lifespan"}, {"type": "lifespan.startup.complete"}) == []
