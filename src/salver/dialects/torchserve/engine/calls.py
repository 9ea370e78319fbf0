"""Calls of a handler: requests with a caller who waits for an answer or for its pieces.

A :class:`HandlerCall` is a job of :mod:`salver.dialects.torchserve.engine.job_queue`. It is answered once;
later answers are dropped. A caller without a task is called back. Queues and workers are not known here.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Final

import msgspec
import numpy as np

from salver.backends.protocol import Answer
from salver.dialects.torchserve.engine.job_queue import Job
from salver.words.errors import HandlerFailed, Overloaded, SalverError
from salver.words.handlers import BODY, SEQUENCE, is_alone, reply_of
from salver.words.messages import InferRequest, InferResponse, Timing
from salver.words.tensor import Array, DataType, Tensor

#: Maximum bytes of pieces that wait for a reader who is slower than the handler.
_MOST_UNREAD: Final = 256 << 20
_EMPTY: Final = np.empty(0, np.uint8)


class HandlerCall(Job[InferRequest]):
    """One request and its caller.

    Args:
        version: Version of the model.
        wants_pieces: Whether the caller takes pieces as they come, instead of one joined answer.
        ahead: Requests that were waiting before it.

    Attributes:
        callback: Called once, with the answer, its first piece, or an error; None = a task waits.
        is_done: Whether it is answered or abandoned.
        on_end: Called then.
        moves: Number of times it was moved to another worker because its own was gone.
        metric_lines: Lines of the handler's metrics that nobody has taken yet.
    """

    __slots__ = (
        "ahead", "callback", "error", "is_done", "metric_lines", "moves", "on_end", "pieces", "timer",
        "unread", "version", "waiter", "wants_pieces",
    )  # fmt: skip

    def __init__(
        self,
        request: InferRequest,
        version: str,
        arrived: float,
        deadline: float,
        wants_pieces: bool,
        ahead: int,
    ) -> None:
        sequence, ends, parameters = "", False, request.parameters
        if SEQUENCE[0] in parameters:
            sequence, ends = str(parameters[SEQUENCE[0]]), bool(parameters.get(SEQUENCE[2]))
        super().__init__(request, arrived, deadline, sequence, ends)
        self.is_alone = is_alone(request)
        self.version = version
        self.wants_pieces = wants_pieces
        self.ahead = ahead
        self.waiter: asyncio.Future[None] | None = None
        self.callback: Callable[[HandlerCall], None] | None = None
        self.pieces: deque[InferResponse] = deque()
        self.error: SalverError | None = None
        self.is_done = False
        self.unread = self.moves = 0
        self.timer: asyncio.TimerHandle | None = None
        self.on_end: Callable[[], None] | None = None
        self.metric_lines: tuple[str, ...] = ()

    async def answer(self) -> InferResponse:
        """Wait for the answer, with all its pieces joined. Raises SalverError."""
        if not self.is_done:
            await self._wait()
        if self.error is not None:
            raise self.error
        pieces = self.pieces
        if len(pieces) == 1:  # the usual case: nothing to join
            return pieces[0]
        body = np.concatenate([piece.outputs[0].array for piece in pieces])
        tensors = (Tensor(BODY, DataType.UINT8, body),)
        return msgspec.structs.replace(pieces[0], outputs=tensors, timing=pieces[-1].timing, is_last=True)

    async def stream(self) -> AsyncGenerator[InferResponse, None]:
        """Yield the remaining pieces as they come. Raises SalverError at the end of a failed answer."""
        is_last = False
        while not is_last:
            while not self.pieces and self.error is None:
                await self._wait()
            piece = self.take()
            is_last = piece.is_last
            yield piece

    def take(self) -> InferResponse:
        """Return the next piece. Raises SalverError if the call has failed instead."""
        if not self.pieces:
            assert self.error is not None
            raise self.error
        piece = self.pieces.popleft()
        self.unread -= piece.outputs[0].array.nbytes
        return piece

    async def _wait(self) -> None:
        self.waiter = asyncio.get_running_loop().create_future()
        await self.waiter

    def put(self, answer: Answer, timing: Timing, *, is_last: bool) -> None:
        """Add an answer, or a piece of it; if it says that the handler failed, the call fails."""
        is_error = False
        if answer.parameters:
            reply = reply_of(None, answer.parameters)
            is_error = reply.is_error
            if reply.metrics:
                self.metric_lines += reply.metrics
        if self.is_done:
            return
        body: Array = answer.outputs.get(BODY, _EMPTY)
        if is_error:
            self.fail(HandlerFailed(body.tobytes().decode("utf-8", "replace"), reply.status))
            return
        tensors = (Tensor(BODY, DataType.UINT8, body),)
        what = self.what
        self.pieces.append(
            InferResponse(what.model, self.version, tensors, what.id, answer.parameters, timing, is_last)
        )
        self.unread += body.nbytes
        if is_last:
            self._end()
        elif self.unread > _MOST_UNREAD:
            self.fail(Overloaded(f"{self.unread} bytes of the answer are unread; the reader is too slow"))
        elif self.wants_pieces:
            self._notify()

    def fail(self, error: SalverError) -> None:
        """End the call with an error, unless it is over."""
        if not self.is_done:
            self.error = error
            self._end()

    def abandon(self) -> None:
        """Abandon the call."""
        self.is_done = True
        if self.timer is not None:
            self.timer.cancel()
        if self.on_end is not None:
            self.on_end()

    def _end(self) -> None:
        self.abandon()
        self._notify()

    def _notify(self) -> None:
        if self.callback is not None:
            # The callback takes the first piece only; its iterator waits for the others.
            callback, self.callback = self.callback, None
            callback(self)
        elif self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


def fail_all(calls: Sequence[Job[InferRequest]], make: Callable[[], SalverError]) -> None:
    """Fail each call with an error of its own, so that tracebacks do not accumulate in one."""
    for call in calls:
        if isinstance(call, HandlerCall):
            call.fail(make())
