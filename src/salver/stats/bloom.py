"""Was this one seen before, of millions, in a few megabytes?

A Bloom filter (Bloom 1970): what was added is always known; what was not is taken for known with a small
probability, which depends on nothing but its hash. It knows no units and no arms. All bits of one thing lie
in one line of the processor's cache (Putze, Sanders and Singler 2007), since to fetch lines is what it takes.
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
    """A set that grows, of a fixed size in memory.

    The memory is taken from the system as bits are set, not at once.

    Args:
        capacity: So many are told from others with the error below; more of them raise it.
        error: Probability that one which was never added is taken for known, at capacity; in (0, 1).

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
        """How many were new when they were added."""
        return self._added

    @property
    def bytes(self) -> int:
        """Most memory that it takes."""
        return self._bits.nbytes

    def add(self, hashes: _Hashes) -> npt.NDArray[np.bool_]:
        """Which of them are new; all of them are known from now on.

        Args:
            hashes: Of different things, 64 bits each, as uniform as may be; shape ``(n,)``.

        Returns:
            Shape ``(n,)``.
        """
        # A line by the upper half, scaled by a multiplication (Lemire 2019), and places in it by others
        # (multiply-shift, Dietzfelbinger et al. 1997).
        line = ((_mixed(hashes) >> _HALF) * self._lines >> _HALF) * np.uint64(_LINE_BYTES)
        places = (_mixed(~hashes) * self._odd) >> np.uint64(64 - 9)
        at = (line + (places >> np.uint64(3))).astype(np.int64).ravel()
        masks = np.left_shift(np.uint8(1), (places & np.uint64(7)).astype(np.uint8)).ravel()
        is_new: npt.NDArray[np.bool_] = ((self._bits[at] & masks) == 0).reshape(places.shape).any(axis=0)
        np.bitwise_or.at(self._bits, at, masks)
        self._added += int(is_new.sum())
        return is_new


def _bits_each(probes: int, error: float) -> float:
    """So many for each thing at capacity: a line has a number of things that is Poisson distributed, and what
    is crowded by chance errs more often.
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
    """Every bit depends on every bit (the finaliser of SplitMix64; Steele, Lea and Flood 2014)."""
    mixed = hashes
    for shift, factor in zip(_SHIFTS, _FACTORS, strict=False):
        mixed = (mixed ^ (mixed >> shift)) * factor
    return mixed ^ (mixed >> _SHIFTS[2])
