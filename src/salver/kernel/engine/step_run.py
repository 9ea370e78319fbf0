"""Execution of one planned step on a model.

Calls the model and passes its scores to the sequences' answers. An exception of the model ends the sequences
of that call and nothing else. Pure: it knows no thread, lock or event loop.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from salver.backends.protocol import RecallingSteps, StepModel
from salver.kernel.engine.answer import Answer, Piece
from salver.kernel.engine.refusals import LATE
from salver.kernel.engine.step_pace import StepPace
from salver.kernel.engine.steps import StepPlan, StepSequence
from salver.words.errors import DeadlineExceeded, ModelFailed
from salver.words.messages import ModelId
from salver.words.tensor import Array

_NO_SCORES = np.empty((0, 0), np.float32)
_Scored = tuple[Sequence[StepSequence], Array]


class StepOutcome(msgspec.Struct):
    """Result of a step.

    Attributes:
        pieces: Sequences with their new pieces; a last piece ends its sequence.
        tokens: Number of tokens drawn.
        prompt_tokens: Number of prompt tokens processed.
        seconds: Time in the model.
        errors: What the model raised.
    """

    pieces: list[tuple[StepSequence, Piece]] = []
    tokens: int = 0
    prompt_tokens: int = 0
    seconds: float = 0.0
    errors: list[Exception] = []


class StepRun:
    """Runner of steps of one model. Payloads are of type :class:`~salver.kernel.engine.answer.Answer`."""

    def __init__(
        self, id: ModelId, model: StepModel, vocabulary: int, pace: StepPace, clock: Callable[[], float]
    ) -> None:
        self._id = id
        self._model = model
        self._vocabulary = vocabulary
        self._pace = pace
        self._clock = clock
        self._memory = model if isinstance(model, RecallingSteps) else None

    def run(self, plan: StepPlan) -> StepOutcome:
        """Execute the plan."""
        outcome = StepOutcome([(s, Piece(error=DeadlineExceeded(LATE))) for s in plan.expired])
        # First: a slot that is freed may be given to a sequence of this very step.
        for slot in plan.freed:
            try:
                self._model.release(slot)
            except Exception as error:  # cancelled
                self._fail(outcome, (), error)
        began = self._clock()
        parts = (self._step(plan, outcome), self._prefill(plan, outcome))
        ended = self._clock()
        outcome.seconds = ended - began
        outcome.prompt_tokens = plan.advance()
        for sequences, scores in parts:
            self._give(sequences, scores, outcome, ended)
        return outcome

    def _give(
        self, sequences: Sequence[StepSequence], scores: Array, outcome: StepOutcome, now: float
    ) -> None:
        """Advance each sequence whose prompt has been processed with its row of scores."""
        if not sequences:
            return
        # Once for all rows: a call of numpy for each would take longer than a small model.
        likeliest = scores.argmax(axis=1)
        are_right = np.isfinite(scores[np.arange(len(scores)), likeliest]).tolist()
        for sequence, row, token, is_right in zip(
            sequences, scores, likeliest.tolist(), are_right, strict=True
        ):
            if sequence.read < sequence.prompt or not sequence.is_live:  # or its caller has gone
                continue
            answer: Answer = sequence.payload
            if not is_right:
                self._fail(outcome, (sequence,), ModelFailed("its scores are not finite numbers"))
                continue
            piece = answer.go_on(row, token, now)
            sequence.given += 1
            outcome.tokens += 1
            if piece.text or piece.is_last:  # part of a character, or of a stop text, is not sent
                outcome.pieces.append((sequence, piece))

    def _step(self, plan: StepPlan, outcome: StepOutcome) -> _Scored:
        rows = plan.rows
        if not rows:
            return (), _NO_SCORES
        slots = np.array(plan.slots, np.int64)
        tokens = np.array([_next_token(sequence) for sequence in rows], np.int64)
        began = self._clock()
        try:
            scores = self._scores(self._model.step, (len(rows), self._vocabulary), slots, tokens)
        except Exception as error:
            self._fail(outcome, rows, error)
            return (), _NO_SCORES
        # Not after an error, whose time says nothing about the model.
        self._pace.stepped(len(rows), self._clock() - began)
        return rows, scores

    def _prefill(self, plan: StepPlan, outcome: StepOutcome) -> _Scored:
        chunk = plan.chunk
        if chunk is None:
            return (), _NO_SCORES
        answer: Answer = chunk.payload
        if self._memory is not None and not chunk.read:
            chunk.read = self._memory.recall(plan.chunk_slot, answer.tokens, answer.owner)
        tokens = np.array(answer.tokens[chunk.read : chunk.read + plan.chunk_tokens], np.int64)
        began = self._clock()
        try:
            scores = self._scores(self._model.prefill, (self._vocabulary,), plan.chunk_slot, tokens)
        except Exception as error:
            self._fail(outcome, (chunk,), error)
            return (), _NO_SCORES
        self._pace.prefilled(len(tokens), self._clock() - began)
        return (chunk,), scores[None]  # one row of scores, as of a step

    def _scores(self, call: Callable[..., Array], shape: tuple[int, ...], *arguments: Any) -> Array:
        scores = np.asarray(call(*arguments))
        if scores.shape != shape or scores.dtype.kind != "f":
            raise ModelFailed(
                f"{call.__name__} gave {scores.dtype} scores of shape {list(scores.shape)}, not {list(shape)}"
            )
        return scores

    def _fail(self, outcome: StepOutcome, ends: Sequence[StepSequence], error: Exception) -> None:
        outcome.errors.append(error)
        text = str(error) if isinstance(error, ModelFailed) else f"{type(error).__name__}: {error}"
        for sequence in ends:
            own = ModelFailed(f"model '{self._id.name}' failed in a step: {text}")
            outcome.pieces.append((sequence, Piece(error=own)))


def _next_token(sequence: StepSequence) -> int:
    tokens: list[int] = sequence.payload.tokens
    if sequence.is_answering:
        return tokens[-1]
    return tokens[sequence.read]
