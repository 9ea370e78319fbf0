"""Making of texts token by token: greedy search and beam search, as ``generate()`` of transformers does them.

The texts of a run are independent of one another: each ends by its own tokens, and its row leaves the run.
Pure, but for the network that is asked.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

import numpy as np

from salver.features.pipelines.token_rules import GenerationSettings
from salver.words.tensor import Array

_FAR: Final = np.float32(-1e9)  # of what has no score yet, as transformers has it


class DecoderRun(Protocol):
    """A run of a decoder, with the states of its rows."""

    def step(self, tokens: Array) -> Array:
        """Return the scores FP32 ``[rows, vocabulary]`` after more tokens INT64 ``[rows, n]``."""
        ...

    def keep(self, rows: Array) -> None:
        """Replace the rows by some of them, in this order; one may come several times."""
        ...


#: Returns whether nobody waits for the text of a row any more.
IsGone = Callable[[int], bool]


def generate(
    decoder: DecoderRun, rows: int, settings: GenerationSettings, is_gone: IsGone = lambda row: False
) -> list[list[int] | None]:
    """Return the new tokens of each text, with the one that ended it; None = nobody waits for it.

    Args:
        decoder: It has ``num_beams`` rows for each text, those of one text beside one another.
        rows: Number of texts.
        is_gone: Asked before each step.
    """
    search = [_Search(settings) for _ in range(rows)]
    found: list[list[int] | None] = [None] * rows
    active = list(range(rows))
    tokens = np.tile(np.array(settings.prompt, np.int64), (rows * settings.num_beams, 1))
    while True:
        still = [index for index, row in enumerate(active) if not is_gone(row)]
        active, tokens = _left(decoder, active, still, tokens, settings.num_beams)
        if not active:
            return found
        scores = decoder.step(tokens).astype(np.float32, copy=True)
        parents, going = [], []
        for index, row in enumerate(active):
            own = slice(index * settings.num_beams, (index + 1) * settings.num_beams)
            parents.append(search[row].advance(scores[own]) + index * settings.num_beams)
            if (text := search[row].result) is None:
                going.append(index)
            else:
                found[row] = text
        if not going:
            return found
        rows_kept = np.concatenate([parents[index] for index in going])
        active = [active[index] for index in going]
        if not np.array_equal(rows_kept, np.arange(len(tokens))):
            decoder.keep(rows_kept)
        tokens = np.concatenate([search[row].last for row in active])[:, None]


def _left(
    decoder: DecoderRun, active: list[int], still: Sequence[int], tokens: Array, beams: int
) -> tuple[list[int], Array]:
    if len(still) == len(active) or not still:
        return [active[index] for index in still], tokens
    kept = (np.array(still)[:, None] * beams + np.arange(beams)).ravel()
    decoder.keep(kept)
    return [active[index] for index in still], tokens[kept]


class _Search:
    """Search for one text: its running beams and the best ones that have ended.

    With one beam, the scores are the network's; with more, sums of log probabilities.
    """

    def __init__(self, settings: GenerationSettings) -> None:
        self._settings = settings
        beams = settings.num_beams
        self._sequences = [list(settings.prompt)] * beams
        self._scores: Array = np.full(beams, _FAR)
        self._scores[0] = 0
        self._ended: list[tuple[np.float32, list[int], bool]] = [(_FAR, [], False)] * beams
        self.result: list[int] | None = None
        self.last = np.zeros(beams, np.int64)

    def advance(self, scores: Array) -> Array:
        """Take the scores of each beam; return the beams that the next ones continue.

        Afterwards ``last`` has their tokens, or ``result`` the text.
        """
        if self._settings.num_beams == 1:
            return self._advance_greedily(scores[0])
        return self._advance_beams(scores)

    def _advance_greedily(self, scores: Array) -> Array:
        settings = self._settings
        (sequence,) = self._sequences
        settings.apply(sequence, scores)
        token = int(scores.argmax())
        sequence = [*sequence, token]
        self._sequences, self.last = [sequence], np.array([token], np.int64)
        if token in settings.ends or len(sequence) >= settings.max_length:
            self.result = sequence[len(settings.prompt) :]
        return np.zeros(1, np.int64)

    def _advance_beams(self, scores: Array) -> Array:
        settings, beams = self._settings, self._settings.num_beams
        scores -= scores.max(axis=1, keepdims=True)
        scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
        for own, sequence in zip(scores, self._sequences, strict=True):
            settings.apply(sequence, own)
        vocabulary = scores.shape[1]
        flat = (scores + self._scores[:, None]).ravel()
        tried = _best(flat, max(2, 1 + len(settings.ends)) * beams)
        values, parents, tokens = flat[tried], tried // vocabulary, tried % vocabulary
        length = len(self._sequences[0]) + 1
        are_ended = np.isin(tokens, settings.ends) | (length >= settings.max_length)
        sequences = [[*self._sequences[p], int(t)] for p, t in zip(parents, tokens, strict=True)]

        running = _best(values + are_ended * _FAR, beams)
        penalty = np.float32((length - len(settings.prompt)) ** settings.length_penalty)
        candidates = [
            (values[i] / penalty, sequences[i], True) if are_ended[i] else (_FAR * 2, sequences[i], False)
            for i in range(beams)
        ]
        # Equal scores keep their order, as those that ended before come first.
        self._ended = sorted([*self._ended, *candidates], key=lambda each: -each[0])[:beams]
        self._sequences = [sequences[i] for i in running]
        self._scores = (values + are_ended * _FAR)[running]
        self.last = tokens[running].astype(np.int64)
        if self._is_done(length) or bool(are_ended.all()):
            self.result = self._ended[0][1][len(settings.prompt) :]
        kept: Array = parents[running]
        return kept

    def _is_done(self, length: int) -> bool:
        """Return whether no running beam can be better than those that have ended."""
        settings = self._settings
        are_full = all(is_ended for _, _, is_ended in self._ended)
        if are_full and settings.early_stopping is True:
            return True
        whole = settings.early_stopping == "never" and settings.length_penalty > 0
        most = (settings.max_length if whole else length) - len(settings.prompt)
        best = self._scores[0] / np.float32(most**settings.length_penalty)
        worst = min(score for score, _, _ in self._ended) if are_full else _FAR
        return not best > worst


def _best(scores: Array, count: int) -> Array:
    """Return the places of the largest scores, the largest first; equal ones in their order."""
    count = min(count, len(scores))
    found = np.argpartition(-scores, count - 1)[:count]
    return found[np.lexsort((found, -scores[found]))]
