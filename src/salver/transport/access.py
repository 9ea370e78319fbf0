"""Who asked what at a port, and how did it end?

An application around another that announces each answer, for TorchServe's access log and its counts of
statuses. It changes nothing.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Final

from salver.events import Answered
from salver.transport.doors import App, Receive, Scope, Send

_GRPC: Final = b"application/grpc"
_STATUS: Final = b"grpc-status"
_UNKNOWN: Final = 2  # gRPC's status of a call that ended without one
_LONGEST: Final = 4096


def watched(app: App, emit: Callable[[Answered], None], now: Callable[[], float] = time.time) -> App:
    """The application, and ``emit`` told of each of its answers."""

    def enter(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return (
            _watch(app, scope, receive, send, emit, now)
            if scope["type"] == "http"
            else app(scope, receive, send)
        )

    return enter


async def _watch(
    app: App,
    scope: Scope,
    receive: Receive,
    send: Send,
    emit: Callable[[Answered], None],
    now: Callable[[], float],
) -> None:
    began = now()
    is_grpc = any(key == b"content-type" and value.startswith(_GRPC) for key, value in scope["headers"])
    status = _UNKNOWN if is_grpc else 0

    async def pass_on(message: dict[str, object]) -> None:
        nonlocal status
        kind = message["type"]
        if kind == "http.response.start" and not is_grpc:
            status = int(str(message["status"]))
        if is_grpc and kind in ("http.response.start", "http.response.trailers"):
            status = _code(message.get("headers"), status)
        await send(message)

    try:
        await app(scope, receive, pass_on)
    finally:
        if status or is_grpc:
            at = now()
            emit(_answered(scope, is_grpc, status, at, max(0.0, at - began)))


def _answered(scope: Scope, is_grpc: bool, status: int, at: float, seconds: float) -> Answered:
    client = scope.get("client")
    caller = f"{client[0]}:{client[1]}" if client else "unix"
    if is_grpc:
        return Answered(caller, "gRPC", scope["path"][1:_LONGEST], "HTTP/2.0", status, at, seconds)
    path = scope.get("raw_path") or scope["path"].encode()
    query = scope.get("query_string") or b""
    target = (path + b"?" + query if query else path)[:_LONGEST].decode("latin-1")
    return Answered(caller, scope["method"], target, f"HTTP/{scope['http_version']}", status, at, seconds)


def _code(headers: object, before: int) -> int:
    if not isinstance(headers, list | tuple):
        return before
    for key, value in headers:
        if key == _STATUS and value.isdigit():
            return int(value)
    return before
