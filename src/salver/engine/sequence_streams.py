"""Who runs the requests of sequences, of a model that answers each with any number of responses?

:class:`SequenceStreamEngine` orders them as :class:`~salver.engine.sequence_engine.SequenceEngine` does; a
request whose turn it is has its instance to itself until its last response.
"""

import asyncio
from collections.abc import AsyncGenerator, Hashable, Mapping
from contextlib import aclosing
from typing import cast

from msgspec.structs import replace

from salver.artifacts import Sequences
from salver.backends.protocol import Answer
from salver.engine.ports import StreamRunner
from salver.engine.sequence_engine import Lane, SequenceEngine
from salver.engine.sequences import Company, Turn
from salver.errors import DeadlineExceeded, HostDied, ModelFailed, NotReady, OnlyStreams, SalverError
from salver.messages import ANYBODY, InferRequest, InferResponse, Parameter, Standing, Timing
from salver.tensor import Array, Tensor

_Piece = tuple[Answer | SalverError, bool]


class SequenceStreamEngine(SequenceEngine):
    """The same, of a decoupled model."""

    answers_each = True

    async def infer(
        self,
        request: InferRequest,
        deadline: float | None = None,
        sender: Hashable = None,
        standing: Standing = ANYBODY,
    ) -> InferResponse:
        """One answer to one request is not what such a model gives.

        Raises:
            OnlyStreams: always.
        """
        raise OnlyStreams.of(self.id.name)

    async def stream(
        self, request: InferRequest, deadline: float | None = None, standing: Standing = ANYBODY
    ) -> AsyncGenerator[InferResponse, None]:
        """The responses as the model sends them; see :class:`~salver.engine.decoupled.DecoupledEngine`."""
        if deadline is None and self._config.timeout_ms:
            deadline = self._clock() + self._config.timeout_ms / 1e3
        turn = self.offer(request, deadline)
        asks_again = True
        while asks_again:
            lane = await self._granted(turn)
            began, asks_again, ok = self._clock(), False, False
            timing = Timing(began - turn.arrived, arrived=turn.arrived)
            try:
                pieces = cast(StreamRunner, lane.runner).stream(self.request(turn), _nothing)
                async with aclosing(pieces):
                    while (piece := await self._next(pieces, deadline)) is not None:
                        said, is_last = piece
                        if isinstance(said, Answer) and said.again:
                            self._tensors.keep(turn, said)
                            asks_again = True
                            continue
                        yield self._response(request, turn, said, is_last, timing)
                ok = True
            except (HostDied, NotReady) as error:
                self._lose(lane)
                raise self._unloaded() if self._is_closed else error from None
            finally:
                self.announce(1, self._clock() - began, 0.0, "drain", ok)
                may = ok and asks_again and self._repeats_with(turn)
                if not may:
                    self.end(turn, self._clock())
                self.release(lane)
            if asks_again and not may:
                raise self.no_repeat()

    def _repeats_with(self, turn: Turn) -> bool:
        turn.payload = turn.payload._replace(future=asyncio.get_running_loop().create_future())
        may = self.repeats(turn)
        if may:
            self.arm(turn)
        return may

    async def run_alone(self, inputs: Mapping[str, Array]) -> None:
        """One sequence of one request, for warm-up; its responses are dropped."""
        types = self._types  # controls are the server's to tell
        tensors = tuple(Tensor(name, types[name], array) for name, array in inputs.items() if name in types)
        parameters: dict[str, Parameter] = {"sequence_start": True, "sequence_end": True}
        request = InferRequest(self.id.name, tensors, parameters={"sequence_id": "warm-up", **parameters})
        async with aclosing(self.stream(request)) as said:
            async for piece in said:
                if piece.error is not None:
                    raise piece.error

    async def _granted(self, turn: Turn) -> Lane:
        """Wait for the request's turn, and for its instance."""
        future: asyncio.Future[Lane] = turn.payload.future
        try:
            return await future
        except asyncio.CancelledError:
            if turn.is_taken and future.done() and not future.cancelled() and not future.exception():
                self.end(turn, self._clock())
                self.release(future.result())
            else:
                self.withdraw(turn, "A request of it was given up by its caller, which ended it.")
            raise

    def _plan(self, rows: int, config: Sequences) -> tuple[int, Sequences]:
        slots = rows if config.strategy == "direct" else config.candidates or rows
        return 1, replace(config, strategy="oldest", candidates=slots, max_delay_ms=0.0)

    def _start(self, lane: Lane, company: Company, now: float) -> None:
        for turn in company.turns:
            assert turn is not None
            if turn.payload.future.done():  # it has expired in this very moment
                self.end(turn, now)
                self.release(lane)
            else:
                turn.payload.future.set_result(lane)

    async def _next(self, pieces: AsyncGenerator[_Piece, None], deadline: float | None) -> _Piece | None:
        try:
            async with asyncio.timeout(None if deadline is None else deadline - self._clock()):
                return await anext(pieces, None)
        except TimeoutError:
            raise DeadlineExceeded("Request timeout expired") from None

    def _response(
        self, request: InferRequest, turn: Turn, said: Answer | SalverError, is_last: bool, timing: Timing
    ) -> InferResponse:
        version = self.id.version
        if isinstance(said, Answer):
            try:
                self._tensors.keep(turn, said)
            except ModelFailed as error:
                said = error
        if isinstance(said, SalverError):
            return InferResponse(
                request.model, version, (), request.id, timing=timing, is_last=is_last, error=said
            )
        outputs = tuple(
            Tensor(name, self._types[name], said.outputs[name]) for name in turn.payload.bound.outputs
        )
        return InferResponse(request.model, version, outputs, request.id, said.parameters, timing, is_last)


def _nothing() -> None:
    """A request that has its instance begins at once."""
