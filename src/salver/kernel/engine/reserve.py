"""How long before its target must a run be expected to end, so that the answer is there in time?

Runs are longer than the law says, and replies take a while to be encoded and sent, one after the other. Pure.
"""

_QUANTILE = 0.95  # of the excess; the few members of a batch that have no time to spare are below it
_STEP = 0.002  # of the tracked quantile, in shares of the promise
_TOLERATED = 0.005  # share of the answers that may be late: half of what a p99 allows
_CORRECTION = 0.002  # for each late answer, in shares of the promise
MOST_SHARE = 0.25  # share of the promise that may be kept free: more would refuse all for one slow moment
_UNSEEN = 0.04  # share of the promise for what no answer tells: the way into this process and out of it
_AT_RISK = 0.5  # answers that have more than this share of the promise left tell nothing of what was cut fine


class Reserve:
    """Seconds to keep free, learned from what became of answers.

    The 95th percentile of how much later they came than planned (by stochastic approximation), a correction
    from the share of answers that were late, where it counts (one in two hundred is meant to be), and 4 % of
    the promise for what nobody here can see: bytes on their way.

    Args:
        promise: Seconds within which requests are to be answered.

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
        """An answer was given.

        Args:
            excess: Seconds from the planned end of its run to its reply; below 0 = early.
            late: Seconds from when it was due to its reply, likewise.
            counts: The reserve was kept for it, so that it tells whether that was enough.
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
