"""Decision whether a run of a model is short enough for the event loop.

A hand-over to a thread and back costs more than the whole run of a tiny model. This object learns the CPU
time of runs by batch size (powers of two) and decides whether the next one would occupy the loop for less
than a budget. CPU time, not wall time: waiting for the interpreter lock or for a core is not a property of
the model. Pure.
"""

_GAIN_UP = 0.1  # weight of the newest run in the running mean if it took longer
_GAIN_DOWN = 0.5  # and if it was faster: first runs are slow for temporary reasons


class Pace:
    """Running mean of the CPU time of a run, by power of two of its rows.

    Args:
        budget: Maximum CPU seconds of a run on the loop.

    >>> pace = Pace(budget=150e-6)
    >>> pace.is_tiny(1)  # nothing known: never guess
    False
    >>> pace.observe(1, 20e-6)
    >>> pace.is_tiny(1), pace.is_tiny(4), pace.is_tiny(64)
    (True, True, False)
    """

    __slots__ = ("_budget", "_mean")

    def __init__(self, budget: float = 150e-6) -> None:
        self._budget = budget
        self._mean: list[float] = [0.0] * 24  # 0 = unknown

    def observe(self, rows: int, cpu_seconds: float) -> None:
        """Record a finished run."""
        bucket = min(rows.bit_length(), 23)
        known = self._mean[bucket]
        if known:
            gain = _GAIN_DOWN
            if cpu_seconds > known:
                gain = _GAIN_UP
            self._mean[bucket] = known + gain * (cpu_seconds - known)
        else:
            self._mean[bucket] = max(cpu_seconds, 1e-9)

    def is_tiny(self, rows: int) -> bool:
        """Return whether a run of that many rows is expected within the budget.

        A size without measurements is extrapolated from the next smaller one in proportion to its rows (an
        overestimate for any law a·b + t0).
        """
        mean = self._mean
        bucket = min(rows.bit_length(), 23)
        known = mean[bucket]
        if known:
            return known <= self._budget
        for lower in range(bucket - 1, -1, -1):
            if mean[lower]:
                return mean[lower] * (1 << (bucket - lower)) <= self._budget
        return False
