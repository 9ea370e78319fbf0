"""Filters for ports that serve a part of the application.

The same application is behind several ports, and each passes the paths that belong there, like Triton's ports
for HTTP, gRPC and metrics. A server with one port for everything has no filter and pays nothing for it.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal

from salver.encoding.bodies import GrpcStatus, HttpReply
from salver.lazy import lazy_imports
from salver.transport.exchange import Prompt, PromptFinder, never
from salver.transport.http1_head import Head

with lazy_imports():
    from salver.transport.grpc_frames import trailers


Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
#: What a port serves.
Kind = Literal[
    "all",
    "http",
    "grpc",
    "metrics",
    "openai",
    "sagemaker",
    "vertex-ai",
    "torchserve-inference",
    "torchserve-management",
    "torchserve-metrics",
    "torchserve-inference-metrics",
    "torchserve-management-metrics",
    "torchserve-all",
    "torchserve-grpc-inference",
    "torchserve-grpc-management",
]
_UNIMPLEMENTED: Final = 12
_NOT_FOUND: Final = HttpReply(404, b'{"error":"Not Found"}')
#: What TorchServe's ports for gRPC serve.
_TORCHSERVE: Final = {
    "torchserve-grpc-inference": (
        "/org.pytorch.serve.grpc.inference.",
        "/org.pytorch.serve.grpc.openinference.",
        "/grpc.health.v1.Health/",
    ),
    "torchserve-grpc-management": ("/org.pytorch.serve.grpc.management.", "/grpc.health.v1.Health/"),
}
_WRONG_VERB: Final = HttpReply(405, b'{"error":"Method Not Allowed"}')
#: Triton's metrics port answers every other path like this (TR-R16).
_NOTHING: Final = HttpReply(200, b"", ((b"content-type", b"text/plain; charset=utf-8"),))


def door(app: App, kind: Kind) -> App:
    """Return the application as a port of this kind serves it; ``dialects/clouds`` has its own."""
    if kind in _TORCHSERVE:
        return _services(app, _TORCHSERVE[kind])
    doors = {"http": _http, "grpc": _grpc, "metrics": _metrics, "openai": _openai}
    if kind in doors:
        return doors[kind](app)
    return app


def _http(app: App) -> App:
    def enter(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http" and (scope["path"] == "/metrics" or _is_method(scope["path"])):
            return say(send, _NOT_FOUND)
        return app(scope, receive, send)

    return _prompting(enter, app, lambda path: not _is_method(path))


def _prompting(enter: App, app: App, shows: Callable[[str], bool]) -> App:
    """Add the application's ``find_prompt`` to an entry, for the paths that the port serves."""
    inner: PromptFinder = getattr(app, "find_prompt", lambda head: never)

    def find_prompt(head: Head) -> Prompt | None:
        if shows(head.path.decode("latin-1")):
            return inner(head)
        return never

    enter.find_prompt = find_prompt  # type: ignore[attr-defined]
    return enter


def _grpc(app: App) -> App:
    def enter(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http" and not _is_method(scope["path"]):
            return say(send, _NOT_FOUND)
        return app(scope, receive, send)

    return _prompting(enter, app, _is_method)


def _services(app: App, prefixes: tuple[str, ...]) -> App:
    def enter(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http" or scope["path"].startswith(prefixes):
            return app(scope, receive, send)
        if not _is_method(scope["path"]):
            return say(send, _NOT_FOUND)
        return _end(send, GrpcStatus(_UNIMPLEMENTED, f"Method not found: {scope['path'][1:]}"))

    return enter


async def _end(send: Send, status: GrpcStatus) -> None:
    """Send a gRPC status as the whole answer."""
    headers = [(b"content-type", b"application/grpc"), *trailers(status)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _metrics(app: App) -> App:
    def enter(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http":
            return app(scope, receive, send)
        if scope["method"] not in ("GET", "HEAD"):
            return say(send, _WRONG_VERB)
        if scope["path"].rstrip("/") != "/metrics":
            return say(send, _NOTHING)
        return app({**scope, "path": "/metrics", "raw_path": b"/metrics"}, receive, send)

    return enter


def with_metrics_at(app: App, path: str) -> App:
    """Serve the metrics page at a second path (TF-R27)."""

    def enter(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http" and scope["path"] == path:
            scope = {**scope, "path": "/metrics", "raw_path": b"/metrics"}
        return app(scope, receive, send)

    return _prompting(enter, app, lambda asked: asked != path)


def _openai(app: App) -> App:
    def enter(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http":
            path = scope["path"]
            if not path.startswith("/v1/") and path not in ("/metrics", "/health/ready", "/openapi.json"):
                return say(send, _NOT_FOUND)
        return app(scope, receive, send)

    return enter


def _is_method(path: str) -> bool:
    """Return whether a path is ``/package.Service/Method``; no HTTP route has a dot in its first segment."""
    service, _, method = path[1:].partition("/")
    return "." in service and bool(method)


async def say(send: Send, reply: HttpReply, verb: str = "") -> None:
    """Send a whole answer, without its body if the verb is HEAD."""
    headers = [*reply.headers, (b"content-length", b"%d" % len(reply.body))]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if verb == "HEAD" else reply.body})
