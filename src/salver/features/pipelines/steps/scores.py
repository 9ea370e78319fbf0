"""Steps on numbers: scores of classes, embeddings, conversions and answers as JSON."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np

from salver.features.pipelines.steps.step import Arrays, Run, Step
from salver.features.pipelines.tasks.scores import json_rows, sigmoid, softmax
from salver.features.pipelines.tasks.sentences import POOLINGS, normalized
from salver.words.errors import InvalidInput, LoadFailed
from salver.words.tensor import DATATYPES, Array, DataType

_SAME: Final = "FLOAT[rows, ..., classes]"


def _mapped(given: str, gives: str, function: Callable[[Array], Array]) -> Run:
    """Return the run of a step that has one input and one output."""

    def run(arrays: Arrays) -> Arrays:
        values = arrays[given]
        return {gives: function(values).astype(values.dtype, copy=False)}

    return run


class Softmax(Step, frozen=True):
    """Softmax along the last axis.

    Attributes:
        temperature: Divides the logits.
    """

    inputs: ClassVar = {"logits": _SAME}
    outputs: ClassVar = {"scores": _SAME}

    temperature: float = 1.0

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        if not self.temperature > 0:
            raise LoadFailed("softmax: `temperature` must be above 0")
        if self.temperature == 1:
            return _mapped("logits", "scores", softmax)
        return _mapped("logits", "scores", lambda logits: softmax(logits / self.temperature))


class Sigmoid(Step, frozen=True):
    """Logistic function of each value."""

    inputs: ClassVar = {"logits": "FLOAT[rows, ...]"}
    outputs: ClassVar = {"scores": "FLOAT[rows, ...]"}

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        return _mapped("logits", "scores", sigmoid)


class ArgMax(Step, frozen=True):
    """Index and value of the greatest along the last axis, the first of equal ones."""

    inputs: ClassVar = {"scores": _SAME}
    outputs: ClassVar = {"index": "INT64[rows, ...]", "score": "FLOAT[rows, ...]"}

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""

        def run(arrays: Arrays) -> Arrays:
            scores = _some(arrays["scores"])
            index = np.asarray(scores.argmax(axis=-1), np.int64)
            return {"index": index, "score": np.take_along_axis(scores, index[..., None], -1)[..., 0]}

        return run


class TopK(Step, frozen=True):
    """Indices and values of the ``k`` greatest along the last axis, in descending order.

    Attributes:
        k: How many; there must be at least so many classes.
    """

    inputs: ClassVar = {"scores": _SAME}

    k: int = 5

    def described(self, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        if self.k < 1:
            raise LoadFailed("top-k: `k` must be at least 1")
        shape = f"[rows, ..., {self.k}]"
        return dict(self.inputs), {"index": f"INT64{shape}", "score": f"FLOAT{shape}"}

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""

        def run(arrays: Arrays) -> Arrays:
            scores = _some(arrays["scores"], self.k)
            # Stable in the descending order, so that of equal values the first is the first.
            index = np.argsort(-scores, axis=-1, kind="stable")[..., : self.k].astype(np.int64)
            return {"index": index, "score": np.take_along_axis(scores, index, -1)}

        return run


class Pick(Step, frozen=True):
    """One value along the last axis, such as the score of one class.

    Attributes:
        at: Its index; negative ones count from the end.
    """

    inputs: ClassVar = {"values": "ANY[rows, ..., classes]"}
    outputs: ClassVar = {"value": "ANY[rows, ...]"}

    at: int = 0

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""

        def run(arrays: Arrays) -> Arrays:
            values = arrays["values"]
            if not -values.shape[-1] <= self.at < values.shape[-1]:
                raise InvalidInput(f"there are {values.shape[-1]} values, and none at {self.at}")
            return {"value": values[..., self.at]}

        return run


class Threshold(Step, frozen=True):
    """Whether values reach a threshold, for conditions of other steps.

    Attributes:
        least: The smallest value that reaches it.
    """

    inputs: ClassVar = {"values": "NUMBER[rows, ...]"}
    outputs: ClassVar = {"reached": "BOOL[rows, ...]"}

    least: float = 0.5

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""

        def run(arrays: Arrays) -> Arrays:
            return {"reached": np.asarray(arrays["values"] >= self.least)}

        return run


class Pool(Step, frozen=True):
    """Embedding of a text from the states of its tokens, without padding.

    Attributes:
        mode: As in sentence-transformers.
    """

    inputs: ClassVar = {"states": "FLOAT[rows, tokens, width]", "attention_mask?": "INT[rows, tokens]"}
    outputs: ClassVar = {"embedding": "FLOAT[rows, width]"}

    mode: Literal["mean", "max", "cls", "lasttoken", "mean_sqrt_len_tokens", "weightedmean"] = "mean"

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        pool = POOLINGS[self.mode]

        def run(arrays: Arrays) -> Arrays:
            states, mask = arrays["states"], arrays.get("attention_mask")
            own = list(states)
            if mask is not None:
                own = [row[kept] for row, kept in zip(states, mask.astype(bool), strict=True)]
            if not all(map(len, own)):
                raise InvalidInput(
                    "a text without tokens has no embedding", fix="Send a text that is not empty."
                )
            pooled = np.empty((len(own), states.shape[2]), states.dtype)
            for index, row in enumerate(own):
                pooled[index] = pool(row, 0)
            return {"embedding": pooled}

        return run


class Normalise(Step, frozen=True):
    """Vectors along the last axis, scaled to length 1."""

    inputs: ClassVar = {"vector": _SAME}
    outputs: ClassVar = {"vector": _SAME}

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        return _mapped("vector", "vector", normalized)


class Cast(Step, frozen=True):
    """Numbers of another datatype.

    Attributes:
        to: Name of the datatype, such as ``FP32``; fractions of numbers that become integers are cut off.
    """

    inputs: ClassVar = {"values": "NUMBER[rows, ...]"}

    to: str = "FP32"

    def described(self, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        datatype = DATATYPES.get(self.to)
        if datatype is None or datatype in (DataType.BYTES, DataType.BF16):
            raise LoadFailed(f"cast: {self.to!r} is no datatype of numbers", fix="Write, for example, FP32")
        return dict(self.inputs), {"values": f"{self.to}[rows, ...]"}

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        dtype = DATATYPES[self.to].dtype

        def run(arrays: Arrays) -> Arrays:
            return {"values": arrays["values"].astype(dtype)}

        return run


class Json(Step, frozen=True):
    """Inputs of any names as one JSON object for each row."""

    outputs: ClassVar = {"json": "BYTES[rows]"}
    others: ClassVar = "ANY[rows, ...]"

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""

        def run(arrays: Arrays) -> Arrays:
            columns = {name: plain(values.tolist()) for name, values in arrays.items()}
            rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
            return {"json": json_rows(rows)}

        return run


def _some(scores: Array, least: int = 1) -> Array:
    if scores.shape[-1] < least:
        raise InvalidInput(f"there are {scores.shape[-1]} classes, and {least} are wanted")
    return scores


def plain(value: Any) -> Any:
    """Return nested lists with texts for bytes."""
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value
