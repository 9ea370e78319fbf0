"""Engine of a step-wise model: runs steps on a thread and delivers tokens to callers.

The shell around :class:`~salver.kernel.engine.steps.StepScheduler`. One thread runs step after step, so that
the event loop's other work never delays a step; the results of a step cross to the loop in one call. A slow
reader delays no other sequence: its tokens are buffered, at most as many as it requested.
"""

import asyncio
import logging
import math
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Callable, Hashable

import msgspec
import numpy as np

from salver.backends.protocol import RecallingSteps, StepModel
from salver.kernel.engine.answer import Answer, Piece
from salver.kernel.engine.generation import SIGNATURE, Prompt, PromptReader
from salver.kernel.engine.refusals import LATE, closing, due, unloaded
from salver.kernel.engine.run_limit import RunLimit
from salver.kernel.engine.step_run import StepRun
from salver.kernel.engine.step_thread import StepThread
from salver.kernel.engine.step_trial import try_out
from salver.kernel.engine.steps import StepScheduler, StepSequence
from salver.kernel.engine.transcript import Vocabulary
from salver.words.artifacts import ModelConfig
from salver.words.errors import DeadlineExceeded, NotReady, Unsupported
from salver.words.events import StepRan
from salver.words.messages import (
    ANYBODY,
    InferRequest,
    InferResponse,
    Insight,
    ModelId,
    Signature,
    Standing,
)
from salver.words.tensor import DataType, Tensor

_LOG = logging.getLogger("salver.engine")


class _AnswerBuffer(Answer):
    """An answer with its unread pieces, which only the event loop accesses."""

    __slots__ = ("is_ready", "pieces")

    def __init__(
        self, prompt: Prompt, vocabulary: Vocabulary, end_token: int, arrived: float, owner: str
    ) -> None:
        super().__init__(prompt, vocabulary, end_token, arrived, owner)
        self.pieces: deque[Piece] = deque()
        self.is_ready = asyncio.Event()

    def push(self, piece: Piece) -> None:
        self.pieces.append(piece)
        self.is_ready.set()

    async def next(self) -> Piece:
        while not self.pieces:
            self.is_ready.clear()
            await self.is_ready.wait()
        return self.pieces.popleft()


class StepEngine:
    """Queue, slots and thread of one step-wise model version.

    Args:
        id: The model version.
        model: Stepped on a thread of its own; closed by the engine.
        config: Limits, priorities and default deadline.
        clock: Monotonic seconds.
        emit: Called after every step.
    """

    signature: Signature = SIGNATURE

    def __init__(
        self,
        id: ModelId,
        model: StepModel,
        vocabulary: Vocabulary,
        config: ModelConfig,
        clock: Callable[[], float],
        emit: Callable[[StepRan], None],
    ) -> None:
        self.id = id
        self._model = model
        self._vocabulary = vocabulary
        self._config = config
        self._clock = clock
        self._emit = emit
        self._reader = PromptReader(id.name, vocabulary, config.steps.max_context)
        self._scheduler = StepScheduler(config.steps, config.batching.max_queue, config.priorities.max_passes)
        self._limit = RunLimit(config.instances.run_timeout_s)
        steps = StepRun(id, model, vocabulary.size, self._scheduler.pace, clock)
        self._thread = StepThread(id, steps, self._scheduler, self._limit, clock, self)
        self._look_timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<StepEngine {self.id}, {self.queued} queued, {self.running} running>"

    @property
    def queued(self) -> int:
        """Return the number of sequences waiting for a slot."""
        return self._scheduler.waiting

    @property
    def running(self) -> int:
        """Return the number of active sequences."""
        return self._scheduler.active

    @property
    def hangs(self) -> bool:
        """Return whether a step has taken too long; nothing is accepted until it ends."""
        return self._thread.hangs

    @property
    def step_seconds(self) -> float:
        """Return the expected duration of a step with all slots."""
        return self._scheduler.pace.step_seconds(self._config.steps.max_sequences)

    def insight(self) -> Insight:
        """Return figures for operators; there is no batch law and no rule."""
        return Insight(limit=self._config.batching.max_queue)

    async def start(self) -> None:
        """Try the model, measure its pace, and start stepping.

        Raises:
            LoadFailed: the model rejects the vocabulary's tokens, or does not return their scores.
        """
        steps, pace = self._config.steps, self._scheduler.pace
        await self._thread.start(lambda: try_out(self._model, self._vocabulary.size, steps, pace))
        if isinstance(self._model, RecallingSteps):
            self._scheduler.block = self._model.block

    async def infer(
        self,
        request: InferRequest,
        deadline: float | None = None,
        sender: Hashable = None,
        standing: Standing = ANYBODY,
    ) -> InferResponse:
        """Reject a request for a single answer, which such a model does not give.

        Raises:
            Unsupported: always; its text names the available operation.
        """
        raise Unsupported(
            f"model '{self.id.name}' answers token by token, and this request has room for one response",
            fix=f"POST to /v2/models/{self.id.name}/generate_stream for its tokens as they come, or to "
            f"/v2/models/{self.id.name}/generate for the whole answer.",
        )

    async def stream(
        self, request: InferRequest, deadline: float | None = None, standing: Standing = ANYBODY
    ) -> AsyncGenerator[InferResponse, None]:
        """Yield the answer in pieces of new text; the last one has the reason of the end.

        Closing the iterator early cancels the sequence and frees its slot at the next step.

        Args:
            deadline: On the engine's clock; the sequence takes part in no step after it.

        Raises:
            InvalidInput: the request is invalid.
            Overloaded: the queue is full.
            DeadlineExceeded: the deadline passed before the last token.
            ModelFailed: the model raised.
        """
        sequence = self._open(request, deadline, standing)
        outlet: _AnswerBuffer = sequence.payload
        loop = asyncio.get_running_loop()
        timer = None
        if sequence.deadline is not None:
            timer = loop.call_later(sequence.deadline - self._clock(), self._expire, sequence)
        try:
            while True:
                piece = await outlet.next()
                if piece.error is not None:
                    raise piece.error
                yield self._response(request, piece, outlet)
                if piece.finish:
                    return
        finally:
            if timer is not None:
                timer.cancel()
            self._leave(sequence)

    async def close(self) -> None:
        """Reject waiting requests, end active sequences, release the model."""
        thread = self._thread
        with thread.changed:
            thread.is_closed = True
            left = self._scheduler.everyone()
            thread.changed.notify()
        for sequence in left:
            sequence.payload.push(Piece(error=unloaded(self.id)))
        # The model must not be closed while a step runs; a step that hangs keeps its memory.
        if not await thread.join():
            _LOG.error("a step of model %s hangs; its memory is not released", self.id)
            return
        await asyncio.to_thread(self._model.close)

    # -- on the event loop ---------------------------------------------------------------------

    def _open(self, request: InferRequest, deadline: float | None, standing: Standing) -> StepSequence:
        prompt = self._reader.read(request)
        # Without a seed draw one now, so that later the answer depends on the request alone.
        if not prompt.is_seeded:
            sampling = msgspec.structs.replace(prompt.sampling, seed=secrets.randbits(63))
            prompt = msgspec.structs.replace(prompt, sampling=sampling)
        now = self._clock()
        deadline = due(deadline, now, self._config.timeout_ms)
        if deadline is not None and deadline <= now:
            raise DeadlineExceeded(LATE)
        levels = self._config.priorities.levels
        default = self._config.priorities.default or (levels + 1) // 2
        level = standing.bounded(min(standing.priority or default, levels), default, levels)
        end_token = self._config.steps.end_token
        outlet = _AnswerBuffer(prompt, self._vocabulary, end_token, now, standing.tenant)
        sequence = StepSequence(outlet, len(prompt.tokens), prompt.most, level, deadline)
        # Refused at once: nobody knows whether the step will end at all.
        if self.hangs:
            raise self._hung()
        if self._look_timer is None:
            self._look_in(self._limit.seconds)
        with self._thread.changed:
            if self._thread.is_closed:
                raise closing(self.id)
            self._scheduler.offer(sequence)
            self._thread.changed.notify()
        return sequence

    def _leave(self, sequence: StepSequence) -> None:
        with self._thread.changed:
            if self._scheduler.finish(sequence):
                self._thread.changed.notify()

    def _look_in(self, seconds: float) -> None:
        if seconds < math.inf:
            self._look_timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        """Check whether a step hangs; while there are sequences, schedule the next check."""
        self._look_timer = None
        if self._thread.is_closed:
            return
        limit, began = self._limit.seconds, self._thread.began
        took = self._clock() - began if began else 0.0
        if took < limit:
            if began or self.queued or self.running:
                self._look_in(limit - took)
            return
        self._thread.hangs = True
        _LOG.error("a step of model %s has not ended within %g s; it hangs", self.id, limit)
        with self._thread.changed:
            left = self._scheduler.everyone()
        for sequence in left:
            sequence.payload.push(Piece(error=self._hung()))
        if self._thread.began != began:  # it ended at the same moment
            self.came_back()

    def _hung(self) -> NotReady:
        return NotReady(
            f"a step of model '{self.id.name}' does not end, for more than {self._limit.seconds:g} s now",
            fix="It is asked again when the step ends. Else restart the server.",
        )

    def came_back(self) -> None:
        """See :class:`~salver.kernel.engine.step_thread.StepOwner`."""
        if self.hangs:
            self._thread.hangs = False
            _LOG.warning("the step of model %s that hung has ended", self.id)

    def _expire(self, sequence: StepSequence) -> None:
        """End expired sequences, in case the model hangs or the thread is late."""
        self._leave(sequence)
        sequence.payload.push(Piece(error=DeadlineExceeded(LATE)))

    def _response(self, request: InferRequest, piece: Piece, outlet: _AnswerBuffer) -> InferResponse:
        text = np.empty(1, dtype=object)
        text[0] = piece.text.encode()
        outputs = (Tensor("text_output", DataType.BYTES, text),)
        told = (request.model, self.id.version, outputs, request.id)
        # Only the last piece has a reason and the counts, as in OpenAI's protocol.
        if not piece.finish:
            return InferResponse(*told, timing=piece.timing)
        why = {"finish_reason": piece.finish}
        return InferResponse(*told, why, piece.timing, is_last=True, tokens=outlet.counts)

    def deliver(self, pieces: list[tuple[StepSequence, Piece]], event: StepRan | None) -> None:
        """See :class:`~salver.kernel.engine.step_thread.StepOwner`."""
        for sequence, piece in pieces:
            sequence.payload.push(piece)
        if event is not None:
            self._emit(event)
