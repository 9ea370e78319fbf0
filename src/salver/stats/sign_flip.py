"""Sequential test of the canary against its matched baseline, robust to wild buckets.

A sign-flip e-process: if two arms are exchangeable, the difference in a bucket has either sign with equal
probability, and nothing else is assumed, so bursts, heavy tails and changing rates are harmless. No bucket
contributes more than ln 2.

If the arms differ in size, the larger one is thinned: each of its events is kept with the probability that
makes both equal. Nothing is drawn: the mean over all outcomes is taken, which is an e-value as each of them
is, and loses less (Jensen). In the mean it equals thinning the units themselves, if units fail independently,
or equally many of both arms.

Knows only differences; the caller supplies the sizes of the arms. Pure.
"""

import math
from collections.abc import Sequence
from typing import Self

import msgspec
import numpy as np
import numpy.typing as npt

from salver.stats.combine import log_sum
from salver.words.errors import InvalidInput

#: Bets, per unit of the difference; for counts of events.
SCALES = (0.1, 0.3, 1.0, 3.0)
_LEAST = -600.0  # limit of a bet's log, to avoid underflow in simulations


class SignFlipEvidence(msgspec.Struct, frozen=True):
    """Evidence of differences against "no worse"; plain data, updated by copying.

    Args:
        scales: Bets, each the reciprocal of the difference that it detects soonest.
        log_sums: Log of the product of each bet.

    >>> evidence = start()
    >>> for difference in (3, 5, 2, 4, 6, 1, 3, 4, 5, 2):
    ...     evidence = evidence.add(difference)
    >>> evidence.log_e > math.log(1 / 0.01)
    True
    """

    scales: tuple[float, ...]
    log_sums: tuple[float, ...]

    def add(self, difference: float) -> Self:
        """Add a bucket.

        Args:
            difference: Excess of harm in the canary over its baseline, finite.

        Raises:
            InvalidInput: The difference is not finite.
        """
        difference = float(difference)
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

    def add_thinned(self, events: int, other: int, keep: float, sign: int = 1) -> Self:
        """Add a bucket of arms of different sizes.

        Args:
            events: Events of the larger arm.
            other: Events of the smaller one.
            keep: Its size as a fraction of the larger one's, in (0, 1].
            sign: 1: more in the larger arm is harm; -1: less is.

        Raises:
            InvalidInput: Impossible counts or fraction.
        """
        is_count = all(0 <= count < math.inf and count == int(count) for count in (events, other))
        if not (0 < keep <= 1 and is_count):
            raise InvalidInput(
                f"{events} events thinned by {keep}, beside {other}, cannot be",
                fix="Give counts of 0 or more, and a part above 0 and up to 1.",
            )
        events, other, keep = int(events), int(other), float(keep)
        # Arms of equal size need no thinning: the difference itself is symmetric under the null.
        if keep == 1:
            return self.add(sign * (events - other))
        # The mean over all thinnings, instead of one at random: the evidence depends on the data alone.
        kept = _kept(events, keep)
        return msgspec.structs.replace(
            self,
            log_sums=tuple(
                total + log_sum([chance + _log_bet(sign * scale * (count - other)) for count, chance in kept])
                for total, scale in zip(self.log_sums, self.scales, strict=True)
            ),
        )

    @property
    def log_e(self) -> float:
        """Return the log e-value, the mean over the scales; 0 before the first bucket."""
        return log_sum(self.log_sums) - math.log(len(self.log_sums))


def start(scales: Sequence[float] = SCALES) -> SignFlipEvidence:
    """Return empty evidence.

    Raises:
        InvalidInput: There are no scales, or one is not positive.
    """
    if len(scales) == 0 or not all(0 < scale < math.inf for scale in scales):
        raise InvalidInput(f"the scales {list(scales)} cannot be", fix="Name one or more numbers above 0.")
    return SignFlipEvidence(tuple(map(float, scales)), (0.0,) * len(scales))


def log_e_paths(
    begin: SignFlipEvidence, events: npt.ArrayLike, other: npt.ArrayLike = 0, keep: npt.ArrayLike = 1.0
) -> npt.NDArray[np.float64]:
    """Return ``log_e`` after each bucket of many replications, for simulations.

    Args:
        events: Shape ``(replication, bucket)``; as in :meth:`SignFlipEvidence.add_thinned`, or differences.
        other: Likewise.
        keep: Likewise; shape ``(bucket,)``.
    """
    values, others = np.broadcast_arrays(np.asarray(events), np.asarray(other))
    parts = np.broadcast_to(np.asarray(keep, np.float64), values.shape[-1:])
    log_e = np.full(values.shape, -np.inf)
    for before, scale in zip(begin.log_sums, begin.scales, strict=True):
        steps = _log_bets(scale * np.subtract(values, others, dtype=np.float64))
        # A schedule has few shares but many buckets, so a table for each share is cheap.
        for part in np.unique(parts[parts < 1]):
            at = parts == part
            steps[:, at] = _thinned_bets(values[:, at], others[:, at], float(part), scale)
        np.logaddexp(log_e, before + np.cumsum(steps, axis=-1), out=log_e)
    return log_e - math.log(len(begin.scales))


def _thinned_bets(
    events: npt.NDArray[np.int64], other: npt.NDArray[np.int64], keep: float, scale: float
) -> npt.NDArray[np.float64]:
    """Return the bets from a table over pairs of counts."""
    most, kept = int(events.max(initial=0)), np.arange(int(events.max(initial=0)) + 1)
    factorials = np.r_[0.0, np.cumsum(np.log(np.arange(1, most + 1)))]
    lost = kept[:, None] - kept
    chances = np.where(
        lost >= 0,
        factorials[:, None]
        - factorials
        - factorials[lost]
        + kept * math.log(keep)
        + lost * math.log1p(-keep),
        -np.inf,
    )
    differences = np.subtract.outer(kept, np.arange(int(other.max(initial=0)) + 1))
    # Floored, because products of tiny chances would become 0 and their logarithm infinite.
    bets = np.exp(np.maximum(_log_bets(scale * differences), _LEAST))
    table: npt.NDArray[np.float64] = np.log(np.exp(chances) @ bets)
    return table[events, other]


def _kept(events: int, keep: float) -> list[tuple[int, float]]:
    """Return possible numbers of kept events, each with its log probability.

    Nearly impossible ones are omitted, which only reduces the evidence.
    """
    around, wide = events * keep, 9 * (1 + math.sqrt(events * keep * (1 - keep)))
    counts = range(max(0, math.floor(around - wide)), min(events, math.ceil(around + wide)) + 1)
    whole, log_keep, log_lose = math.lgamma(events + 1), math.log(keep), math.log1p(-keep)
    return [
        (
            count,
            whole
            - math.lgamma(count + 1)
            - math.lgamma(events - count + 1)
            + count * log_keep
            + (events - count) * log_lose,
        )
        for count in counts
    ]


def _log_bet(x: float) -> float:
    """Return ``log(exp(x) / cosh(x))`` without overflow; at most ln 2."""
    # cosh(x) overflows from 710 on, where the bet is long at its limit.
    return x - abs(x) - math.log1p(math.exp(-2 * abs(x))) + math.log(2)


def _log_bets(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = x - np.abs(x) - np.log1p(np.exp(-2 * np.abs(x))) + math.log(2)
    return found
