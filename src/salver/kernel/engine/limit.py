"""Adaptive limit on waiting requests.

Adaptive concurrency on the *queue delay* (time from arrival to dispatch), not on the response time, which
batching itself changes. A queue whose smallest delay over an interval is above the target is a standing queue
(CoDel, RFC 8289): it adds latency without throughput. Then the limit shrinks in proportion to the excess; an
interval in which the limit was reached but the delay was below the target raises it by its square root.

Requests that arrived before the last reduction are ignored: otherwise a target longer than the interval would
reduce the limit repeatedly for the same queue. Pure.
"""

import math

from salver.words.artifacts import Limit as LimitConfig

_LEAST_STEP, _MOST_STEP = 0.5, 0.9  # factor by which one interval may shrink the limit


class Limit:
    """Current limit on waiting requests.

    Args:
        most: Upper bound.

    Attributes:
        value: The limit.

    >>> limit = Limit(LimitConfig(target_delay_ms=10, interval_ms=100), most=1000)
    >>> for tick in range(11):  # 100 wait, each for 40 ms
    ...     limit.dispatched(delay=0.04, depth=100, now=tick * 0.01)
    >>> limit.value
    50
    """

    __slots__ = ("_cut", "_deepest", "_ends", "_interval", "_most", "_smallest", "_target", "value")

    def __init__(self, config: LimitConfig, most: int) -> None:
        self._target = config.target_delay_ms / 1e3
        self._interval = config.interval_ms / 1e3
        self._most = most
        self.value = most
        self._smallest = math.inf
        self._deepest = 0
        self._ends = -math.inf
        self._cut = -math.inf  # time of the last reduction

    def __repr__(self) -> str:
        return f"<Limit {self.value}>"

    @property
    def is_reduced(self) -> bool:
        """Return whether the limit is below its upper bound."""
        return self.value < self._most

    def dispatched(self, delay: float, depth: int, now: float) -> None:
        """Record that a batch has been taken.

        Args:
            delay: Delay of its latest member in seconds, the smallest of the batch.
            depth: Number of waiting requests, including the batch.
        """
        if now - delay < self._cut:
            return
        if self._ends == -math.inf:
            self._ends = now + self._interval
        self._smallest = min(self._smallest, delay)
        self._deepest = max(self._deepest, depth)
        if now >= self._ends:
            self._adapt(now)
            self._smallest, self._deepest, self._ends = math.inf, 0, now + self._interval

    def _adapt(self, now: float) -> None:
        if self._smallest > self._target:
            step = min(_MOST_STEP, max(_LEAST_STEP, self._target / self._smallest))
            self.value = max(1, int(step * min(self.value, self._deepest)))
            self._cut = now
        elif self._deepest >= self.value:
            self.value = min(self._most, self.value + max(1, math.isqrt(self.value)))
