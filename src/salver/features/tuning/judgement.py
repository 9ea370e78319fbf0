"""Judge of settings by simulation.

Simulates arrivals with the rule that serves below saturation, and searches for the highest rate at which 99 %
of the requests are answered in time. Pure: always the same arrivals.
"""

import numpy as np

from salver.features.tuning.simulator import Floats, Traffic, simulate
from salver.kernel.engine.rules import HalfFloor
from salver.stats.batch_law import BatchLaw
from salver.words.artifacts import Batching

_WANTED = 0.99
_STEPS = 8  # bisection steps: to within half a per cent of the maximum


class Judge:
    """Judge of settings; see :class:`salver.features.tuning.choose.Judge`.

    Args:
        gaps: Gaps between arrivals, in units of their mean. A few thousand resolve rates to some per cent,
            and differences between settings better, because all see the same arrivals.
    """

    def __init__(self, gaps: Floats) -> None:
        self._times = np.cumsum(gaps)

    def __call__(self, law: BatchLaw, instances: int, max_rows: int, limit_s: float) -> float:
        """Return the maximum rows per second of which 99 % are answered within the limit; 0 = none."""
        low, high = 0.0, instances * law.rate(max_rows)
        for _ in range(_STEPS):
            rate = (low + high) / 2
            if self._share(law, instances, max_rows, limit_s, rate) >= _WANTED:
                low = rate
            else:
                high = rate
        return low

    def _share(self, law: BatchLaw, instances: int, max_rows: int, limit_s: float, rate: float) -> float:
        if rate <= 0:
            return 0.0
        done = simulate(
            Batching(max_rows=max_rows, max_queue=1 << 30),
            self._times / rate,
            law.seconds,
            slots=instances,
            rule=HalfFloor(lambda: law, max_rows),
            traffic=Traffic(objective=limit_s),
        )
        return float(np.count_nonzero(done.latencies <= limit_s)) / len(self._times)
