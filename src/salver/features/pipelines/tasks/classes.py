"""Text classification, re-ranking and zero-shot classification: one score for each class of a text.

Pure.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from salver.features.pipelines.directory import ModelDirectory
from salver.features.pipelines.parameters import ClassParameters, RankParameters, ZeroShotParameters
from salver.features.pipelines.ports import Columns, Scored, Task
from salver.features.pipelines.tasks.scores import (
    FUNCTIONS,
    MAYBE_PAIR,
    OUTPUT,
    PAIR,
    TEXT,
    best_labels,
    json_rows,
    softmax,
)
from salver.features.pipelines.texts import Piece, Truncation
from salver.words.errors import InvalidInput, LoadFailed
from salver.words.messages import TensorSpec
from salver.words.tensor import Array, DataType

_MOST_LABELS: Final = 1_000
#: Activations of cross-encoders by the class that a configuration names; nothing else is accepted.
_ACTIVATIONS: Final = {"Identity": "none", "Sigmoid": "sigmoid", "Softmax": "softmax"}


def truncation(parameters: Any) -> Truncation:
    """Return what to cut at the limit."""
    return "longest_first" if parameters.truncation else "no"


def texts_and_pairs(columns: Columns, cut: Truncation) -> list[Piece]:
    """Return a piece for each row, with its second text if there is one."""
    pairs = columns.texts.get("text_pair")
    return [
        Piece(text, None if pairs is None else pairs[row], cut)
        for row, text in enumerate(columns.texts["text"])
    ]


class TextClassification(Task):
    """Labels of a text or pair, with scores."""

    inputs = (TEXT, MAYBE_PAIR)
    outputs = (OUTPUT,)
    parameters = ClassParameters
    is_per_token = False

    def __init__(self, directory: ModelDirectory, classes: int) -> None:
        config = directory.config
        self._labels = directory.labels(classes)
        self._function = "softmax"
        if config.problem_type == "regression":
            self._function = "none"
        elif config.problem_type == "multi_label_classification" or classes == 1:
            self._function = "sigmoid"
        if config.function_to_apply and not config.problem_type and classes != 1:
            self._function = config.function_to_apply

    def pieces(self, columns: Columns, parameters: ClassParameters) -> Sequence[Piece]:
        """See :class:`~salver.features.pipelines.ports.Task`."""
        return texts_and_pairs(columns, truncation(parameters))

    def answer(
        self, columns: Columns, parameters: ClassParameters, scored: Sequence[Sequence[Scored]]
    ) -> Mapping[str, Array]:
        """See :class:`~salver.features.pipelines.ports.Task`."""
        name = parameters.function_to_apply
        function = FUNCTIONS[self._function if name in (None, "default") else name]
        return {"output": json_rows(self._row(function(each[0].outputs[0]), parameters) for each in scored)}

    def _row(self, scores: Array, parameters: ClassParameters) -> Any:
        if not isinstance(parameters.top_k, int | None):
            best = int(scores.argmax())
            return {"label": self._labels[best], "score": float(scores[best])}
        return best_labels(scores, self._labels, parameters.top_k)


class TextRanking(Task):
    """Score of a pair of texts, as a cross-encoder of sentence-transformers gives it."""

    inputs = (TEXT, PAIR)
    outputs = (TensorSpec("scores", DataType.FP32, (-1,)),)
    parameters = RankParameters
    is_per_token = False

    def __init__(self, directory: ModelDirectory, classes: int) -> None:
        if classes != 1:
            raise LoadFailed(
                f"{directory.path} ranks texts, and its network gives {classes} scores instead of one",
                fix='Serve it as a classifier: [options] task = "text-classification".',
            )
        name = directory.config.activation
        self._function = _ACTIVATIONS.get(name.rpartition(".")[2] or "Sigmoid", "")
        if not self._function or (name and not name.startswith("torch.")):
            raise LoadFailed(
                f"{directory.root}/config.json names the activation {name[:200]!r}, which is unknown",
                fix=f"Use a class of torch.nn: {', '.join(_ACTIVATIONS)}.",
            )

    def pieces(self, columns: Columns, parameters: RankParameters) -> Sequence[Piece]:
        """See :class:`~salver.features.pipelines.ports.Task`."""
        return texts_and_pairs(columns, truncation(parameters))

    def answer(
        self, columns: Columns, parameters: RankParameters, scored: Sequence[Sequence[Scored]]
    ) -> Mapping[str, Array]:
        """See :class:`~salver.features.pipelines.ports.Task`."""
        function = FUNCTIONS["none" if parameters.raw_scores else self._function]
        logits = np.array([each[0].outputs[0][0] for each in scored], np.float32)
        return {"scores": function(logits).astype(np.float32, copy=False)}


class ZeroShot(Task):
    """Labels of the caller for a text, by a network that knows whether one text follows from another."""

    inputs = (TEXT,)
    outputs = (OUTPUT,)
    parameters = ZeroShotParameters
    is_per_token = False

    def __init__(self, directory: ModelDirectory, classes: int) -> None:
        named = directory.config.label2id or {
            label: int(i) for i, label in (directory.config.id2label or {}).items()
        }
        #: As in transformers, the last class if no label says so.
        self._entails = next((i for label, i in named.items() if label.lower().startswith("entail")), -1)
        self._contradicts = -1 if self._entails == 0 else 0

    def pieces(self, columns: Columns, parameters: ZeroShotParameters) -> Sequence[Piece]:
        """See :class:`~salver.features.pipelines.ports.Task`."""
        labels = _labels(parameters)
        template = parameters.hypothesis_template
        hypotheses = [template.replace("{}", label) for label in labels]
        if "{}" not in template:
            raise InvalidInput(
                "parameters.hypothesis_template has no {} for the label",
                field="parameters.hypothesis_template",
                fix='Write, for example, "This example is {}.".',
            )
        cut: Truncation = "only_first" if parameters.truncation else "no"
        found = []
        for text in columns.texts["text"]:
            if not text:
                raise InvalidInput("inputs has an empty text", field="inputs", fix="Send a text to classify.")
            found += [Piece(text, hypothesis, cut) for hypothesis in hypotheses]
        return found

    def answer(
        self, columns: Columns, parameters: ZeroShotParameters, scored: Sequence[Sequence[Scored]]
    ) -> Mapping[str, Array]:
        """See :class:`~salver.features.pipelines.ports.Task`."""
        labels = _labels(parameters)
        rows = []
        for row, text in enumerate(columns.texts["text"]):
            own = scored[row * len(labels) : (row + 1) * len(labels)]
            logits = np.array([each[0].outputs[0] for each in own])
            if parameters.multi_label or len(labels) == 1:
                scores = softmax(logits[:, [self._contradicts, self._entails]])[:, 1]
            else:
                scores = softmax(logits[:, self._entails])
            order = scores.argsort()[::-1]
            rows.append(
                {
                    "sequence": text,
                    "labels": [labels[i] for i in order],
                    "scores": [float(scores[i]) for i in order],
                }
            )
        return {"output": json_rows(rows)}


def _labels(parameters: ZeroShotParameters) -> list[str]:
    """Return the candidate labels.

    Raises:
        InvalidInput: there are none.
    """
    labels = parameters.candidate_labels
    if isinstance(labels, str):
        labels = [label.strip() for label in labels.split(",") if label.strip()]
    if len(labels) > _MOST_LABELS:
        raise InvalidInput(
            f"parameters.candidate_labels has {len(labels)} labels; at most {_MOST_LABELS} are compared",
            field="parameters.candidate_labels",
            fix="Send them in several requests.",
        )
    if not labels:
        raise InvalidInput(
            "parameters.candidate_labels is missing or empty",
            field="parameters.candidate_labels",
            fix='Send the labels to choose from: {"parameters": {"candidate_labels": ["refund", "faq"]}}.',
        )
    return labels
