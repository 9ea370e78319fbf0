"""What did the judge say, and on which grounds? The words of its answers.

Records only: how one comes about is ``judge.py``'s question.
"""

import enum
import math
from collections.abc import Sequence
from typing import Literal

import msgspec

from salver.words.releases import Copies, Counts

#: Logarithms of numbers that are easier to read as powers of ten are larger.
_READABLE = 11.0


class Decision(enum.StrEnum):
    """What is to become of the release, from the mildest to the strictest.

    Attributes:
        PROMOTE: Its next stage, or all of the traffic after the last.
        CONTINUE: Nothing; more is to be seen.
        HOLD: It keeps its weight, and what it misses is said; nothing else than a later verdict, or the
            deadline, ends that.
        ROLLBACK: The stable version takes everything back, at once and for good.
    """

    PROMOTE = "promote"
    CONTINUE = "continue"
    HOLD = "hold"
    ROLLBACK = "rollback"

    @property
    def strictness(self) -> int:
        """From 0 on, in the order above."""
        return list(Decision).index(self)


#: Why a release is held: no requests; the arms have not the units they should have; late outcomes; enough was
#: seen, and proves neither; copies are not alike; a rule of the owner's; a person.
Cause = Literal["no_data", "split", "late", "inconclusive", "unlike", "rule", "person"]


class MetricVerdict(msgspec.Struct, frozen=True):
    """What is known of one metric.

    Attributes:
        effect: The canary's rate, or mean, as a multiple of its control's; None = it cannot be told yet.
        low, high: Between which it lies, at every look at once, with 1 - beta; None = without a bound.
        log_e: Logarithm of the evidence that it is worse than its margin allows, as it counts.
        log_harm, log_flip: Of which the first is the binomial evidence, tempered, or that of means; the
            second the sign-flip evidence, against the matched baseline, which means have not.
        threshold: Of ``log_e``, beyond which this metric alone rolls back.
        log_gate: Logarithm of the evidence of this stage that it is within its promotion margin.
        gate: Of ``log_gate``, from which on the metric passes; None = it is no gate.
        dispersion: By which evidence is divided, 1 or more: how much wilder the control is than chance.
        units: Seen for the first time, by arm.
        events: Which counted, by arm.
        missing: What it lacks to promote, in words; empty = nothing.
        undecided: Why nothing can be said of a mean yet, in words; empty = it can.
    """

    name: str
    effect: float | None
    low: float | None
    high: float | None
    log_e: float
    log_harm: float
    log_flip: float
    threshold: float
    log_gate: float
    gate: float | None
    dispersion: float
    units: Counts
    events: Counts
    missing: str
    undecided: str = ""


class CopyVerdict(msgspec.Struct, frozen=True):
    """What is known of copies.

    Attributes:
        copies: Of the release; a unit counts once in a bucket.
        log_alike: Logarithm of the evidence that as many are alike as have to be.
        gate: Of ``log_alike``, from which on the stage may be left.
        log_unlike: Logarithm of the evidence that fewer are.
        threshold: Of ``log_unlike``, from which on the stage is held or the release rolled back.
        missing: What it lacks, in words; empty = nothing.
    """

    copies: Copies
    log_alike: float
    gate: float
    log_unlike: float
    threshold: float
    missing: str


class Verdict(msgspec.Struct, frozen=True):
    """One look.

    Attributes:
        at: Unix seconds, the end of the bucket.
        stage: That was judged.
        next_stage: After a promotion; None = there is none, or the release is promoted altogether.
        reasons: In words, the weightiest first.
        cause: Of a hold.
        held_since: Unix seconds; None = it is not held.
        log_e: Logarithm of all metrics' evidence together.
        threshold: At which it rolls back: log(1 / alpha).
        split_log_e: Logarithm of the evidence that the split is broken.
        copies: What they show, at a stage without weight; None = it has some.
    """

    decision: Decision
    at: float
    stage: int
    next_stage: int | None
    reasons: tuple[str, ...]
    cause: Cause | None
    held_since: float | None
    log_e: float
    threshold: float
    split_log_e: float
    metrics: tuple[MetricVerdict, ...]
    copies: CopyVerdict | None = None


def strictest(decisions: Sequence[Decision]) -> Decision:
    """The one that wins where several are called for.

    >>> strictest([Decision.PROMOTE, Decision.HOLD]).value
    'hold'
    """
    return max(decisions, key=lambda decision: decision.strictness)


def number(log_e: float) -> str:
    """Evidence as a number that can be read, from its logarithm.

    >>> number(math.log(812.4)), number(100.0), number(-30.0)
    ('812', '10^43', '10^-13')
    """
    if abs(log_e) > _READABLE:
        return f"10^{log_e / math.log(10):.0f}"
    return f"{math.exp(log_e):,.0f}" if log_e > 4 else f"{math.exp(log_e):.2g}"
