"""Is there something about the answers of a version that its owner forbids, or wants to be told?

Numbers of outputs against bounds and bins. The bins are quantiles of what the stable version answered first,
so that about as many of its numbers lie in each; of texts, those that it answered most often, and all others
together. It keeps no answer, and knows no request.
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

#: Numbers of one output that are looked at; what lies behind is not.
MOST_NUMBERS: Final = 65_536
#: Of a row that is summed up; one that is wider is not looked at.
_MOST_WIDE: Final = 1 << 20
#: Texts of one output, and bytes of each, that are told apart.
_MOST_TEXTS, _MOST_TEXT_BYTES = 64, 65_536
#: Numbers in each bin that its bounds are made of, and answers that give them at least.
_NUMBERS_A_BIN, _LEAST_ANSWERS = 50, 50
_MOST_OF_AN_ANSWER: Final = 16

_BF16, _TEXT = DataType.BF16, DataType.BYTES
#: The usual one first, and no set, as to compare members of an enum, or hash them, takes time.
_FLOATING: Final = (DataType.FP32, DataType.FP64, DataType.FP16, _BF16)
_Numbers = npt.NDArray[Any]
_NONE: Final[_Numbers] = np.empty(0)


class OutputCheck(msgspec.Struct, frozen=True):
    """What is looked at for one metric.

    Attributes:
        kind: ``bounds``: numbers beyond ``least`` and ``most``, or not finite, are events. ``bins``: in
            which bin numbers fall.
        output: Its name; empty = each that holds floating numbers.
        take: What of each row (the first axis), over all its other axes. ``length``: bytes of each text; of
            other outputs how many rows they have.
        bins: How many.
        bounds: Of bins, the inner ones, ascending; of texts, the codes of those that have bins of their own;
            none = they are not known yet.
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
    """The checks of one release."""

    def __init__(self) -> None:
        self.checks: tuple[OutputCheck, ...] = ()
        self._samples: dict[str, list[float]] = {}
        self._answers: dict[str, int] = {}
        self._of_texts: set[str] = set()

    def __repr__(self) -> str:
        return f"<Watch of {', '.join(check.metric for check in self.checks) or 'nothing'}>"

    def are_fine(self, answers: Sequence[Responded]) -> bool:
        """Is there nothing to tell of any of these? Looking at small ones together takes a third of the time;
        False = look at each.
        """
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
            for answer in answers:  # it is there, in numbers of one type, in each
                named = [output.datatype for output in answer.outputs or () if output.name == name]
                if not named or _TEXT in named or named.count(named[0]) < len(named):
                    return False
        return not any(_are_beyond(check, _all_numbers(check, outputs)) for check in self.checks)

    def happened(self, answer: Responded, *, is_control: bool) -> list[str]:
        """Names of what an answer counts for.

        Args:
            is_control: It is the stable version's.
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
                # What was promised and is not there, or holds no numbers, breaks a rule on its numbers.
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

    def is_bin(self, metric: str) -> bool:
        """It counts into which bin answers fall, so that it happens in each."""
        return metric.rpartition(".")[0] in {check.metric for check in self.checks if check.kind == "bins"}

    def bounds(self) -> Mapping[str, tuple[float, ...]]:
        """Of the bins, by metric, where enough was seen to tell them."""
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
        halves = np.array(sample) / 2  # of which no difference overflows
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
    """Is a number beyond the bounds, or not finite? Nothing is not.

    >>> from salver.words.tensor import tensor
    >>> sums_to_one = OutputCheck("sum", "bounds", "p", "sum", least=0.99, most=1.01)
    >>> [is_beyond(sums_to_one, [tensor("p", p)]) for p in ([[0.2, 0.8]], [[0.2, 0.9]], [[1, math.nan]])]
    [False, True, True]
    """
    return _are_beyond(check, _numbers(check, outputs))


def _are_beyond(check: OutputCheck, numbers: _Numbers) -> bool:
    if not len(numbers):
        return False
    lowest, highest = float(numbers.min()), float(numbers.max())  # NaN where there is one
    least = -math.inf if check.least is None else check.least
    most = math.inf if check.most is None else check.most
    return not (least <= lowest and highest <= most and math.isfinite(lowest) and math.isfinite(highest))


def places(check: OutputCheck, outputs: Sequence[Tensor]) -> list[int]:
    """The bins, from 0 on, in which finite numbers or the texts of an answer lie; each once.

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
    """A text as a whole number below 2^48; of a long one, its beginning and its length."""
    said = text if len(text) <= _MOST_TEXT_BYTES else text[:_MOST_TEXT_BYTES] + b"%d" % len(text)
    return float(int.from_bytes(hashlib.blake2b(said, digest_size=6).digest()))


def _is_meant(check: OutputCheck, tensor: Tensor) -> bool:
    return tensor.name == check.output if check.output else tensor.datatype in _FLOATING


def _is_coded(check: OutputCheck, tensor: Tensor) -> bool:
    """Is each of its texts a category?"""
    return tensor.datatype is DataType.BYTES and check.take in _OF_TEXTS


def _holds(check: OutputCheck, tensor: Tensor) -> bool:
    """Is it one that is looked at, and holds what can be?"""
    if not _is_meant(check, tensor):
        return False
    is_text = tensor.datatype is DataType.BYTES
    return check.take == "length" or not is_text or (check.kind == "bins" and check.take in _OF_TEXTS)


def _is_wide(check: OutputCheck, tensor: Tensor) -> bool:
    """Does a row hold so many numbers that summing it up would keep others waiting?"""
    is_summed = check.take in ("sum", "mean", "max", "argmax") and tensor.datatype is not DataType.BYTES
    return is_summed and tensor.array.size > _MOST_WIDE * max(1, len(_rows(tensor.array)))


def _numbers(check: OutputCheck, outputs: Sequence[Tensor]) -> _Numbers:
    """Of the outputs that are looked at, in one row."""
    found = [_taken(tensor, check.take) for tensor in outputs if _is_wanted(check, tensor)]
    if not found:
        return _NONE
    return found[0] if len(found) == 1 else np.concatenate(found)


def _all_numbers(check: OutputCheck, outputs: Sequence[Tensor]) -> _Numbers:
    """As :func:`_numbers`, each of them, of very many small outputs."""
    found = [
        tensor.array if tensor.datatype is not _BF16 else _floating(tensor)
        for tensor in outputs
        if (tensor.name == check.output if check.output else tensor.datatype in _FLOATING)
    ]
    if not found:
        return _NONE
    dtypes = {array.dtype for array in found}
    if len(dtypes) > 1:
        return np.concatenate(found, axis=None)
    return np.frombuffer(b"".join([array.tobytes() for array in found]), dtypes.pop())  # in half the time


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
    rows = rows[: max(1, MOST_NUMBERS // rows.shape[1])]
    return _OF_ROWS[take](rows)


def _of_texts(array: _Numbers, take: str) -> _Numbers:
    if take == "length":
        return np.array([len(text) for text in array.ravel()[:MOST_NUMBERS].tolist()])
    if take not in _OF_TEXTS:
        return _NONE
    some = array.ravel() if take == "each" else _OF_ROWS[take](_rows(array))
    return np.array([code(text) for text in some[:_MOST_TEXTS].tolist()])


def _rows(array: _Numbers) -> _Numbers:
    return array.reshape(len(array) if array.ndim else 1, -1) if array.size else array.reshape(0, 1)


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
