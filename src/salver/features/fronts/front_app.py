"""Application of the port in a front: answers from copies, and passes everything else on."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, Protocol

from salver.features.fronts.messages import Begin
from salver.features.fronts.names import GRPC_INFER, called, first_text, path_name
from salver.features.fronts.outgoing import OutgoingRequests
from salver.transport.budget import COUNTED
from salver.transport.doors import App, Receive, Scope, Send
from salver.transport.exchange import Exchange, Prompt, PromptFinder, never
from salver.transport.http1_head import Head

_GRPC: Final = b"application/grpc"
#: Headers of requests that only the home process can answer.
_HOME_ONLY: Final = frozenset((b"expect", b"upgrade", b"endpoint-load-metrics-format"))
#: Seconds in which a body comes whole from usual callers, who may send it after its head.
_SOON_S: Final = 0.1


class HasCopies(Protocol):
    """Models that a front runs itself."""

    @property
    def copies(self) -> frozenset[str]:
        """Names of the models."""
        ...


class FrontApp:
    """Application of the port in a front.

    Args:
        inner: The front's own application, which finds the copies alone.
        side: Knows the copies.
        requests: Passes requests on.
        streaming: Counts a request as a stream (:class:`~salver.transport.watch.StreamingPeers`).
        scheme: Scheme of the port's URLs.
    """

    def __init__(
        self,
        inner: App,
        side: HasCopies,
        requests: OutgoingRequests,
        streaming: Callable[[Scope], Any],
        scheme: str,
    ) -> None:
        self._inner = inner
        self._side = side
        self._requests = requests
        self._streaming = streaming
        self._scheme = scheme
        self._find: PromptFinder = getattr(inner, "find_prompt", lambda head: never)

    def find_prompt(self, head: Head) -> Prompt:
        """Return the function that has a copy answer, or passes whole requests on."""
        name, find, headers = path_name(head.path), None, dict(head.headers)
        is_grpc = headers.get(b"content-type", b"").startswith(_GRPC)
        if is_grpc and head.path != GRPC_INFER:  # a stream may begin without a message
            return never
        if (name is not None or is_grpc) and _can_run(head.method, headers):
            find = partial(self._find, head)
        return _FrontPrompt(self._side, self._requests, find, name, self._scheme)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have a copy answer, or pass the request on."""
        headers, path = dict(scope["headers"]), scope["raw_path"]
        name = path_name(path)
        if (name is not None or path == GRPC_INFER) and _can_run(scope["method"], headers):
            first = await _gathered(receive)
            if not first["more_body"]:
                name = first_text(first["body"][5:140]) if path == GRPC_INFER else name
                if name in self._side.copies:
                    await self._inner(scope, _given(first, receive), send)
                    return
        elif b"expect" in headers:  # the caller sends the body when the home process wants it
            first = {"type": "http.request", "more_body": True}
        else:
            first = await receive()
        if first["type"] != "http.request":
            return
        more = first.get("more_body", False)
        number, request = self._requests.begin(partial(_begin_of, scope, first))
        if more and headers.get(b"content-type", b"").startswith(_GRPC):
            with self._streaming(scope):
                await self._requests.relay(number, request, receive, send)
        else:
            await self._requests.relay(number, request, receive, send)


def _begin_of(scope: Scope, first: Mapping[str, Any], number: int) -> Begin:
    return Begin(
        number,
        scope["method"],
        scope["raw_path"],
        scope["query_string"],
        scope["http_version"],
        scope["scheme"],
        scope["headers"],
        scope["spelled"],
        scope["client"],
        scope["server"],
        0.0,
        scope["lag"],
        first.get("body", b""),
        first.get("more_body", False),
        first.get("count", 1),
    )


class _FrontPrompt:
    """Answers requests with one head without a task: by a copy, or by the home process.

    Args:
        find: Finds the prompt of the front's own application; None = no copy can answer.
        name: The model; None = the message names it.
    """

    __slots__ = ("_find", "_name", "_own", "_requests", "_scheme", "_side")

    def __init__(
        self,
        side: HasCopies,
        requests: OutgoingRequests,
        find: Callable[[], Prompt | None] | None,
        name: str | None,
        scheme: str,
    ) -> None:
        self._side = side
        self._requests = requests
        self._find = find
        self._name = name
        self._scheme = scheme
        self._own: Prompt | None = None

    def __call__(self, exchange: Exchange) -> bool:
        """See :data:`~salver.transport.exchange.Prompt`."""
        if self._find is not None:
            name = self._name
            if name is None:
                name = called(exchange)
            if name in self._side.copies:
                self._own = own = self._own or self._find()
                if own is not None and own(exchange):
                    return True
        body = exchange.body
        if body is None or len(body) > COUNTED or exchange.large is not None:
            return False
        self._requests.begin_promptly(exchange, body, self._scheme)
        return True


def _can_run(method: str, headers: Mapping[bytes, bytes]) -> bool:
    """Return whether a copy may answer a request with these headers."""
    return method == "POST" and _HOME_ONLY.isdisjoint(headers)


async def _gathered(receive: Receive) -> dict[str, Any]:
    """Return the body as one message if it is small and comes soon; else its beginning."""
    pieces: list[bytes] = []
    size = 0
    message: dict[str, Any] = {"type": "http.request", "more_body": True}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SOON_S):
            while message["type"] == "http.request" and message.get("more_body") and size <= COUNTED:
                message = await receive()
                pieces.append(message.get("body", b""))
                size += len(pieces[-1])
    more = message.get("more_body", False)
    return {**message, "body": b"".join(pieces), "more_body": more, "count": len(pieces)}


def _given(message: dict[str, Any], receive: Receive) -> Receive:
    """Return a function that returns a message, and then what the given one does."""
    waiting = [message]

    async def given() -> dict[str, Any]:
        return waiting.pop() if waiting else await receive()

    return given
