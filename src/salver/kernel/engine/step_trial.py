"""Trial of a step-wise model before it gets traffic.

Tries the greatest token id, and each size of step and prompt chunk. A model that would fail at a caller's
token fails here, and the scheduler knows its durations from the first request.
"""

import time
from collections.abc import Callable
from functools import partial

import numpy as np

from salver.backends.protocol import RecallingSteps, StepModel
from salver.kernel.engine.step_pace import StepPace
from salver.words.artifacts import Steps
from salver.words.errors import LoadFailed, SalverError
from salver.words.tensor import Array

_ROUNDS = 3
_SLOW_S = 0.25  # sizes after the first one that takes this long are skipped


def try_out(model: StepModel, vocabulary: int, limits: Steps, pace: StepPace) -> None:
    """Try the model on the calling thread; its slots are empty afterwards.

    Args:
        vocabulary: Number of tokens.

    Raises:
        LoadFailed: it raises, or does not return one score per token.
    """
    if isinstance(model, RecallingSteps):
        model.check(vocabulary, limits.max_context)
    for size in _powers(min(limits.max_chunk, limits.max_context - 1)):
        tokens = np.full(size, vocabulary - 1, np.int64)
        seconds = _time(model, partial(model.prefill, 0, tokens), (vocabulary,), [0])
        pace.prefilled(size, seconds)
        if seconds > _SLOW_S:
            break
    for size in _powers(limits.max_sequences):
        slots = np.arange(size)
        tokens = np.full(size, vocabulary - 1, np.int64)
        seconds = _time(model, partial(model.step, slots, tokens), (size, vocabulary), slots.tolist())
        pace.stepped(size, seconds)
        if seconds > _SLOW_S:
            break


def _powers(most: int) -> list[int]:
    return [1 << power for power in range(most.bit_length())]


def _time(model: StepModel, call: Callable[[], Array], shape: tuple[int, ...], slots: list[int]) -> float:
    """Return the shortest of a few runs, to exclude one-time costs of the first."""
    best = float("inf")
    for number in range(_ROUNDS):
        began = time.perf_counter()
        try:
            scores = call()
            best = min(best, time.perf_counter() - began)
            for slot in slots:
                model.release(slot)
        except SalverError:
            raise
        except Exception as error:
            raise LoadFailed(
                f"a trial step failed: {type(error).__name__}: {error}",
                fix=f"It was fed the token {shape[-1] - 1}, the last of its vocabulary.",
            ) from error
        if getattr(scores, "shape", None) != shape:
            raise LoadFailed(
                f"a trial step gave scores of shape {list(getattr(scores, 'shape', ()))} where {list(shape)} "
                "are due: one for each token of the vocabulary",
                field="steps.vocabulary",
            )
        if number and best > _SLOW_S:
            break
    return best
