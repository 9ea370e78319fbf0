"""May what was counted be so, if what is claimed is true?

A claim about a probability is tested by replications of a fixed seed, and fails only where the 99.9 %
Clopper-Pearson interval of what was counted excludes it. Of 2,000 replications at a claim of 5 % that lets
6.7 % pass.
"""

from scipy.special import betaincinv

TAIL = 0.0005  # on either side


def bounds(hits: int, replications: int) -> tuple[float, float]:
    low = float(betaincinv(hits, replications - hits + 1, TAIL)) if hits else 0.0
    high = float(betaincinv(hits + 1, replications - hits, 1 - TAIL)) if hits < replications else 1.0
    return low, high


def may_be(
    hits: int, replications: int, *, at_most: float = 1.0, at_least: float = 0.0, near: float | None = None
) -> None:
    """Fails unless the chance of a hit may lie within the bounds, and be the recorded one."""
    low, high = bounds(int(hits), replications)
    said = f"{hits} of {replications}: between {low:.5f} and {high:.5f}"
    assert low <= at_most, f"{said}, claimed at most {at_most}"
    assert high >= at_least, f"{said}, claimed at least {at_least}"
    assert near is None or low <= near <= high, f"{said}, recorded {near}"
