"""Records of the judge's verdicts and their grounds.

Verdicts are made in ``judge.py``.
"""

import enum
import math
from collections.abc import Sequence
from typing import Literal

import msgspec

from salver.words.releases import Copies, Counts

#: Absolute logarithms above this are shown as powers of ten.
_READABLE = 11.0
_NOTHING = -600.0  # below which evidence is shown as zero


class Decision(enum.StrEnum):
    """Decision about a release, from the mildest to the strictest.

    Attributes:
        PROMOTE: Go to the next stage, or to all traffic after the last.
        CONTINUE: Change nothing and collect more evidence.
        HOLD: Keep the weight and report what is missing, until a later verdict or the deadline.
        PAUSE: Return all traffic to the stable version immediately, and let it come back later.
        ROLLBACK: Return all traffic to the stable version, immediately and finally.
    """

    PROMOTE = "promote"
    CONTINUE = "continue"
    HOLD = "hold"
    PAUSE = "pause"
    ROLLBACK = "rollback"

    @property
    def strictness(self) -> int:
        """Return the rank in the order above, from 0."""
        return list(Decision).index(self)


#: Why a release is held or paused: no requests, or missing counts; unexpected numbers of units in the arms;
#: late outcomes; a complete sample without proof; copies that differ; a business rule; a person; a rate above
#: its ceiling; servers whose clocks differ; most requests to the canary fail.
Cause = Literal[
    "no_data",
    "split",
    "late",
    "inconclusive",
    "unlike",
    "rule",
    "person",
    "ceiling",
    "clocks",
    "outage",
]


class MetricVerdict(msgspec.Struct, frozen=True):
    """Evidence of one metric.

    Attributes:
        effect: The canary's rate, or mean, as a multiple of its control's; None = unknown yet.
        low, high: Bounds of the effect, valid at all looks simultaneously with 1 - beta; None = no bound.
        log_e: Log evidence that it is worse than its margin, as used for decisions.
        log_harm, log_flip: The tempered binomial evidence, or that of means; and the sign-flip evidence
            against the matched baseline, which means do not have.
        threshold: Value of ``log_e`` beyond which this metric alone causes a rollback.
        log_gate: Log evidence of this stage that it is within its promotion margin.
        gate: Value of ``log_gate`` from which the metric passes; None = not a gate.
        dispersion: Divisor of the evidence, at least 1: variation of the control relative to chance.
        units: Units seen for the first time, by arm.
        events: Counted events, by arm.
        missing: What it lacks for promotion, as text; empty = nothing.
        undecided: Why no conclusion about a mean is possible yet, as text; empty = it is.
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
    """Evidence of copies.

    Attributes:
        copies: Copies of the release; a unit counts once per bucket.
        log_alike: Log evidence that enough copies match.
        gate: Value of ``log_alike`` from which the stage may end.
        log_unlike: Log evidence that fewer match.
        threshold: Value of ``log_unlike`` from which the release is held or rolled back.
        missing: What it lacks, as text; empty = nothing.
    """

    copies: Copies
    log_alike: float
    gate: float
    log_unlike: float
    threshold: float
    missing: str


class Verdict(msgspec.Struct, frozen=True):
    """Verdict after one look.

    Attributes:
        at: Unix seconds, the end of the bucket.
        stage: Stage that was judged.
        next_stage: Stage after a promotion; None = no promotion, or the release is fully promoted.
        reasons: Reasons as text, the most important first.
        cause: Cause of a hold or a pause.
        held_since: Unix seconds; None = not held.
        log_e: Log evidence of all metrics together.
        threshold: Value for a rollback: log(1 / alpha).
        split_log_e: Log evidence that the split is broken.
        copies: Evidence of copies, at a stage without weight; else None.
        pause_seconds: For a pause, seconds until the canary gets traffic again; 0 = a person resumes it.
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
    pause_seconds: float = 0.0


def strictest(decisions: Sequence[Decision]) -> Decision:
    """Return the strictest of several decisions.

    >>> strictest([Decision.PROMOTE, Decision.HOLD]).value
    'hold'
    """
    return max(decisions, key=lambda decision: decision.strictness)


def number(log_e: float) -> str:
    """Format evidence as a readable number, from its logarithm.

    >>> number(math.log(812.4)), number(100.0), number(-30.0)
    ('812', '10^43', '10^-13')
    """
    if log_e < _NOTHING:
        return "0"
    if abs(log_e) > _READABLE:
        return f"10^{log_e / math.log(10):.0f}"
    if log_e > 4:
        return f"{math.exp(log_e):,.0f}"
    return f"{math.exp(log_e):.2g}"
