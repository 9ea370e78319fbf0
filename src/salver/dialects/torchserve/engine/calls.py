"""What does a caller of a handler wait for, and how is it told?

A :class:`HandlerCall` is a job of :mod:`salver.dialects.torchserve.engine.job_queue` with somebody who
waits for its answer: for
one, or for its pieces as they come. It is answered once, by whoever is first; what comes after that is
dropped. Who does not wait in a task is called. It knows no queue and no worker.
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

#: Bytes of pieces that are kept for a reader who is slower than the handler.
_MOST_KEPT: Final = 256 << 20
_EMPTY: Final = np.empty(0, np.uint8)


class HandlerCall(Job[InferRequest]):
    """One request and its caller.

    Args:
        version: Of the model that answers.
        wants_pieces: The caller takes them as they come; else it gets one answer of all.

    Attributes:
        told: Called once, when its answer, the first piece of it, or its error is there; None = somebody
            waits in a task.
        is_over: It has its answer, or nobody waits for it.
        on_end: Called then.
        moves: How often it went to another worker, since the one that was to run it was gone.
        written: Lines that the handler's metrics have written, whoever takes them next.
    """

    __slots__ = (
        "ahead", "came", "error", "is_over", "kept", "moves", "on_end", "pieces", "timer", "told",
        "version", "wants_pieces", "written",
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
        self.came: asyncio.Future[None] | None = None  # of who waits
        self.told: Callable[[HandlerCall], None] | None = None
        self.pieces: deque[InferResponse] = deque()
        self.error: SalverError | None = None
        self.is_over = False
        self.kept = self.moves = 0
        self.timer: asyncio.TimerHandle | None = None
        self.on_end: Callable[[], None] | None = None
        self.written: tuple[str, ...] = ()

    async def whole(self) -> InferResponse:
        """The answer, all its pieces joined. Raises SalverError."""
        if not self.is_over:
            await self._wait()
        if self.error is not None:
            raise self.error
        pieces = self.pieces
        if len(pieces) == 1:
            return pieces[0]
        body = np.concatenate([piece.outputs[0].array for piece in pieces])
        tensors = (Tensor(BODY, DataType.UINT8, body),)
        return msgspec.structs.replace(pieces[0], outputs=tensors, timing=pieces[-1].timing, is_last=True)

    async def each(self) -> AsyncGenerator[InferResponse, None]:
        """The pieces, from the next one on. Raises SalverError, and then there is no other."""
        is_last = False
        while not is_last:
            while not self.pieces and self.error is None:
                await self._wait()
            piece = self.take()
            is_last = piece.is_last
            yield piece

    def take(self) -> InferResponse:
        """The next piece, which is there. Raises SalverError where there is none for that reason."""
        if not self.pieces:
            assert self.error is not None
            raise self.error
        piece = self.pieces.popleft()
        self.kept -= piece.outputs[0].array.nbytes
        return piece

    async def _wait(self) -> None:
        self.came = asyncio.get_running_loop().create_future()
        await self.came

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
        tensors = (Tensor(BODY, DataType.UINT8, body),)
        what = self.what
        self.pieces.append(
            InferResponse(what.model, self.version, tensors, what.id, answer.parameters, timing, is_last)
        )
        self.kept += body.nbytes
        if is_last:
            self._end()
        elif self.kept > _MOST_KEPT:
            self.fail(Overloaded(f"{self.kept} bytes of the answer wait for their reader, who is too slow"))
        elif self.wants_pieces:
            self._tell()

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
        self._tell()

    def _tell(self) -> None:
        if self.told is not None:
            told, self.told = self.told, None
            told(self)
        elif self.came is not None and not self.came.done():
            self.came.set_result(None)


def fail_all(calls: Sequence[Job[InferRequest]], make: Callable[[], SalverError]) -> None:
    """Each with an error of its own, which must not collect the tracebacks of all."""
    for call in calls:
        if isinstance(call, HandlerCall):
            call.fail(make())
