"""How does an answer of TorchServe's leave, whole or in pieces?

Its first piece decides: if it is the last one, it is the answer; else the others follow in chunks (TS-R15).
Every reply has the standard headers (TS-R16) but one to what was too large.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Final

from salver.errors import Cancelled
from salver.transport.doors import Scope, Send
from salver.wire.ts_json import STREAM_NEXT, TorchServeReply, headed

#: Seconds without any room for the next piece, after which the caller counts as gone.
PATIENCE_S: Final = 60.0
_TOO_LARGE: Final = 413
_KEEP: Final = (b"connection", b"keep-alive")
_CLOSE: Final = (b"connection", b"close")


class Answer:
    """The answer to one request.

    Args:
        number: Of the call: 16 hexadecimal digits, no other's.
        cors: What every reply allows pages to do.
    """

    def __init__(
        self, send: Send, scope: Scope, number: str, cors: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        self._send = send
        self._scope = scope
        self._cors = cors
        self.request_id = f"{number[:8]}-{number[8:12]}-4000-8000-{number[12:]}00000000"
        self._has_begun = False
        self._is_done = False

    async def write(self, reply: TorchServeReply) -> None:
        """Send a piece, or all of it; returns when there is room for the next.

        Raises:
            Cancelled: the caller is gone, or has read nothing for long.
        """
        if self._is_done:
            return
        try:
            if reply.is_last and not self._has_begun:
                self._has_begun = self._is_done = True
                await self._whole(reply)
            else:
                async with asyncio.timeout(PATIENCE_S):
                    await self._piece(reply)
        except (OSError, RuntimeError) as error:
            raise Cancelled("the caller went away") from error

    async def end(self) -> None:
        """No more pieces; nobody minds if the caller is gone by then."""
        if self._is_done:
            return
        self._is_done = True
        with contextlib.suppress(OSError, RuntimeError, Cancelled):
            if self._has_begun:
                await self._send({"type": "http.response.body", "body": b""})
            else:
                await self._whole(TorchServeReply(200, b"", ()))

    async def _whole(self, reply: TorchServeReply) -> None:
        headers = self._headers(reply)
        headers.insert(len(headers) - 1, (b"content-length", b"%d" % len(reply.body)))
        await self._send(self._start(reply, headers))
        body = b"" if self._scope["method"] == "HEAD" else reply.body
        await self._send({"type": "http.response.body", "body": body})

    async def _piece(self, reply: TorchServeReply) -> None:
        if not self._has_begun:
            self._has_begun = True
            headers = self._headers(reply)
            headers.insert(0, STREAM_NEXT)
            await self._send(self._start(reply, headers))
        elif reply.status >= 400 and reply.is_last:
            self._is_done = True  # the status is out: an answer that breaks off says it
            return
        self._is_done = reply.is_last
        if reply.body or reply.is_last:
            more = not reply.is_last
            await self._send({"type": "http.response.body", "body": reply.body, "more_body": more})

    def _headers(self, reply: TorchServeReply) -> list[tuple[bytes, bytes]]:
        fate = _CLOSE if reply.status >= 400 else _KEEP
        if reply.status == _TOO_LARGE and not reply.headers:
            return [fate]
        headers = headed(reply, self.request_id.encode(), self._cors)
        headers.append(fate)
        return headers

    def _start(self, reply: TorchServeReply, headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
        start = {"type": "http.response.start", "status": reply.status, "headers": headers}
        if reply.reason is not None:
            start["reason"] = reply.reason
        return start
