"""What do the events of one kind say, up to now, of the canary beside its control?

The binomial evidence of harm, tempered by how wild events are; the sign-flip evidence beside the matched
baseline; the evidence of no harm since the stage began; how large the effect is. A metric has one strand; an
output has two for each of its bins, since it may move either way. Pure.
"""

from typing import NamedTuple, Self

import msgspec

from salver.errors import InvalidInput
from salver.releases import Counts, plus
from salver.rollout.policy import Metric
from salver.rollout.ratio import Ratio
from salver.rollout.wildness import Wildness, matched_share
from salver.stats import sign_flip
from salver.stats.binomial_evidence import BinomialEvidence, harm, no_harm


class Sides(NamedTuple):
    """The suspect's events, both sides' events, and the suspect's share of the units."""

    suspect: int
    events: int
    share: float


class Weight(NamedTuple):
    """For what a bucket counts.

    Attributes:
        gate_margin: Of its stage; None = for no gate.
        is_warm: The warm-up is over.
        is_whole: The bucket is as long as all.
    """

    gate_margin: float | None = None
    is_warm: bool = True
    is_whole: bool = True


class Strand(msgspec.Struct, frozen=True):
    """Plain data, that grows by copies.

    Args:
        harm: Evidence that it is worse than its rollback margin allows.
        flip: The same, from differences to the matched baseline alone; of a canary that is larger than that
            as much counts as is matched.
        gate: Evidence that it is within the promotion margin, since the stage began.
        ratio: Of the canary's rate to its control's.
        wildness: Of the control's events.
        events: All that counted.
        is_good: Events are what one wants: the suspect is who has fewer, and sides are exchanged.
    """

    harm: BinomialEvidence = msgspec.field(default_factory=harm)
    flip: sign_flip.SignFlipEvidence = msgspec.field(default_factory=sign_flip.start)
    gate: BinomialEvidence = msgspec.field(default_factory=no_harm)
    ratio: Ratio = Ratio()
    wildness: Wildness = Wildness()
    events: Counts = Counts()
    is_good: bool = False

    def add(self, metric: Metric, counts: Counts, share: float, weight: Weight) -> Self:
        """With one more bucket.

        Args:
            metric: Whose strand it is.
            counts: Of the events, by arm.
            share: The canary's of the units, in (0, 1).
            weight: For what it counts.
        """
        if share >= 1:
            return self  # alone it is compared with nobody
        factor, most = self.wildness.factor(share), self.wildness.most
        plain, sides = self._sides(metric, counts, share)
        changes: dict[str, object] = {"wildness": self.wildness.add(counts, share, weight.is_whole)}
        if weight.is_warm or metric.severity == "severe":
            margin = _margin(metric, metric.rollback_margin)
            changes |= {
                "events": plus(self.events, counts),
                "harm": _tempered(self.harm, sides, margin, factor, most),
                "ratio": self.ratio.add(*plain, factor) if plain.events else self.ratio,
            }
            if counts.canary or counts.baseline:
                keep, sign = matched_share(share) / share, -1 if self.is_good else 1
                changes["flip"] = self.flip.add_thinned(counts.canary, counts.baseline, keep, sign)
        if weight.is_warm and weight.gate_margin is not None:
            changes["gate"] = _tempered(self.gate, sides, _margin(metric, weight.gate_margin), factor, most)
        return msgspec.structs.replace(self, **changes)

    def at_new_stage(self) -> Self:
        """Gates begin anew; evidence of harm never does."""
        return msgspec.structs.replace(self, gate=no_harm(), wildness=self.wildness.at_new_stage())

    def _sides(self, metric: Metric, counts: Counts, share: float) -> tuple[Sides, Sides]:
        """The canary's, and the suspect's."""
        other = counts.control
        if metric.is_matched:
            other = counts.baseline
            share = share / (share + matched_share(share))
        events = counts.canary + other
        plain = Sides(counts.canary, events, share)
        return plain, Sides(other, events, 1 - share) if self.is_good else plain


def strands(metric: Metric) -> tuple[Strand, ...]:
    """Without evidence: for an output, up and down of each bin in turn; for a mean none."""
    if metric.kind == "mean":
        return ()
    if metric.kind == "output":
        return tuple(Strand(is_good=is_down) for _ in range(metric.bins) for is_down in (False, True))
    return (Strand(is_good=metric.worse == "less"),)


def _margin(metric: Metric, margin: float) -> float:
    """As the excess of the suspect's rate: where the canary has less, its control has more."""
    return 1 / (1 - margin) - 1 if metric.worse == "less" else margin


def _tempered(
    evidence: BinomialEvidence, sides: Sides, margin: float, factor: float, most: float
) -> BinomialEvidence:
    """With a bucket whose evidence is divided, and bounded above. Both only ever take from it (Jensen), so
    what was valid stays so.
    """
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
