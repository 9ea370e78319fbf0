"""Rules for the scores of the next token, as ``generate()`` of transformers has them.

Pure. Each rule changes scores in place; a token that must not come gets minus infinity.
"""

from collections.abc import Sequence
from typing import Final, Literal

import msgspec
import numpy as np

from salver.words.tensor import Array

_NEVER: Final = np.float32(-np.inf)


class TimestampRule(msgspec.Struct, frozen=True):
    """Order of the tokens for times among those of a text, in the answers of Whisper.

    Times come in pairs, the end of a part and the beginning of the next, and do not go back.

    Attributes:
        begin: First token for a time, 0.00 s.
        never: Token that says that there are no times.
        end: Token that ends the text.
        latest: Times from ``begin`` at which a text may begin; None = any.
    """

    begin: int
    never: int
    end: int
    latest: int | None = None

    def apply(self, sequence: Sequence[int], scores: Array) -> None:
        """Change the scores after the tokens of a text, which lack the prompt."""
        begin = self.begin
        scores[self.never] = _NEVER
        is_time = len(sequence) > 0 and sequence[-1] >= begin
        was_time = len(sequence) < 2 or sequence[-2] >= begin
        if is_time and was_time:
            scores[begin:] = _NEVER
        elif is_time:
            scores[: self.end] = _NEVER
        last = next((token for token in reversed(sequence) if token >= begin), None)
        if last is not None:
            # An end may be the next beginning as well; otherwise time goes on.
            scores[begin : last if is_time and not was_time else last + 1] = _NEVER
        if not sequence:
            scores[:begin] = _NEVER
            if self.latest is not None:
                scores[begin + self.latest + 1 :] = _NEVER
        # A time is taken if all times together are more likely than any word.
        finite = np.maximum(scores, np.float32(-1e30))
        times, best = finite[begin:], finite[:begin].max()
        most = times.max()
        if most + np.log(np.exp(times - most).sum()) > best:
            scores[:begin] = _NEVER


class GenerationSettings(msgspec.Struct, frozen=True):
    """Settings of a search for texts, with the names and meanings of ``GenerationConfig``.

    Attributes:
        prompt: Tokens that each text begins with.
        ends: Tokens that end it.
        max_length: Most tokens with the prompt.
        num_beams: 1 = the best token at each step (greedy).
        timestamps: Rule for tokens of times; None = there are none.
    """

    prompt: tuple[int, ...]
    ends: tuple[int, ...]
    max_length: int
    min_length: int = 0
    min_new_tokens: int = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = None
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    timestamps: TimestampRule | None = None

    def apply(self, sequence: Sequence[int], scores: Array) -> None:
        """Change the scores FP32 ``[vocabulary]`` after the tokens of a text, which begin with the prompt."""
        length, new = len(sequence), len(sequence) - len(self.prompt)
        if self.repetition_penalty != 1.0:
            seen = list(set(sequence))
            own = scores[seen]
            penalty = np.float32(self.repetition_penalty)
            scores[seen] = np.where(own < 0, own * penalty, own / penalty)
        if self.no_repeat_ngram_size > 0:
            scores[repeated(sequence, self.no_repeat_ngram_size)] = _NEVER
        for *before, last in self.bad_words_ids:
            if not before or list(sequence[-len(before) :]) == before:
                scores[last] = _NEVER
        if length < self.min_length or new < self.min_new_tokens:
            scores[list(self.ends)] = _NEVER
        if self.forced_bos_token_id is not None and length == 1:
            _only(scores, self.forced_bos_token_id)
        if self.forced_eos_token_id is not None and length == self.max_length - 1:
            _only(scores, self.forced_eos_token_id)
        if self.suppress_tokens:
            scores[list(self.suppress_tokens)] = _NEVER
        if self.begin_suppress_tokens and new == self._is_begun_by_force:
            scores[list(self.begin_suppress_tokens)] = _NEVER
        if self.timestamps is not None:
            self.timestamps.apply(sequence[len(self.prompt) :], scores)

    @property
    def _is_begun_by_force(self) -> bool:
        return self.forced_bos_token_id is not None and len(self.prompt) == 1


def repeated(sequence: Sequence[int], size: int) -> list[int]:
    """Return the tokens after which so many tokens in a row would come again.

    >>> repeated([1, 2, 3, 1, 2], 3), repeated([1, 2], 3)
    ([3], [])
    """
    before = tuple(sequence[len(sequence) - size + 1 :]) if size <= len(sequence) else None
    if before is None:
        return []
    places = range(len(sequence) - size + 1)
    return [sequence[i + size - 1] for i in places if tuple(sequence[i : i + size - 1]) == before]


def _only(scores: Array, token: int) -> None:
    scores[:] = _NEVER
    scores[token] = 0
