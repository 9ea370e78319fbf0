"""Balancing of arms by known properties of their units.

For small experiments (below a thousand units per arm; above, a hash and :func:`post_stratified` are as good):
permuted blocks by stratum, or minimisation if there are too many strata. Knows no units, only how many there
were before. Pure: randomness is a keyed hash, or an argument.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from salver.stats.assignment import fraction
from salver.words.errors import InvalidInput


def block_arm(salt: str, stratum: str, index: int, block: Sequence[int]) -> int:
    """Return the arm of the next unit of a stratum, by permuted blocks with arms in random order.

    The imbalance between the arms of a stratum never exceeds half a block (for two equal arms).

    Args:
        salt: Salt of the experiment.
        stratum: Common property of the units.
        index: Number of units of the stratum before this one.
        block: Units of each arm in a block; ``(2, 2)`` for two equal arms.

    Raises:
        InvalidInput: The block is empty, or ``index`` negative.

    >>> sorted(block_arm("s", "new users", index, (2, 2)) for index in range(4))
    [0, 0, 1, 1]
    """
    size = sum(block)
    if size < 1 or min(block) < 0 or index < 0:
        raise InvalidInput(
            f"unit {index} of blocks of {list(block)} cannot be", fix="Give counts of 0 or more, and a unit."
        )
    # Unit and block follow from the number alone, so that no state is kept and a replay gives the same arm.
    number, place = divmod(index, size)
    slots = [arm for arm, units in enumerate(block) for _ in range(units)]
    keys = [fraction(salt, f"{stratum}\n{number}\n{slot}") for slot in range(size)]
    return slots[sorted(range(size), key=keys.__getitem__)[place]]


def minimising_arm(
    counts: Sequence[Mapping[str, int]], levels: Sequence[str], chance: float, follow: float = 0.8
) -> int:
    """Return the arm that usually keeps all known factors best balanced (Pocock & Simon, Biometrics 1975).

    With one factor of one level this is Efron's biased coin (Biometrika 1971).

    Args:
        counts: For each arm, the number of units of each level.
        levels: Levels of the next unit, one per factor, with names unique across factors.
        chance: Uniform in [0, 1), the unit's own: from :func:`salver.stats.assignment.fraction`.
        follow: Probability of the best arm; the rest is shared by the others, so that assignments are
            unpredictable.

    Raises:
        InvalidInput: Fewer than two arms, ``follow`` is not above an equal chance, or ``chance`` is out of
            range.
    """
    arms = len(counts)
    if arms < 2 or not 1 / arms < follow <= 1 or not 0 <= chance < 1:
        raise InvalidInput(
            f"{arms} arms, a place of {chance} and a chance of {follow} for the best cannot be",
            fix="Name two or more arms, a place in [0, 1) and a chance above an equal one.",
        )

    # of all arms, the one with the fewest such units adds least to the variance of the counts
    scores = [sum(count.get(level, 0) for level in levels) for count in counts]
    best = [arm for arm, score in enumerate(scores) if score == min(scores)]
    rest = [arm for arm in range(arms) if arm not in best]
    share = follow if rest else 1.0  # all are best: draw among them evenly
    if chance < share:
        return best[int(chance / share * len(best))]
    return rest[int((chance - share) / (1 - share) * len(rest))]


class Stratum(msgspec.Struct, frozen=True):
    """Statistics of a stratum: units, sum and sum of squares of either arm."""

    control: tuple[int, float, float]
    treatment: tuple[int, float, float]


class Effect(NamedTuple):
    """A difference of means and its standard error."""

    value: float
    error: float


def post_stratified(strata: Sequence[Stratum]) -> Effect:
    """Return the difference of means after stratification, without the variance between strata.

    Each stratum is weighted by its share of all units (Miratrix, Sekhon & Yu, JRSS B 2013).

    Raises:
        InvalidInput: A stratum has fewer than two units of an arm; merge it with another. There is none, or a
            sum is not finite.
    """
    total = sum(stratum.control[0] + stratum.treatment[0] for stratum in strata)
    value = variance = 0.0
    for stratum in strata:
        units = (stratum.control[0], stratum.treatment[0])
        if min(units) < 2:  # one unit has no variance
            raise InvalidInput(
                f"a stratum has {units[0]} and {units[1]} units",
                fix="Merge it, so that each arm has two or more.",
            )
        weight = sum(units) / total
        (low, low_noise), (high, high_noise) = _mean(*stratum.control), _mean(*stratum.treatment)
        value += weight * (high - low)
        variance += weight**2 * (low_noise + high_noise)
    if not strata or not math.isfinite(value + variance):
        raise InvalidInput("these strata have no effect", fix="Give one or more, whose sums are finite.")
    return Effect(value, math.sqrt(variance))


def _mean(units: int, total: float, squares: float) -> tuple[float, float]:
    """Return the mean and the square of its standard error."""
    mean = total / units
    return mean, max(0.0, squares - units * mean**2) / (units - 1) / units
