"""Fill-mask: the likeliest tokens at the masked places of a text.

Pure.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from salver.features.pipelines.parameters import MaskParameters
from salver.features.pipelines.ports import Columns, Scored
from salver.features.pipelines.tasks.classes import truncation
from salver.features.pipelines.tasks.scores import OUTPUT, TEXT, json_rows, softmax
from salver.features.pipelines.texts import Piece, TextEncoder
from salver.words.errors import InvalidInput, LoadFailed
from salver.words.tensor import Array


class FillMask:
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
        return [Piece(text, None, f"inputs[{row}]", cut) for row, text in enumerate(columns.texts["text"])]

    def answer(
        self, columns: Columns, parameters: MaskParameters, scored: Sequence[Sequence[Scored]]
    ) -> Mapping[str, Array]:
        """See :class:`~salver.features.pipelines.ports.Task`."""
        targets = self._targets(parameters)
        return {
            "output": json_rows(
                self._row(row, each[0], parameters.top_k, targets) for row, each in enumerate(scored)
            )
        }

    def _row(self, row: int, text: Scored, top_k: int, targets: Sequence[int] | None) -> Any:
        ids = np.array(text.encoding.ids)
        places = np.flatnonzero(ids == self._encoder.mask)
        if not len(places):
            raise InvalidInput(
                f"inputs[{row}] has no {self._encoder.mask_token} among the tokens that the model takes",
                field=f"inputs[{row}]",
                fix=f"Write {self._encoder.mask_token} where a word is wanted.",
            )
        found = []
        for place in places:
            scores = softmax(text.outputs[0][place])
            choice = np.arange(len(scores)) if targets is None else np.array(targets)
            best = choice[np.argsort(-scores[choice], kind="stable")[:top_k]]
            found.append(
                [self._proposal(ids, int(place), int(id), scores[id], len(places) == 1) for id in best]
            )
        return found[0] if len(found) == 1 else found

    def _proposal(self, ids: Array, place: int, id: int, score: float, is_only: bool) -> dict[str, Any]:
        filled = ids.copy()
        filled[place] = id
        filled = filled[filled != self._encoder.pad]
        return {
            "score": float(score),
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
