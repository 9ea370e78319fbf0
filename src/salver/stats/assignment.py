"""Assignment of units to arms by a keyed hash.

Every process and every restart computes the same value, nothing is stored, and experiments with different
salts are independent. Knows no experiment, no user and no clock. Pure.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from salver.words.errors import InvalidInput

_KEY_BYTES = 64  # maximum key length of BLAKE2b (RFC 7693, 2.1)
_UNUSED_BITS = 11  # bits of the hash to drop: a float holds 53
_SUM_TOLERANCE = 1e-9


def fraction(salt: str, unit: str) -> float:
    """Return a unit's position in [0, 1): uniform over units, independent between salts, constant.

    The upper 53 of the 64 bits of keyed BLAKE2b (RFC 7693), as many as a float holds.

    >>> fraction("checkout", "user-1") == fraction("checkout", "user-1")
    True
    """
    return (hashing(salt)(unit) >> _UNUSED_BITS) * 2.0**-53


@functools.lru_cache(256)
def hashing(salt: str) -> Callable[[str], int]:
    """Return a function from a unit to its 64-bit hash, the base of :func:`fraction`; see :func:`bound`."""
    key = salt.encode(errors="surrogatepass")
    if len(key) > _KEY_BYTES:
        key = hashlib.blake2b(key).digest()
    copy, number = hashlib.blake2b(digest_size=8, key=key).copy, int.from_bytes  # keyed with the salt

    def hashed(unit: str) -> int:
        hasher = copy()
        hasher.update(unit.encode("utf-8", "surrogatepass"))
        return number(hasher.digest(), "little")

    return hashed


def bound(share: float) -> int:
    """Return the bound below which a unit's hash lies if its fraction is below the share.

    Args:
        share: In [0, 1].

    >>> hashing("checkout")("user-2") < bound(0.06), fraction("checkout", "user-2") < 0.06
    (True, True)
    """
    return math.ceil(share * 2.0**53) << _UNUSED_BITS


def fractions(salt: str, units: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return the positions of many units, shape ``(len(units),)``."""
    return np.fromiter((fraction(salt, unit) for unit in units), np.float64, len(units))


def arm(place: float, shares: Sequence[float]) -> int:
    """Return the index of the arm at a position, arms laid side by side over [0, 1); never one of share 0.

    A canary of share ``w`` and its matched baseline are the ends of ``(w, 1 - 2w, w)``: as ``w`` grows no
    unit leaves either, and only as many units move as the share changed.

    Args:
        place: From :func:`fraction`.
        shares: Share of each arm, not negative, with sum 1.

    Raises:
        InvalidInput: The shares are invalid.

    >>> arm(0.03, (0.05, 0.9, 0.05)), arm(0.5, (0.05, 0.9, 0.05)), arm(0.97, (0.05, 0.9, 0.05))
    (0, 1, 2)
    """
    if not all(share >= 0 for share in shares) or abs(sum(shares) - 1) > _SUM_TOLERANCE:
        raise InvalidInput(
            f"the shares {list(shares)} are not those of arms", fix="Let them be 0 or more, with the sum 1."
        )
    end = 0.0
    for index, share in enumerate(shares):
        end += share
        if place < end:
            return index
    return max(index for index, share in enumerate(shares) if share > 0)  # the sum was rounded below 1
