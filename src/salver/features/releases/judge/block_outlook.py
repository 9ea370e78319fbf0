"""Usual course of the evidence from blocks and from clusters, for the forecast.

With every count at its distribution around the expectation, the mean step of each bet is computed block by
block, as if the control varied by chance alone. Pure.
"""

import math
from collections.abc import Sequence
from typing import Final

from salver.features.releases.judge.bets import AT_ONCE
from salver.features.releases.judge.blocks import MOST, MOST_OF_BURST, Blocks, Sides, is_too_much
from salver.features.releases.judge.count_evidence import GATE_SCALES
from salver.features.releases.judge.units import GATE_LOOKS, HARM_LOOKS, MOST_COUNTED, Clusters
from salver.stats.binomial_evidence import HARM
from salver.stats.combine import log_mean

_COMPUTED: Final = 40  # blocks, after which the evidence grows steadily
_PATIENCE: Final = 10_000  # blocks
_DEVIATIONS, _POINTS = 6.0, 40
#: Mean positive part of the sum of squared differences beyond chance, as a part of its deviation.
_BY_CHANCE: Final = 0.4


def blocks_needed(sides: Sides, level: float, ratio: float, enough: float) -> float:
    """Return the number of blocks after which the evidence of harm usually suffices.

    Args:
        sides: Shares of the canary and its control.
        level: Events of a block if all units had the stable version.
        ratio: Of the canary's rate to its control's.
        enough: Log evidence.
    """
    expected, control = ratio * sides.canary * level, level * sides.control
    if not level:
        return math.inf
    chances = _poisson(expected)
    sums = [math.log(AT_ONCE)] * len(HARM)
    grown = 0.0
    for number in range(_COMPUTED):
        seen = Blocks(count=number, level=level, mean=level, jumps=_jumps(control, number, sides))
        factor = seen.factor(sides.canary)
        means = [0.0] * len(HARM)
        for count, chance in chances:
            steps = Blocks.steps(count, control, sides, level, factor)
            most = MOST_OF_BURST if is_too_much(count, sides, level) else MOST
            for place, step in enumerate(steps):
                means[place] += chance * min(step, most)
        best = max(sums)
        sums = [total + mean for total, mean in zip(sums, means, strict=True)]
        grown = max(sums) - best
        if log_mean(sums) >= enough:
            return number + 1
    if grown <= 0:
        return math.inf
    return _COMPUTED + (enough - log_mean(sums)) / grown


def clusters_needed(users: float, share: float, rate: float, ratio: float, enough: float) -> float:
    """Return the number of blocks after which the evidence from users who come again usually suffices.

    Args:
        users: Users of all arms.
        share: The canary's share.
        rate: Expected failures of a user in a block, by the stable version.
        ratio: Of the canary's rate to its control's.
        enough: Log evidence, of clusters alone.
    """
    canary, total = round(users * share), -math.inf
    for blocks, weight in HARM_LOOKS.items():
        if blocks > 10_000:
            break
        mine, others = (
            _at_least(blocks, -math.expm1(-expected), number)
            for expected, number in ((ratio * rate, canary), (rate, users - canary))
        )
        seen = Clusters(blocks, (canary, round(users - canary)), mine, others, others, mine)
        total = max(total, math.log(weight) + log_mean(list(seen.log_harm(HARM, 0.0))))
        if total >= enough:
            return blocks
    return math.inf


def gate_blocks(sides: Sides, level: float, enough: float) -> float:
    """Return the number of blocks after which a harmless canary usually passes its gate.

    Args:
        sides: With the margin of the gate.
    """
    mine, control, keep = sides.canary * level, sides.control * level, 1 / (1 + sides.margin)
    share, gains = sides.canary / (sides.canary + sides.control), []
    for scale in GATE_SCALES:
        shrink = math.exp(-scale)
        kept = 1 - keep + keep * shrink
        rest = mine * keep * shrink / kept * (shrink - 1) + control * (shrink - 1)
        gains.append(mine * math.log(kept) - share * rest)
    for blocks in sorted(GATE_LOOKS):
        seen = Blocks(count=blocks, level=level, mean=level, jumps=_jumps(control, blocks, sides))
        factor = seen.gate_factor(sides.canary)
        if log_mean([blocks * gain / factor for gain in gains]) >= enough:
            return blocks
    return math.inf


def rare_blocks(sides: Sides, level: float, most: float, gain: float, enough: float) -> float:
    """Return the number of blocks after which a rate below the negligible one usually counts as that.

    Args:
        level: Events of a block if all units had the stable version.
        most: Events of the canary in a block at the largest negligible rate.
        gain: Mean evidence of a block.
        enough: Log evidence.
    """
    got, blocks = 0.0, 0
    while got < enough and blocks < _PATIENCE:
        jumps = _jumps(level * sides.control, blocks, sides)
        got += gain / Blocks(count=blocks, level=level, mean=level, jumps=jumps).rare_factor(most)
        blocks += 1
    return blocks if got >= enough else math.inf


def _jumps(control: float, blocks: int, sides: Sides) -> float:
    """Return the usual sum of squared differences beyond chance, of a control that varies by chance."""
    return _BY_CHANCE * 2 * control * math.sqrt(2 * blocks) / sides.control**2


def _at_least(blocks: int, chance: float, number: float) -> tuple[float, ...]:
    """Return in place *k* - 1 the expected units with at least *k* failing blocks."""
    left, found = 1.0, []
    chance = min(chance, 1 - 1e-12)
    for count in range(MOST_COUNTED):
        if count <= blocks:
            log_chance = (
                math.lgamma(blocks + 1)
                - math.lgamma(count + 1)
                - math.lgamma(blocks - count + 1)
                + count * math.log(max(chance, 1e-300))
                + (blocks - count) * math.log1p(-chance)
            )
            left -= math.exp(log_chance)
        found.append(number * max(0.0, left))
    return tuple(found)


def _poisson(mean: float) -> Sequence[tuple[int, float]]:
    """Return counts with their probabilities; of a large mean, some of them."""
    wide = _DEVIATIONS * (1 + math.sqrt(mean))
    first, last = max(0, math.floor(mean - wide)), math.ceil(mean + wide)
    counts = range(first, last + 1, 1 + (last - first) // _POINTS)
    chances = [math.exp(count * math.log(mean) - mean - math.lgamma(count + 1)) for count in counts]
    return [(count, chance / sum(chances)) for count, chance in zip(counts, chances, strict=True)]
