"""Measurement of arrivals and of the outcomes of batching decisions.

Input of the rules that learn. Pure: events are reported with their times; it knows no queue and no clock.
"""

from salver.stats.batch_table import Transition

_RATE_GAIN = 1 / 64  # arrivals over which the rate is averaged
_SHAPE_GAIN = 1 / 256
_LONGEST_GAP = 16.0  # in mean gaps; a night without requests does not change the rate
_ENOUGH = 16


class ArrivalMeter:
    """Rate and burstiness of arrivals, averaged exponentially over arrivals and thus independent of the rate.

    Attributes:
        rate: Rows per second; 0 until sixteen requests have arrived.
        burstiness: Squared coefficient of variation of the gaps: 1 for a Poisson process.
    """

    __slots__ = ("_gap", "_last", "_rows", "_seen", "_square", "burstiness", "rate")

    def __init__(self) -> None:
        self.rate = 0.0
        self.burstiness = 1.0
        self._last = 0.0
        self._gap = 0.0
        self._rows = 1.0
        self._square = 2.0  # mean of (gap / mean gap)²
        self._seen = 0

    def arrived(self, rows: int, now: float) -> None:
        """Record an arrival."""
        seen = self._seen
        gap = now - self._last
        self._last = now
        self._seen = seen + 1
        if not seen:
            return
        gain = _RATE_GAIN if seen > 64 else 1.0 / seen
        if gap > _LONGEST_GAP * self._gap and seen > _ENOUGH:
            gap = _LONGEST_GAP * self._gap
        self._gap += gain * (gap - self._gap)
        self._rows += gain * (rows - self._rows)
        if seen >= _ENOUGH and self._gap > 0.0:
            self.rate = self._rows / self._gap
            relative = gap / self._gap
            self._square += _SHAPE_GAIN * (relative * relative - self._square)
            self.burstiness = self._square - 1.0


class DecisionMeter:
    """Converter of the events of one instance into transitions."""

    __slots__ = ("_arrived", "_is_run", "_moments", "_since", "_waiting")

    def __init__(self) -> None:
        self._waiting = -1  # waiting rows at the decision; -1 = none is open
        self._is_run = False
        self._since = 0.0
        self._arrived = 0
        self._moments = 0.0  # sum of arrival times

    def waits(self, waiting: int, now: float) -> None:
        """Record a decision to wait for one more; repeating it without an arrival has no effect."""
        if self._waiting < 0 or self._is_run:
            self._open(waiting, False, now)

    def runs(self, waiting: int, now: float) -> None:
        """Record a decision to run."""
        self._open(waiting, True, now)

    def arrived(self, rows: int, now: float, rate: float) -> Transition | None:
        """Record an arrival, which ends a wait. Very long waits are not counted."""
        if self._waiting < 0:
            return None
        if self._is_run:
            self._arrived += rows
            self._moments += rows * now
            return None
        waiting, seconds = self._waiting, now - self._since
        self._waiting = -1
        if seconds * rate <= _LONGEST_GAP:
            return Transition(waiting, 0, seconds, 0.0, rows, rate)
        return None

    def ran(self, rows: int, now: float, rate: float) -> Transition | None:
        """Record the end of a run; return None if the run was not decided here, such as an urgent one."""
        waiting, is_run = self._waiting, self._is_run
        self._waiting = -1
        if waiting < rows or not is_run:
            return None
        area = self._arrived * now - self._moments
        seen = Transition(waiting, rows, now - self._since, area, self._arrived, rate)
        if waiting - rows + self._arrived == 0:
            self._open(0, False, now)
        return seen

    def _open(self, waiting: int, is_run: bool, now: float) -> None:
        self._waiting = waiting
        self._is_run = is_run
        self._since = now
        self._arrived = 0
        self._moments = 0.0
