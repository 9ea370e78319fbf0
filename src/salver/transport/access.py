"""Event for each answer at a port, with the caller, the request and the status.

Wraps an application without changing its answers. TorchServe's access log and its counts of statuses are made
of these events.
"""

import functools
import re
import time
from collections.abc import Awaitable, Callable
from typing import Final

from salver.transport.doors import App, Receive, Scope, Send
from salver.transport.exchange import Exchange, Prompt, PromptFinder, never, nothing
from salver.transport.http1_head import Head
from salver.words.events import Answered

_GRPC: Final = b"application/grpc"
_STATUS: Final = b"grpc-status"
_UNKNOWN: Final = 2  # gRPC's status of a call that ends without one
_LONGEST: Final = 4096
#: A caller's key, which is no part of a target, and is not logged where somebody has put it there.
_KEY: Final = re.compile("(slv_[0-9A-Za-z]{0,4})[0-9A-Za-z]*")


class AnnouncingApp:
    """Application that calls ``emit`` for each of its answers.

    Attributes:
        find_prompt: The application's, if it has one.
    """

    def __init__(
        self, app: App, emit: Callable[[Answered], None], now: Callable[[], float] = time.time
    ) -> None:
        self._app = app
        self._emit = emit
        self._now = now
        self._find: PromptFinder | None = getattr(app, "find_prompt", None)
        self.find_prompt: PromptFinder | None = self._found if self._find is not None else None

    def __repr__(self) -> str:
        return f"<AnnouncingApp {self._app!r}>"

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve an ASGI scope."""
        if scope["type"] != "http":
            return self._app(scope, receive, send)
        return _watch(self._app, scope, receive, send, self._emit, self._now)

    def _found(self, head: Head) -> Prompt | None:
        if head.version == "2" or self._find is None:  # the status of a gRPC call stands in its trailers
            return never
        prompt = self._find(head)
        if prompt is None:
            return None
        return functools.partial(self._enter, prompt)

    def _enter(self, prompt: Prompt, exchange: Exchange) -> bool:
        exchange.on_end = functools.partial(self._ended, exchange, self._now())
        if prompt(exchange):
            return True
        # The request goes to a task after all, whose answer is announced by _watch().
        exchange.on_end = nothing
        return False

    def _ended(self, exchange: Exchange, began: float) -> None:
        if exchange.status:  # else the caller has gone before the answer
            head, at = exchange.head, self._now()
            caller, target, protocol = _caller(exchange.client), _target(head.path, head.query), head.version
            seconds = max(0.0, at - began)
            self._emit(
                Answered(caller, head.method, target, f"HTTP/{protocol}", exchange.status, at, seconds)
            )


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
    # A gRPC call without trailers has failed; HTTP without a status has had no answer at all.
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
    caller = _caller(scope.get("client"))
    if is_grpc:
        return Answered(caller, "gRPC", scope["path"][1:_LONGEST], "HTTP/2.0", status, at, seconds)
    path = scope.get("raw_path") or scope["path"].encode()
    query = scope.get("query_string") or b""
    target = _target(path, query)
    return Answered(caller, scope["method"], target, f"HTTP/{scope['http_version']}", status, at, seconds)


def _caller(client: tuple[str, int] | None) -> str:
    if client:
        return f"{client[0]}:{client[1]}"
    return "unix"


def _target(path: bytes, query: bytes) -> str:
    target = (path + b"?" + query if query else path)[:_LONGEST].decode("latin-1")
    return _KEY.sub(r"\1…", target) if "slv_" in target else target


def _code(headers: object, before: int) -> int:
    if not isinstance(headers, list | tuple):
        return before
    for key, value in headers:
        if key == _STATUS and value.isdigit():
            return int(value)
    return before
