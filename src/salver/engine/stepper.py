"""Who steps a model that answers token by token, and how do tokens reach their callers?

The shell around :class:`~salver.engine.steps.StepScheduler`. One thread runs step after step, so that the
event loop's other work never stands between two steps; what a step gave crosses to the loop in one call.
A caller who reads slowly delays nobody: its tokens wait for it, at most as many as it asked for.
"""

import asyncio
import logging
import secrets
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Hashable
from typing import Any

import msgspec
import numpy as np

from salver.artifacts import ModelConfig
from salver.backends.protocol import StepModel
from salver.engine.generation import SIGNATURE, Prompt, PromptReader
from salver.engine.sampling import draw
from salver.engine.step_trial import try_out
from salver.engine.steps import StepPlan, StepScheduler, StepSequence
from salver.engine.transcript import Transcript, Vocabulary
from salver.errors import DeadlineExceeded, ModelFailed, NotReady, SalverError, Unsupported
from salver.events import StepRan
from salver.messages import (
    ANYBODY,
    InferRequest,
    InferResponse,
    Insight,
    ModelId,
    Parameter,
    Signature,
    Standing,
    Timing,
)
from salver.tensor import Array, DataType, Tensor

_LOG = logging.getLogger("salver.engine")
_JOIN_S = 30.0
_LATE = "Request timeout expired"
_NONE: dict[str, Parameter] = {}


class _Answer:
    """What the thread and the loop know of one sequence."""

    __slots__ = ("arrived", "joined", "pieces", "prompt", "ready", "tokens", "transcript")

    def __init__(self, prompt: Prompt, transcript: Transcript, arrived: float) -> None:
        self.prompt = prompt
        self.transcript = transcript
        self.arrived = arrived
        self.joined = 0.0  # when its first step was planned
        self.tokens = list(prompt.tokens)  # the last one is fed next, once the prompt is read
        self.pieces: deque[_Piece] = deque()  # the loop's, as is ``ready``
        self.ready = asyncio.Event()


class _Piece(msgspec.Struct, frozen=True):
    """A part of an answer: text, and why it is the last one, or what went wrong."""

    text: str = ""
    finish: str = ""
    error: SalverError | None = None
    timing: Timing = Timing()


_Pieces = list[tuple[_Answer, _Piece]]


class StepEngine:
    """Queue, slots and thread of one step-wise model version.

    Args:
        id: Whose.
        model: Stepped on a thread of its own; the engine closes it.
        config: Its limits, priorities and default deadline.
        clock: Monotonic seconds.
        emit: Told of every step.
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
        self._reader = PromptReader(id.name, vocabulary)
        self._scheduler = StepScheduler(config.steps, config.batching.max_queue, config.priorities.max_passes)
        self._changed = threading.Condition()  # guards the scheduler
        self._is_closed = False
        self._last_end = 0.0
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"<StepEngine {self.id}, {self.queued} queued, {self.running} running>"

    @property
    def queued(self) -> int:
        """Sequences that wait for a slot."""
        return self._scheduler.waiting

    @property
    def running(self) -> int:
        """Sequences under way."""
        return self._scheduler.active

    def insight(self) -> Insight:
        """For operators; there is no batch law and no rule to tell of."""
        return Insight(limit=self._config.batching.max_queue)

    async def start(self) -> None:
        """Try the model out, learn its pace, and begin to step.

        Raises:
            LoadFailed: it does not take the vocabulary's tokens, or gives something else than their scores.
        """
        self._loop = asyncio.get_running_loop()
        tried: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(
            target=self._work, args=(self._loop, tried), name=f"salver-{self.id.name}-steps", daemon=True
        )
        self._thread.start()
        await tried

    async def infer(
        self,
        request: InferRequest,
        deadline: float | None = None,
        sender: Hashable = None,
        standing: Standing = ANYBODY,
    ) -> InferResponse:
        """One answer to one request is not what such a model gives.

        Raises:
            Unsupported: always; its text names the road that there is.
        """
        raise Unsupported(
            f"this end point doesn't support models with decoupled transaction policy, and model "
            f"'{self.id.name}' answers token by token",
            fix=f"POST to /v2/models/{self.id.name}/generate_stream for its tokens as they come, or to "
            f"/v2/models/{self.id.name}/generate for the whole answer.",
        )

    async def stream(
        self, request: InferRequest, deadline: float | None = None, standing: Standing = ANYBODY
    ) -> AsyncGenerator[InferResponse, None]:
        """The answer in pieces, each text that was not there before; the last one says why it is the last.

        Closing the iterator early gives the sequence up and frees its slot at the next step.

        Args:
            deadline: On the engine's clock; no step is run for the sequence past it.

        Raises:
            InvalidInput: the request does not fit.
            Overloaded: the queue is full.
            DeadlineExceeded: the deadline passed before the last token.
            ModelFailed: the model raised.
        """
        sequence = self._open(request, deadline, standing)
        answer: _Answer = sequence.payload
        loop = asyncio.get_running_loop()
        timer = None
        if sequence.deadline is not None:
            timer = loop.call_later(sequence.deadline - self._clock(), self._expire, sequence)
        try:
            while True:
                while not answer.pieces:
                    answer.ready.clear()
                    await answer.ready.wait()
                piece = answer.pieces.popleft()
                if piece.error is not None:
                    raise piece.error
                yield self._response(request, piece)
                if piece.finish:
                    return
        finally:
            if timer is not None:
                timer.cancel()
            self._leave(sequence)

    async def close(self) -> None:
        """Refuse what still waits, end what is under way, let the model go."""
        with self._changed:
            self._is_closed = True
            left = self._scheduler.everyone()
            self._changed.notify()
        for sequence in left:
            error = NotReady(f"model '{self.id.name}' version {self.id.version} was unloaded")
            _push(sequence.payload, _Piece(error=error))
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.to_thread(thread.join, _JOIN_S)
            if thread.is_alive():
                _LOG.error("a step of model %s hangs; its memory is not given back", self.id)
                return
        await asyncio.to_thread(self._model.close)

    # On the event loop.

    def _open(self, request: InferRequest, deadline: float | None, standing: Standing) -> StepSequence:
        prompt = self._reader.read(request)
        if not prompt.is_seeded:
            sampling = msgspec.structs.replace(prompt.sampling, seed=secrets.randbits(63))
            prompt = msgspec.structs.replace(prompt, sampling=sampling)
        now = self._clock()
        if deadline is None and self._config.timeout_ms:
            deadline = now + self._config.timeout_ms / 1e3
        if deadline is not None and deadline <= now:
            raise DeadlineExceeded(_LATE)
        levels = self._config.priorities.levels
        level = standing.priority or self._config.priorities.default or (levels + 1) // 2
        answer = _Answer(prompt, Transcript(self._vocabulary, prompt.stops), now)
        sequence = StepSequence(answer, len(prompt.tokens), prompt.most, min(level, levels), deadline)
        with self._changed:
            if self._is_closed:
                raise NotReady(f"model '{self.id.name}' version {self.id.version} is shutting down")
            self._scheduler.offer(sequence)
            self._changed.notify()
        return sequence

    def _leave(self, sequence: StepSequence) -> None:
        with self._changed:
            if self._scheduler.finish(sequence):
                self._changed.notify()

    def _expire(self, sequence: StepSequence) -> None:
        """Should the model hang, or the thread be late."""
        self._leave(sequence)
        _push(sequence.payload, _Piece(error=DeadlineExceeded(_LATE)))

    def _response(self, request: InferRequest, piece: _Piece) -> InferResponse:
        text = np.empty(1, dtype=object)
        text[0] = piece.text.encode()
        parameters = {"finish_reason": piece.finish} if piece.finish else _NONE
        outputs = (Tensor("text_output", DataType.BYTES, text),)
        return InferResponse(
            request.model, self.id.version, outputs, request.id, parameters, timing=piece.timing
        )

    def _deliver(self, pieces: _Pieces, event: StepRan | None) -> None:
        for answer, piece in pieces:
            _push(answer, piece)
        if event is not None:
            self._emit(event)

    # On the thread.

    def _work(self, loop: asyncio.AbstractEventLoop, tried: "asyncio.Future[None]") -> None:
        try:
            try_out(self._model, self._vocabulary.size, self._config.steps, self._scheduler.pace)
        except BaseException as error:
            loop.call_soon_threadsafe(_settle, tried, error)
            return
        loop.call_soon_threadsafe(_settle, tried, None)
        while (plan := self._next()) is not None:
            try:
                pieces, event = self._run(plan)
            except Exception as error:  # a defect of ours ends these sequences, not the others to come
                pieces, event = [], None
                self._end([*plan.rows, *([plan.chunk] if plan.chunk else [])], pieces, error)
            if pieces or event is not None:
                try:
                    loop.call_soon_threadsafe(self._deliver, pieces, event)
                except RuntimeError:  # the loop has ended without us
                    return

    def _next(self) -> StepPlan | None:
        """Waits until there is something to do; None at the end."""
        with self._changed:
            while not self._scheduler.has_work and not self._is_closed:
                self._last_end = 0.0
                self._changed.wait()
            if self._is_closed:
                return None
            now = self._clock()
            plan = self._scheduler.plan(now)
            for sequence in plan.rows if plan.chunk is None else [*plan.rows, plan.chunk]:
                sequence.payload.joined = sequence.payload.joined or now
            return plan

    def _run(self, plan: StepPlan) -> tuple[_Pieces, StepRan | None]:
        """One step, whatever happens in it."""
        pieces: _Pieces = [(s.payload, _Piece(error=DeadlineExceeded(_LATE))) for s in plan.expired]
        for slot in plan.freed:
            try:
                self._model.release(slot)
            except Exception as error:  # nobody waits for it
                self._end([], pieces, error)
        began = self._clock()
        rows, chunk = plan.rows, plan.chunk
        size = self._vocabulary.size
        scored: list[tuple[StepSequence, Array]] = []
        prompt_tokens = sum(not s.is_answering for s in rows) + plan.chunk_tokens
        if rows:
            slots = np.array([s.slot for s in rows], np.int64)
            tokens = np.array([_next_token(s) for s in rows], np.int64)
            try:
                scores = self._scores(self._model.step, (len(rows), size), slots, tokens)
                self._scheduler.pace.stepped(len(rows), self._clock() - began)
                scored += zip(rows, scores, strict=True)
            except Exception as error:
                self._end(rows, pieces, error)
        if chunk is not None:
            before = self._clock()
            tokens = np.array(chunk.payload.tokens[chunk.read : chunk.read + plan.chunk_tokens], np.int64)
            try:
                scored.append((chunk, self._scores(self._model.prefill, (size,), chunk.slot, tokens)))
                self._scheduler.pace.prefilled(plan.chunk_tokens, self._clock() - before)
            except Exception as error:
                self._end([chunk], pieces, error)
        ended = self._clock()
        with self._changed:
            self._scheduler.ran(plan)
        given = self._give(scored, pieces)
        if not rows and chunk is None:
            return pieces, None
        event = StepRan(
            self.id.name,
            self.id.version,
            len(rows) + (chunk is not None),
            self._scheduler.waiting,
            given,
            prompt_tokens,
            ended - began,
            ended - self._last_end if self._last_end else 0.0,
            ok=len(scored) == len(rows) + (chunk is not None),
        )
        self._last_end = ended
        return pieces, event

    def _scores(self, call: Callable[..., Array], shape: tuple[int, ...], *arguments: Any) -> Array:
        scores = np.asarray(call(*arguments))
        if scores.shape != shape:
            raise ModelFailed(f"{call.__name__} gave scores of shape {list(scores.shape)}, not {list(shape)}")
        return scores

    def _end(self, ends: list[StepSequence], pieces: _Pieces, error: Exception) -> None:
        """These sequences end with that error, and the server goes on."""
        _LOG.warning("a step of model %s failed", self.id, exc_info=error)
        text = f"model '{self.id.name}' raised {type(error).__name__}: {error}"
        if isinstance(error, ModelFailed):
            text = f"model '{self.id.name}' failed: {error}"
        pieces += [(sequence.payload, _Piece(error=ModelFailed(text))) for sequence in ends]
        with self._changed:
            for sequence in ends:
                self._scheduler.finish(sequence)

    def _give(self, scored: list[tuple[StepSequence, Array]], pieces: _Pieces) -> int:
        """Draw the next token of each whose prompt is read; how many there were."""
        over: list[StepSequence] = []
        given = 0
        now = self._clock()
        end_token = self._config.steps.end_token
        for sequence, scores in scored:
            if not sequence.is_answering or not sequence.is_live:
                continue
            answer: _Answer = sequence.payload
            if not np.isfinite(scores.max()):
                over.append(sequence)
                error = ModelFailed(f"model '{self.id.name}' gave scores that are not finite numbers")
                pieces.append((answer, _Piece(error=error)))
                continue
            token = draw(scores, answer.prompt.sampling, sequence.given)
            given += 1
            sequence.given += 1
            answer.tokens.append(token)
            text, finish = "", "eos_token"
            if token != end_token:
                text = answer.transcript.add(token)
                finish = "length" if sequence.given == sequence.most else ""
            if finish:
                text += answer.transcript.rest()
            if answer.transcript.is_stopped:
                finish = "stop_sequence"
            if finish:
                over.append(sequence)
                timing = Timing(answer.joined - answer.arrived, 0.0, now - answer.joined, 1)
                pieces.append((answer, _Piece(text, finish, timing=timing)))
            elif text:
                pieces.append((answer, _Piece(text)))
        with self._changed:
            for sequence in over:
                self._scheduler.finish(sequence)
        return given


def _next_token(sequence: StepSequence) -> int:
    tokens: list[int] = sequence.payload.tokens
    return tokens[-1] if sequence.is_answering else tokens[sequence.read]


def _push(answer: _Answer, piece: _Piece) -> None:
    answer.pieces.append(piece)
    answer.ready.set()


def _settle(future: "asyncio.Future[None]", error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
