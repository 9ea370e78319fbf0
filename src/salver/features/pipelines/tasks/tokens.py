"""Token classification: entities in a text, with the aggregation of transformers' pipeline.

Pure.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from salver.features.pipelines.directory import ModelDirectory
from salver.features.pipelines.parameters import TokenParameters
from salver.features.pipelines.ports import Columns, Scored, Task
from salver.features.pipelines.tasks.classes import truncation
from salver.features.pipelines.tasks.scores import OUTPUT, TEXT, json_rows, softmax
from salver.features.pipelines.texts import Piece, TextEncoder
from salver.words.errors import InvalidInput
from salver.words.tensor import Array

_Entity = dict[str, Any]
_OF_WORDS: Final = ("first", "average", "max")


class TokenClassification(Task):
    """Entities of a text with their scores and places."""

    inputs = (TEXT,)
    outputs = (OUTPUT,)
    parameters = TokenParameters
    is_per_token = True

    def __init__(self, directory: ModelDirectory, classes: int, encoder: TextEncoder) -> None:
        self._labels = directory.labels(classes)
        self._encoder = encoder
        #: Such a tokenizer marks the tokens that continue a word.
        self._marks_words = bool(getattr(encoder.tokenizer.model, "continuing_subword_prefix", None))

    def pieces(self, columns: Columns, parameters: TokenParameters) -> Sequence[Piece]:
        """See :class:`~salver.features.pipelines.ports.Task`."""
        stride = parameters.stride
        if stride is not None:
            if parameters.aggregation_strategy == "none":
                raise InvalidInput(
                    "parameters.stride needs an aggregation",
                    field="parameters.stride",
                    fix='Send "aggregation_strategy": "simple", "first", "average" or "max" with it.',
                )
            if not 0 <= stride < max(self._encoder.limit, 1):
                raise InvalidInput(
                    f"parameters.stride must be less than {self._encoder.limit}, not {stride}",
                    field="parameters.stride",
                )
        cut = truncation(parameters)
        return [Piece(text, None, cut, stride=stride) for text in columns.texts["text"]]

    def answer(
        self, columns: Columns, parameters: TokenParameters, scored: Sequence[Sequence[Scored]]
    ) -> Mapping[str, Array]:
        """See :class:`~salver.features.pipelines.ports.Task`."""
        texts = columns.texts["text"]
        return {"output": json_rows(map(self._entities, texts, scored, [parameters] * len(texts)))}

    def _entities(self, text: str, windows: Sequence[Scored], parameters: TokenParameters) -> list[_Entity]:
        strategy, ignored = parameters.aggregation_strategy, parameters.ignore_labels
        found: list[_Entity] = []
        for window in windows:
            entities = self._tokens(text, window)
            if strategy in _OF_WORDS:
                entities = self._words(entities, strategy)
            else:
                entities = [self._labelled(entity) for entity in entities]
            if strategy != "none":
                entities = self._grouped(entities)
            key = "entity" if strategy == "none" else "entity_group"
            found += [entity for entity in entities if entity[key] not in ignored]
        return _longest(found) if len(windows) > 1 else found

    def _tokens(self, text: str, window: Scored) -> list[_Entity]:
        """Return the tokens of a window that are part of the text, with scores of all labels."""
        encoding = window.encoding
        scores = softmax(window.outputs[0])
        tokens: list[_Entity] = []
        columns = zip(
            encoding.ids, encoding.tokens, encoding.offsets, encoding.special_tokens_mask, strict=True
        )
        for index, (id, word, (start, end), is_special) in enumerate(columns):
            if is_special:
                continue
            told = text[start:end]
            if self._marks_words:
                continues = len(word) != len(told)
            else:
                continues = start > 0 and " " not in text[start - 1 : start + 1]
            if id == self._encoder.unknown:
                word, continues = told, False
            tokens.append(
                {
                    "word": word,
                    "scores": scores[index],
                    "start": start,
                    "end": end,
                    "index": index,
                    "continues": continues,
                }
            )
        return tokens

    def _labelled(self, token: _Entity) -> _Entity:
        best = int(token["scores"].argmax())
        return {
            "entity": self._labels[best],
            "score": float(token["scores"][best]),
            "index": token["index"],
            "word": token["word"],
            "start": token["start"],
            "end": token["end"],
        }

    def _words(self, tokens: Sequence[_Entity], strategy: str) -> list[_Entity]:
        words: list[list[_Entity]] = []
        for token in tokens:
            if words and token["continues"]:
                words[-1].append(token)
            else:
                words.append([token])
        return [self._word(word, strategy) for word in words]

    def _word(self, tokens: list[_Entity], strategy: str) -> _Entity:
        if strategy == "first":
            scores = tokens[0]["scores"]
        elif strategy == "max":
            scores = max(tokens, key=lambda token: token["scores"].max())["scores"]
        else:
            scores = np.nanmean(np.stack([token["scores"] for token in tokens]), axis=0)
        best = int(scores.argmax())
        return {
            "entity": self._labels[best],
            "score": float(scores[best]),
            "word": self._encoder.joined([token["word"] for token in tokens]),
            "start": tokens[0]["start"],
            "end": tokens[-1]["end"],
        }

    def _grouped(self, entities: Sequence[_Entity]) -> list[_Entity]:
        """Join neighbours of one tag, unless the second one begins an entity."""
        groups: list[list[_Entity]] = []
        for entity in entities:
            begins, tag = _tag(entity["entity"])
            if groups and not begins and tag == _tag(groups[-1][-1]["entity"])[1]:
                groups[-1].append(entity)
            else:
                groups.append([entity])
        return [
            {
                "entity_group": group[0]["entity"].split("-", 1)[-1],
                "score": float(np.nanmean([entity["score"] for entity in group])),
                "word": self._encoder.joined([entity["word"] for entity in group]),
                "start": group[0]["start"],
                "end": group[-1]["end"],
            }
            for group in groups
        ]


def _tag(label: str) -> tuple[bool, str]:
    """Return whether a label begins an entity, and its tag.

    >>> _tag("B-PER"), _tag("I-PER"), _tag("PER")
    ((True, 'PER'), (False, 'PER'), (False, 'PER'))
    """
    if label.startswith(("B-", "I-")):
        return label[0] == "B", label[2:]
    return False, label


def _longest(entities: list[_Entity]) -> list[_Entity]:
    """Return the longest, then the best of entities that overlap where windows do."""
    if not entities:
        return entities
    entities = sorted(entities, key=lambda entity: entity["start"])
    kept, last = [], entities[0]
    for entity in entities:
        if not last["start"] <= entity["start"] < last["end"]:
            kept.append(last)
            last = entity
            continue
        length, longest = entity["end"] - entity["start"], last["end"] - last["start"]
        if length > longest or (length == longest and entity["score"] > last["score"]):
            last = entity
    return [*kept, last]
