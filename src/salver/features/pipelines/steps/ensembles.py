"""Steps that combine models: averages, votes, stacks, and what decides which model runs on a row."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final, Literal

import msgspec
import numpy as np

from salver.features.pipelines.directory import inside, read_record
from salver.features.pipelines.steps.step import OFFSETS, Arrays, Run, Step
from salver.features.pipelines.tasks.scores import sigmoid, softmax
from salver.words.errors import InvalidInput, LoadFailed
from salver.words.tensor import Array

_MOST: Final = 64 << 20  # bytes of a file
_LEAST: Final = 1e-12
_OF_FIRST: Final = f"first.{OFFSETS}"
_GATES: Final = "gates"


def _weights(step: str, weights: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """Return the weight of each input; 1 without any.

    Raises:
        LoadFailed: they are not those of the inputs, or not above 0 together.
    """
    if not weights:
        return dict.fromkeys(names, 1.0)
    if weights.keys() != set(names):
        fix = f"Give one for each of: {', '.join(names)}"
        raise LoadFailed(f"{step}: `weights` has {', '.join(weights)}", fix=fix)
    if min(weights.values()) < 0 or not 0 < sum(weights.values()) < float("inf"):
        raise LoadFailed(f"{step}: `weights` must not be negative, and not all 0")
    return dict(weights)


class Average(Step, frozen=True):
    """Weighted mean of inputs of any names, such as the scores of several models.

    Attributes:
        weights: Weight of each input, by its name; without any, they are equal.
        by: ``geometric``: of the logarithms, and so that the last axis adds up to 1.
    """

    inputs: ClassVar = {f"{_GATES}?": "FLOAT[rows, branches]"}
    outputs: ClassVar = {"scores": "FLOAT[rows, ...]"}
    others: ClassVar = "FLOAT[rows, ...]"
    others_agree: ClassVar = True

    weights: Mapping[str, float] = {}
    by: Literal["arithmetic", "geometric"] = "arithmetic"

    def check_others(self, names: Sequence[str]) -> None:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        if not names:
            raise LoadFailed("average: it has no inputs", fix='inputs = { a = "small.scores", … }')
        _weights("average", self.weights, names)

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""

        def run(arrays: Arrays) -> Arrays:
            gates = arrays.get(_GATES)
            names = [name for name in arrays if name != _GATES]
            known = _weights("average", self.weights, names)
            weights = np.tile([known[name] for name in names], (len(arrays[names[0]]), 1))
            if gates is not None:
                weights = weights * _fitting(gates, names)
            total = weights.sum(axis=1)
            if len(total) and total.min() <= 0:
                raise InvalidInput("a row has no input with a weight above 0")
            return {"scores": self._mean([arrays[name] for name in names], weights / total[:, None])}

        return run

    def _mean(self, values: Sequence[Array], weights: Array) -> Array:
        # A branch that ran on no row may not know its other extents; its weights are 0.
        used = [k for k in range(len(values)) if weights[:, k].any()] or [0]
        shape = values[used[0]].shape
        found = np.zeros(shape)
        for k in used:
            if values[k].shape != shape:
                shapes = f"{list(shape[1:])} and {list(values[k].shape[1:])}"
                raise InvalidInput(f"rows of the shapes {shapes} have no mean")
            own = values[k].astype(np.float64)
            if self.by == "geometric":
                own = np.log(np.maximum(own, _LEAST))
            found += own * weights[:, k].reshape(-1, *[1] * (len(shape) - 1))
        if self.by == "geometric":
            found = softmax(found) if len(shape) > 1 else np.exp(found)
        return np.asarray(found.astype(values[0].dtype))


def _fitting(gates: Array, names: Sequence[str]) -> Array:
    if gates.shape[1] != len(names):
        raise InvalidInput(f"there are {gates.shape[1]} gates for {len(names)} inputs: {', '.join(names)}")
    return gates.astype(np.float64)


class Vote(Step, frozen=True):
    """Class that most inputs of any names chose, and its share of the weights; of equals, the first input's.

    Attributes:
        weights: Weight of each input, by its name; without any, they are equal.
    """

    outputs: ClassVar = {"index": "INT64[rows]", "share": "FP32[rows]"}
    others: ClassVar = "INT[rows]"
    others_agree: ClassVar = True

    weights: Mapping[str, float] = {}

    def check_others(self, names: Sequence[str]) -> None:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        if not names:
            raise LoadFailed("vote: it has no inputs", fix='inputs = { a = "first.index", … }')
        _weights("vote", self.weights, names)

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""

        def run(arrays: Arrays) -> Arrays:
            known = _weights("vote", self.weights, list(arrays))
            votes = np.stack([*arrays.values()]).astype(np.int64)
            weights = np.array([known[name] for name in arrays])
            agree = np.stack([weights @ (votes == own) for own in votes])
            first = agree.argmax(axis=0)[None]
            share = np.take_along_axis(agree, first, 0)[0] / weights.sum()
            return {"index": np.take_along_axis(votes, first, 0)[0], "share": share.astype(np.float32)}

        return run


class StackFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Coefficients of a linear or logistic model over the outputs of others.

    Attributes:
        inputs: Names of the inputs, whose values are the features in this order.
        coefficients: For each class those of the features, ``[classes][features]``; one row with ``logistic``
            is the second of two classes, as in scikit-learn.
        intercepts: One for each class.
        link: ``logistic`` gives probabilities, ``linear`` the sums.
    """

    inputs: tuple[str, ...]
    coefficients: tuple[tuple[float, ...], ...]
    intercepts: tuple[float, ...]
    link: Literal["logistic", "linear"] = "logistic"


_STACK: Final = msgspec.json.Decoder(StackFile)


class Stack(Step, frozen=True):
    """Logistic or linear model over inputs of any names: what other models say of a row.

    Attributes:
        file: JSON file of the coefficients beside ``pipeline.toml``.
    """

    outputs: ClassVar = {"scores": "FP32[rows, classes]"}
    others: ClassVar = "FLOAT[rows, ...]"

    file: str = "stack.json"

    def described(self, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        said = _read_stack(inside(folder, self.file))
        classes = len(said.coefficients)
        if said.link == "logistic":
            classes = max(2, classes)
        return dict.fromkeys(said.inputs, self.others), {"scores": f"FP32[rows, {classes}]"}

    def check_others(self, names: Sequence[str]) -> None:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        if names:
            raise LoadFailed(f"stack: {self.file} has no coefficients for {', '.join(names)}")

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        said = _read_stack(inside(folder, self.file))
        coefficients = np.array(said.coefficients).T
        intercepts = np.array(said.intercepts)

        def run(arrays: Arrays) -> Arrays:
            rows = len(arrays[said.inputs[0]])
            parts = [arrays[name].reshape(rows, int(np.prod(arrays[name].shape[1:]))) for name in said.inputs]
            features = np.concatenate(parts, axis=1).astype(np.float64)
            if features.shape[1] != len(coefficients):
                told = f"{len(coefficients)} features, and a row has {features.shape[1]}"
                raise InvalidInput(f"{self.file} has coefficients for {told}")
            found = features @ coefficients + intercepts
            if said.link == "logistic":
                found = _probabilities(found)
            return {"scores": found.astype(np.float32)}

        return run


def _probabilities(values: Array) -> Array:
    if values.shape[1] > 1:
        return softmax(values)
    second = sigmoid(values)
    return np.concatenate([1 - second, second], axis=1)


def _read_stack(path: Path) -> StackFile:
    fix = "It has inputs, coefficients ([classes][features]) and intercepts"
    said = read_record(path, _STACK, _MOST, "stack", "coefficients", fix)
    if not said.inputs or not said.coefficients or len({*map(len, said.coefficients)}) > 1:
        raise LoadFailed(f"stack: {path} has no inputs, or coefficients that differ in length", fix=fix)
    if len(said.intercepts) != len(said.coefficients):
        raise LoadFailed(f"stack: {path} must have an intercept for each row of coefficients", fix=fix)
    return said


class Unsure(Step, frozen=True):
    """Whether a classifier is unsure of a row, for a larger model that runs only then.

    Attributes:
        by: ``confidence``: its greatest score is below the limit; ``margin``: its two greatest are less than
            the limit apart; ``entropy``, from 0 to 1, is above the limit.
        limit: See ``by``.
    """

    inputs: ClassVar = {"scores": "FLOAT[rows, classes]"}
    outputs: ClassVar = {"unsure": "BOOL[rows]"}

    by: Literal["confidence", "margin", "entropy"] = "confidence"
    limit: float = 0.9

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        if not 0 <= self.limit <= 1:
            raise LoadFailed("unsure: `limit` must be from 0 to 1")

        def run(arrays: Arrays) -> Arrays:
            scores = arrays["scores"]
            if scores.shape[1] == 1:
                scores = np.concatenate([1 - scores, scores], axis=1)
            if not scores.shape[1]:
                raise InvalidInput("there are 0 classes, and 1 is wanted")
            # What is not a number is not sure.
            return {"unsure": np.asarray(~self._is_sure(scores.astype(np.float64)))}

        return run

    def _is_sure(self, scores: Array) -> Array:
        if self.by == "confidence":
            return np.asarray(scores.max(axis=1) >= self.limit)
        if self.by == "margin":
            two = np.partition(scores, -2, axis=1)[:, -2:]
            return np.asarray(two[:, 1] - two[:, 0] >= self.limit)
        entropy = -(scores * np.log(np.maximum(scores, _LEAST))).sum(axis=1) / np.log(scores.shape[1])
        return np.asarray(entropy <= self.limit)


class Route(Step, frozen=True):
    """Conditions of branches by the scores of a router, and the share of each branch.

    Attributes:
        branches: Names of the branches, in the order of the scores; each is an output.
        k: How many run on a row, those of the greatest scores.
    """

    inputs: ClassVar = {"scores": "FLOAT[rows, branches]"}
    outputs: ClassVar = {_GATES: "FLOAT[rows, branches]"}

    branches: tuple[str, ...] = ()
    k: int = 1

    def described(self, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        names, count = self.branches, len(self.branches)
        if count < 2 or len({*names, _GATES}) <= count or not all(names):
            raise LoadFailed(
                f"route: `branches` must be two names or more, each another, and none {_GATES!r}"
            )
        if not 1 <= self.k <= count:
            raise LoadFailed(f"route: `k` must be from 1 to {count}")
        shape = f"FLOAT[rows, {count}]"
        return {"scores": shape}, {_GATES: shape, **dict.fromkeys(names, "BOOL[rows]")}

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""

        def run(arrays: Arrays) -> Arrays:
            scores = arrays["scores"]
            best = np.argsort(-scores, axis=1, kind="stable")[:, : self.k]
            taken = np.zeros(scores.shape, bool)
            np.put_along_axis(taken, best, True, axis=1)
            kept = np.where(taken, np.maximum(scores, 0), 0)
            total = kept.sum(axis=1, keepdims=True)
            gates = np.where(total > 0, kept / np.where(total > 0, total, 1), taken / self.k)
            columns = {name: taken[:, index] for index, name in enumerate(self.branches)}
            return {_GATES: gates.astype(scores.dtype), **columns}

        return run


class Fill(Step, frozen=True):
    """Rows of a branch, and a value for all rows on which it did not run.

    Attributes:
        value: The value; texts are empty.
    """

    inputs: ClassVar = {"first": "ANY[rows, ...]"}
    outputs: ClassVar = {"filled": "ANY[rows, ...]"}
    merges: ClassVar = True

    value: float = 0.0

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""

        def run(arrays: Arrays) -> Arrays:
            first = arrays["first"]
            has_first = np.diff(arrays[_OF_FIRST]).astype(bool)
            blank = b"" if first.dtype == object else self.value
            found = np.full((len(has_first), *first.shape[1:]), blank, first.dtype)
            found[has_first] = first
            return {"filled": found}

        return run
