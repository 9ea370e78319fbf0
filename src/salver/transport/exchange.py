"""One request with its answer on a connection, as the application sees it.

``http1.py`` and ``http2.py`` have a subclass each that writes the answer in their protocol. The application
answers through ASGI's ``receive`` and ``send``; or without a task, through ``prompt`` and ``reply``.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from salver.encoding.bodies import GrpcStatus
from salver.transport.budget import Budget
from salver.transport.http1_head import Head, Headers
from salver.words.messages import Alike, Closable

if TYPE_CHECKING:
    from salver.transport.large_body import LargeBody

#: Starts to answer a request, or answers it, without a task; False = call the application instead. For a
#: request whose large body is incomplete, True = receive the body, which has memory now, and ask again.
Prompt = Callable[["Exchange"], bool]
#: Returns the function that answers requests with a head without a task; None = none yet.
PromptFinder = Callable[[Head], Prompt | None]
#: Bytes below which a piece of a body is joined with the next one while it waits for the application.
_SMALL: Final = 4096
#: Marks a body that the application has received; compared by identity.
_RECEIVED: Final = bytes(bytearray(b"received"))


class Exchange:
    """Request with its answer.

    Args:
        body: Complete body; None = it arrives in pieces, through :meth:`put`.

    Attributes:
        body: Complete body, until the application has received it.
        begun, expected: First bytes of an incomplete body, and the number of all; set only when a prompt is
            asked whether to receive it whole.
        held: Bytes of the body that wait for the application.
        large: Large body that is received whole, instead of ``body``; None = there is none.
        status: Status of the answer; 0 = no answer yet.
        arrival: Time when it was read.
        lag: Most seconds that the event loop adds to its latency, before that time and after it; 0 =
            negligible (:class:`~salver.transport.terms.Pulse`).
        wait: Seconds that a large body will take to come, with those before it; set when it begins.
        is_gone: The caller is gone.
        is_whole: The answer is complete.
        on_gone: Called when the caller goes, if no task has to be cancelled.
        on_end: Called when the answer is complete or has failed.
    """

    __slots__ = (
        "_count", "_has_more", "_pieces", "arrival", "begun", "body", "expected", "head", "held", "is_gone",
        "is_whole", "lag", "large", "on_end", "on_gone", "status", "wait",
    )  # fmt: skip

    wait: float

    def __init__(self, head: Head, body: bytes | None) -> None:
        self.head = head
        self.body = body
        self.status = 0
        self.arrival = self.lag = 0.0
        self.is_gone = self.is_whole = False
        self.large: LargeBody | None = None
        self.on_gone: Callable[[], None] = nothing
        self.on_end: Callable[[], None] = nothing
        if body is None:
            self._pieces: deque[tuple[bytes, bool]] = deque()
            self._has_more: asyncio.Future[None] | None = None
            self.held = self._count = 0

    @property
    def client(self) -> tuple[str, int] | None:
        """Address and port of the caller; None = it came by a UNIX socket."""
        raise NotImplementedError

    def is_in_rush(self) -> bool:
        """Note that it is refused; return whether others like it are expected in this turn of the loop."""
        raise NotImplementedError

    def put(self, piece: bytes, *, is_last: bool) -> None:
        """Add a piece of the body."""
        self.held += len(piece)
        self._count += bool(piece)
        pieces = self._pieces
        if pieces and len(pieces[-1][0]) < _SMALL:  # each by itself would hold far more than its bytes
            piece = pieces.pop()[0] + piece
        pieces.append((piece, is_last))
        if self._has_more is not None and not self._has_more.done():
            self._has_more.set_result(None)

    def is_collected(self, prompt: Prompt | None, size: int, begun: bytes) -> bool:
        """Return whether an incomplete body of so many bytes is to be received whole, for a prompt."""
        self.expected, self.begun = size, begun
        return prompt is not None and prompt(self)

    def reserve(self, budget: Budget, size: int, lead: int) -> bool:
        """Reserve memory for a large body, and move a complete one there; return whether there is enough.

        Args:
            lead: Bytes of the body before its tensors.
        """
        from salver.transport.large_body import LargeBody

        self.large = LargeBody.reserve(budget, size, lead)
        if self.large is None:
            return False
        if self.body is not None:
            self.large.add(self.body)
        return True

    def free(self) -> None:
        """Release the memory of a large body."""
        large, self.large = self.large, None
        if large is not None:
            large.free()

    def give_up(self) -> bytes:
        """Release the memory of a large body, and return what has come of it."""
        begun = b"" if self.large is None else self.large.begun()
        self.free()
        return begun

    async def receive(self) -> dict[str, Any]:
        """Return the body or its next piece, and then the caller's disconnect, as ASGI messages."""
        body, self.body = self.body, _RECEIVED
        if body is None:
            return await self._next_piece()
        if body is not _RECEIVED:
            return {"type": "http.request", "body": body, "more_body": False}
        if not self.is_gone:
            await asyncio.get_running_loop().create_future()  # until the task is cancelled
        return {"type": "http.disconnect"}

    async def _next_piece(self) -> dict[str, Any]:
        self.body = None
        if not self._pieces:
            self.wants_more()
            while not self._pieces:
                self._has_more = asyncio.get_running_loop().create_future()
                await self._has_more
        piece, is_last = self._pieces.popleft()
        self.held -= len(piece)
        if is_last:
            self.body = _RECEIVED
        self.received(len(piece))
        # ``count``: of the pieces so far, some of which were joined
        return {"type": "http.request", "body": piece, "more_body": not is_last, "count": self._count}

    def wants_more(self) -> None:
        """Note that the application waits for the next piece of the body."""

    def received(self, size: int) -> None:
        """Note that the application has received so many bytes of the body."""

    async def send(self, message: dict[str, Any]) -> None:
        """Send the start of the answer, a piece of its body, or its trailers.

        Raises:
            OSError: the caller is gone.
        """
        raise NotImplementedError

    async def send_whole(self, start: dict[str, Any], body: bytes) -> None:
        """Send the start of the answer, as ASGI has it without its type, and the body."""
        await self.send({"type": "http.response.start", **start})
        await self.send({"type": "http.response.body", "body": body})

    def repeat(
        self, status: int, headers: Headers, body: bytes, alike: Alike, *, is_own: bool = False
    ) -> None:
        """Send copies of a refusal to further requests of this kind until the turn of the loop ends.

        Args:
            is_own: Only to those with the same head; otherwise to others of this path as well.
        """

    def keep(self, refusal: Closable) -> None:
        """Close a refusal, of which the application sends copies, when the turn of the loop ends."""
        raise NotImplementedError

    def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Answer with a task, which is cancelled if the caller goes."""
        raise NotImplementedError

    def reply(self, status: int, headers: Headers, body: bytes, request_id: str) -> None:
        """Send a whole answer without a task, with its length and the request's id."""
        raise NotImplementedError

    def reply_grpc(self, reply: bytes | GrpcStatus, headers: Headers = ()) -> None:
        """Send the one message of a gRPC call with status OK, or the status with which it fails.

        Args:
            headers: Further ones, before a message.
        """
        raise NotImplementedError


def with_length(headers: Headers, body: bytes, request_id: str) -> Headers:
    """Return the headers of a whole answer, with its length and the request's id."""
    return (*headers, (b"content-length", b"%d" % len(body)), (b"x-request-id", request_id.encode()))


def nothing() -> None:
    """Do nothing."""


def never(exchange: Exchange) -> bool:
    """Leave every request to the application."""
    return False
