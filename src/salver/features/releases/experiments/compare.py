"""Comparison of two versions' answers to one request.

Exact, within a tolerance, by the ranking of the best classes, by common prefix or length, or as distributions
over many requests. Only the beginning of very large answers is compared. Pure; it does not know which
versions they are.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from salver.words.tensor import Array, DataType, Tensor

How = Literal["exact", "tolerance", "ranking", "prefix", "length", "distribution"]
#: Maximum elements of a tensor, and bytes of a text, that are compared.
MOST_ELEMENTS: Final = 1 << 20
_MOST_ROWS: Final = 4096  # maximum number of classes in a ranking
_TOP: Final = 10  # best classes whose order counts
_TENTHS: Final = 10
_BINS: Final = _TENTHS + 2
_FIRST: Final = 1000  # numbers from which bins are computed
_MOST_NUMBERS: Final = 4096  # numbers of one answer used for its distribution
_Floats = npt.NDArray[np.float64]


class Comparison(msgspec.Struct, frozen=True):
    """Difference between two answers.

    Attributes:
        distance: 0 = equal; infinite = not comparable. ``exact``: fraction of elements that differ;
            ``tolerance``: largest absolute or relative difference (whichever is less) of an element;
            ``ranking``: fraction of pairs among the best ten in a different order, for the worst row;
            ``prefix``: fraction after the first difference, for the worst element; ``length``: relative
            difference in length.
        what: The output that differs most, and how; empty = none.
        notes: Remarks: different datatypes, or only the beginning compared.
    """

    agrees: bool
    distance: float = 0.0
    what: str = ""
    notes: tuple[str, ...] = ()


def compare(how: How, tolerance: float, stable: Sequence[Tensor], canary: Sequence[Tensor]) -> Comparison:
    """Compare an answer with another, output by output.

    ``distribution`` does not judge single answers: those with the same outputs agree.

    >>> from salver.words.tensor import tensor
    >>> one, other = [tensor("y", [1.0, 100.0])], [tensor("y", [1.0, 101.0])]
    >>> compare("tolerance", 0.02, one, other)
    Comparison(agrees=True, distance=0.01, what='', notes=())
    >>> compare("exact", 0.02, one, other)
    Comparison(agrees=False, distance=0.5, what="'y' differs by 0.5", notes=())
    >>> compare("prefix", 0.5, [tensor("t", [b"a red fox"])], [tensor("t", [b"a red hen"])])
    Comparison(agrees=True, distance=0.33333333333333337, what='', notes=())
    """
    theirs = {tensor.name: tensor for tensor in canary}
    if missing := [tensor.name for tensor in stable if tensor.name not in theirs]:
        return _unlike(f"there is no '{missing[0]}'")
    if len(theirs) > len(stable):
        more = theirs.keys() - {tensor.name for tensor in stable}
        return _unlike(f"there is '{min(more)}', too")
    worst, what, notes = 0.0, "", []
    for tensor in stable:
        other = theirs[tensor.name]
        if odd := _oddity(how, tensor, other):
            return _unlike(odd)
        if tensor.datatype is not other.datatype:
            notes.append(_types(tensor, other))
        if tensor.array.size > MOST_ELEMENTS:
            notes.append(f"of '{tensor.name}' the first {MOST_ELEMENTS} elements were looked at")
        distance = _distance(how, tensor, other)
        if distance > worst:
            worst, what = distance, f"'{tensor.name}' differs by {distance:.3g}"
    agrees = worst == 0 if how == "exact" else worst <= tolerance
    return Comparison(agrees, worst, "" if agrees else what, tuple(notes))


def _unlike(what: str) -> Comparison:
    return Comparison(False, np.inf, what)


def _oddity(how: How, tensor: Tensor, other: Tensor) -> str:
    """Return why two outputs cannot be compared; empty = they can."""
    is_text = tensor.datatype is DataType.BYTES
    if (tensor.datatype is not other.datatype and how == "exact") or (
        other.datatype is DataType.BYTES
    ) != is_text:
        return _types(tensor, other)
    mine, theirs = tensor.shape, other.shape
    if how in ("prefix", "length") and not is_text:  # these compare the number of rows
        mine, theirs = mine[1:], theirs[1:]
    if len(tensor.shape) != len(other.shape) or mine != theirs:
        return f"'{tensor.name}' is {list(other.shape)}, not {list(tensor.shape)}"
    return ""


def _types(tensor: Tensor, other: Tensor) -> str:
    return f"'{tensor.name}' is {other.datatype.value}, not {tensor.datatype.value}"


def _distance(how: How, tensor: Tensor, other: Tensor) -> float:
    if how == "distribution" or not tensor.array.size + other.array.size:
        return 0.0
    if how in ("prefix", "length"):
        return _of_sequences(how, tensor, other)
    one, two = numbers(tensor), numbers(other)
    if one is None or two is None or how == "exact":
        return float(np.mean(_unequal(_beginning(tensor), _beginning(other))))
    if how == "ranking" and tensor.array.ndim:
        width = tensor.shape[-1]
        rows = slice(min(_MOST_ROWS, max(1, MOST_ELEMENTS // width)))
        both = (
            (each.array.reshape(-1, width)[rows, :MOST_ELEMENTS], each.datatype) for each in (tensor, other)
        )
        return max(map(_kendall, *itertools.starmap(_values, both)))
    same = (one == two) | (np.isnan(one) & np.isnan(two))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        off = np.abs(one - two)
        near = np.fmin(off, off / np.abs(one))
    near[~np.isfinite(near)] = np.inf
    return float(np.max(np.where(same, 0.0, near)))


def _of_sequences(how: How, tensor: Tensor, other: Tensor) -> float:
    """Compare texts element by element, and other tensors as one sequence of rows."""
    if tensor.datatype is DataType.BYTES:
        pairs = zip(_beginning(tensor).tolist(), _beginning(other).tolist(), strict=True)
        return max((_apart(how, len(a), len(b), _texts, a, b) for a, b in pairs), default=0.0)
    one, two = tensor.array, other.array
    lengths = (len(one), len(two)) if one.ndim else (1, 1)
    return _apart(how, *lengths, _rows, one, two)


def _apart(how: How, one: int, two: int, alike: Any, *pair: Any) -> float:
    longest = max(one, two)
    if not longest:
        return 0.0
    shortest = min(one, two) if how == "length" else min(alike(*pair), one, two)
    return 1 - shortest / longest


def _texts(one: bytes, two: bytes) -> int:
    """Return the number of bytes in the common prefix."""
    size = min(len(one), len(two))
    if one[:size] == two[:size]:
        return size
    bits = [np.frombuffer(text, np.uint8, min(size, MOST_ELEMENTS)) for text in (one, two)]
    return _first(bits[0] != bits[1])


def _rows(one: Array, two: Array) -> int:
    """Return the number of rows in the common prefix."""
    if not one.ndim:
        return int(not _unequal(one, two).any())
    size = min(len(one), len(two), max(1, MOST_ELEMENTS * len(one) // max(1, one.size)))
    differs = _unequal(one[:size], two[:size]).reshape(size, -1) if size else np.zeros((0, 1), np.bool_)
    alike = _first(np.asarray(differs.any(axis=1), np.bool_))
    if alike < size:
        return alike
    return min(len(one), len(two))


def _first(differs: npt.NDArray[np.bool_]) -> int:
    if differs.any():
        return int(differs.argmax())
    return len(differs)


def _unequal(one: Array, two: Array) -> npt.NDArray[np.bool_]:
    both_nan = (one != one) & (two != two)
    unequal: npt.NDArray[np.bool_] = np.asarray((one != two) & ~both_nan, np.bool_)
    return unequal


def _kendall(one: _Floats, two: _Floats) -> float:
    """Return the fraction of pairs of the best ten classes in a different order (Kendall 1938).

    NaN has no order.
    """
    if len(one) > 2 * _TOP:
        best = np.unique([np.argsort(-row, kind="stable")[:_TOP] for row in (one, two)])
        one, two = one[best], two[best]
    first, second = np.triu_indices(len(one), 1)
    if not len(first):
        return 0.0
    orders = [
        np.subtract(row[first] > row[second], row[first] < row[second], dtype=np.int8) for row in (one, two)
    ]
    return float(np.mean(np.abs(orders[0] - orders[1])) / 2)


def numbers(tensor: Tensor) -> _Floats | None:
    """Return the compared values of a tensor in one row; None = not numeric."""
    if tensor.datatype is DataType.BYTES:
        return None
    return _values(_beginning(tensor), tensor.datatype)


def _beginning(tensor: Tensor, most: int = MOST_ELEMENTS) -> Array:
    return tensor.array.ravel()[:most]


def _values(array: Array, datatype: DataType) -> _Floats:
    if datatype is DataType.BF16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float64)


class Distributions:
    """Counts of the numbers in two versions' answers, in bins of a tenth of the stable version's first ones.

    Smaller, larger and non-finite numbers have bins of their own. For texts their lengths are counted. All
    outputs are counted together.
    """

    def __init__(self) -> None:
        self._first: list[tuple[_Floats, _Floats]] = []
        self._held = 0
        self._edges: _Floats | None = None
        self._counts = np.zeros((2, _BINS + 1), np.int64)

    def __repr__(self) -> str:
        return f"<Distributions, {self.shift:.3g} apart>"

    def add(self, stable: Sequence[Tensor], canary: Sequence[Tensor]) -> None:
        """Add the answers to one request."""
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
        """Return the counts by version; all zero before there are a thousand numbers."""
        return {"stable": self._counts[0].tolist(), "canary": self._counts[1].tolist()}

    @property
    def shift(self) -> float:
        """Return the total variation distance between the two, 0 to 1."""
        totals = self._counts.sum(axis=1, keepdims=True)
        if not totals.all():
            return 0.0
        return float(np.abs(np.diff(self._counts / totals, axis=0)).sum() / 2)

    def _freeze(self) -> None:
        values = np.concatenate([stable for stable, _ in self._first])
        values = values[np.isfinite(values)]
        values = values if len(values) else np.zeros(1)
        # avoids overflow of differences
        self._edges = 2 * np.quantile(values / 2, np.linspace(0, 1, _TENTHS + 1))
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
    """Return numbers, and the lengths of texts, in one row."""
    found: list[Any] = []
    for tensor in outputs:
        some = _beginning(tensor, _MOST_NUMBERS)
        is_text = tensor.datatype is DataType.BYTES
        found.append(
            np.array([len(text) for text in some], float) if is_text else _values(some, tensor.datatype)
        )
    if found:
        return np.concatenate(found)[:_MOST_NUMBERS]
    return np.zeros(0)
