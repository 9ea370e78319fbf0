"""Group sequential tests: bounds and futility at planned looks, for experiments of a planned size.

Time is information: the fraction of the planned units that have matured. Bounds hold for any statistic that
is a z-score with independent increments, such as means and proportions of growing samples; they are computed
by recursive integration (Armitage, McPherson & Rowe 1969; Jennison & Turnbull 2000, ch. 19) to about 1e-6.
Knows no data. Pure.
"""

import math
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from salver.words.errors import InvalidInput

Floats = npt.NDArray[np.float64]
#: Maps ``(time, alpha)`` to the part of ``alpha`` spent by then; increasing, and ``alpha`` at 1.
Spending = Callable[[float, float], float]

_FAR = 9.0  # standard deviations beyond which the tail is negligible: 1e-19
_NOTHING = 1e-290
_CLOSEST = 1e-4  # minimum distance of two looks; closer ones need a finer quadrature
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(10)


def obrien_fleming(time: float, alpha: float) -> float:
    """Spend hardly anything early, nearly all at the end (Lan & DeMets 1983); the default.

    >>> round(obrien_fleming(0.5, 0.025), 5)
    0.00153
    """
    return float(2 * ndtr(ndtri(alpha / 2) / math.sqrt(time)))


def pocock(time: float, alpha: float) -> float:
    """Spend about as much at every look (Lan & DeMets 1983)."""
    return alpha * math.log1p(math.expm1(1) * time)


def power_family(exponent: float) -> Spending:
    """Spend ``alpha * time ** exponent`` (Kim & DeMets 1987)."""

    def spending(time: float, alpha: float) -> float:
        return float(alpha * time**exponent)

    return spending


class Crossing(msgspec.Struct, frozen=True):
    """Probability of first leaving the bounds at each look, on either side."""

    above: tuple[float, ...]
    below: tuple[float, ...]


def spent_bounds(
    times: Sequence[float],
    alpha: float = 0.05,
    spending: Spending = obrien_fleming,
    sides: int = 2,
    is_last: bool = False,
) -> tuple[float, ...]:
    """Return the z-score to exceed at each look so far; looks need not be planned individually.

    Bounds of earlier looks do not change with later ones.

    Args:
        times: Information of the looks so far, as fractions of the plan; ascending, above 0. Beyond 1 only
            what was saved remains to be spent.
        alpha: Probability of any false rejection, in (0, 1); each of two sides spends half.
        spending: How it is spent over time.
        sides: 1 = only upwards; 2 = either way, with negated bounds.
        is_last: Whether the last of these looks is the final one, at which the rest is spent.

    Raises:
        InvalidInput: An argument is out of its range.

    >>> [round(z, 3) for z in spent_bounds([0.2, 0.4, 0.6, 0.8, 1.0])]
    [4.877, 3.357, 2.68, 2.29, 2.031]
    """
    _check(times, alpha, sides)
    side = alpha / sides
    spent = [spending(min(time, 1.0), side) for time in times]
    if is_last:
        spent[-1] = side
    process = _Process(times, 0.0)
    bounds: list[float] = []
    for now, before in zip(spent, [0.0, *spent], strict=False):
        bound = process.solve(max(now - before, 0.0), 1)
        process.step(-bound if sides == 2 else -math.inf, bound)
        bounds.append(bound)
    return tuple(bounds)


def pocock_bounds(times: Sequence[float], alpha: float = 0.05, sides: int = 2) -> tuple[float, ...]:
    """Return the common z-score of the looks, all of which are planned (Pocock 1977)."""
    return _shaped(times, alpha, sides, [1.0 for _ in times])


def obrien_fleming_bounds(times: Sequence[float], alpha: float = 0.05, sides: int = 2) -> tuple[float, ...]:
    """Return z-scores that fall with the square root of time (O'Brien & Fleming 1979)."""
    return _shaped(times, alpha, sides, [math.sqrt(times[-1] / time) for time in times])


def crossing(
    times: Sequence[float], above: Sequence[float], below: Sequence[float] = (), drift: float = 0.0
) -> Crossing:
    """Return the probability of exceeding each bound before any other.

    Args:
        times: Information of the looks.
        above: z-scores; infinite = no bound.
        below: Likewise; empty = ``above`` negated.
        drift: Mean of the z-score at time 1: 0 under the null, ``z(alpha) + z(beta)`` in a test of one look
            with power ``1 - beta``.

    Raises:
        InvalidInput: The looks are not ascending, or a bound is missing, NaN, or below the lower one.

    >>> naive = crossing([0.2, 0.4, 0.6, 0.8, 1.0], above=[1.96] * 5)
    >>> round(sum(naive.above) + sum(naive.below), 3)
    0.142
    """
    _check(times, 0.5, 2)
    below = below if len(below) else [-z for z in above]
    _check_each(times, above, below)
    if not (math.isfinite(drift) and all(low <= high for low, high in zip(below, above, strict=True))):
        raise InvalidInput(
            f"bounds from {list(below)} to {list(above)} and a drift of {drift} cannot be",
            fix="Give numbers, the lower bounds below the upper ones, and a finite drift.",
        )
    process = _Process(times, drift)
    out = [process.step(low, high) for low, high in zip(below, above, strict=True)]
    return Crossing(tuple(high for _, high in out), tuple(low for low, _ in out))


class Futility(msgspec.Struct, frozen=True):
    """Bounds for giving up, and their cost.

    Attributes:
        bounds: z-scores at or below which the planned effect can no longer be expected.
        drift: Mean of the z-score at time 1 that gives the requested power.
        inflation: Units needed, relative to a test with one look.
    """

    bounds: tuple[float, ...]
    drift: float
    inflation: float


def futility(
    times: Sequence[float],
    above: Sequence[float],
    alpha: float,
    power: float = 0.8,
    spending: Spending = obrien_fleming,
) -> Futility:
    """Return bounds for giving up, by spending ``1 - power`` over time.

    They are not binding: continuing despite them causes no more errors under the null, because ``above`` was
    computed without them. One-sided.

    Args:
        times: All planned looks.
        above: Their one-sided rejection bounds at ``alpha``.
        alpha: Level of that side.
        power: Probability of detecting the effect, above ``alpha`` and below 1.
        spending: How ``1 - power`` is spent.

    Raises:
        InvalidInput: An argument is out of its range.
    """
    _check(times, alpha, 1)
    _check(times, 1 - power, 1)
    _check_each(times, above, above)
    if power <= alpha:
        raise InvalidInput(
            f"a power of {power} is that of no effect at an alpha of {alpha}",
            field="power",
            fix="Ask for more than alpha.",
        )

    def bounds(drift: float) -> list[float]:
        process = _Process(times, drift)
        spent = [spending(min(time / times[-1], 1.0), 1 - power) for time in times]
        found: list[float] = []
        for now, before, high in zip(spent, [0.0, *spent], above, strict=False):
            low = process.solve(max(now - before, 0.0), -1)
            process.step(min(low, high), high)
            found.append(low)
        return found

    one_look = float(ndtri(1 - alpha) + ndtri(power))
    # the last bound equals that of rejection exactly if the probability of missing is as requested
    drift = float(
        brentq(lambda x: min(bounds(x)[-1], 2 * _FAR) - above[-1], 0.5 * one_look, 3 * one_look, xtol=1e-8)
    )
    found = [min(low, high) for low, high in zip(bounds(drift), above, strict=True)]
    found[-1] = float(above[-1])
    return Futility(tuple(found), drift, (drift / one_look) ** 2)


class _Process:
    """Brownian motion with drift, observed at the looks, as long as it stays within the bounds.

    Its density after each look is stored on the nodes of Gauss-Legendre rules between the bounds.
    """

    def __init__(self, times: Sequence[float], drift: float) -> None:
        steps = np.diff(times, prepend=0.0)
        self._roots, self._scales, self._moves = np.sqrt(times), np.sqrt(steps), drift * steps
        self._look = 0
        self._nodes, self._masses = np.zeros(1), np.ones(1)

    def step(self, low: float, high: float) -> tuple[float, float]:
        """Advance to the next look; return the probabilities below ``low`` and above ``high`` (z-scores)."""
        root, scale = float(self._roots[self._look]), float(self._scales[self._look])
        centres = self._nodes + self._moves[self._look]
        below = float(self._masses @ ndtr((low * root - centres) / scale))
        above = float(self._masses @ ndtr((centres - high * root) / scale))
        left = max(low * root, float(centres.min()) - _FAR * scale)
        right = max(left, min(high * root, float(centres.max()) + _FAR * scale))
        self._look += 1
        finest = min(self._scales[self._look - 1 : self._look + 1])
        self._nodes, weights = _rule(left, right, float(finest))
        density = np.exp(-0.5 * ((self._nodes[:, None] - centres) / scale) ** 2) @ self._masses
        self._masses = density * weights / (scale * math.sqrt(2 * math.pi))
        return below, above

    def solve(self, chance: float, side: int) -> float:
        """Return the z-score exceeded upwards (1) or downwards (-1) at the next look with this probability.

        Infinite if there is nothing to spend, or less is left.
        """
        root, scale = float(self._roots[self._look]), float(self._scales[self._look])
        centres = self._nodes + self._moves[self._look]
        if chance < _NOTHING:
            return side * math.inf
        if chance >= self._masses.sum():
            return -side * math.inf

        def excess(bound: float) -> float:
            passed = float(self._masses @ ndtr(side * (centres - bound) / scale))
            return math.log(max(passed, _NOTHING)) - math.log(chance)

        reach = 40 * scale
        return float(brentq(excess, centres.min() - reach, centres.max() + reach, xtol=1e-10)) / root


def _rule(left: float, right: float, finest: float) -> tuple[Floats, Floats]:
    """Return nodes and weights over an interval, dense enough for kernels as narrow as ``finest``."""
    panels = max(1, math.ceil((right - left) / (3 * finest)))
    edges = np.linspace(left, right, panels + 1)
    half = (right - left) / panels / 2
    nodes = ((edges[:-1] + edges[1:]) / 2)[:, None] + half * _NODES
    return nodes.ravel(), np.tile(half * _WEIGHTS, panels)


def _shaped(times: Sequence[float], alpha: float, sides: int, shape: Sequence[float]) -> tuple[float, ...]:
    """Return bounds of that shape, scaled to ``alpha``."""
    _check(times, alpha, sides)

    def excess(height: float) -> float:
        process, out = _Process(times, 0.0), 0.0
        for factor in shape:
            bound = height * factor
            out += sum(process.step(-bound if sides == 2 else -math.inf, bound))
        return out - alpha

    height = float(brentq(excess, 0.0, 20.0, xtol=1e-9))
    return tuple(height * factor for factor in shape)


def _check_each(times: Sequence[float], above: Sequence[float], below: Sequence[float]) -> None:
    if not len(times) == len(above) == len(below):
        raise InvalidInput(
            f"{len(times)} looks have {len(above)} bounds above and {len(below)} below",
            fix="Give one of each for every look.",
        )


def _check(times: Sequence[float], alpha: float, sides: int) -> None:
    rising = all(later - earlier >= _CLOSEST for earlier, later in zip([0.0, *times], times, strict=False))
    if len(times) == 0 or not rising or not math.isfinite(times[-1]):
        raise InvalidInput(
            f"looks at {list(times)} of the information do not rise",
            fix=f"Give one or more, each later than the one before by {_CLOSEST} or more.",
        )
    if not 0 < alpha < 1 or sides not in (1, 2):
        raise InvalidInput(
            f"a chance of {alpha} on {sides} sides cannot be",
            fix="Give one between 0 and 1, and 1 or 2 sides.",
        )
