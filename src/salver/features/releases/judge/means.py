"""Evidence from the values of units, for the canary and its control.

Sums by the share at which units were exposed, so that arms are compared only with those exposed beside them,
and the resulting evidence, interval and gate of a metric with a value per unit, such as revenue. Updated when
outcomes mature. ``strand.py`` does the same for events. Pure.
"""

from collections.abc import Sequence
from typing import Self

import msgspec

from salver.features.releases.judge.policy import Metric
from salver.stats.interval import Estimate
from salver.stats.mean_evidence import contrast, estimate, log_less, log_more, undecided
from salver.words.releases import Counts, OutcomeCohort, Sums, plus

_UNTOLD = "no unit's outcome is known yet"


class Phase(msgspec.Struct, frozen=True):
    """Sums of all units exposed at one share."""

    share: float
    canary: Sums
    control: Sums


class Means(msgspec.Struct, frozen=True):
    """Evidence of means; plain data, updated by copying.

    Args:
        phases: Sums of the whole release.
        recent: Sums of what has matured since the stage began.
        log_harm: Log evidence of harm; 0 while no conclusion is possible.
        log_gate: Log evidence that it is within the stage's promotion margin.
        unknown: Why no conclusion is possible, as text; empty = it is.
    """

    phases: tuple[Phase, ...] = ()
    recent: tuple[Phase, ...] = ()
    log_harm: float = 0.0
    log_gate: float = 0.0
    unknown: str = _UNTOLD

    def add(
        self, metric: Metric, matured: OutcomeCohort, gate_margin: float | None, *, is_recent: bool
    ) -> Self:
        """Add matured outcomes.

        Args:
            gate_margin: Margin of the stage; None = no gate.
            is_recent: They count for the stage.
        """
        phases = _with(self.phases, matured)
        recent = self.recent
        if is_recent:
            recent = _with(self.recent, matured)
        unknown = undecided(_pairs(phases))
        log_harm = 0.0
        if not unknown:
            log_harm = _evidence(phases, metric, metric.rollback_margin, is_of_harm=True)
        log_gate = self.log_gate
        if is_recent and gate_margin is not None and not undecided(_pairs(recent)):
            log_gate = _evidence(recent, metric, gate_margin, is_of_harm=False)
        return type(self)(phases, recent, log_harm, log_gate, unknown)

    def at_new_stage(self) -> Self:
        """Return the evidence at a new stage: gates start again, evidence of harm does not."""
        return msgspec.structs.replace(self, recent=(), log_gate=0.0)

    @property
    def events(self) -> Counts:
        """Return the units with a value: the canary's, and all of the control's as stable ones."""
        return Counts(
            canary=sum(phase.canary.events for phase in self.phases),
            stable=sum(phase.control.events for phase in self.phases),
        )

    def estimate(self, chance: float) -> Estimate | None:
        """Return the ratio of the canary's mean to the control's with bounds, or None if it is not known yet.

        The bounds are wrong at any look with at most this probability.
        """
        if self.unknown:
            return None
        return estimate(_pairs(self.phases), chance)


def _evidence(phases: Sequence[Phase], metric: Metric, margin: float, *, is_of_harm: bool) -> float:
    """Return the log evidence that the canary's mean is beyond the margin, or within it."""
    is_less = metric.worse == "less"
    seen = contrast(_pairs(phases), 1 - margin if is_less else 1 + margin)
    if is_less == is_of_harm:
        return log_less(seen)
    return log_more(seen)


def _pairs(phases: Sequence[Phase]) -> list[tuple[Sums, Sums]]:
    return [(phase.canary, phase.control) for phase in phases]


def _with(phases: tuple[Phase, ...], matured: OutcomeCohort) -> tuple[Phase, ...]:
    """Add sums to the phase of a share, keeping their order."""
    if matured.share >= 1:
        return phases  # with all traffic there is no control
    canary, control = matured.sums
    known = {phase.share: phase for phase in phases}
    before = known.get(matured.share, Phase(matured.share, Sums(), Sums()))
    known[matured.share] = Phase(matured.share, plus(before.canary, canary), plus(before.control, control))
    return tuple(known.values())
