"""Fill-mask: the likeliest tokens at the masked places of a text.

Pure.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from salver.features.pipelines.parameters import MaskParameters
from salver.features.pipelines.ports import Columns, Scored, Task
from salver.features.pipelines.tasks.classes import truncation
from salver.features.pipelines.tasks.scores import OUTPUT, TEXT, json_rows, softmax
from salver.features.pipelines.texts import Piece, TextEncoder
from salver.words.errors import InvalidInput, LoadFailed
from salver.words.tensor import Array

_MOST: Final = 10_000  # answers for one text


class FillMask(Task):
    """Tokens for each masked place, with scores and the whole text."""

    inputs = (TEXT,)
    outputs = (OUTPUT,)
    parameters = MaskParameters
    is_per_token = True

    def __init__(self, encoder: TextEncoder) -> None:
        if encoder.mask < 0:
            raise LoadFailed(
                "the tokenizer has no mask_token in tokenizer_config.json",
                fix="Download the directory again.",
            )
        self._encoder = encoder

    def pieces(self, columns: Columns, parameters: MaskParameters) -> Sequence[Piece]:
        """See :class:`~salver.features.pipelines.ports.Task`."""
        cut = truncation(parameters if parameters.truncation is False else parameters.tokenizer_kwargs)
        return [Piece(text, None, cut) for text in columns.texts["text"]]

    def kept(
        self, encoding: Any, outputs: tuple[Array, ...], parameters: MaskParameters
    ) -> tuple[Array, ...]:
        """Return the masked places, and for each the best tokens and their scores."""
        places = np.flatnonzero(np.array(encoding.ids) == self._encoder.mask)
        if not len(places):
            raise InvalidInput(
                f"inputs has a text with no {self._encoder.mask_token} among the tokens that the model takes",
                field="inputs",
                fix=f"Write {self._encoder.mask_token} where a word is wanted.",
            )
        scores = softmax(outputs[0][places])
        choice = np.arange(scores.shape[-1])
        if (targets := self._targets(parameters)) is not None:
            choice = np.array(targets)
        top_k = min(parameters.top_k, len(choice))
        if len(places) * top_k > _MOST:
            raise InvalidInput(
                f"{len(places)} masks with {top_k} tokens each are more than {_MOST} answers",
                field="parameters.top_k",
                fix="Ask for fewer, or split the text.",
            )
        best = choice[np.argsort(-scores[:, choice], axis=-1, kind="stable")[:, :top_k]]
        return places, best, np.take_along_axis(scores, best, axis=-1)

    def answer(
        self, columns: Columns, parameters: MaskParameters, scored: Sequence[Sequence[Scored]]
    ) -> Mapping[str, Array]:
        """See :class:`~salver.features.pipelines.ports.Task`."""
        return {"output": json_rows(self._row(each[0]) for each in scored)}

    def _row(self, text: Scored) -> Any:
        ids = np.array(text.encoding.ids)
        places, best, scores = text.outputs
        found = [
            [
                self._proposal(ids, int(place), int(token), float(score), len(places) == 1)
                for token, score in zip(tokens, own, strict=True)
            ]
            for place, tokens, own in zip(places, best, scores, strict=True)
        ]
        return found[0] if len(found) == 1 else found

    def _proposal(self, ids: Array, place: int, id: int, score: float, is_only: bool) -> dict[str, Any]:
        filled = ids.copy()
        filled[place] = id
        filled = filled[filled != self._encoder.pad]
        return {
            "score": score,
            "token": id,
            "token_str": self._encoder.decode([id], skips_special=False),
            # Special tokens stay if there are several places, since the other masks are among them.
            "sequence": self._encoder.decode(filled.tolist(), skips_special=is_only),
        }

    def _targets(self, parameters: MaskParameters) -> Sequence[int] | None:
        """Return the ids to score; of a word that is no token, its first token counts."""
        words = parameters.targets
        if words is None:
            return None
        found = set()
        for word in [words] if isinstance(words, str) else words:
            id = self._encoder.id_of(word)
            if id < 0:
                ids = self._encoder.tokenizer.encode(word, add_special_tokens=False).ids
                id = ids[0] if ids else -1
            if id >= 0:
                found.add(id)
        if not found:
            raise InvalidInput(
                "parameters.targets has no word that the model knows",
                field="parameters.targets",
                fix="Send words, or leave it out.",
            )
        return sorted(found)
