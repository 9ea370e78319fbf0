"""What do the events of one kind say, up to now, of the canary beside its control?

The binomial evidence of harm, tempered by how wild events are; the sign-flip evidence beside the matched
baseline; both anew for each hour; the evidence of no harm since the stage began; how large the effect is. A
metric has one strand; an output has two for each of its bins, since it may move either way. Pure.
"""

from typing import NamedTuple, Self

import msgspec

from salver.features.releases.judge.hourly import Hourly, with_first
from salver.features.releases.judge.policy import Metric
from salver.features.releases.judge.ratio import Ratio
from salver.features.releases.judge.wildness import Wildness, matched_share
from salver.stats import sign_flip
from salver.stats.binomial_evidence import BinomialEvidence, harm, no_harm
from salver.words.errors import InvalidInput
from salver.words.releases import Counts, plus

#: Once more than this part of a control's units have had it, a gate learns nothing more: those that are left
#: are the quiet ones, of the worse arm more so, and the arms look alike in the end.
_MOST_HAD = 1 / 3


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


class Lately(NamedTuple):
    """First events within less than the release, of units that may have had some before.

    Attributes:
        hour: Counted from 1970 on.
        in_hour, in_stage: Units that had it for the first time in the hour, and in the stage.
        units: That were met before this bucket, by all arms, and may have it again; 0 = they may not.
    """

    hour: int
    in_hour: Counts
    in_stage: Counts
    units: int = 0


class Strand(msgspec.Struct, frozen=True):
    """Plain data, that grows by copies.

    Args:
        harm: Evidence that it is worse than its rollback margin allows, of the first event of each unit.
        flip: The same, from differences to the matched baseline alone; of a canary that is larger than that
            as much counts as is matched.
        hourly: The same two, of the first event of each hour.
        gate: Evidence that it is within the promotion margin, since the stage began.
        had: Units that have had it since the stage began.
        ratio: Of the canary's rate to its control's.
        wildness: Of the control's events.
        events: All that counted.
        is_good: Events are what one wants: the suspect is who has fewer, and sides are exchanged.
    """

    harm: BinomialEvidence = msgspec.field(default_factory=harm)
    flip: sign_flip.SignFlipEvidence = msgspec.field(default_factory=sign_flip.start)
    hourly: Hourly = Hourly()
    gate: BinomialEvidence = msgspec.field(default_factory=no_harm)
    had: Counts = Counts()
    ratio: Ratio = Ratio()
    wildness: Wildness = Wildness()
    events: Counts = Counts()
    is_good: bool = False

    def add(
        self, metric: Metric, counts: Counts, share: float, weight: Weight, lately: Lately | None = None
    ) -> Self:
        """With one more bucket.

        Args:
            metric: Whose strand it is.
            counts: Of the events, by arm.
            share: The canary's of the units, in (0, 1).
            weight: For what it counts.
            lately: None = all units are new.
        """
        if share >= 1:
            return self  # alone it is compared with nobody
        lately = lately or Lately(0, counts, counts)
        factor, most = self.wildness.factor(share), self.wildness.most
        hourly = self.hourly.at(lately.hour)
        changes: dict[str, object] = {
            "wildness": self.wildness.add(lately.in_hour, share, weight.is_whole),
            "had": plus(self.had, lately.in_stage),
        }
        if weight.is_warm or metric.severity == "severe":
            margin = _margin(metric, metric.rollback_margin)
            plain, sides = self._sides(metric, counts, share)
            _, again = self._sides(metric, lately.in_hour, share)
            changes |= {
                "events": plus(self.events, counts),
                "harm": _tempered(self.harm, sides, margin, factor, most),
                "flip": self._flipped(self.flip, counts, share),
                "ratio": self.ratio.add(*plain, factor) if plain.events else self.ratio,
            }
            hourly = msgspec.structs.replace(
                hourly,
                harm=_tempered(hourly.harm, again, margin, factor, most),
                flip=self._flipped(hourly.flip, lately.in_hour, share),
                events=plus(hourly.events, lately.in_hour),
            )
        if weight.is_warm and weight.gate_margin is not None:
            _, sides = self._sides(metric, lately.in_stage, share, lately.units)
            if not lately.units or self.had.control <= _MOST_HAD * lately.units * (1 - share):
                margin = _margin(metric, weight.gate_margin)
                changes["gate"] = _tempered(self.gate, sides, margin, factor, most)
        return msgspec.structs.replace(self, **changes, hourly=hourly)

    def at_new_stage(self) -> Self:
        """Gates begin anew; evidence of harm never does."""
        wildness = self.wildness.at_new_stage()
        return msgspec.structs.replace(self, gate=no_harm(), had=Counts(), wildness=wildness)

    @property
    def log_harm(self) -> float:
        """The logarithm of the binomial evidence of harm."""
        return with_first(self.harm.log_e, self.hourly.log_harm)

    @property
    def log_flip(self) -> float:
        """The logarithm of the sign-flip evidence of harm."""
        return with_first(self.flip.log_e, self.hourly.log_flip)

    @property
    def is_of_this_hour(self) -> bool:
        """First events of the hour say more than those of the release."""
        return self.hourly.harm.log_e > self.harm.log_e

    def _flipped(
        self, flip: sign_flip.SignFlipEvidence, counts: Counts, share: float
    ) -> sign_flip.SignFlipEvidence:
        if not (counts.canary or counts.baseline):
            return flip
        keep, sign = matched_share(share) / share, -1 if self.is_good else 1
        return flip.add_thinned(counts.canary, counts.baseline, keep, sign)

    def _sides(self, metric: Metric, counts: Counts, share: float, units: int = 0) -> tuple[Sides, Sides]:
        """The canary's, and the suspect's.

        Args:
            units: Of which those that have had it at this stage do not have it any more; 0 = all may.
        """
        other, rest, had = counts.control, 1 - share, self.had.control
        if metric.is_matched:
            other, rest, had = counts.baseline, matched_share(share), self.had.baseline
        mine, rest = share * _left(self.had.canary, units * share), rest * _left(had, units * rest)
        events, part = counts.canary + other, mine / (mine + rest)
        plain = Sides(counts.canary, events, part)
        return plain, Sides(other, events, 1 - part) if self.is_good else plain


def strands(metric: Metric) -> tuple[Strand, ...]:
    """Without evidence: for an output, up and down of each bin in turn; for a mean none."""
    if metric.kind == "mean":
        return ()
    if metric.kind == "output":
        return tuple(Strand(is_good=is_down) for _ in range(metric.bins) for is_down in (False, True))
    return (Strand(is_good=metric.worse == "less"),)


def _left(had: int, units: float) -> float:
    """The part of an arm's units that have not had it: the worse arm runs out of them sooner, and would look
    no worse in the end.

    >>> _left(0, 0.0), _left(8, 15.0)
    (1.0, 0.5)
    """
    return 1 - min(had, units) / (units + 1)


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
