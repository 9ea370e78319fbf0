"""Evidence from the resources that a version needs: time in the model, CPU time, memory.

A version has one to a few processes, and requests of one batch share its time, so requests are no
independent observations of what they cost. Minutes are compared instead: in each the canary needs more than
its margin per request, or it does not. A version that is within the margin is above it in a minute with
probability one half at most, whatever the minutes before were like; that is the assumption, and the bets on
it are evidence at any time. The size of a difference within a minute counts for nothing, so one burst of a
process is one minute. Pure.
"""

import math
from typing import Final, Self

import msgspec

from salver.stats.combine import log_mean
from salver.words.releases import ResourceUse, Spent

#: Parts of the capital that are bet on each minute.
_STAKES: Final = (0.2, 0.5, 0.8)
_NONE: Final = (0.0,) * len(_STAKES)


class UsageEvidence(msgspec.Struct, frozen=True):
    """Evidence of one resource; plain data, updated by copying.

    Args:
        harm: By stake, the log of the capital bet on minutes above the rollback margin.
        gate: The same for minutes within the promotion margin, since the stage began.
        minutes, above: Blocks of time that were compared, and those above the rollback margin.
        canary, stable: Use in all of them; ``open_canary``, ``open_stable``: in the open block, ``number``.
    """

    harm: tuple[float, ...] = _NONE
    gate: tuple[float, ...] = _NONE
    minutes: int = 0
    above: int = 0
    canary: Spent = Spent()
    stable: Spent = Spent()
    open_canary: Spent = Spent()
    open_stable: Spent = Spent()
    number: int = -1

    @property
    def log_harm(self) -> float:
        """Return the log evidence that the canary needs more than its rollback margin."""
        return log_mean(self.harm)

    @property
    def log_gate(self) -> float:
        """Return the log evidence that it is within its promotion margin."""
        return log_mean(self.gate)

    @property
    def ratio(self) -> float | None:
        """Return what the canary needs, as a multiple of the stable version; None = not known."""
        return _ratio(self.canary, self.stable)

    def add(
        self, used: ResourceUse, number: int, margins: tuple[float, float | None], *, is_warm: bool
    ) -> Self:
        """Add a bucket.

        Args:
            number: Number of its block of time; an earlier one that is open is compared first.
            margins: Of the rollback and of the gate; None = no gate.
            is_warm: The warm-up is over.
        """
        after = self
        if number != self.number:
            after = self._closed(*margins) if self.number >= 0 else self
            after = msgspec.structs.replace(after, open_canary=Spent(), open_stable=Spent(), number=number)
        if not is_warm:
            return after
        return msgspec.structs.replace(
            after,
            open_canary=_plus(after.open_canary, used.canary),
            open_stable=_plus(after.open_stable, used.stable),
        )

    def at_new_stage(self) -> Self:
        """Return the evidence at a new stage: the gate starts again."""
        return msgspec.structs.replace(self, gate=_NONE, open_canary=Spent(), open_stable=Spent(), number=-1)

    def _closed(self, rollback: float, promotion: float | None) -> Self:
        ratio = _ratio(self.open_canary, self.open_stable)
        if ratio is None:
            return self
        is_above, gate = ratio > 1 + rollback, self.gate
        if promotion is not None:
            gate = _bet(gate, is_won=ratio < 1 + promotion)
        return msgspec.structs.replace(
            self,
            harm=_bet(self.harm, is_won=is_above),
            gate=gate,
            minutes=self.minutes + 1,
            above=self.above + is_above,
            canary=_plus(self.canary, self.open_canary),
            stable=_plus(self.stable, self.open_stable),
        )


def minutes_needed(enough: float) -> int:
    """Return how many minutes in a row on one side of a margin are so much log evidence.

    >>> minutes_needed(math.log(20)), minutes_needed(math.log(1000))
    (7, 14)
    """
    minutes = 1
    while log_mean([minutes * math.log1p(stake) for stake in _STAKES]) < enough:
        minutes += 1
    return minutes


def _bet(log_sums: tuple[float, ...], *, is_won: bool) -> tuple[float, ...]:
    """Multiply the capital of each stake by its win or loss, which are as large as each other.

    >>> [round(math.exp(one), 9) for one in _bet(_NONE, is_won=False)]
    [0.8, 0.5, 0.2]
    """
    sign = 1 if is_won else -1
    return tuple(total + math.log1p(sign * stake) for total, stake in zip(log_sums, _STAKES, strict=True))


def _plus(some: Spent, more: Spent) -> Spent:
    return Spent(some.amount + more.amount, some.units + more.units)


def _ratio(canary: Spent, stable: Spent) -> float | None:
    if not (canary.units and stable.units and stable.amount > 0):
        return None
    return canary.amount / canary.units / (stable.amount / stable.units)
