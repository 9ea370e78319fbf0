"""Evidence from shadow requests before a canary gets its first callers.

Used in a first stage without weight: copies of requests to the stable version, answered by both
(features/releases/experiments/compare.py). The evidence bets on the fraction of copies that differ, and is
valid at any time (Ville 1939; Waudby-Smith and Ramdas 2024): against the largest tolerable fraction, to
continue; against a smaller one, to hold or roll back. Answers that differ come in bursts, as from a replica
with a hiccup: their variation tempers the evidence of harm, as for events (``wildness.py``), and no single
bucket proves it. Decisions are made in ``judge.py``. Pure.
"""

import math
from typing import Final, Self

import msgspec

from salver.features.releases.judge.verdict import CopyVerdict, number
from salver.features.releases.judge.wildness import Wildness
from salver.stats.combine import log_mean
from salver.words.errors import InvalidInput
from salver.words.releases import Copies, Counts, plus

#: Fractions of differing copies that the evidence bets on, as multiples of the largest tolerable one.
FEWER: Final = (0.5, 0.2, 0.05)
MORE: Final = (1.5, 2.0, 5.0, 20.0)
#: Share of units at which the tempering factor equals the variance ratio of a Poisson count.
_HALF: Final = 0.5


class Alike(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Required agreement of copies.

    Attributes:
        least: Fraction of copies with a matching answer that must be proven, in (0, 1).
        rolls_back: If fewer is proven, roll back; otherwise hold.
    """

    least: float = 0.99
    rolls_back: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.least < 1:
            raise InvalidInput(
                f"the part of copies that have to be alike is {self.least}",
                field="alike.least",
                fix="Give a number between 0 and 1: that all are alike cannot be proven.",
            )


class CopyEvidence(msgspec.Struct, frozen=True):
    """Evidence from copies; updated by copying.

    Args:
        fewer, more: For each bet, the log likelihood ratio to the largest tolerable fraction.
        wildness: Variation of differing copies, for a single arm.
    """

    copies: Copies = Copies()
    fewer: tuple[float, ...] = (0.0,) * len(FEWER)
    more: tuple[float, ...] = (0.0,) * len(MORE)
    wildness: Wildness = Wildness()

    @property
    def log_alike(self) -> float:
        """Return the log evidence that enough copies match."""
        return log_mean(self.fewer)

    @property
    def log_unlike(self) -> float:
        """Return the log evidence that fewer match."""
        return log_mean(self.more)

    def add(self, copies: Copies, alike: Alike, *, is_whole: bool = True) -> Self:
        """Add the copies of one more bucket of any length."""
        most, bad = 1 - alike.least, copies.differed + copies.failed
        fewer = _steps([most * times for times in FEWER], most, bad, copies.asked - bad)
        more = _steps(_worse(most), most, bad, copies.asked - bad)
        factor, bound = self.wildness.factor(_HALF), self.wildness.most
        return msgspec.structs.replace(
            self,
            copies=plus(self.copies, copies),
            fewer=tuple(total + step for total, step in zip(self.fewer, fewer, strict=True)),
            more=tuple(
                total + min(step / factor, bound) for total, step in zip(self.more, more, strict=True)
            ),
            wildness=self.wildness.add(Counts(baseline=bad), _HALF, is_whole),
        )


def verdict(evidence: CopyEvidence, alike: Alike, alpha: float, beta: float) -> CopyVerdict:
    """Return how the evidence compares with the thresholds.

    >>> seen = CopyEvidence().add(Copies(asked=600), Alike())
    >>> verdict(seen, Alike(), 0.01, 0.05).missing
    ''
    >>> verdict(CopyEvidence(), Alike(), 0.01, 0.05).missing
    'evidence 1 of 20 that 99% of the copies are alike'
    """
    gate, missing = -math.log(beta), ""
    if evidence.log_alike < gate:
        part = f"{100 * alike.least:.4g}%"
        missing = (
            f"evidence {number(evidence.log_alike)} of {number(gate)} that {part} of the copies are alike"
        )
    return CopyVerdict(
        evidence.copies, evidence.log_alike, gate, evidence.log_unlike, -math.log(alpha), missing
    )


def told(copies: Copies) -> str:
    """Format the counts as text.

    >>> told(Copies(asked=200, differed=3, failed=1, slower=50))
    'of 200 copies 3 differ and 1 failed; 50 took the canary longer'
    """
    return (
        f"of {copies.asked} copies {copies.differed} differ and {copies.failed} failed; "
        f"{copies.slower} took the canary longer"
    )


def objection(found: CopyVerdict) -> str:
    """Return why no caller may get the canary; empty = nothing is proven."""
    if found.log_unlike < found.threshold:
        return ""
    return (
        f"the copies are not alike enough: {told(found.copies)}; evidence {number(found.log_unlike)}, where "
        f"{number(found.threshold)} is enough"
    )


def fewest(alike: Alike, beta: float) -> float:
    """Return the number of copies after which a canary whose answers all match may continue."""
    most = 1 - alike.least
    gain = math.log1p(-most * FEWER[-1]) - math.log1p(-most)
    return (-math.log(beta) + math.log(len(FEWER))) / gain


def _worse(most: float) -> list[float]:
    """Return the fractions to bet on, above the tolerable one and below 1."""
    return [min(most * times, (1 + most) / 2) for times in MORE]


def _steps(bets: list[float], most: float, bad: int, good: int) -> list[float]:
    """Return the log contribution of a bucket for each bet."""
    calm = math.log1p(-most)
    return [bad * math.log(bet / most) + good * (math.log1p(-bet) - calm) for bet in bets]
