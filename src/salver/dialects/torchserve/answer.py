"""Sending of TorchServe's answers, whole or in pieces.

If the first piece is the last one, it is the whole answer; otherwise pieces follow in chunks (TS-R15). Every
reply but a 413 has the standard headers (TS-R16).
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Final

from salver.dialects.torchserve.json_layout import STREAM_NEXT, TorchServeReply, all_headers
from salver.transport.doors import Send
from salver.transport.http1_head import head_of, is_bodiless
from salver.words.errors import Cancelled

#: Seconds without any room for the next piece, after which the caller counts as gone.
PATIENCE_S: Final = 60.0
_TOO_LARGE: Final = 413
_KEEP: Final = (b"connection", b"keep-alive")
_CLOSE: Final = (b"connection", b"close")
#: Layouts of heads that are remembered.
_KNOWN_HEADS: Final = 256
#: Placeholders in a layout; no header's value can hold them.
_ID: Final = b"\0id"
_SIZE: Final = b"\0size"


class Layouts:
    """Layouts of whole answers, cached by what many heads have in common.

    Attributes:
        cors: CORS headers of every reply.
    """

    def __init__(self, cors: Sequence[tuple[bytes, bytes]] = ()) -> None:
        self.cors = cors
        self._known: dict[tuple[object, ...], tuple[tuple[bytes, ...], bytes, bool]] = {}

    def __repr__(self) -> str:
        return f"<Layouts, {len(self._known)} known>"

    def of(self, reply: TorchServeReply, request_id: str, version: str, keeps: bool) -> tuple[bytes, bool]:
        """Return head and body, and whether the connection may serve more requests.

        Args:
            version, keeps: From the request's head.
        """
        # Heads of most answers differ in id and length only.
        key = (reply.status, reply.reason, reply.headers, version, keeps)
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _KNOWN_HEADS:
                self._known.clear()
            found = self._known[key] = self._lay_out(reply, version, keeps)
        before, after, keeps = found
        body = b"" if is_bodiless(reply.status) else reply.body
        return b"%b%d%b%b" % (request_id.encode().join(before), len(reply.body), after, body), keeps

    def _lay_out(
        self, reply: TorchServeReply, version: str, keeps: bool
    ) -> tuple[tuple[bytes, ...], bytes, bool]:
        headers = _headers(reply, _ID, self.cors)
        headers.insert(len(headers) - 1, (b"content-length", _SIZE))
        text, keeps, _ = head_of(_start(reply, headers), 0, version, keeps)
        before, _, after = text.partition(_SIZE)
        return tuple(before.split(_ID)), after, keeps


def request_id_of(number: str) -> str:
    """Return the id of a request, in the form of a UUID.

    Args:
        number: Unique number of the call: 16 hexadecimal digits.
    """
    return f"{number[:8]}-{number[8:12]}-4000-8000-{number[12:]}00000000"


class Answer:
    """Answer to one request, as its pieces come.

    Args:
        verb: Verb of the request.
        cors: CORS headers of every reply.
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
        """Send a piece or a whole answer; return when there is room for the next piece.

        Raises:
            Cancelled: the caller hung up, or has read nothing for :data:`PATIENCE_S`.
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
            raise Cancelled("the caller hung up") from error

    async def end(self) -> None:
        """Finish the answer; without effect if the caller has hung up."""
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
            self._is_done = True  # the status is sent already, so the answer is cut off
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
    """Return the headers of a reply; the last one is ``connection``."""
    connection = _CLOSE if reply.status >= 400 else _KEEP
    if reply.status == _TOO_LARGE and not reply.headers:
        return [connection]
    return [*all_headers(reply, request_id, cors), connection]


def _start(reply: TorchServeReply, headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    start = {"type": "http.response.start", "status": reply.status, "headers": headers}
    if reply.reason is not None:
        start["reason"] = reply.reason
    return start
