"""Small ASGI applications for tests of transports."""

from collections.abc import Awaitable, Callable
from typing import Any

Application = Callable[[Any, Any, Any], Awaitable[None]]


def answering(body: bytes, status: int = 200) -> Application:
    """Return an application that answers at once with this body."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": body})

    return app


def measuring(sizes: list[int]) -> Application:
    """Return an application that adds the size of each piece of a body, and answers with their sum."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            sizes.append(len(message["body"]))
        await answering(b"%d" % sum(sizes))(scope, receive, send)

    return app
