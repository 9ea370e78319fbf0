"""Evidence in which a unit is a cluster.

A user whose request fails will fail again, so failures of one unit are one cluster: the number of blocks of
time in which it failed since the stage began. Arms are assigned by a hash, that is, by a draw without
replacement, and such a sum has no larger exponential moment than one with replacement (Hoeffding 1963,
theorem 4). Hence ``exp(l * sum of the canary's units) / mean(exp(l * each unit)) ** (units of the canary)``
has a mean of at most 1 whatever units are like, if their failures do not depend on their arm.

A tolerated excess is thinned away: each failing block of the canary counts with probability ``keep``. Nothing
is drawn. The ratio below is a lower bound of the mean over all draws: the numerator's mean is exact, and the
denominator's, under the tilted law of the draws, is bounded by Jensen's inequality.

Knows only counts. Pure.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Final, Self

import msgspec

from salver.words.releases import MOST_BLOCKS, Counts

#: Failing blocks of a unit that count; more are counted as so many.
MOST_COUNTED: Final = MOST_BLOCKS - 1
_NONE: Final = (0.0,) * MOST_COUNTED
_GROWTH, _FURTHER = 1.5, 40  # looks for harm beyond those that are listed


def _looks(first: Sequence[int], part: float) -> dict[int, float]:
    """Return the weight of each look, by the number of blocks: equal parts, then halves of the remainder."""
    looks = dict.fromkeys(first, part / len(first))
    last, left = first[-1], 1 - part
    for _ in range(_FURTHER):
        last, left = math.ceil(_GROWTH * last), left / 2
        looks[last] = left
    return looks


#: Weights of the looks for harm, by the number of blocks since the stage began.
HARM_LOOKS: Final = _looks((1, 2, 3, 5, 8, 12, 18, 27, 40, 60), 0.9)
#: Numbers of blocks after which there is a look for the gate: each a fifth more.
GATE_LOOKS: Final = frozenset(
    itertools.accumulate(range(80), lambda last, _: math.ceil(1.2 * last), initial=3)
)


class Clusters(msgspec.Struct, frozen=True):
    """Units of a stage by the number of their failing blocks; plain data, updated by copying.

    Args:
        blocks: Number of blocks since the stage began.
        met: Units of the canary and of its control.
        canary, control: In place *k* - 1, units with at least *k* failing blocks.
        trimmed: The same of the control, without what is beyond its usual rate (:meth:`closed`).
        steady: The same of the canary, without bursts; ``withheld``: of the current burst.
        apart: What of the control's was in bursts of single servers; ``own``: the same of the canary.
        open_canary, open_control: What the open block adds.
    """

    blocks: int = 0
    met: tuple[int, int] = (0, 0)
    canary: tuple[float, ...] = _NONE
    control: tuple[float, ...] = _NONE
    trimmed: tuple[float, ...] = _NONE
    steady: tuple[float, ...] = _NONE
    withheld: tuple[float, ...] = _NONE
    open_canary: tuple[float, ...] = _NONE
    open_control: tuple[float, ...] = _NONE
    apart: tuple[float, ...] = _NONE
    own: tuple[float, ...] = _NONE

    def add(self, places: Sequence[Counts], met: Counts, *, is_matched: bool) -> Self:
        """Add a bucket of the open block."""
        canary, control = list(self.open_canary), list(self.open_control)
        for place, counts in enumerate(places[:MOST_COUNTED]):
            canary[place] += counts.canary
            control[place] += counts.baseline if is_matched else counts.control
        others = met.baseline if is_matched else met.control
        return msgspec.structs.replace(
            self,
            met=(self.met[0] + met.canary, self.met[1] + others),
            open_canary=tuple(canary),
            open_control=tuple(control),
        )

    def closed(
        self,
        usual: float,
        cut: tuple[Sequence[float], Sequence[float]] = (_NONE, _NONE),
        *,
        is_burst: bool = False,
        is_long: bool = False,
    ) -> Self:
        """Close the block.

        Args:
            usual: Units of the control that are credible in a block; the excess is no reason to promote.
            cut: Units of the canary and of its control, by place, in bursts of single servers, which are no
                evidence for or against harm.
            is_burst: It is in a burst of the canary, which is no evidence of harm.
            is_long: The burst is longer than a hiccup, so all of it is evidence.
        """
        steady, withheld = self.steady, _NONE
        calm, rest = _minus(self.open_canary, cut[0]), _minus(self.open_control, cut[1])
        if is_burst:
            withheld = _plus(self.withheld, calm)
        else:
            steady = _plus(steady, calm)
            if is_long:
                steady = _plus(steady, self.withheld)
        events = sum(rest)
        part = min(1.0, usual / events) if events else 1.0
        return type(self)(
            self.blocks + 1,
            self.met,
            _plus(self.canary, self.open_canary),
            _plus(self.control, self.open_control),
            _plus(self.trimmed, [part * count for count in rest]),
            steady,
            withheld,
            apart=_plus(self.apart, cut[1]),
            own=_plus(self.own, cut[0]),
        )

    def log_harm(self, ratios: Sequence[float], margin: float) -> Iterator[float]:
        """Return for each ratio the log evidence that the canary is worse than its margin."""
        control = _minus(self.control, self.apart)
        for ratio in ratios:
            yield self._log_ratio(self.steady, control, math.log(ratio), 1 / (1 + margin))

    def log_gate(self, scales: Sequence[float], margin: float) -> Iterator[float]:
        """Return for each scale the log evidence that it is within its margin.

        Bursts of single servers are left out of the control, and of the canary as far as it has no more.
        """
        own, equal = sum(self.own), sum(self.apart) * self.met[0] / max(1, self.met[1])
        part = min(1.0, equal / own) if own else 0.0
        canary = _falling(_minus(self.canary, [part * count for count in self.own]))
        control = _falling(self.trimmed)
        keep = thinned(canary, self.blocks, margin)
        for scale in scales:
            yield self._log_ratio(canary, control, -scale, keep)

    def _log_ratio(
        self, canary: Sequence[float], control: Sequence[float], scale: float, keep: float
    ) -> float:
        met = max(float(self.met[0]), canary[0])
        units = met + max(float(self.met[1]), control[0])
        if not sum(self.met):
            return 0.0  # units are not known
        grow = math.exp(scale)
        kept = 1 - keep + keep * grow  # the mean of one failing block of the canary
        tilted = keep * grow / kept
        mine = 1 - tilted + tilted * grow
        rest = sum(
            some * mine**place * (mine - 1) + others * grow**place * (grow - 1)
            for place, (some, others) in enumerate(zip(canary, control, strict=True))
        )
        log_sum = math.log(kept) * sum(canary)
        if scale < 0:  # of those that reach the limit it is not known what thinning would leave
            many = canary[-1]
            log_sum += MOST_COUNTED * many * (scale - math.log(kept))
            rest += many * (grow**MOST_COUNTED - mine**MOST_COUNTED)
        return log_sum - met * math.log1p(rest / units)


def thinned(canary: Sequence[float], blocks: int, margin: float) -> float:
    """Return the part of the canary's failing blocks that would remain without harm of the margin.

    A block with several failures counts once, so harm adds fewer failing blocks than failures. If a unit
    fails in a block with probability q, and its rate is higher by the margin, the part is ``(1 - (1 - q) **
    (1 / (1 + margin))) / q``: 1 / (1 + margin) for rare failures, 1 for a unit that fails in every block.

    Args:
        canary: As in :class:`Clusters`; q is the mean over failing blocks, so that frequent units count most.
        blocks: Number of blocks of the stage.

    >>> round(thinned([4.0, *_NONE[1:]], 1000, 0.5), 3), thinned([4.0] * MOST_COUNTED, 30, 0.5)
    (0.667, 1.0)
    """
    failing = sum(canary)
    if not failing:
        return 1 / (1 + margin)
    counted = min(blocks, MOST_COUNTED)
    squares = sum((2 * place + 1) * units for place, units in enumerate(canary))
    # of those that reach the limit it is not known how many more there were
    chance = squares / blocks + canary[-1] * MOST_COUNTED * (1 - counted / blocks)
    chance = chance / failing
    if chance >= 1:
        return 1.0
    return -math.expm1(math.log1p(-chance) / (1 + margin)) / chance


def _falling(units: Sequence[float]) -> Sequence[float]:
    """Return at least as many units for fewer blocks, though some of their first blocks were not counted."""
    return list(itertools.accumulate(reversed(units), max))[::-1]


def _minus(some: Sequence[float], less: Sequence[float]) -> list[float]:
    return [max(0.0, one - other) for one, other in zip(some, less, strict=True)]


def _plus(some: Sequence[float], more: Sequence[float]) -> tuple[float, ...]:
    return tuple(one + other for one, other in zip(some, more, strict=True))
