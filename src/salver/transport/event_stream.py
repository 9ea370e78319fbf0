"""Streamed answers as Server-Sent Events.

Each event is written as soon as it exists. A write waits while the connection is full, and raises if the
caller is gone or has not read for a long time. The dialect's codec formats the events.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from salver.encoding.bodies import HttpReply
from salver.words.errors import Cancelled
from salver.words.messages import Call

Headers = tuple[tuple[bytes, bytes], ...]
Send = Callable[[dict[str, Any]], Awaitable[None]]
#: Headers of a stream of events.
EVENT_STREAM = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"))


class EventStream:
    """Streamed reply to one call; its first event sets the status.

    Args:
        more: Returns further headers when the answer begins.
        patience: Seconds without room for the next event after which the caller counts as gone.
    """

    def __init__(
        self, send: Send, call: Call, more: Callable[[], Headers] = tuple, patience: float = 60.0
    ) -> None:
        self._send = send
        self._more = more
        self._patience = patience
        self._call = call
        self._has_begun = False

    async def write(self, reply: HttpReply) -> None:
        """Send events, if the reply has any; return when there is room for more.

        Raises:
            Cancelled: the caller is gone.
        """
        if not reply.body:
            return
        try:
            async with asyncio.timeout(self._patience):
                if not self._has_begun:
                    self._has_begun = True
                    await self._send(self._start(reply.status))
                await self._send({"type": "http.response.body", "body": reply.body, "more_body": True})
        except (OSError, RuntimeError) as error:
            raise Cancelled("the caller went away") from error

    async def end(self) -> None:
        """End the stream, even if the caller is gone."""
        with contextlib.suppress(OSError, RuntimeError):
            if not self._has_begun:
                await self._send(self._start())
            await self._send({"type": "http.response.body", "body": b""})

    def _start(self, status: int = 200) -> dict[str, Any]:
        headers = [*EVENT_STREAM, *self._more(), (b"x-request-id", self._call.request_id.encode())]
        if self._call.traceparent:
            headers.append((b"traceparent", self._call.traceparent.encode()))
        return {"type": "http.response.start", "status": status, "headers": headers}
