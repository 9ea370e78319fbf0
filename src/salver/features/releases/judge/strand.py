"""Evidence from bins of outputs and from posted outcomes, for the canary and its control.

The binomial evidence of harm, tempered by the variation of events; the sign-flip evidence against the matched
baseline; the evidence of no harm since the stage began; and the size of the effect. An outcome has one
strand; an output has two for each of its bins, because it may move either way. Failures, which a process may
cause, are in ``count_evidence.py``. Pure.
"""

from typing import NamedTuple, Self

import msgspec

from salver.features.releases.judge.policy import Metric
from salver.features.releases.judge.ratio import Ratio
from salver.features.releases.judge.wildness import Wildness, matched_share
from salver.stats import sign_flip
from salver.stats.binomial_evidence import BinomialEvidence, harm, no_harm
from salver.words.errors import InvalidInput
from salver.words.releases import Counts, plus

#: Once more than this fraction of a control's units have had the event, a gate learns nothing more: the
#: remaining units are those with few events, more so in the worse arm, and the arms converge.
_MOST_HAD = 1 / 3


class Sides(NamedTuple):
    """Events of the suspect, events of both sides, and the suspect's share of the units."""

    suspect: int
    events: int
    share: float


class Weight(NamedTuple):
    """Flags for the evidence that a bucket contributes to.

    Attributes:
        gate_margin: Margin of its stage; None = no gate.
        is_warm: The warm-up is over.
        is_whole: The bucket has the full length.
    """

    gate_margin: float | None = None
    is_warm: bool = True
    is_whole: bool = True


class Recurrence(NamedTuple):
    """Events of units that may have had some before.

    Attributes:
        in_stage: Units with their first event in the stage.
        units: Units of all arms seen before this bucket that may have it again; 0 = they may not.
    """

    in_stage: Counts
    units: int = 0


class Strand(msgspec.Struct, frozen=True):
    """Evidence of one kind of event; plain data, updated by copying.

    Args:
        harm: Evidence that it is worse than its rollback margin, from the first event of each unit.
        flip: The same, only from differences to the matched baseline; a larger canary counts in proportion.
        gate: Evidence that it is within the promotion margin, since the stage began.
        had: Units with the event since the stage began.
        ratio: Ratio of the canary's rate to its control's.
        wildness: Variation of the control's events.
        events: All counted events.
        is_good: Events are desirable: the suspect has fewer, and the sides are exchanged.
    """

    harm: BinomialEvidence = msgspec.field(default_factory=harm)
    flip: sign_flip.SignFlipEvidence = msgspec.field(default_factory=sign_flip.start)
    gate: BinomialEvidence = msgspec.field(default_factory=no_harm)
    had: Counts = Counts()
    ratio: Ratio = Ratio()
    wildness: Wildness = Wildness()
    events: Counts = Counts()
    is_good: bool = False

    def add(
        self, metric: Metric, counts: Counts, share: float, weight: Weight, again: Recurrence | None = None
    ) -> Self:
        """Add a bucket.

        Args:
            metric: Metric of the strand.
            counts: Events by arm.
            share: The canary's share of the units, in (0, 1).
            weight: What the bucket contributes to.
            again: None = all units are new.
        """
        if share >= 1:
            return self  # with all traffic there is no control
        again = again or Recurrence(counts)
        factor, most = self.wildness.factor(share), self.wildness.most
        changes: dict[str, object] = {
            "wildness": self.wildness.add(counts, share, weight.is_whole),
            "had": plus(self.had, again.in_stage),
        }
        if weight.is_warm or metric.severity == "severe":
            margin = _margin(metric, metric.rollback_margin)
            plain, sides = self._sides(counts, share)
            changes |= {
                "events": plus(self.events, counts),
                "harm": _tempered(self.harm, sides, margin, factor, most),
                "flip": self._flipped(counts, share),
                "ratio": self.ratio.add(*plain, factor) if plain.events else self.ratio,
            }
        if weight.is_warm and weight.gate_margin is not None:
            _, sides = self._sides(again.in_stage, share, again.units)
            if not again.units or self.had.control <= _MOST_HAD * again.units * (1 - share):
                margin = _margin(metric, weight.gate_margin)
                changes["gate"] = _tempered(self.gate, sides, margin, factor, most)
        return msgspec.structs.replace(self, **changes)

    def at_new_stage(self) -> Self:
        """Return the evidence at a new stage: gates start again, evidence of harm does not."""
        wildness = self.wildness.at_new_stage()
        return msgspec.structs.replace(self, gate=no_harm(), had=Counts(), wildness=wildness)

    def _flipped(self, counts: Counts, share: float) -> sign_flip.SignFlipEvidence:
        if not (counts.canary or counts.baseline):
            return self.flip
        keep, sign = matched_share(share) / share, -1 if self.is_good else 1
        return self.flip.add_thinned(counts.canary, counts.baseline, keep, sign)

    def _sides(self, counts: Counts, share: float, units: int = 0) -> tuple[Sides, Sides]:
        """Return the sides with the canary, and with the suspect, as the subject.

        Args:
            units: Units, of which those with an event at this stage no longer count; 0 = all count.
        """
        other, rest, had = counts.control, 1 - share, self.had.control
        mine, rest = share * _left(self.had.canary, units * share), rest * _left(had, units * rest)
        events, part = counts.canary + other, mine / (mine + rest)
        plain = Sides(counts.canary, events, part)
        return plain, Sides(other, events, 1 - part) if self.is_good else plain


def strands(metric: Metric) -> tuple[Strand, ...]:
    """Return empty strands: for an output, up and down for each bin; for an outcome one; else none."""
    if metric.kind == "output":
        return tuple(Strand(is_good=is_down) for _ in range(metric.bins) for is_down in (False, True))
    if metric.kind == "outcome":
        return (Strand(is_good=metric.worse == "less"),)
    return ()


def _left(had: int, units: float) -> float:
    """Return the fraction of an arm's units without the event: the worse arm exhausts them sooner.

    >>> _left(0, 0.0), _left(8, 15.0)
    (1.0, 0.5)
    """
    return 1 - min(had, units) / (units + 1)


def _margin(metric: Metric, margin: float) -> float:
    """Return the margin as the excess of the suspect's rate: if the canary has less, its control has more."""
    if metric.worse != "less":
        return margin
    return 1 / (1 - margin) - 1


def _tempered(
    evidence: BinomialEvidence, sides: Sides, margin: float, factor: float, most: float
) -> BinomialEvidence:
    """Add a bucket with divided and bounded evidence. Both only reduce it (Jensen), so it stays valid."""
    if not sides.events:
        return evidence
    if not 0 <= sides.suspect <= sides.events:
        raise InvalidInput(f"{sides.suspect} of {sides.events} events cannot be", fix="Count from 0 on.")
    alone = msgspec.structs.replace(evidence, log_sums=(0.0,) * len(evidence.log_sums))
    steps = alone.add(sides.suspect, sides.events, sides.share, margin).log_sums
    return msgspec.structs.replace(
        evidence,
        log_sums=tuple(
            total + min(step / factor, most) for total, step in zip(evidence.log_sums, steps, strict=True)
        ),
    )
