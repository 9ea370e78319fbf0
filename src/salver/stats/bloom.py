"""Was this one seen before, of millions, in a few megabytes?

A Bloom filter (Bloom 1970): what was added is always known; what was not is taken for known with a small
probability, which depends on nothing but its hash. It knows no units and no arms.
"""

import math

import numpy as np
import numpy.typing as npt

from salver.errors import InvalidInput

_Hashes = npt.NDArray[np.uint64]
_HALF = np.uint64(32)
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))
_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


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
        bits = math.ceil(capacity * math.log(1 / error) / math.log(2) ** 2)
        if not bits < 1 << 32:
            raise InvalidInput(
                f"{capacity} units with an error of {error} need {bits} bits",
                fix="Tell fewer units apart, or allow a larger error.",
            )
        self.capacity = capacity
        self.error = error
        self._size = np.uint64(max(64, bits))
        self._probes = max(1, round(bits / capacity * math.log(2)))
        self._bits = np.zeros(int(self._size) // 8 + 1, np.uint8)
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
        low, step = _mixed(hashes), _mixed(~hashes)
        # Kirsch and Mitzenmacher 2006: two hashes do for any number of probes. Scaled to the size by a
        # multiplication (Lemire 2019), which costs a tenth of a division.
        steps = np.arange(self._probes, dtype=np.uint64)[:, None]
        places = ((low + steps * step) >> _HALF) * self._size >> _HALF
        at = (places >> np.uint64(3)).astype(np.int64)
        masks = np.left_shift(np.uint8(1), (places & np.uint64(7)).astype(np.uint8))
        is_new: npt.NDArray[np.bool_] = ((self._bits[at] & masks) == 0).any(axis=0)
        at, masks = at[:, is_new].ravel(), masks[:, is_new].ravel()
        while len(at):  # of two bits of one byte one is lost, and comes again
            self._bits[at] |= masks
            is_lost = (self._bits[at] & masks) == 0
            at, masks = at[is_lost], masks[is_lost]
        self._added += int(is_new.sum())
        return is_new


def _mixed(hashes: _Hashes) -> _Hashes:
    """Every bit depends on every bit (the finaliser of SplitMix64; Steele, Lea and Flood 2014)."""
    mixed = hashes
    for shift, factor in zip(_SHIFTS, _FACTORS, strict=False):
        mixed = (mixed ^ (mixed >> shift)) * factor
    return mixed ^ (mixed >> _SHIFTS[2])
