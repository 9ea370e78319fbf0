"""Functions from a network's outputs to scores, and rows of JSON.

Pure.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from salver.words.messages import TensorSpec
from salver.words.tensor import Array, DataType

TEXT: Final = TensorSpec("text", DataType.BYTES, (-1,))
PAIR: Final = TensorSpec("text_pair", DataType.BYTES, (-1,))
MAYBE_PAIR: Final = TensorSpec("text_pair", DataType.BYTES, (-1,), optional=True)
#: The answer of one row as JSON, in the form of transformers' pipeline.
OUTPUT: Final = TensorSpec("output", DataType.BYTES, (-1,))

_encode: Final = msgspec.json.Encoder().encode


def softmax(logits: Array) -> Array:
    """Return the softmax along the last axis, in the precision of the logits.

    >>> [round(float(p), 4) for p in softmax(np.array([1.0, 1.0]))]
    [0.5, 0.5]
    """
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    scores: Array = shifted / shifted.sum(axis=-1, keepdims=True)
    return scores


def sigmoid(logits: Array) -> Array:
    """Return the logistic function, which does not overflow for logits of a large size.

    >>> float(sigmoid(np.array([0.0]))[0]), float(sigmoid(np.array([-1000.0]))[0])
    (0.5, 0.0)
    """
    small = np.exp(-np.abs(logits))
    scores: Array = np.where(logits >= 0, 1 / (1 + small), small / (1 + small))
    return scores


#: From logits to scores, by the names that requests have for them.
FUNCTIONS: Final[Mapping[str, Callable[[Array], Array]]] = {
    "sigmoid": sigmoid,
    "softmax": softmax,
    "none": lambda logits: logits,
}


def best_labels(scores: Array, labels: Sequence[str], most: int | None) -> list[dict[str, Any]]:
    """Return the labels with the best scores; None = all.

    >>> best_labels(np.array([0.25, 0.75]), ["cat", "dog"], 1)
    [{'label': 'dog', 'score': 0.75}]
    """
    order = np.argsort(-scores, kind="stable")[:most].tolist()
    return [{"label": labels[i], "score": float(scores[i])} for i in order]


def json_rows(rows: Iterable[Any]) -> Array:
    """Return a tensor of bytes with the JSON of each row."""
    return object_row([_encode(row) for row in rows])


def object_row(values: Sequence[bytes]) -> Array:
    """Return a tensor of bytes."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
