"""Requests for blocks of rows, with retries and isolation of bad rows.

Temporary failures (overload, a lost connection, a restart) are retried with jitter and a limit; blocks that
are rejected are halved until the bad row is isolated. It knows no file.
"""

import asyncio
import functools
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec

from salver.client.client import Client
from salver.client.http import Unreachable
from salver.features.bulk.rows import BadRow, Piece, part_of
from salver.kernel.supervise import Backoff, retry
from salver.words import errors
from salver.words.errors import SalverError
from salver.words.tensor import Array, DataType, Tensor

#: Marks every request as bulk work, which uses only spare capacity.
PARAMETERS: Final = {"service_class": "bulk"}
_PASSING: Final = (
    Unreachable,
    errors.NotReady,
    errors.Overloaded,
    errors.DeadlineExceeded,
    errors.NotFound,  # the model existed when the job began, so it is being reloaded
)
_REFUSED: Final = (errors.InvalidInput, errors.TooLarge, errors.ModelFailed, errors.Unsupported)
_WAIT: Final = Backoff(first_s=0.1, most_s=15.0, jitter=0.5)
_LONGEST_WISH_S: Final = 60.0


class Model(msgspec.Struct, frozen=True):
    """Model and outputs to request.

    Attributes:
        kinds: Datatypes of the inputs by name.
        batched: Rows may be sent together; else one by one, without the batch dimension.
    """

    name: str
    version: str
    outputs: tuple[str, ...]
    batched: bool
    kinds: Mapping[str, DataType]


class Answer(msgspec.Struct):
    """Rows and the model's outputs for them.

    Attributes:
        outputs: One array per output, rows along axis 0.
    """

    piece: Piece
    outputs: dict[str, Array]


class BlockSender:
    """Sender of requests, usable from several tasks.

    Args:
        client: Client of the server.
        model: The model.
        patience: Seconds without any answer after which to give up.
        clock: Monotonic seconds.
        sleep: Waits that many seconds.

    Attributes:
        retries: Number of retries.
        waiting: Why there is no progress at the moment, or empty.
    """

    def __init__(
        self,
        client: Client,
        model: Model,
        patience: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client, self._model, self._patience = client, model, patience
        self._clock, self._sleep = clock, sleep
        self._answered = clock()
        self.retries = 0
        self.waiting = ""

    async def ask(self, piece: Piece) -> tuple[list[Answer], list[BadRow]]:
        """Return answers in the order of the rows, and the rejected rows.

        Raises:
            SalverError: the server is unavailable, or its answer is invalid.
        """
        try:
            return [Answer(piece, await self._infer(piece))], []
        except _REFUSED as error:
            count = len(piece.lines)
            if count == 1:
                return await self._once_more(piece, error)
        half = count // 2
        left, wrong = await self.ask(part_of(piece, 0, half))
        right, more = await self.ask(part_of(piece, half, count))
        return left + right, wrong + more

    async def _once_more(self, piece: Piece, error: SalverError) -> tuple[list[Answer], list[BadRow]]:
        """Retry once after the model's process died; a row that fails twice is the cause."""
        if isinstance(error, errors.ModelFailed):
            try:
                return [Answer(piece, await self._infer(piece))], []
            except _REFUSED as again:
                error = again
        return [], [BadRow(piece.lines[0], str(error))]

    async def _infer(self, piece: Piece) -> dict[str, Array]:
        model = self._model
        inputs = {
            name: Tensor(name, model.kinds[name], array if model.batched else array[0, ...])
            for name, array in piece.inputs.items()
        }
        call = functools.partial(
            self._client.infer,
            model.name,
            inputs,
            version=model.version,
            outputs=model.outputs,
            parameters=PARAMETERS,
        )
        answer = await retry(call, self._pause, self._sleep)
        self._answered, self.waiting = self._clock(), ""
        return self._checked(answer, len(piece.lines))

    def _pause(self, error: Exception, failures: int) -> float | None:
        """Return the seconds until the next try; None = there is none."""
        if not isinstance(error, _PASSING) or self._clock() - self._answered >= self._patience:
            return None
        self.retries += 1
        self.waiting = str(error)
        pause = _WAIT.delay(failures, random.random())
        if isinstance(error, errors.Overloaded):
            pause += min(error.retry_after, _LONGEST_WISH_S)
        return pause

    def _checked(self, answer: dict[str, Array], rows: int) -> dict[str, Array]:
        name = self._model.name
        if not self._model.batched:
            return {output: array[None] for output, array in answer.items()}
        for output, array in answer.items():
            if array.ndim == 0 or len(array) != rows:
                raise errors.Conflict(
                    f"{name} answers {rows} rows with {output} of shape {list(array.shape)}: "
                    "one answer a row is needed"
                )
        return answer
