"""One call of an ASGI application, without a socket."""

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

import orjson


class Reply(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


def call(
    app: Any, verb: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> Reply:
    """The application's answer, from outside a loop."""
    return asyncio.run(asked(app, verb, target, body, headers))


async def asked(
    app: Any, verb: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> Reply:
    """The application's answer; ``target`` is path and query."""
    path, _, query = target.partition("?")
    given = {"host": "localhost:8000", **(headers or {})}
    scope = {
        "type": "http",
        "method": verb,
        "http_version": "1.1",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in given.items()],
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    got = {name.decode(): value.decode("latin-1") for name, value in sent[0]["headers"]}
    return Reply(sent[0]["status"], got, sent[1]["body"])
