"""Request that a front has passed on, as the home process's application sees it without a task."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from salver.encoding.bodies import GrpcStatus
from salver.features.fronts.messages import GrpcReply, Reply
from salver.features.fronts.passed import PassedRequest
from salver.transport.exchange import Exchange, nothing
from salver.transport.http1_head import Head, Headers
from salver.words.messages import Closable


class PassedExchange(Exchange):
    """Request with its answer, which goes to the front.

    Args:
        request: The same request, which answers with a task where that is needed.
    """

    __slots__ = ("_request",)

    def __init__(self, head: Head, body: bytes, request: PassedRequest) -> None:
        super().__init__(head, body)
        self._request = request

    @property
    def client(self) -> tuple[str, int] | None:
        """Address and port of the caller; None = it came by a UNIX socket."""
        return self._request.client

    def is_in_rush(self) -> bool:
        """Return False: no answer is copied, because each goes to its own number."""
        return False

    async def send(self, message: dict[str, Any]) -> None:
        """See :class:`~salver.transport.exchange.Exchange`."""
        await self._request.send(message)

    def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """See :class:`~salver.transport.exchange.Exchange`."""
        self._request.start(work)

    def keep(self, refusal: Closable) -> None:
        """See :class:`~salver.transport.exchange.Exchange`."""
        asyncio.get_running_loop().call_soon(refusal.close)

    def reply(self, status: int, headers: Headers, body: bytes, request_id: str) -> None:
        """See :class:`~salver.transport.exchange.Exchange`."""
        self.status = status
        self._finish(Reply(self._request.number, status, headers, body, request_id))

    def reply_grpc(self, reply: bytes | GrpcStatus, headers: Headers = ()) -> None:
        """See :class:`~salver.transport.exchange.Exchange`."""
        self.status, number = 200, self._request.number
        if isinstance(reply, GrpcStatus):
            answer = GrpcReply(number, b"", headers, reply.code, reply.message, reply.pushback_ms)
        else:
            answer = GrpcReply(number, reply, headers)
        self._finish(answer)

    def _finish(self, answer: Reply | GrpcReply) -> None:
        self.is_whole = True
        self.on_gone = nothing  # breaks the reference cycle of each request
        self._request.finish(answer)
