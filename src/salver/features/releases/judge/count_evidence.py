"""Evidence of a metric that counts events of units: errors, time-outs, slow answers.

Two witnesses have to agree on harm, each of them evidence under its own assumption, so that the smaller is
evidence if either holds. *Units* are random: half of the bet is on the first failures of each, half on units
as clusters. *Blocks* of time have the canary's share of the failures, except for few bursts of its process. A
soft metric needs a third one, the sign-flip evidence against its matched baseline. Pure.
"""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple, Self

import msgspec

from salver.features.releases.judge.bets import Bets
from salver.features.releases.judge.blocks import ANEW, Blocks, OpenBlock, Sides
from salver.features.releases.judge.policy import Metric
from salver.features.releases.judge.ratio import Ratio
from salver.features.releases.judge.units import GATE_LOOKS, HARM_LOOKS, Clusters
from salver.features.releases.judge.wildness import matched_share
from salver.stats import sign_flip
from salver.stats.binomial_evidence import HARM, harm
from salver.stats.combine import log_mean, log_sum
from salver.words.errors import InvalidInput
from salver.words.releases import BLOCK_BUCKETS, Bucket, Counts, plus

#: Bets of the gate, per failing block of a unit: small ones for units that fail often.
GATE_SCALES: Final = (0.02, 0.08, 0.3, 0.8, 2.0)
_NOTHING: Final = -700.0  # the logarithm of nearly 0
_NO_STEPS: Final = (0.0,) * len(HARM)
_ROUNDED: Final = 1e-3  # of a bucket


class Look(NamedTuple):
    """Circumstances under which a bucket is added.

    Attributes:
        seconds: Length of a bucket by the policy.
        is_late: It belongs to an earlier stage.
        is_warm: The warm-up is over, or the metric has none.
        gate_margin: Margin of the stage; None = no gate.
        part: Part of the bet on clusters for each stage.
    """

    seconds: float
    is_late: bool = False
    is_warm: bool = True
    gate_margin: float | None = None
    part: float = 1.0


class CountEvidence(msgspec.Struct, frozen=True):
    """Evidence of one metric; plain data, updated by copying.

    Args:
        first: Evidence of harm from the first event of each unit; ``pending``: steps of the open block.
        withheld: What was cut from them in the current burst.
        clusters: Units of this stage as clusters.
        log_clusters: Log evidence of harm from clusters: the weighted sum over all looks so far.
        blocks: Evidence of harm from blocks of time.
        flip: Sign-flip evidence of harm, against the matched baseline.
        log_gate: Log evidence of the last look of this stage that it is within its promotion margin.
        ratio: Ratio of the canary's rate to its control's.
        events: All counted events.
    """

    first: Bets = Bets()
    pending: tuple[float, ...] = _NO_STEPS
    withheld: tuple[float, ...] = _NO_STEPS
    clusters: Clusters = Clusters()
    log_clusters: float = _NOTHING
    blocks: Blocks = Blocks()
    flip: sign_flip.SignFlipEvidence = msgspec.field(default_factory=sign_flip.start)
    log_gate: float = _NOTHING
    ratio: Ratio = Ratio()
    events: Counts = Counts()

    @property
    def log_units(self) -> float:
        """Return the log evidence of harm if units are random."""
        return log_mean([self.first.log_e, self.log_clusters])

    @property
    def log_harm(self) -> float:
        """Return the log evidence of harm on which both witnesses agree."""
        return min(self.log_units, self.blocks.bets.log_e)

    def add(self, metric: Metric, bucket: Bucket, look: Look) -> Self:
        """Add a bucket in which the metric was counted."""
        if bucket.share >= 1:
            return self  # with all traffic there is no control
        events = bucket.events.get(metric.name, Counts())
        places = bucket.blocks.get(metric.name) or (events,)
        failed = Counts()
        for place in places:
            failed = plus(failed, place)
        if look.is_late:
            return self._late(metric, events, failed, bucket.share, look)
        key, after = (_number(bucket, look), bucket.stage, bucket.share), self
        opened = self.blocks.open
        if opened is not None and (opened.number, opened.stage, opened.share) != key:
            after = self._closed(metric, look)
        if look.is_warm:
            after = after._of_units(metric, events, failed, bucket.share)
        return after._of_block(metric, bucket, (places, failed), look)

    def at_new_stage(self, metric: Metric, look: Look) -> Self:
        """Return the evidence at a new stage: clusters and gates start again, evidence of harm does not."""
        after = self._closed(metric, look)
        return msgspec.structs.replace(after, clusters=Clusters(), log_gate=_NOTHING)

    def _late(self, metric: Metric, events: Counts, failed: Counts, share: float, look: Look) -> Self:
        """Add a bucket of an earlier stage, as a block of its own."""
        if not look.is_warm:
            return self
        after, blocks = self._of_units(metric, events, failed, share), self.blocks
        if failed.total:
            blocks = blocks.late(failed.canary, _other(metric, failed), _sides(metric, share))
        steps = [new - old for new, old in zip(after.pending, self.pending, strict=True)]
        return msgspec.structs.replace(
            after, first=self.first.add(steps), pending=self.pending, blocks=blocks
        )

    def _of_units(self, metric: Metric, events: Counts, failed: Counts, share: float) -> Self:
        """Add first events of units, and the differences of units that failed in the block."""
        sides, other = _sides(metric, share), _other(metric, events)
        if not 0 <= events.canary <= events.canary + other:
            raise InvalidInput(
                f"{events.canary} of {events.canary + other} events cannot be", fix="Count from 0 on."
            )
        steps, ratio, flip = self.pending, self.ratio, self.flip
        if events.canary or other:
            part = sides.canary / (sides.canary + sides.control)
            both = events.canary + other
            more = harm().add(events.canary, both, part, sides.margin).log_sums
            steps = tuple(one + other for one, other in zip(steps, more, strict=True))
            ratio = ratio.add(events.canary, both, part, self.blocks.factor(share))
        if failed.canary or failed.baseline:
            flip = flip.add_thinned(failed.canary, failed.baseline, matched_share(share) / share)
        return msgspec.structs.replace(
            self, pending=steps, ratio=ratio, flip=flip, events=plus(self.events, events)
        )

    def _of_block(
        self, metric: Metric, bucket: Bucket, failed: tuple[Sequence[Counts], Counts], look: Look
    ) -> Self:
        """Add a bucket to its block, and close the block at its end."""
        places, all_of_them = failed
        number = _number(bucket, look)
        opened = (self.blocks.open or OpenBlock(number, bucket.stage, bucket.share)).add(
            (all_of_them.canary, _other(metric, all_of_them)),
            bucket.raw.get(metric.name, all_of_them).canary,
            (bucket.requests.canary, _other(metric, bucket.requests)),
            bucket.seconds,
        )
        if bucket.parts:
            opened = opened.add_parts(bucket.parts, metric.name, is_matched=metric.is_matched)
        after = msgspec.structs.replace(
            self,
            blocks=msgspec.structs.replace(self.blocks, open=opened),
            clusters=self.clusters.add(places, bucket.new_units, is_matched=metric.is_matched),
        )
        end = (number + 1) * BLOCK_BUCKETS * look.seconds
        if bucket.start + bucket.seconds < end - _ROUNDED * look.seconds:
            return after
        return after._closed(metric, look)

    def _closed(self, metric: Metric, look: Look) -> Self:
        """Close the open block, and look at the clusters if it is time."""
        blocks = self.blocks
        if blocks.open is None:
            return self
        sides, length = _sides(metric, blocks.open.share), BLOCK_BUCKETS * look.seconds
        cleared, closed = blocks.cleared(sides, length), blocks.closed(sides, length, counts=look.is_warm)
        assert cleared is not None
        (mine, others), most, pending = cleared.cut, cleared.most, self.pending
        is_burst, is_long = math.isfinite(most), closed.is_longer_than_a_hiccup
        usual = blocks.usual(cleared.block, cleared.sides)
        clusters = self.clusters.closed(
            usual, (mine.by_place, others.by_place), is_burst=is_burst, is_long=is_long
        )
        if (mine.first or others.first) and look.is_warm:
            part, both = sides.canary / (sides.canary + sides.control), mine.first + others.first
            less = harm().add(mine.first, both, part, sides.margin).log_sums
            pending = tuple(step - of_bursts for step, of_bursts in zip(pending, less, strict=True))
        first = self.first.add([min(step, most) for step in pending])
        withheld = _NO_STEPS
        if is_burst:
            cut = [max(0.0, step - most) for step in pending]
            withheld = tuple(one + more for one, more in zip(self.withheld, cut, strict=True))
        elif is_long:
            first = first.add(self.withheld)
        if closed.count > blocks.count and not closed.count % ANEW:
            first = first.begin()
            closed = msgspec.structs.replace(closed, bets=closed.bets.begin())
        log_clusters, log_gate = self.log_clusters, self.log_gate
        if weight := HARM_LOOKS.get(clusters.blocks):
            found = log_mean(list(clusters.log_harm(HARM, metric.rollback_margin)))
            log_clusters = log_sum([log_clusters, math.log(weight * look.part) + found])
        if look.gate_margin is not None and clusters.blocks in GATE_LOOKS:
            factor = closed.gate_factor(blocks.open.share)
            bets = clusters.log_gate(GATE_SCALES, look.gate_margin)
            log_gate = log_mean([log_e / factor for log_e in bets])
        return msgspec.structs.replace(
            self,
            first=first,
            pending=_NO_STEPS,
            withheld=withheld,
            clusters=clusters,
            log_clusters=log_clusters,
            blocks=closed,
            log_gate=log_gate,
        )


def _number(bucket: Bucket, look: Look) -> int:
    """Return the number of blocks since 1970."""
    return math.floor(bucket.start / (BLOCK_BUCKETS * look.seconds) + _ROUNDED)


def _other(metric: Metric, counts: Counts) -> int:
    """Return the count of the metric's control."""
    if metric.is_matched:
        return counts.baseline
    return counts.control


def _sides(metric: Metric, share: float) -> Sides:
    control = matched_share(share) if metric.is_matched else 1 - share
    return Sides(share, control, metric.rollback_margin)
