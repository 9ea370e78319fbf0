"""Are the answers to copies alike enough for a canary to meet its first callers?

The evidence of a first stage without weight, where nobody meets the canary: copies of what the stable
version was asked, answered by both (features/releases/experiments/compare.py). Bets on the part of them
that is not alike,
looked at any time (Ville 1939; Waudby-Smith and Ramdas 2024): against its being as large as may just be, to
go on; against its being no larger, to be held or rolled back. Answers that differ come in bursts, as a
replica that hiccups: how wild they are tempers the evidence of harm, as that of events (``wildness.py``), and
no bucket proves it alone. What decides, and when, is ``judge.py``'s question. Pure.
"""

import math
from typing import Final, Self

import msgspec

from salver.features.releases.judge.verdict import CopyVerdict, number
from salver.features.releases.judge.wildness import Wildness
from salver.stats.combine import log_mean
from salver.words.errors import InvalidInput
from salver.words.releases import Copies, Counts, plus

#: Parts of copies that are not alike, on which the evidence bets, as multiples of the greatest that may be.
FEWER: Final = (0.5, 0.2, 0.05)
MORE: Final = (1.5, 2.0, 5.0, 20.0)
#: A share of the units at which wildness divides evidence by the variance of a count, in Poisson's.
_HALF: Final = 0.5


class Alike(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the comparison has to show.

    Attributes:
        least: Part of the copies that the canary answers, and alike, which has to be proven; in (0, 1).
        rolls_back: Where it is proven that fewer are, the release is rolled back; else it is held.
    """

    least: float = 0.99
    rolls_back: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.least < 1:
            raise InvalidInput(
                f"the part of copies that have to be alike is {self.least}",
                field="alike.least",
                fix="Give a number between 0 and 1; that all are, nobody can prove.",
            )


class CopyEvidence(msgspec.Struct, frozen=True):
    """What copies have shown; grows by copies of itself.

    Args:
        fewer, more: For each bet, the logarithm of its likelihood ratio to the greatest part that may differ.
        wildness: Of copies that are not alike; of one arm alone, as of a control.
    """

    copies: Copies = Copies()
    fewer: tuple[float, ...] = (0.0,) * len(FEWER)
    more: tuple[float, ...] = (0.0,) * len(MORE)
    wildness: Wildness = Wildness()

    @property
    def log_alike(self) -> float:
        """The logarithm of the evidence that enough are alike."""
        return log_mean(self.fewer)

    @property
    def log_unlike(self) -> float:
        """The logarithm of the evidence that fewer are."""
        return log_mean(self.more)

    def add(self, copies: Copies, alike: Alike, *, is_whole: bool = True) -> Self:
        """With those of one more bucket, which may be as long as all."""
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
    """How the evidence stands against what decides.

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
    """Counts in words.

    >>> told(Copies(asked=200, differed=3, failed=1, slower=50))
    'of 200 copies 3 differ and 1 failed; 50 took the canary longer'
    """
    return (
        f"of {copies.asked} copies {copies.differed} differ and {copies.failed} failed; "
        f"{copies.slower} took the canary longer"
    )


def objection(found: CopyVerdict) -> str:
    """Why the canary shall meet nobody; empty = nothing is proven against it."""
    if found.log_unlike < found.threshold:
        return ""
    return (
        f"the copies are not alike enough: {told(found.copies)}; evidence {number(found.log_unlike)}, where "
        f"{number(found.threshold)} is enough"
    )


def fewest(alike: Alike, beta: float) -> float:
    """Copies after which a canary whose answers are all alike may go on."""
    most = 1 - alike.least
    gain = math.log1p(-most * FEWER[-1]) - math.log1p(-most)
    return (-math.log(beta) + math.log(len(FEWER))) / gain


def _worse(most: float) -> list[float]:
    """Parts on which it is bet, above the greatest that may be and below all."""
    return [min(most * times, (1 + most) / 2) for times in MORE]


def _steps(bets: list[float], most: float, bad: int, good: int) -> list[float]:
    """What a bucket brings for each bet."""
    calm = math.log1p(-most)
    return [bad * math.log(bet / most) + good * (math.log1p(-bet) - calm) for bet in bets]
