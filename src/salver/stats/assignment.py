"""Where does a unit fall, between 0 and 1, and in which arm is it then?

A keyed hash, so that every process and every restart says the same, nothing has to be stored, and
experiments with salts of their own are independent. Knows no experiment, no user and no clock. Pure.
"""

import functools
import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from salver.errors import InvalidInput

_KEY_BYTES = 64  # the longest key that BLAKE2b takes (RFC 7693, 2.1)
_SUM_TOLERANCE = 1e-9


def fraction(salt: str, unit: str) -> float:
    """The unit's place in [0, 1): uniform over units, independent between salts, the same for ever.

    The upper 53 of the 64 bits of keyed BLAKE2b (RFC 7693), all that a float holds.

    >>> fraction("checkout", "user-1") == fraction("checkout", "user-1")
    True
    """
    hasher = _keyed(salt).copy()
    hasher.update(unit.encode("utf-8", "surrogatepass"))
    return (int.from_bytes(hasher.digest(), "little") >> 11) * 2.0**-53


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


@functools.lru_cache(256)
def _keyed(salt: str) -> "hashlib.blake2b":
    """A hash that has taken the salt in already, to be copied."""
    key = salt.encode(errors="surrogatepass")
    if len(key) > _KEY_BYTES:
        key = hashlib.blake2b(key).digest()
    return hashlib.blake2b(digest_size=8, key=key)
