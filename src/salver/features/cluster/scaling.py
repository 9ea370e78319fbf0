"""Decision how many replicas a model has. Pure.

By Little's law, the arriving rows per second times the seconds that each takes in a batch are the replicas
that are busy on average. More are added at once; one is taken away only when it was not needed for a while
(the "stabilization window" of Kubernetes' Horizontal Pod Autoscaler).
"""

import math
from collections import deque
from typing import Final, NamedTuple

from salver.words.artifacts import Instances
from salver.words.messages import Insight

#: Seconds between two decisions; what waits is to be worked off within them.
PERIOD_S: Final = 1.0
#: A replica is added above the first utilisation. One is taken away if the others then stay below the second.
FULL, SPARE = 0.8, 0.6
#: Weight of the latest period in the average of the work.
_GAIN: Final = 0.2
_ROUNDING: Final = 1e-9


class Demand(NamedTuple):
    """Work of a model, measured in replicas.

    Attributes:
        work: Replicas that arriving requests would keep busy.
        backlog_s: Seconds in which one replica would work off what waits.
    """

    work: float
    backlog_s: float


def demand(insight: Insight, slots: int, queued: int, largest: int, promise_s: float = 0.0) -> Demand:
    """Return the demand that an engine has measured; none before its first run.

    With a promise, batches are only as large that one may wait for another and be in time.

    Args:
        largest: Maximum rows of a batch.
        promise_s: Seconds within which requests must be answered; 0 = no promise.

    >>> demand(Insight(load=0.5, a=0.001, t0=0.036), slots=4, queued=64, largest=64)
    Demand(work=2.0, backlog_s=0.1)
    """
    full_s = insight.t0 + insight.a * largest
    if not full_s:
        return Demand(0.0, 0.0)
    rate = insight.load * slots * largest / full_s
    run_s = promise_s / 2
    rows: float = largest
    if insight.t0 + insight.a <= run_s < full_s:
        rows = (run_s - insight.t0) / insight.a
    row_s = (insight.t0 + insight.a * rows) / rows
    return Demand(rate * row_s, queued * row_s)


class Scaler:
    """Number of replicas of one model version.

    Args:
        count: Replicas that it has now.

    >>> scaler, limits = Scaler(1, now=0), Instances(count=1, max_count=4, scale_down_s=60)
    >>> [scaler.decide(Demand(work, 0.0), limits, now) for now, work in ((1, 0.5), (2, 2.9), (50, 0.1))]
    [1, 4, 4]
    """

    def __init__(self, count: int, now: float) -> None:
        self.count = count
        self._work = FULL * count  # average, which begins as if all were needed
        self._recent = deque([(now, count)])  # falling numbers that were needed last, and when

    def __repr__(self) -> str:
        return f"<Scaler at {self.count}, {self._work:.2f} busy>"

    def decide(self, demand: Demand, limits: Instances, now: float) -> int:
        """Return how many replicas there are to be; call it once in each period.

        Args:
            limits: ``count`` (0 = 1) and ``max_count`` are the bounds.
        """
        self._work += _GAIN * (demand.work - self._work)
        if demand.work > self.count:  # a sudden rise counts at once; small variations are averaged
            self._work = max(self._work, demand.work)
        needed = _whole(max(self._work / FULL, demand.work) + demand.backlog_s / PERIOD_S)
        self._keep(max(needed, _whole(self._work / SPARE)), limits.scale_down_s, now)
        least = max(1, limits.count)
        most = max(least, limits.max_count)
        self.count = min(max(needed, min(self.count, self._recent[0][1]), least), most)
        return self.count

    def _keep(self, needed: int, seconds: float, now: float) -> None:
        """Note what is needed, and forget what was before the window or is less."""
        recent = self._recent
        while recent and recent[-1][1] <= needed:
            recent.pop()
        recent.append((now, needed))
        while recent[0][0] < now - seconds:
            recent.popleft()


def _whole(replicas: float) -> int:
    return math.ceil(replicas - _ROUNDING)
