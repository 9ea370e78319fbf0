"""Answers in pieces, as Server-Sent Events.

Each is written when it is there. Writing waits while the connection is full, and raises when the caller is
gone or has read nothing for a long time. The dialect's codec lays out an event.
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
#: What the reply says of itself before its first event.
EVENT_STREAM = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"))


class EventStream:
    """The reply to one call, begun by its first event, whose status it has.

    Args:
        more: Headers besides, asked for when the answer begins.
        patience: Seconds without any room for the next event, after which the caller counts as gone.
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
        """Send what is written of events, which may be nothing; returns when there is room for the next.

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
        """No more events; nobody minds if the caller is gone by then."""
        with contextlib.suppress(OSError, RuntimeError):
            if not self._has_begun:
                await self._send(self._start())
            await self._send({"type": "http.response.body", "body": b""})

    def _start(self, status: int = 200) -> dict[str, Any]:
        headers = [*EVENT_STREAM, *self._more(), (b"x-request-id", self._call.request_id.encode())]
        if self._call.traceparent:
            headers.append((b"traceparent", self._call.traceparent.encode()))
        return {"type": "http.response.start", "status": status, "headers": headers}
