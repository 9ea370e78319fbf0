"""Wrapper around the application of a port that reads and writes events.

Probes, gRPC and the management interface pass through untouched.
"""

import re
import uuid
from collections.abc import Awaitable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal
from urllib.parse import quote

from salver.features import CloudEventsConfig
from salver.features.cloudevents.sending import Event, EventSender
from salver.transport.calls import printable
from salver.transport.doors import App, Receive, Scope, Send
from salver.transport.exchange import Prompt, PromptFinder, never
from salver.transport.http1_head import Head

#: Paths at which models answer, as KServe's servers have them, and those of OpenAI's clients.
_INFERENCE: Final = re.compile(
    r"/v1/models/([^/:]+)(?:/versions/[^/:]+|/labels/[^/:]+)?(?::[a-z]+)?"
    r"|/v2/models/([^/]+)(?:/versions/[^/]+)?/(?:infer|generate|generate_stream|explain)"
    r"|(?:/openai)?/v1/(?:chat/completions|completions|embeddings|rerank)"
)
#: Attributes that every event has; a request with all of them is an event in binary mode.
_REQUIRED: Final = (b"ce-specversion", b"ce-id", b"ce-source", b"ce-type")
_ID: Final = b"ce-id"
#: Bytes of the largest body that is sent as an event.
_MOST: Final = 8 << 20


class EventsApp:
    """The application with events.

    Args:
        sender: Takes requests and answers; None = they are not sent anywhere.
    """

    def __init__(self, app: App, config: CloudEventsConfig, sender: EventSender | None) -> None:
        self._app = app
        self._config = config
        self._sender = sender
        self._metadata = {name.lower().encode(): name for name in config.headers}
        self._find: PromptFinder = getattr(app, "find_prompt", lambda head: never)

    def __repr__(self) -> str:
        return f"<EventsApp of {self._sender!r}>"

    def find_prompt(self, head: Head) -> Prompt | None:
        """See :data:`~salver.transport.exchange.PromptFinder`; what is read or written here needs a task."""
        if self._sender is not None and _INFERENCE.fullmatch(head.path.decode("latin-1")):
            return never
        if any(name == _ID for name, _ in head.headers):
            return never
        return self._find(head)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve an ASGI scope."""
        if scope["type"] != "http" or scope["method"] != "POST":
            return self._app(scope, receive, send)
        model = _INFERENCE.fullmatch(scope["path"])
        if model is None:
            return self._app(scope, receive, send)
        headers = dict(scope["headers"])
        if self._config.answers and all(name in headers for name in _REQUIRED):
            send = _answering(send, model[1] or model[2] or "")
        if self._sender is None:
            return self._app(scope, receive, send)
        return self._log(self._sender, scope, headers, receive, send)

    async def _log(
        self,
        sender: EventSender,
        scope: Scope,
        headers: Mapping[bytes, bytes],
        receive: Receive,
        send: Send,
    ) -> None:
        """Serve a request, and then send it and its answer, if it has succeeded."""
        arrival = datetime.now(UTC)
        asked, answered = _Copy(), _Copy()
        status = 0

        async def read() -> dict[str, Any]:
            message = await receive()
            asked.add(message.get("body", b""))
            return message

        def write(message: dict[str, Any]) -> Awaitable[None]:
            nonlocal status
            status = message.get("status", status)
            answered.add(message.get("body", b""))
            return send(message)

        await self._app(scope, read, write)
        if status != 200:
            return
        id = printable(headers.get(_ID, b"")) or str(uuid.uuid4())
        content_type = printable(headers.get(b"content-type", b""))
        metadata: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            if name in self._metadata:
                metadata.setdefault(self._metadata[name], []).append(value.decode("latin-1"))

        def put(kind: Literal["request", "response"], copy: _Copy) -> None:
            if self._config.mode not in ("all", kind):
                return
            if copy.size > _MOST:
                sender.lose("dropped", f"one has more than {_MOST} bytes")
                return
            sender.put(Event(kind, id, arrival, content_type, b"".join(copy.pieces), metadata))

        put("request", asked)
        put("response", answered)


class _Copy:
    """Pieces of a body, forgotten once they are too many."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.size = 0

    def add(self, piece: bytes) -> None:
        self.size += len(piece)
        if self.size > _MOST:
            self.pieces.clear()
        else:
            self.pieces.append(bytes(piece))


def _answering(send: Send, model: str) -> Send:
    """Return what writes the answer as an event, as KServe's servers do."""

    def write(message: dict[str, Any]) -> Awaitable[None]:
        if message["type"] == "http.response.start" and message["status"] == 200:
            more = [
                (b"ce-specversion", b"1.0"),
                (b"ce-id", str(uuid.uuid4()).encode()),
                (b"ce-type", b"io.kserve.inference.response"),
                (b"ce-source", f"io.kserve.inference.{quote(model)}".encode()),
                (b"ce-time", datetime.now(UTC).isoformat().encode()),
            ]
            message = {**message, "headers": [*message["headers"], *more]}
        return send(message)

    return write
