"""Sequence engine for models that return any number of responses per request.

:class:`SequenceStreamEngine` orders and batches requests as its base class does. A request ends, and the next
one of its sequence may run, when the model has sent its last response; the instance takes requests of other
sequences as soon as the model accepts more.
"""

import asyncio
from collections.abc import AsyncGenerator, Hashable, Mapping
from contextlib import aclosing
from typing import cast

from salver.backends.protocol import Answer
from salver.kernel.engine.decoupled import within
from salver.kernel.engine.pieces import ResponseStream
from salver.kernel.engine.ports import StreamRunner
from salver.kernel.engine.refusals import due, unloaded
from salver.kernel.engine.sequence_engine import Lane, SequenceEngine
from salver.kernel.engine.sequences import SequenceBatch, Turn
from salver.words.errors import HostDied, ModelFailed, NotReady, OnlyStreams, SalverError
from salver.words.messages import ANYBODY, InferRequest, InferResponse, Parameter, Standing, Timing
from salver.words.tensor import Array, Tensor


class SequenceStreamEngine(SequenceEngine):
    """Sequence engine of a decoupled model."""

    @property
    def answers_each(self) -> bool:
        """Return True: a stream answers one request."""
        return True

    async def infer(
        self,
        request: InferRequest,
        deadline: float | None = None,
        sender: Hashable = None,
        standing: Standing = ANYBODY,
    ) -> InferResponse:
        """Reject a request for a single answer, which such a model does not give.

        Raises:
            OnlyStreams: always.
        """
        raise OnlyStreams.of(self.id.name)

    async def stream(
        self, request: InferRequest, deadline: float | None = None, standing: Standing = ANYBODY
    ) -> AsyncGenerator[InferResponse, None]:
        """Yield responses as :class:`~salver.kernel.engine.decoupled.DecoupledEngine` does."""
        deadline = due(deadline, self._clock(), self._config.timeout_ms)
        turn = self.offer(request, deadline)
        asks_again = True
        while asks_again:
            lane, pieces = await self._granted(turn)
            losses = lane.losses
            asks_again, ok, may = False, False, False
            timing = Timing(self._clock() - turn.arrived, arrived=turn.arrived)
            try:
                while (piece := await within(deadline, self._clock, pieces.next())) is not None:
                    said, is_last = piece
                    if isinstance(said, Answer) and said.again:
                        self._rows.added.keep(turn, said)
                        asks_again = True
                        continue
                    yield self._response(request, turn, said, is_last, timing)
                if self._is_closed:  # the model was told to stop, but may have had more to send
                    raise unloaded(self.id)
                ok = True
            except (HostDied, NotReady) as error:
                if lane.losses == losses:  # otherwise an earlier reader has already been told
                    self._lose(lane)
                raise unloaded(self.id) if self._is_closed else error from None
            finally:
                may = ok and asks_again and self._repeats_with(turn)
                if not may:
                    self._end_with(turn, pieces)
            if asks_again and not may:
                raise self.no_repeat()

    def _repeats_with(self, turn: Turn) -> bool:
        turn.payload = turn.payload._replace(future=asyncio.get_running_loop().create_future())
        may = self.repeats(turn)
        if may:
            self.arm(turn)
            self._pump_soon()
        return may

    def _end_with(self, turn: Turn, pieces: ResponseStream) -> None:
        """Cancel the rest of a request; it ends when the model says so."""
        pieces.close()
        if pieces.over.done():
            self.end(turn, self._clock())
            self._pump_soon()
        else:
            pieces.over.add_done_callback(lambda _: self._end_with(turn, pieces))

    async def run_alone(self, inputs: Mapping[str, Array]) -> None:
        """Run a sequence of one request, for warm-up; its responses are discarded."""
        types = self._rows.types  # controls are set by the server
        tensors = tuple(Tensor(name, types[name], array) for name, array in inputs.items() if name in types)
        parameters: dict[str, Parameter] = {"sequence_start": True, "sequence_end": True}
        request = InferRequest(self.id.name, tensors, parameters={"sequence_id": "warm-up", **parameters})
        async with aclosing(self.stream(request)) as said:
            async for piece in said:
                if piece.error is not None:
                    raise piece.error

    async def close(self) -> None:
        """Close; cancel active requests first, because the model may send without end."""
        begun, self._tasks = self._tasks, set()
        await super().close()
        if begun:
            await asyncio.wait(begun)

    async def _granted(self, turn: Turn) -> tuple[Lane, ResponseStream]:
        """Wait for the request's turn; return its instance and its responses."""
        future: asyncio.Future[tuple[Lane, ResponseStream]] = turn.payload.future
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and not future.exception():
                self._end_with(turn, future.result()[1])
            else:
                self.withdraw(turn, "A request of it was given up by its caller, which ended it.")
            raise

    async def _run(self, lane: Lane, company: SequenceBatch, began: float) -> None:
        """Start the requests; the instance is free for others when the model says so."""
        turns = [turn for turn in company.turns if turn is not None]
        freed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            found = await cast(StreamRunner, lane.runner).stream(
                self._rows.requests(company), lambda: freed.set_result(None)
            )
        except SalverError as error:
            self.announce(len(turns), 0.0, 0.0, company.reason, ok=False)
            self._deliver(
                turns, [unloaded(self.id) if self._is_closed else error] * len(turns), began, Timing()
            )
            self._lose(lane)
            self.release(lane)
            return
        for turn, pieces in zip(company.turns, found, strict=True):
            if turn is None:
                pieces.close()  # an empty row, whose responses are discarded
            elif turn.payload.future.done():  # its caller has gone away meanwhile
                self._end_with(turn, pieces)
            else:
                turn.payload.future.set_result((lane, pieces))
        await freed
        ok = any(pieces.error is None for pieces in found)
        self.announce(len(turns), self._clock() - began, 0.0, company.reason, ok)
        self.release(lane)

    def _response(
        self, request: InferRequest, turn: Turn, said: Answer | SalverError, is_last: bool, timing: Timing
    ) -> InferResponse:
        version = self.id.version
        if isinstance(said, Answer):
            try:
                self._rows.added.keep(turn, said)
            except ModelFailed as error:
                said = error
        if isinstance(said, SalverError):
            return InferResponse(
                request.model, version, (), request.id, timing=timing, is_last=is_last, error=said
            )
        outputs = tuple(
            Tensor(name, self._rows.types[name], said.outputs[name])
            for name in turn.payload.bound.outputs
            if name in said.outputs
        )
        return InferResponse(request.model, version, outputs, request.id, said.parameters, timing, is_last)
