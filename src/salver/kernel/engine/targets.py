"""Levels and target times of requests, and the learned safety margin before their due times.

Runs take longer than the batch law predicts, and replies take time to be encoded and sent, one after the
other. Pure.
"""

import math

from salver.kernel.engine.outlook import Load
from salver.kernel.engine.waiting import BULK, URGENT, QueuedRequest
from salver.words.artifacts import ModelConfig
from salver.words.messages import Standing

_QUANTILE = 0.95  # of the excess; the few members of a batch without spare time are below it
_STEP = 0.002  # of the tracked quantile, as a fraction of the promise
_TOLERATED = 0.005  # fraction of answers that may be late: half of what a p99 allows
_CORRECTION = 0.002  # for each late answer, as a fraction of the promise
# upper bound as a fraction of the promise: more would reject everything after one slow moment
_MOST_SHARE = 0.25
_UNSEEN = 0.04  # fraction of the promise for time outside this process, which cannot be measured here
_NOMINAL_S = 0.1  # promise assumed if only callers set deadlines
_SERVICES = {"urgent": URGENT, "bulk": BULK}
_AT_RISK = 0.5  # answers with more than this fraction of the promise left carry no information


class Reserve:
    """Safety margin in seconds, learned from past answers.

    The sum of the 95th percentile of delays against the plan (by stochastic approximation), a correction from
    the fraction of late answers (the target is one in two hundred), and 4 % of the promise for time on the
    network.

    Args:
        promise: Seconds within which requests must be answered.

    >>> reserve = Reserve(0.05)
    >>> for _ in range(2000):
    ...     reserve.replied(excess=0.003, late=-0.03)
    >>> round(reserve.seconds, 4)
    0.005
    """

    __slots__ = ("_correction", "_excess", "_promise", "seconds")

    def __init__(self, promise: float) -> None:
        self._promise = promise
        self._excess = 0.0
        self._correction = 0.0
        self.seconds = 0.0

    def replied(self, excess: float, late: float, counts: bool = True) -> None:
        """Record an answer.

        Args:
            excess: Seconds from the planned end of its run to its reply; negative = early.
            late: Seconds from its due time to its reply; negative = early.
            counts: The margin was applied to it, so that it shows whether the margin is sufficient.
        """
        promise = self._promise
        most = _MOST_SHARE * promise
        known = self._excess
        step = _STEP * promise
        self._excess = known = (
            min(known + _QUANTILE * step, most)
            if excess > known
            else max(0.0, known - (1.0 - _QUANTILE) * step)
        )
        if counts and late > -_AT_RISK * promise:
            moved = self._correction + _CORRECTION * promise * ((late > 0) - _TOLERATED)
            self._correction = min(max(moved, -known), most - known)
        self.seconds = min(max(known + self._correction, 0.0) + _UNSEEN * promise, most)


class Targets:
    """Levels and target times of one model version's requests.

    Args:
        config: Objective, priorities and queue policies.
        promise: Seconds within which requests must be answered; inf = no promise.

    Attributes:
        reserve: The safety margin.
        urgent_at: Arrival of the last urgent request.
    """

    def __init__(self, config: ModelConfig, promise: float, load: Load) -> None:
        self.promise = promise
        self._only_default = not config.objective.latency_p99_ms
        self._priorities = config.priorities
        self._queue = config.queue
        self._load = load
        self.reserve = Reserve(min(promise, _NOMINAL_S))
        self.urgent_at = -math.inf

    def place(
        self, waiting: QueuedRequest, standing: Standing, brings_deadline: bool = True, came: float = 0.0
    ) -> None:
        """Set the level, tenant and target of a request.

        Args:
            brings_deadline: Its deadline, if any, is the caller's own, not a default.
            came: When it came, if it waited before it was read; 0 = it did not.
        """
        waiting.tenant = standing.tenant
        levels = self._priorities.levels
        if standing.service == "normal":
            level = standing.priority
            default = self._priorities.default or (levels + 1) // 2  # the middle one
            if not 0 < level <= levels:  # unknown
                level = default
            if standing.granted is not None:  # saves most requests a call
                level = standing.bounded(level, default, levels)
            waiting.level = level
        else:
            waiting.level = _SERVICES[standing.service]
            if waiting.level == URGENT:
                self.urgent_at = waiting.arrived
        if waiting.level != BULK:
            self.limit(waiting, brings_deadline, came)

    def limit(self, waiting: QueuedRequest, brings_deadline: bool = True, came: float = 0.0) -> None:
        """Set the target of a request that has a level, for :meth:`place`."""
        deadline = waiting.deadline
        arrived = waiting.arrived
        due = math.inf if deadline is None else deadline
        if self.promise < math.inf and not (self._only_default and brings_deadline and deadline is not None):
            due = min(due, (came or arrived) + self.promise)
        if due < math.inf:
            waiting.due = due
            # Cap the margin, or a request with a short time limit would always count as hopeless.
            reserve = self._load.strain(arrived) * self.reserve.seconds
            waiting.target = due - min(reserve, _MOST_SHARE * (due - arrived))

    def limit_wait(self, waiting: QueuedRequest, timeout: float) -> float:
        """Apply the model's queue policy, if any, to a request that has been placed.

        Args:
            timeout: Seconds that its caller wants to wait; 0 = not set.

        Returns:
            Time at which it is rejected if it has not started; inf = never.
        """
        if self._queue is None or not URGENT < waiting.level < BULK:
            return math.inf
        policy = self._queue.of(waiting.level)
        seconds = policy.timeout_ms / 1e3
        if policy.allow_timeout_override and timeout:
            seconds = min(seconds, timeout)
        if not seconds:
            return math.inf
        own = math.inf if waiting.deadline is None else waiting.deadline
        until = waiting.arrived + seconds
        # The caller's own deadline is stricter, and reports a different error.
        if until >= own:
            return math.inf
        waiting.deadline = until
        if policy.timeout_action == "delay":
            waiting.then = own
            return math.inf
        waiting.is_policed = True
        return until

    def replied(self, waiting: QueuedRequest, now: float) -> None:
        """Record that the caller of a request has received its answer."""
        if waiting.due < math.inf:
            self.reserve.replied(now - waiting.planned, now - waiting.due, self._load.strain(now) >= 1.0)
