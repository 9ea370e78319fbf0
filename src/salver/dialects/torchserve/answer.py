"""How does an answer of TorchServe's leave, whole or in pieces?

Its first piece decides: if it is the last one, it is the answer; else the others follow in chunks (TS-R15).
Every reply has the standard headers (TS-R16) but one to what was too large.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Final

from salver.dialects.torchserve.json_layout import STREAM_NEXT, TorchServeReply, headed
from salver.transport.doors import Send
from salver.transport.http1 import head_of, is_bodiless
from salver.words.errors import Cancelled

#: Seconds without any room for the next piece, after which the caller counts as gone.
PATIENCE_S: Final = 60.0
_TOO_LARGE: Final = 413
_KEEP: Final = (b"connection", b"keep-alive")
_CLOSE: Final = (b"connection", b"close")


#: Heads of whole answers whose layout is remembered.
_KNOWN_HEADS: Final = 256
#: What differs between heads of one layout; no header's value can hold it.
_ID: Final = b"\0id"
_SIZE: Final = b"\0size"


class Layouts:
    """Lays out whole answers; what is the same in many heads is laid out once.

    Args:
        cors: What every reply allows pages to do.
    """

    def __init__(self, cors: Sequence[tuple[bytes, bytes]] = ()) -> None:
        self._cors = cors
        self._known: dict[tuple[object, ...], tuple[tuple[bytes, ...], bytes, bool]] = {}

    def __repr__(self) -> str:
        return f"<Layouts, {len(self._known)} known>"

    def of(self, reply: TorchServeReply, request_id: str, version: str, keeps: bool) -> tuple[bytes, bool]:
        """Head and body, and whether the connection may serve more requests.

        Args:
            version, keeps: Of the request's head.
        """
        key = (reply.status, reply.reason, reply.headers, version, keeps)
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _KNOWN_HEADS:
                self._known.clear()
            found = self._known[key] = self._laid_out(reply, version, keeps)
        before, after, keeps = found
        body = b"" if is_bodiless(reply.status) else reply.body
        return b"%b%d%b%b" % (request_id.encode().join(before), len(reply.body), after, body), keeps

    def _laid_out(
        self, reply: TorchServeReply, version: str, keeps: bool
    ) -> tuple[tuple[bytes, ...], bytes, bool]:
        headers = _headers(reply, _ID, self._cors)
        headers.insert(len(headers) - 1, (b"content-length", _SIZE))
        text, keeps, _ = head_of(_start(reply, headers), 0, version, keeps)
        before, _, after = text.partition(_SIZE)
        return tuple(before.split(_ID)), after, keeps


def request_id_of(number: str) -> str:
    """The id of a request.

    Args:
        number: Of the call: 16 hexadecimal digits, no other's.
    """
    return f"{number[:8]}-{number[8:12]}-4000-8000-{number[12:]}00000000"


class Answer:
    """The answer to one request, as it comes.

    Args:
        verb: Of the request.
        cors: What every reply allows pages to do.
    """

    def __init__(
        self, send: Send, verb: str, request_id: str, cors: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        self._send = send
        self._verb = verb
        self._cors = cors
        self.request_id = request_id
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
        await self._send(_start(reply, headers))
        body = b"" if self._verb == "HEAD" else reply.body
        await self._send({"type": "http.response.body", "body": body})

    async def _piece(self, reply: TorchServeReply) -> None:
        if not self._has_begun:
            self._has_begun = True
            headers = self._headers(reply)
            headers.insert(0, STREAM_NEXT)
            await self._send(_start(reply, headers))
        elif reply.status >= 400 and reply.is_last:
            self._is_done = True  # the status is out: an answer that breaks off says it
            return
        self._is_done = reply.is_last
        if reply.body or reply.is_last:
            more = not reply.is_last
            await self._send({"type": "http.response.body", "body": reply.body, "more_body": more})

    def _headers(self, reply: TorchServeReply) -> list[tuple[bytes, bytes]]:
        return _headers(reply, self.request_id.encode(), self._cors)


def _headers(
    reply: TorchServeReply, request_id: bytes, cors: Sequence[tuple[bytes, bytes]]
) -> list[tuple[bytes, bytes]]:
    """The last one says what becomes of the connection."""
    fate = _CLOSE if reply.status >= 400 else _KEEP
    if reply.status == _TOO_LARGE and not reply.headers:
        return [fate]
    return [*headed(reply, request_id, cors), fate]


def _start(reply: TorchServeReply, headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    start = {"type": "http.response.start", "status": reply.status, "headers": headers}
    if reply.reason is not None:
        start["reason"] = reply.reason
    return start
