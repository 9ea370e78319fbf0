"""Is the canary worse than its matched baseline, bucket by bucket, however wild the buckets are?

A sign-flip e-process: where two arms are exchangeable, the difference of a bucket is as likely of either
sign, and nothing else is taken for granted, so bursts, heavy tails and changing rates are harmless. No
bucket brings more than ln 2. Knows differences only; that the arms are equal in size is its caller's to see
to. Pure.
"""

import math
from collections.abc import Sequence
from typing import Self

import msgspec
import numpy as np
import numpy.typing as npt

from salver.errors import InvalidInput

#: Bets, per unit of the difference; for counts of events.
SCALES = (0.1, 0.3, 1.0, 3.0)


class SignFlipEvidence(msgspec.Struct, frozen=True):
    """What the differences up to now say against "no worse"; plain data, that grows by copies.

    Args:
        scales: Bets, each the reciprocal of a size of difference that it finds soonest.
        log_sums: For each of them, the logarithm of its product.

    >>> evidence = start()
    >>> for difference in (3, 5, 2, 4, 6, 1, 3, 4, 5, 2):
    ...     evidence = evidence.add(difference)
    >>> evidence.log_e > math.log(1 / 0.01)
    True
    """

    scales: tuple[float, ...]
    log_sums: tuple[float, ...]

    def add(self, difference: float) -> Self:
        """With one more bucket.

        Args:
            difference: What the canary has more of the bad than its baseline, finite.

        Raises:
            InvalidInput: The difference is not finite.
        """
        if not math.isfinite(difference):
            raise InvalidInput(
                f"a difference of {difference} cannot be", fix="Leave out buckets without data."
            )
        return msgspec.structs.replace(
            self,
            log_sums=tuple(
                total + _log_bet(scale * difference)
                for total, scale in zip(self.log_sums, self.scales, strict=True)
            ),
        )

    @property
    def log_e(self) -> float:
        """The logarithm of the e-value, 0 before the first bucket: of the mean over the scales."""
        top = max(self.log_sums)
        mean = math.fsum(math.exp(total - top) for total in self.log_sums) / len(self.log_sums)
        return top + math.log(mean)


def start(scales: Sequence[float] = SCALES) -> SignFlipEvidence:
    """No evidence yet.

    Raises:
        InvalidInput: There are no scales, or one is not positive.
    """
    if not scales or not all(0 < scale < math.inf for scale in scales):
        raise InvalidInput(f"the scales {list(scales)} cannot be", fix="Name one or more numbers above 0.")
    return SignFlipEvidence(tuple(map(float, scales)), (0.0,) * len(scales))


def log_e_paths(begin: SignFlipEvidence, differences: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """``log_e`` after each bucket of many replications, for simulations; shapes ``(replication, bucket)``."""
    values = np.asarray(differences, np.float64)
    log_e = np.full(values.shape, -np.inf)
    for before, scale in zip(begin.log_sums, begin.scales, strict=True):
        bets = np.abs(scale * values)
        steps = scale * values - bets - np.log1p(np.exp(-2 * bets)) + math.log(2)
        np.logaddexp(log_e, before + np.cumsum(steps, axis=-1), out=log_e)
    return log_e - math.log(len(begin.scales))


def _log_bet(x: float) -> float:
    """``log(exp(x) / cosh(x))``, without overflow; at most ln 2."""
    return x - abs(x) - math.log1p(math.exp(-2 * abs(x))) + math.log(2)
