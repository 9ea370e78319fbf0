"""Checks of a version's outputs against bounds and bins.

Bins are quantiles of the first answers of the stable version, so that each holds about as many of its
numbers; for texts, the most frequent ones, and one bin for all others. It stores no answer and knows no
request.
"""

import hashlib
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from salver.features.releases.experiments.answers import read, strung
from salver.words.events import Responded
from salver.words.handlers import BODY
from salver.words.releases import UNSEEN
from salver.words.tensor import DataType, Tensor

#: Maximum numbers of one output that are checked.
MOST_NUMBERS: Final = 65_536
#: Maximum length of a row that is aggregated; wider ones are skipped.
_MOST_WIDE: Final = 1 << 20
#: Maximum distinct texts of one output, and bytes of each.
_MOST_TEXTS, _MOST_TEXT_BYTES = 64, 65_536
#: Numbers per bin from which bounds are computed, and the minimum number of answers.
_NUMBERS_A_BIN, _LEAST_ANSWERS = 50, 50
_MOST_OF_AN_ANSWER: Final = 16

_BF16, _TEXT = DataType.BF16, DataType.BYTES
#: Tuple with the usual case first: comparing or hashing enum members is slow.
_FLOATING: Final = (DataType.FP32, DataType.FP64, DataType.FP16, _BF16)
_Numbers = npt.NDArray[Any]
_NONE: Final[_Numbers] = np.empty(0)


class OutputCheck(msgspec.Struct, frozen=True):
    """Check for one metric.

    Attributes:
        kind: ``bounds``: numbers outside ``least`` to ``most``, or not finite, are events. ``bins``: numbers
            are counted by bin.
        output: Name of the output; empty = all floating-point outputs.
        take: Aggregate of each row (the first axis) over its other axes. ``length``: bytes of each text; for
            other outputs the number of rows.
        bins: Number of bins.
        bounds: Inner bounds of the bins, ascending; for texts, the codes of those with bins of their own;
            empty = not known yet.
    """

    metric: str
    kind: Literal["bounds", "bins"]
    output: str = ""
    take: Literal["each", "first", "last", "sum", "mean", "max", "argmax", "length"] = "each"
    least: float | None = None
    most: float | None = None
    bins: int = 10
    bounds: tuple[float, ...] = ()


class Watch:
    """Checks of one release."""

    def __init__(self) -> None:
        self.checks: tuple[OutputCheck, ...] = ()
        self._samples: dict[str, list[float]] = {}
        self._answers: dict[str, int] = {}
        self._of_texts: set[str] = set()

    def __repr__(self) -> str:
        return f"<Watch of {', '.join(check.metric for check in self.checks) or 'nothing'}>"

    def are_fine(self, answers: Sequence[Responded]) -> bool:
        """Return whether small answers pass all checks together; False = check each. Saves time."""
        if not all(
            check.kind == "bounds" and check.take == "each" and not check.output.startswith(BODY)
            for check in self.checks
        ):
            return False
        outputs: list[Tensor] = []
        for answer in answers:
            if answer.outputs is None:
                return False
            outputs += answer.outputs
        if sum([output.array.size for output in outputs]) > MOST_NUMBERS:
            return False
        for name in [check.output for check in self.checks if check.output]:
            for answer in answers:  # present in each answer, as numbers of one type
                named = [output.datatype for output in answer.outputs or () if output.name == name]
                if not named or _TEXT in named or named.count(named[0]) < len(named):
                    return False
        return not any(_are_beyond(check, _all_numbers(check, outputs)) for check in self.checks)

    def happened(self, answer: Responded, *, is_control: bool) -> list[str]:
        """Return the names of the metrics that count an answer.

        Args:
            is_control: It is an answer of the stable version.
        """
        if answer.outputs is None:
            return [check.metric + UNSEEN for check in self.checks]
        outputs, found = answer.outputs, []
        if len(outputs) > 1:
            outputs = strung(outputs)
        if any(check.output.startswith(BODY) for check in self.checks):
            outputs = read(outputs)
        for check in self.checks:
            if check.output and not any(_holds(check, output) for output in outputs):
                # An output that is missing or not numeric breaks a rule about its numbers.
                is_broken = check.kind == "bounds" and not answer.are_chosen
                found.append(check.metric if is_broken else check.metric + UNSEEN)
            elif any(_is_meant(check, output) and _is_wide(check, output) for output in outputs):
                found.append(check.metric + UNSEEN)
            elif check.kind == "bounds":
                if is_beyond(check, outputs):
                    found.append(check.metric)
            elif check.bounds:
                found += [f"{check.metric}.{place}" for place in places(check, outputs)]
            elif is_control:
                self._learn(check, outputs)
        return found

    def counted(self) -> tuple[list[str], list[str]]:
        """Return the metrics that it counts: of bounds, and of bins, of which each answer has one."""
        bounds = [check.metric for check in self.checks if check.kind == "bounds"]
        bins = [
            f"{check.metric}.{place}"
            for check in self.checks
            if check.kind == "bins" and check.bounds
            for place in range(check.bins)
        ]
        return bounds, bins

    def bounds(self) -> Mapping[str, tuple[float, ...]]:
        """Return the bounds of bins, by metric, if enough answers were seen."""
        found = {}
        for check in self.checks:
            sample = self._samples.get(check.metric, [])
            is_enough = self._answers.get(check.metric, 0) >= _LEAST_ANSWERS
            if not check.bounds and is_enough and len(sample) >= _NUMBERS_A_BIN * check.bins:
                found[check.metric] = self._bounds(check, sample)
                del self._samples[check.metric]
        return found

    def _bounds(self, check: OutputCheck, sample: Sequence[float]) -> tuple[float, ...]:
        if check.metric in self._of_texts:
            return tuple([code for code, _ in Counter(sample).most_common(check.bins - 1)])
        halves = np.array(sample) / 2  # avoids overflow of differences
        return tuple((2 * np.quantile(halves, np.arange(1, check.bins) / check.bins)).tolist())

    def _learn(self, check: OutputCheck, outputs: Sequence[Tensor]) -> None:
        sample = self._samples.setdefault(check.metric, [])
        numbers = _finite(_numbers(check, outputs))
        if len(numbers) and len(sample) < 4 * _NUMBERS_A_BIN * check.bins:
            step = -(-len(numbers) // _MOST_OF_AN_ANSWER)
            sample += numbers[::step].astype(np.float64).tolist()
            self._answers[check.metric] = self._answers.get(check.metric, 0) + 1
            if any(_is_meant(check, output) and _is_coded(check, output) for output in outputs):
                self._of_texts.add(check.metric)


def is_beyond(check: OutputCheck, outputs: Sequence[Tensor]) -> bool:
    """Return whether a number is outside the bounds or not finite. False without numbers.

    >>> from salver.words.tensor import tensor
    >>> sums_to_one = OutputCheck("sum", "bounds", "p", "sum", least=0.99, most=1.01)
    >>> [is_beyond(sums_to_one, [tensor("p", p)]) for p in ([[0.2, 0.8]], [[0.2, 0.9]], [[1, math.nan]])]
    [False, True, True]
    """
    return _are_beyond(check, _numbers(check, outputs))


def _are_beyond(check: OutputCheck, numbers: _Numbers) -> bool:
    if not len(numbers):
        return False
    lowest, highest = float(numbers.min()), float(numbers.max())  # NaN if there is one
    least, most = -math.inf, math.inf
    if check.least is not None:
        least = check.least
    if check.most is not None:
        most = check.most
    return not (least <= lowest and highest <= most and math.isfinite(lowest) and math.isfinite(highest))


def places(check: OutputCheck, outputs: Sequence[Tensor]) -> list[int]:
    """Return the bins, from 0, that the finite numbers or texts of an answer fall into, without duplicates.

    >>> from salver.words.tensor import tensor
    >>> places(OutputCheck("s", "bins", bins=3, bounds=(0.0, 1.0)), [tensor("p", [-5.0, 1.0, 9.0])])
    [0, 2]
    >>> animals = OutputCheck("s", "bins", "t", bins=3, bounds=(code(b"cat"), code(b"dog")))
    >>> places(animals, [tensor("t", [b"dog", b"yak"])])
    [1, 2]
    """
    numbers = _finite(_numbers(check, outputs))
    if any(_is_meant(check, output) and _is_coded(check, output) for output in outputs):
        known = {bound: place for place, bound in enumerate(check.bounds)}
        return sorted({known.get(number, len(known)) for number in numbers.tolist()})
    if len(numbers) == 1:
        return [bisect_right(check.bounds, float(numbers[0]))]
    return sorted(set(np.searchsorted(check.bounds, numbers, side="right").tolist()))


def code(text: bytes) -> float:
    """Return a text as an integer below 2^48; for a long one, from its beginning and length."""
    said = text if len(text) <= _MOST_TEXT_BYTES else text[:_MOST_TEXT_BYTES] + b"%d" % len(text)
    return float(int.from_bytes(hashlib.blake2b(said, digest_size=6).digest()))


def _is_meant(check: OutputCheck, tensor: Tensor) -> bool:
    if check.output:
        return tensor.name == check.output
    return tensor.datatype in _FLOATING


def _is_coded(check: OutputCheck, tensor: Tensor) -> bool:
    """Return whether each of its texts is a category."""
    return tensor.datatype is DataType.BYTES and check.take in _OF_TEXTS


def _holds(check: OutputCheck, tensor: Tensor) -> bool:
    """Return whether a tensor is checked and has a suitable type."""
    if not _is_meant(check, tensor):
        return False
    is_text = tensor.datatype is DataType.BYTES
    return check.take == "length" or not is_text or (check.kind == "bins" and check.take in _OF_TEXTS)


def _is_wide(check: OutputCheck, tensor: Tensor) -> bool:
    """Return whether a row is too wide to aggregate without delaying other work."""
    is_summed = check.take in ("sum", "mean", "max", "argmax") and tensor.datatype is not DataType.BYTES
    return is_summed and tensor.array.size > _MOST_WIDE * max(1, len(_rows(tensor.array)))


def _numbers(check: OutputCheck, outputs: Sequence[Tensor]) -> _Numbers:
    """Return the numbers of the checked outputs in one row."""
    found = [_taken(tensor, check.take) for tensor in outputs if _is_wanted(check, tensor)]
    if not found:
        return _NONE
    if len(found) == 1:
        return found[0]
    return np.concatenate(found)


def _all_numbers(check: OutputCheck, outputs: Sequence[Tensor]) -> _Numbers:
    """Return the numbers of very many small outputs, each as by :func:`_numbers`."""
    found = [
        tensor.array if tensor.datatype is not _BF16 else _floating(tensor)
        for tensor in outputs
        if (tensor.name == check.output if check.output else tensor.datatype in _FLOATING)
    ]
    if not found:
        return _NONE
    dtypes = {array.dtype for array in found}
    if len(dtypes) > 1:  # bytes of different types cannot be joined
        return np.concatenate(found, axis=None)
    return np.frombuffer(b"".join([array.tobytes() for array in found]), dtypes.pop())  # takes half the time


def _is_wanted(check: OutputCheck, tensor: Tensor) -> bool:
    return _is_meant(check, tensor) and (tensor.array.size > 0 or check.take == "length")


def _floating(tensor: Tensor) -> _Numbers:
    if tensor.datatype is _BF16:
        return (tensor.array.astype(np.uint32) << 16).view(np.float32)
    return tensor.array


def _taken(tensor: Tensor, take: str) -> _Numbers:
    if tensor.datatype is DataType.BYTES:
        return _of_texts(tensor.array, take)
    if take == "length":
        return np.array([len(tensor.array) if tensor.array.ndim else 1])
    array = _floating(tensor)
    if take == "each":
        return array.ravel()[:MOST_NUMBERS]
    rows = _rows(array)
    rows = rows[: max(1, MOST_NUMBERS // rows.shape[1])]  # bounded by numbers, not by rows
    return _OF_ROWS[take](rows)


def _of_texts(array: _Numbers, take: str) -> _Numbers:
    if take == "length":
        return np.array([len(text) for text in array.ravel()[:MOST_NUMBERS].tolist()])
    if take not in _OF_TEXTS:
        return _NONE
    some = array.ravel() if take == "each" else _OF_ROWS[take](_rows(array))
    return np.array([code(text) for text in some[:_MOST_TEXTS].tolist()])


def _rows(array: _Numbers) -> _Numbers:
    if array.size:
        return array.reshape(len(array) if array.ndim else 1, -1)
    return array.reshape(0, 1)


_OF_TEXTS: Final = ("each", "first", "last")
_OF_ROWS: Final[Mapping[str, Callable[[_Numbers], _Numbers]]] = {
    "first": lambda rows: rows[:, 0],
    "last": lambda rows: rows[:, -1],
    "sum": lambda rows: rows.sum(axis=1, dtype=np.float64),
    "mean": lambda rows: rows.mean(axis=1, dtype=np.float64),
    "max": lambda rows: rows.max(axis=1),
    "argmax": lambda rows: rows.argmax(axis=1),
}


def _finite(numbers: _Numbers) -> _Numbers:
    return numbers[np.isfinite(numbers)]
