"""Which is the highest rate whose answers come in time?

A rate is *feasible* if at least 99 % of all requests were answered rightly within the objective (a
refusal is a miss). Bisection, with the very same arrivals at each rate, only faster or slower, so that
chance does not decide between two of them; a rate that fails is tried once more, since one hiccup of the
machine is no property of the server.
"""

from collections.abc import Callable

import numpy as np
import openloop
import subjects
from openloop import Floats
from subjects import Tau

SHARE = 0.99


def arrivals(rate: float, seconds: float, seed: int, cv2: float = 1.0) -> Floats:
    """The first ``seconds`` of one and the same process, run at that rate: Poisson, or Gamma gaps."""
    rng = np.random.default_rng(seed)
    if cv2 == 1.0:
        gaps = rng.exponential(1.0, round(rate * seconds))
    else:
        gaps = rng.gamma(1 / cv2, cv2, round(rate * seconds))
    return np.cumsum(gaps) / rate


def highest(is_feasible: Callable[[float], bool], low: float, high: float, steps: int = 6) -> float:
    """The highest rate that passed, within (high − low)/2^steps; ``low`` itself is not tried.

    >>> highest(lambda rate: rate <= 700, 400, 1000)
    691.0
    """
    for _ in range(steps):
        middle = (low + high) / 2
        if is_feasible(middle) or is_feasible(middle):
            low = middle
        else:
            high = middle
    return float(low)


def simulated(
    tau: Tau, slo: float, rows: int, low: float, high: float, make: Callable[[float], Floats]
) -> float:
    """What the best known rule reaches on those arrivals, free of overhead."""

    def is_feasible(rate: float) -> bool:
        due = make(rate)
        return subjects.simulated(due, tau, slo, rows) >= SHARE * len(due)

    return highest(is_feasible, low, high, 8)


def offline(tau: Tau, rows: int) -> float:
    """Rows a second of the bare loop in its best batches of at most so many rows."""
    return max(b / tau(b) for b in range(1, rows + 1))


def counted(outcome: openloop.Outcome, slo: float) -> tuple[float, float]:
    """(share in time, its 99th percentile in seconds, misses included; infinite if they are more)."""
    latency = np.where(outcome.status == 200, outcome.latency, np.inf)
    return float(outcome.within(slo).mean()), float(np.percentile(latency, 99, method="higher"))
