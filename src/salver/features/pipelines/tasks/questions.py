"""Extractive question answering: the part of a context that answers a question.

As in transformers 4.57, whose successor has no such pipeline.

Pure.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from salver.features.pipelines.parameters import AnswerParameters
from salver.features.pipelines.ports import Columns, Scored, Task
from salver.features.pipelines.tasks.scores import OUTPUT, json_rows
from salver.features.pipelines.texts import Piece, TextEncoder
from salver.words.errors import InvalidInput
from salver.words.messages import TensorSpec
from salver.words.tensor import Array, DataType

_LONGEST: Final = 384  # tokens of a window
_NEVER: Final = np.float32(-10_000.0)
_NO_NULL: Final = 1_000_000.0


class QuestionAnswering(Task):
    """Answers with their scores and places in the context."""

    inputs = (
        TensorSpec("question", DataType.BYTES, (-1,)),
        TensorSpec("context", DataType.BYTES, (-1,)),
    )
    outputs = (OUTPUT,)
    parameters = AnswerParameters
    is_per_token = True

    def __init__(self, encoder: TextEncoder, starts_first: bool = True) -> None:
        self._encoder = encoder
        self._order = (0, 1) if starts_first else (1, 0)

    def pieces(self, columns: Columns, parameters: AnswerParameters) -> Sequence[Piece]:
        """See :class:`~salver.features.pipelines.ports.Task`."""
        limit = parameters.max_seq_len or min(self._encoder.limit or _LONGEST, _LONGEST)
        if self._encoder.limit and limit > self._encoder.limit:
            raise InvalidInput(
                f"parameters.max_seq_len must be at most {self._encoder.limit}, not {limit}",
                field="parameters.max_seq_len",
            )
        stride = parameters.doc_stride
        if stride is None:
            stride = min(limit // 2, 128)
        if stride >= limit:
            raise InvalidInput(
                f"parameters.doc_stride must be less than the {limit} tokens of a window, not {stride}",
                field="parameters.doc_stride",
            )
        found = []
        rows = zip(columns.texts["question"], columns.texts["context"], strict=True)
        for question, context in rows:
            for name, text in (("question", question), ("context", context)):
                if not text:
                    raise InvalidInput(
                        f"inputs has an empty {name}", field=f"inputs.{name}", fix="Send a text."
                    )
            if self._encoder.pads_left:  # then transformers puts the context first
                found.append(Piece(context, question, "only_first", limit, stride))
            else:
                found.append(Piece(question, context, "only_second", limit, stride))
        return found

    def answer(
        self, columns: Columns, parameters: AnswerParameters, scored: Sequence[Sequence[Scored]]
    ) -> Mapping[str, Array]:
        """See :class:`~salver.features.pipelines.ports.Task`."""
        contexts = columns.texts["context"]
        return {
            "output": json_rows(
                self._row(context, windows, parameters)
                for context, windows in zip(contexts, scored, strict=True)
            )
        }

    def _row(self, context: str, windows: Sequence[Scored], parameters: AnswerParameters) -> Any:
        answers: dict[str, dict[str, Any]] = {}
        null = _NO_NULL
        top_k, aligns = parameters.top_k, parameters.align_to_words
        candidates = 2 * top_k + 10 if aligns else top_k  # several may become one word
        for window in windows:
            encoding = window.encoding
            begin, end, usable = self._probabilities(window)
            null = min(null, float(begin[0] * end[0]))
            begin[0] = end[0] = 0.0
            for i, j, score in _best(begin, end, usable, candidates, parameters.max_answer_len):
                start, stop = self._place(encoding, i, j) if aligns else _offsets(encoding, i, j)
                text = context[start:stop]
                same = answers.get(text.lower())
                if same is not None:
                    same["score"] += score
                else:
                    answers[text.lower()] = {"score": score, "start": start, "end": stop, "answer": text}
        found = list(answers.values())
        if parameters.handle_impossible_answer:
            found.append({"score": null, "start": 0, "end": 0, "answer": ""})
        found = sorted(found, key=lambda answer: answer["score"], reverse=True)[:top_k]
        return found[0] if len(found) == 1 else found

    def _probabilities(self, window: Scored) -> tuple[Array, Array, Array]:
        """Return the probabilities of each token to begin and to end the answer, and which may."""
        encoding = window.encoding
        number = 0 if self._encoder.pads_left else 1
        usable = np.array([sequence == number for sequence in encoding.sequence_ids])
        usable |= np.array(encoding.ids) == self._encoder.cls
        both = []
        for index in self._order:
            logits = np.where(usable, window.outputs[index], _NEVER)
            shares = np.exp(logits - logits.max())
            both.append(shares / shares.sum())
        return both[0], both[1], usable

    def _place(self, encoding: Any, i: int, j: int) -> tuple[int, int]:
        """Return the place of whole words."""
        number = 0 if self._encoder.pads_left else 1
        try:
            start = encoding.word_to_chars(encoding.token_to_word(i), number)[0]
            stop = encoding.word_to_chars(encoding.token_to_word(j), number)[1]
        except (TypeError, ValueError):  # some tokenizers know no words
            return _offsets(encoding, i, j)
        return start, stop


def _offsets(encoding: Any, i: int, j: int) -> tuple[int, int]:
    return encoding.offsets[i][0], encoding.offsets[j][1]


def _best(begin: Array, end: Array, usable: Array, count: int, longest: int) -> list[tuple[int, int, float]]:
    """Return the best spans of at most ``longest`` tokens with their scores, the best one first."""
    scores = np.tril(np.triu(np.outer(begin, end)), longest - 1)
    flat = scores.ravel()
    if count == 1:
        order = np.array([flat.argmax()])
    elif len(flat) <= count:
        order = np.argsort(-flat)
    else:
        some = np.argpartition(-flat, count)[:count]
        order = some[np.argsort(-flat[some])]
    found = []
    for at in order:
        i, j = divmod(int(at), len(end))
        if usable[i] and usable[j]:
            found.append((i, j, float(scores[i, j])))
    return found
