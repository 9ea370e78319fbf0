"""What do the values of units say, up to now, of the canary beside its control?

Sums by the share at which units were exposed, so that arms are compared only with those that were exposed
beside them, and what follows from them each time some more have matured: evidence, interval and gate of a
metric whose units have a value each, as revenue. ``strand.py`` is the same for events. Pure.
"""

from collections.abc import Sequence
from typing import Self

import msgspec

from salver.features.releases.judge.policy import Metric
from salver.stats.interval import Estimate
from salver.stats.mean_evidence import contrast, estimate, log_less, log_more, undecided
from salver.words.releases import Counts, Matured, Sums, plus

_UNTOLD = "no unit's outcome is known yet"


class Phase(msgspec.Struct, frozen=True):
    """All that were exposed at one share."""

    share: float
    canary: Sums
    control: Sums


class Means(msgspec.Struct, frozen=True):
    """Plain data, that grows by copies.

    Args:
        phases: Of the whole release.
        recent: Of what has matured since the stage began.
        log_harm: Logarithm of the evidence of harm; 0 while nothing can be said.
        log_gate: The same, that it is within the stage's promotion margin.
        unknown: Why nothing can be said, in words; empty = it can.
    """

    phases: tuple[Phase, ...] = ()
    recent: tuple[Phase, ...] = ()
    log_harm: float = 0.0
    log_gate: float = 0.0
    unknown: str = _UNTOLD

    def add(self, metric: Metric, matured: Matured, gate_margin: float | None, *, is_recent: bool) -> Self:
        """With those that have matured.

        Args:
            gate_margin: Of the stage; None = for no gate.
            is_recent: They count for the stage.
        """
        phases = _with(self.phases, matured)
        recent = _with(self.recent, matured) if is_recent else self.recent
        unknown = undecided(_pairs(phases))
        log_harm = 0.0 if unknown else _evidence(phases, metric, metric.rollback_margin, is_of_harm=True)
        log_gate = self.log_gate
        if is_recent and gate_margin is not None and not undecided(_pairs(recent)):
            log_gate = _evidence(recent, metric, gate_margin, is_of_harm=False)
        return type(self)(phases, recent, log_harm, log_gate, unknown)

    def at_new_stage(self) -> Self:
        """Gates begin anew; evidence of harm never does."""
        return msgspec.structs.replace(self, recent=(), log_gate=0.0)

    @property
    def events(self) -> Counts:
        """Units that brought anything: the canary's, and all of the control's, as stable ones."""
        return Counts(
            canary=sum(phase.canary.events for phase in self.phases),
            stable=sum(phase.control.events for phase in self.phases),
        )

    def estimate(self, chance: float) -> Estimate | None:
        """How many times the control's mean the canary's is, with bounds that are wrong at any look with this
        chance; None = it cannot be told yet.
        """
        return None if self.unknown else estimate(_pairs(self.phases), chance)


def _evidence(phases: Sequence[Phase], metric: Metric, margin: float, *, is_of_harm: bool) -> float:
    """That the canary's mean is beyond the margin, or within it."""
    is_less = metric.worse == "less"
    seen = contrast(_pairs(phases), 1 - margin if is_less else 1 + margin)
    return log_less(seen) if is_less == is_of_harm else log_more(seen)


def _pairs(phases: Sequence[Phase]) -> list[tuple[Sums, Sums]]:
    return [(phase.canary, phase.control) for phase in phases]


def _with(phases: tuple[Phase, ...], matured: Matured) -> tuple[Phase, ...]:
    """Each share once, in the order in which they came."""
    if matured.share >= 1:
        return phases  # alone it is compared with nobody
    canary, control = matured.sums
    known = {phase.share: phase for phase in phases}
    before = known.get(matured.share, Phase(matured.share, Sums(), Sums()))
    known[matured.share] = Phase(matured.share, plus(before.canary, canary), plus(before.control, control))
    return tuple(known.values())
