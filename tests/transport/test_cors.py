"""Pages of other origins: what a browser is told before and after it asks."""

import asyncio
from typing import Any

import pytest

from salver.transport.cors import Cors, check_origin
from salver.transport.exchange import Exchange, Prompt, never
from salver.transport.http1_head import Head, Heads
from salver.words.errors import InvalidInput

APP = "https://app.example.org"


async def application(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-request-id", b"r")]})
    await send({"type": "http.response.body", "body": b"answer"})


def ask(verb: str, *origins: str, **headers: str) -> tuple[int, dict[bytes, bytes], bytes]:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    pairs = [(name.replace("_", "-").lower().encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": verb, "path": "/", "headers": pairs}

    async def run() -> None:
        await Cors(application, origins)(scope, receive, send)

    asyncio.run(run())
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


def preflight(origin: str, *origins: str, **headers: str) -> tuple[int, dict[bytes, bytes], bytes]:
    return ask("OPTIONS", *origins, Origin=origin, Access_Control_Request_Method="POST", **headers)


@pytest.mark.clause("TR-R36")
def test_a_browser_asks_before() -> None:
    wanted = "content-type, inference-header-content-length"
    status, headers, body = preflight(APP, APP, Access_Control_Request_Headers=wanted)
    assert (status, body) == (204, b"")
    assert headers[b"access-control-allow-origin"] == APP.encode()
    assert headers[b"vary"] == b"origin"
    assert b"POST" in headers[b"access-control-allow-methods"]
    assert headers[b"access-control-allow-headers"] == wanted.encode()
    assert int(headers[b"access-control-max-age"]) > 0


@pytest.mark.clause("TR-R36")
def test_pages_of_others_may_not() -> None:
    status, headers, body = preflight("https://evil.example.org", APP)
    assert status == 403
    assert not any(name.startswith(b"access-control") for name in headers)
    assert b"--cors-origin" in body
    assert preflight("null", APP)[0] == 403


@pytest.mark.clause("TR-R36")
def test_an_answer_names_the_pages_that_may_read_it() -> None:
    status, headers, body = ask("POST", APP, Origin=APP)
    assert (status, body) == (200, b"answer")
    assert headers[b"access-control-allow-origin"] == APP.encode()
    assert b"x-request-id" in headers[b"access-control-expose-headers"]
    assert headers[b"x-request-id"] == b"r"
    for other in ({"Origin": "https://evil.example.org"}, {}):
        assert ask("POST", APP, **other)[1] == {b"x-request-id": b"r"}


@pytest.mark.clause("TR-R36")
def test_every_origin() -> None:
    assert preflight("https://any.example", "*")[1][b"access-control-allow-origin"] == b"*"
    headers = ask("GET", "*", Origin="null")[1]
    assert headers[b"access-control-allow-origin"] == b"*"
    assert b"vary" not in headers


def test_options_of_others_is_the_applications() -> None:
    assert ask("OPTIONS", APP, Origin=APP)[2] == b"answer"
    assert ask("OPTIONS", APP)[2] == b"answer"


@pytest.mark.parametrize("origin", [APP, "http://localhost:3000", "*", "http://[::1]:80"])
def test_origins(origin: str) -> None:
    assert check_origin(origin) == origin


@pytest.mark.parametrize(
    "text", ["", "app.example.org", f"{APP}/", f"{APP}/path", "ftp://a", "http://", "http://u@a", "http://ä"]
)
def test_what_is_no_origin(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not an origin"):
        check_origin(text)


def test_only_requests_of_pages_take_a_task() -> None:
    class Prompting:
        __call__ = staticmethod(application)

        def find_prompt(self, head: Head) -> Prompt:
            return prompt

    def prompt(exchange: Exchange) -> bool:
        return True

    heads = Heads()
    program = heads.parse(b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h")
    page = heads.parse(f"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\nOrigin: {APP}".encode())
    assert program is not None and page is not None
    assert Cors(Prompting(), (APP,)).find_prompt(program) is prompt
    assert Cors(Prompting(), (APP,)).find_prompt(page) is never
    assert Cors(application, (APP,)).find_prompt(program) is never
