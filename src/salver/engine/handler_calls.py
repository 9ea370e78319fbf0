"""What does a caller of a handler wait for, and how is it told?

A :class:`HandlerCall` is a job of :mod:`salver.engine.job_queue` with somebody who waits for its answer: for
one, or for its pieces as they come. It is answered once, by whoever is first; what comes after that is
dropped. It knows no queue and no worker.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from salver.backends.protocol import Answer
from salver.engine.job_queue import Job
from salver.errors import HandlerFailed, Overloaded, SalverError
from salver.handlers import BODY, SEQUENCE, is_alone, reply_of
from salver.messages import InferRequest, Parameter, Timing
from salver.tensor import Array

#: Bytes of pieces that are kept for a reader who is slower than the handler.
_MOST_KEPT: Final = 256 << 20
_EMPTY: Final = np.empty(0, np.uint8)


class Said(NamedTuple):
    """An answer, or a piece of one."""

    body: Array
    parameters: Mapping[str, Parameter]
    timing: Timing
    is_last: bool


class HandlerCall(Job[InferRequest]):
    """One request and its caller.

    Args:
        wants_pieces: The caller takes them as they come; else it gets one answer of all.

    Attributes:
        is_over: It has its answer, or nobody waits for it.
        on_end: Called then.
        written: Lines that the handler's metrics have written, whoever takes them next.
    """

    __slots__ = (
        "ahead", "came", "error", "is_over", "kept", "loop", "on_end", "pieces", "timer", "wants_pieces",
        "written",
    )  # fmt: skip

    def __init__(
        self, request: InferRequest, arrived: float, deadline: float, wants_pieces: bool, ahead: int
    ) -> None:
        sequence, ends = "", False
        if SEQUENCE[0] in request.parameters:
            sequence, ends = str(request.parameters[SEQUENCE[0]]), bool(request.parameters.get(SEQUENCE[2]))
        super().__init__(request, arrived, deadline, sequence, ends)
        self.is_alone = is_alone(request)
        self.wants_pieces = wants_pieces
        self.ahead = ahead
        self.loop = asyncio.get_running_loop()
        self.came: asyncio.Future[None] = self.loop.create_future()
        self.pieces: deque[Said] = deque()
        self.error: SalverError | None = None
        self.is_over = False
        self.kept = 0
        self.timer: asyncio.TimerHandle | None = None
        self.on_end: Callable[[], None] | None = None
        self.written: tuple[str, ...] = ()

    async def whole(self) -> Said:
        """The answer, all its pieces joined. Raises SalverError."""
        await self.came
        if self.error is not None:
            raise self.error
        pieces = self.pieces
        if len(pieces) == 1:
            return pieces[0]
        body = np.concatenate([piece.body for piece in pieces])
        return Said(body, pieces[0].parameters, pieces[-1].timing, True)

    async def next(self) -> Said:
        """The next piece. Raises SalverError, and then there is no other."""
        while not self.pieces:
            if self.error is not None:
                raise self.error
            await self.came
            if not self.is_over:
                self.came = self.loop.create_future()
        piece = self.pieces.popleft()
        self.kept -= piece.body.nbytes
        return piece

    def put(self, answer: Answer, timing: Timing, *, is_last: bool) -> None:
        """It has an answer, or a piece of one; one that says that the handler failed is its last."""
        reply = reply_of(None, answer.parameters) if answer.parameters else None
        if reply is not None and reply.metrics:
            self.written += reply.metrics
        if self.is_over:
            return
        body: Array = answer.outputs.get(BODY, _EMPTY)
        if reply is not None and reply.is_error:
            self.fail(HandlerFailed(body.tobytes().decode("utf-8", "replace"), reply.status))
            return
        self.pieces.append(Said(body, answer.parameters, timing, is_last))
        self.kept += body.nbytes
        if is_last:
            self._end()
        elif self.kept > _MOST_KEPT:
            self.fail(Overloaded(f"{self.kept} bytes of the answer wait for their reader, who is too slow"))
        elif self.wants_pieces and not self.came.done():
            self.came.set_result(None)

    def fail(self, error: SalverError) -> None:
        """It has none, or no more of it."""
        if not self.is_over:
            self.error = error
            self._end()

    def leave(self) -> None:
        """Its caller has gone."""
        self.is_over = True
        if self.timer is not None:
            self.timer.cancel()
        if self.on_end is not None:
            self.on_end()

    def _end(self) -> None:
        self.leave()
        if not self.came.done():
            self.came.set_result(None)


def fail_all(calls: Sequence[Job[InferRequest]], make: Callable[[], SalverError]) -> None:
    """Each with an error of its own, which must not collect the tracebacks of all."""
    for call in calls:
        if isinstance(call, HandlerCall):
            call.fail(make())
