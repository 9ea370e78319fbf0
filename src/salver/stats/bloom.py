"""Bloom filter: a set of millions of items in a few megabytes.

(Bloom 1970.) Added items are always recognised; others are reported as known with a small probability that
depends only on their hash. It knows no units and no arms. All bits of one item lie in one cache line (Putze,
Sanders and Singler 2007), because fetching lines dominates the cost.
"""

import math

import numpy as np
import numpy.typing as npt

from salver.words.errors import InvalidInput

_Hashes = npt.NDArray[np.uint64]
_HALF = np.uint64(32)
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))
_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_LINE_BYTES = 64
_LINE_BITS = 8 * _LINE_BYTES


class Bloom:
    """Growing set of fixed size in memory.

    Memory is allocated by the system as bits are set.

    Args:
        capacity: Number of items up to which the error below holds.
        error: Probability at capacity that an item never added is reported as known, in (0, 1).

    Raises:
        InvalidInput: It would be larger than half a gigabyte.

    >>> bloom = Bloom(1000, 0.01)
    >>> hashes = np.array([3, 4], dtype=np.uint64)
    >>> bloom.add(hashes).tolist(), bloom.add(hashes).tolist(), len(bloom)
    ([True, True], [False, False], 2)
    """

    def __init__(self, capacity: int, error: float) -> None:
        self._probes = max(1, round(math.log2(1 / error)))
        lines = math.ceil(capacity * _bits_each(self._probes, error) / _LINE_BITS)
        if not lines * _LINE_BITS < 1 << 32:
            raise InvalidInput(
                f"{capacity} units with an error of {error} need {lines * _LINE_BITS} bits",
                fix="Tell fewer units apart, or allow a larger error.",
            )
        self.capacity = capacity
        self.error = error
        self._lines = np.uint64(lines)
        taken = np.zeros((lines + 1) * _LINE_BYTES, np.uint8)
        begin = -taken.ctypes.data % _LINE_BYTES
        self._bits = taken[begin : begin + lines * _LINE_BYTES]
        self._odd = _mixed(np.arange(self._probes, dtype=np.uint64))[:, None] | np.uint64(1)
        self._added = 0

    def __repr__(self) -> str:
        return f"<Bloom of {self._added}, for {self.capacity}, {self.bytes} bytes>"

    def __len__(self) -> int:
        """Return how many items were new when they were added."""
        return self._added

    @property
    def bytes(self) -> int:
        """Return the maximum memory in bytes."""
        return self._bits.nbytes

    def add(self, hashes: _Hashes) -> npt.NDArray[np.bool_]:
        """Add items; return a mask of those that were new.

        Args:
            hashes: Uniform 64-bit hashes of distinct items, shape ``(n,)``.

        Returns:
            Shape ``(n,)``.
        """
        # The line is chosen by the upper half, scaled by a multiplication (Lemire 2019), positions in it by
        # multiply-shift (Dietzfelbinger et al. 1997).
        line = ((_mixed(hashes) >> _HALF) * self._lines >> _HALF) * np.uint64(_LINE_BYTES)
        places = (_mixed(~hashes) * self._odd) >> np.uint64(64 - 9)
        at = (line + (places >> np.uint64(3))).astype(np.int64).ravel()
        masks = np.left_shift(np.uint8(1), (places & np.uint64(7)).astype(np.uint8)).ravel()
        is_new: npt.NDArray[np.bool_] = ((self._bits[at] & masks) == 0).reshape(places.shape).any(axis=0)
        np.bitwise_or.at(self._bits, at, masks)
        self._added += int(is_new.sum())
        return is_new


def _bits_each(probes: int, error: float) -> float:
    """Return the number of bits per item at capacity.

    The number of items in a line is Poisson distributed, and crowded lines err more often.
    """
    bits = probes / math.log(2)
    while True:
        mean = _LINE_BITS / bits
        things = np.arange(int(mean + 12 * math.sqrt(mean)) + 20)
        chances = np.exp(things * math.log(mean) - mean - np.cumsum(np.log(np.maximum(things, 1))))
        if float(chances @ (1 - (1 - 1 / _LINE_BITS) ** (probes * things)) ** probes) <= error:
            return bits
        bits *= 1.01


def _mixed(hashes: _Hashes) -> _Hashes:
    """Mix the bits so that each depends on all (the finaliser of SplitMix64; Steele, Lea and Flood 2014)."""
    mixed = hashes
    for shift, factor in zip(_SHIFTS, _FACTORS, strict=False):
        mixed = (mixed ^ (mixed >> shift)) * factor
    return mixed ^ (mixed >> _SHIFTS[2])
