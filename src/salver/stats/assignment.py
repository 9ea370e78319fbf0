"""Where does a unit fall, between 0 and 1, and in which arm is it then?

A keyed hash, so that every process and every restart says the same, nothing has to be stored, and
experiments with salts of their own are independent. Knows no experiment, no user and no clock. Pure.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from salver.words.errors import InvalidInput

_KEY_BYTES = 64  # the longest key that BLAKE2b takes (RFC 7693, 2.1)
_UNUSED_BITS = 11  # of the hash: a float holds 53
_SUM_TOLERANCE = 1e-9


def fraction(salt: str, unit: str) -> float:
    """The unit's place in [0, 1): uniform over units, independent between salts, the same for ever.

    The upper 53 of the 64 bits of keyed BLAKE2b (RFC 7693), all that a float holds.

    >>> fraction("checkout", "user-1") == fraction("checkout", "user-1")
    True
    """
    return (hashing(salt)(unit) >> _UNUSED_BITS) * 2.0**-53


@functools.lru_cache(256)
def hashing(salt: str) -> Callable[[str], int]:
    """Tells the hash of a unit, 64 bits, of which its :func:`fraction` is made; see :func:`bound`."""
    key = salt.encode(errors="surrogatepass")
    if len(key) > _KEY_BYTES:
        key = hashlib.blake2b(key).digest()
    copy, number = hashlib.blake2b(digest_size=8, key=key).copy, int.from_bytes  # it has taken the salt in

    def hashed(unit: str) -> int:
        hasher = copy()
        hasher.update(unit.encode("utf-8", "surrogatepass"))
        return number(hasher.digest(), "little")

    return hashed


def bound(share: float) -> int:
    """Of the hashes of units: it is below this where the unit's fraction is below the share.

    Args:
        share: In [0, 1].

    >>> hashing("checkout")("user-2") < bound(0.06), fraction("checkout", "user-2") < 0.06
    (True, True)
    """
    return math.ceil(share * 2.0**53) << _UNUSED_BITS


def fractions(salt: str, units: Sequence[str]) -> npt.NDArray[np.float64]:
    """The places of many units; shape ``(len(units),)``."""
    return np.fromiter((fraction(salt, unit) for unit in units), np.float64, len(units))


def arm(place: float, shares: Sequence[float]) -> int:
    """Which of the arms, laid side by side over [0, 1), holds the place; an arm of share 0 never does.

    A canary of share ``w`` and its matched baseline are the ends of ``(w, 1 - 2w, w)``: as ``w`` grows no
    unit leaves either, and the units that move are as many as the share that moved.

    Args:
        place: From :func:`fraction`.
        shares: Of each arm, not negative, with the sum 1.

    Raises:
        InvalidInput: The shares are not shares.

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
