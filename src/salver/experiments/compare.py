"""How far apart are two versions' answers to one question?

Exactly, within a tolerance, by the order of their best classes, or as distributions over many questions.
Pure. Whose answers they are is not known here.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from salver.tensor import Array, DataType, Tensor

How = Literal["exact", "tolerance", "ranking", "distribution"]
_TOP: Final = 10  # of which the order counts
_TENTHS: Final = 10
_BINS: Final = _TENTHS + 2
_FIRST: Final = 1000  # numbers of which the bins are made
_MOST_NUMBERS: Final = 4096  # of one answer that are looked at for its distribution
_Floats = npt.NDArray[np.float64]


class Comparison(msgspec.Struct, frozen=True):
    """How an answer differs from another.

    Attributes:
        distance: 0 = not at all; infinite = they cannot be compared. Of ``exact``: the part of the elements
            that differ; of ``tolerance``: the largest absolute or relative difference (whichever is less) of
            an element; of ``ranking``: the part of the pairs among the best ten that have another order, of
            the row that has most.
        what: The output that differs most, and how; empty = none does.
    """

    agrees: bool
    distance: float = 0.0
    what: str = ""


def compare(how: How, tolerance: float, stable: Sequence[Tensor], canary: Sequence[Tensor]) -> Comparison:
    """Hold one answer against another, output by output.

    ``distribution`` says nothing of single answers: all agree that have the same outputs.

    >>> from salver.tensor import tensor
    >>> one, other = [tensor("y", [1.0, 100.0])], [tensor("y", [1.0, 101.0])]
    >>> compare("tolerance", 0.02, one, other)
    Comparison(agrees=True, distance=0.01, what='')
    >>> compare("exact", 0.02, one, other)
    Comparison(agrees=False, distance=0.5, what="'y' differs by 0.5")
    """
    theirs = {tensor.name: tensor for tensor in canary}
    if missing := [tensor.name for tensor in stable if tensor.name not in theirs]:
        return Comparison(False, np.inf, f"there is no '{missing[0]}'")
    if len(theirs) > len(stable):
        more = theirs.keys() - {tensor.name for tensor in stable}
        return Comparison(False, np.inf, f"there is '{min(more)}', too")
    worst, what = 0.0, ""
    for tensor in stable:
        other = theirs[tensor.name]
        if tensor.shape != other.shape:
            return Comparison(
                False, np.inf, f"'{tensor.name}' is {list(other.shape)}, not {list(tensor.shape)}"
            )
        if how == "exact" and tensor.datatype is not other.datatype:
            kinds = f"{other.datatype.value}, not {tensor.datatype.value}"
            return Comparison(False, np.inf, f"'{tensor.name}' is {kinds}")
        distance = _distance(how, tensor, other)
        if distance > worst:
            worst, what = distance, f"'{tensor.name}' differs by {distance:.3g}"
    agrees = worst == 0 if how == "exact" else worst <= tolerance
    return Comparison(agrees, worst, "" if agrees else what)


def _distance(how: How, tensor: Tensor, other: Tensor) -> float:
    one, two = numbers(tensor), numbers(other)
    if how == "distribution" or not tensor.array.size:
        return 0.0
    if one is None or two is None or how == "exact":
        return float(np.mean(_unequal(tensor.array, other.array)))
    if how == "ranking" and tensor.array.ndim:
        return max(map(_kendall, one.reshape(-1, one.shape[-1]), two.reshape(-1, two.shape[-1])))
    same = (one == two) | (np.isnan(one) & np.isnan(two))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        off = np.abs(one - two)
        near = np.fmin(off, off / np.abs(one))
    near[~np.isfinite(near)] = np.inf
    return float(np.max(np.where(same, 0.0, near)))


def _unequal(one: Array, two: Array) -> npt.NDArray[np.bool_]:
    both_nan = (one != one) & (two != two)
    unequal: npt.NDArray[np.bool_] = np.asarray((one != two) & ~both_nan, np.bool_)
    return unequal


def _kendall(one: _Floats, two: _Floats) -> float:
    """Part of the pairs of classes that have another order; Kendall 1938, of the best ones of either."""
    if len(one) > 2 * _TOP:
        best = np.unique([np.argsort(-row, kind="stable")[:_TOP] for row in (one, two)])
        one, two = one[best], two[best]
    first, second = np.triu_indices(len(one), 1)
    if not len(first):
        return 0.0
    orders = np.sign(one[first] - one[second]) - np.sign(two[first] - two[second])
    return float(np.mean(np.abs(orders)) / 2)


def numbers(tensor: Tensor) -> _Floats | None:
    """The values of a tensor; None = they are no numbers."""
    if tensor.datatype is DataType.BYTES:
        return None
    array = tensor.array
    if tensor.datatype is DataType.BF16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float64)


class Distributions:
    """Counts of the numbers of two versions' answers, in bins of a tenth of the stable version's first ones.

    What is less, more or not finite has bins of its own. All outputs of numbers are counted together.
    """

    def __init__(self) -> None:
        self._first: list[tuple[_Floats, _Floats]] = []
        self._held = 0
        self._edges: _Floats | None = None
        self._counts = np.zeros((2, _BINS + 1), np.int64)

    def __repr__(self) -> str:
        return f"<Distributions, {self.shift:.3g} apart>"

    def add(self, stable: Sequence[Tensor], canary: Sequence[Tensor]) -> None:
        """One question's answers."""
        pair = _flat(stable), _flat(canary)
        if self._edges is not None:
            self._count(pair)
            return
        self._first.append(pair)
        self._held += max(1, len(pair[0]))
        if self._held >= _FIRST:
            self._freeze()

    @property
    def counts(self) -> Mapping[str, list[int]]:
        """By version, in the bins; all zero before there are a thousand numbers."""
        return {"stable": self._counts[0].tolist(), "canary": self._counts[1].tolist()}

    @property
    def shift(self) -> float:
        """Total variation between the two, from 0 to 1: the part of the answers that lies elsewhere."""
        totals = self._counts.sum(axis=1, keepdims=True)
        if not totals.all():
            return 0.0
        return float(np.abs(np.diff(self._counts / totals, axis=0)).sum() / 2)

    def _freeze(self) -> None:
        values = np.concatenate([stable for stable, _ in self._first])
        values = values[np.isfinite(values)]
        values = values if len(values) else np.zeros(1)
        self._edges = np.quantile(values, np.linspace(0, 1, _TENTHS + 1))
        self._edges[-1] = np.nextafter(self._edges[-1], np.inf)
        for pair in self._first:
            self._count(pair)
        self._first.clear()

    def _count(self, pair: tuple[_Floats, _Floats]) -> None:
        assert self._edges is not None
        for counts, values in zip(self._counts, pair, strict=True):
            is_finite = np.isfinite(values)
            bins = np.searchsorted(self._edges, values[is_finite], side="right")
            counts[:_BINS] += np.bincount(bins, minlength=_BINS)
            counts[_BINS] += int((~is_finite).sum())


def _flat(outputs: Sequence[Tensor]) -> _Floats:
    found: list[Any] = [values.ravel() for tensor in outputs if (values := numbers(tensor)) is not None]
    return np.concatenate(found)[:_MOST_NUMBERS] if found else np.zeros(0)
