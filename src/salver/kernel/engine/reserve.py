"""Learned safety margin between the expected end of a run and its target.

Runs take longer than the batch law predicts, and replies take time to be encoded and sent, one after the
other. Pure.
"""

_QUANTILE = 0.95  # of the excess; the few members of a batch without spare time are below it
_STEP = 0.002  # of the tracked quantile, as a fraction of the promise
_TOLERATED = 0.005  # fraction of answers that may be late: half of what a p99 allows
_CORRECTION = 0.002  # for each late answer, as a fraction of the promise
# upper bound as a fraction of the promise: more would reject everything after one slow moment
MOST_SHARE = 0.25
_UNSEEN = 0.04  # fraction of the promise for time outside this process, which cannot be measured here
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
        most = MOST_SHARE * promise
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
