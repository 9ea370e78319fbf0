"""Load of a model, and prediction of whether a new request can be answered in time.

Based on active runs, waiting rows, the arrival rate and the batch law. Used at admission: work that cannot be
done in time is rejected immediately instead of after a wait. Pure.
"""

import math

from salver.kernel.engine.waiting import Batch
from salver.stats.batch_law import BatchLaw
from salver.stats.shape_laws import ShapeLaws

#: Fraction of the batch of a saturated server: a wrong rejection loses capacity for good, a wrong admission
#: costs one request a wait (it is given up before it runs).
_OPTIMISM = 0.7
EASY, SATURATED = 0.6, 0.9  # loads: below, and from which, a late request takes another's place
#: Seconds for which a strain is good: the rate behind it is averaged over far more.
_SOON = 1e-3


class Rate:
    """Rows per second, averaged exponentially over time.

    Args:
        memory: Time constant in seconds.

    >>> rate = Rate(memory=1.0)
    >>> for tenth in range(100):
    ...     rate.add(1, tenth / 10)
    >>> round(rate.at(9.95))
    10
    """

    __slots__ = ("_last", "_memory", "_value")

    def __init__(self, memory: float) -> None:
        self._memory = memory
        self._value = 0.0
        self._last = 0.0

    def add(self, rows: int, now: float) -> None:
        """Record arrivals."""
        self._value = self.at(now) + rows / self._memory
        self._last = now

    def at(self, now: float) -> float:
        """Return the estimate."""
        return self._value * math.exp((self._last - now) / self._memory)


class Load:
    """Demand and speed of a model.

    Args:
        memory: Averaging time of the arrival rate in seconds.

    Attributes:
        laws: Batch laws by the size of rows.
        slots: Concurrent batches.
        largest: Maximum rows of a batch.
        rate: Arrival rate, updated by the caller.
        size: Size of the rows of the last batch, as in :class:`~salver.kernel.engine.waiting.QueuedRequest`.
    """

    __slots__ = ("_strain", "_until", "largest", "laws", "rate", "size", "slots")

    def __init__(self, laws: ShapeLaws, slots: int, largest: int, memory: float) -> None:
        self.laws = laws
        self.slots = slots
        self.largest = largest
        self.rate = Rate(memory)
        self.size = 0
        self._strain = 0.0
        self._until = -math.inf

    def law(self) -> BatchLaw:
        """Return the batch law of rows such as those of the last batch."""
        return self.laws.of(self.size).law()

    def seconds(self, batch: Batch) -> float:
        """Return the expected seconds of a run."""
        return self.laws.of(batch.members[0].size).law().seconds(batch.rows)

    def at(self, now: float, law: BatchLaw | None = None) -> float:
        """Return offered rows per second divided by the capacity of full batches."""
        seconds = (law or self.law()).seconds(self.largest)
        return self.rate.at(now) * seconds / (self.largest * self.slots)

    def strain(self, now: float) -> float:
        """Return the fraction of the safety margin to apply.

        Zero while there is spare capacity: a late answer then delays no other request, and a rejection is no
        better. One from the load at which a late request takes another's place. Computed once a millisecond.
        """
        if not self._until - _SOON <= now < self._until:
            self._strain = min(max((self.at(now) - EASY) / (SATURATED - EASY), 0.0), 1.0)
            self._until = now + _SOON
        return self._strain


class Outlook:
    """Predictor of completion times.

    >>> from salver.stats.batch_law import LiveLaw
    >>> load = Load(ShapeLaws(LiveLaw(BatchLaw(1.0, 4.0))), slots=1, largest=8, memory=1.0)
    >>> outlook = Outlook(load)
    >>> outlook.is_hopeless(1, 0, now=0.0, target=5.0)  # idle
    False
    >>> outlook.started(8, now=0.0)
    >>> outlook.is_hopeless(1, 0, now=2.0, target=16.0)  # not before 12 + 5
    True
    """

    __slots__ = ("_load", "_running")

    def __init__(self, load: Load) -> None:
        self._load = load
        self._running: list[tuple[float, float]] = []  # (begin, expected end)

    @property
    def is_busy(self) -> bool:
        """Return whether a run is active."""
        return bool(self._running)

    def started(self, rows: int, now: float, law: BatchLaw | None = None) -> None:
        """Record the start of a run, with its own law if that differs from the usual one."""
        self._running.append((now, now + (law or self._load.law()).seconds(rows)))

    def began(self, planned: float, now: float) -> None:
        """Move a planned start to now."""
        for index, (begin, end) in enumerate(self._running):
            if begin == planned:
                self._running[index] = now, now + end - begin
                return

    def ended(self, began: float) -> None:
        """Record the end of a run."""
        for index, (begin, _) in enumerate(self._running):
            if begin == began:
                del self._running[index]
                return

    def is_hopeless(
        self,
        rows: int,
        ahead: float,
        now: float,
        target: float,
        law: BatchLaw | None = None,
        slack: float = 1.0,
        margin: float = 0.0,
    ) -> bool:
        """Return whether the answer cannot be ready by the target.

        It waits for the next idle instance, for the rows ahead of it, and for a batch as large as those of a
        saturated server: b = λ(S - t0) / (1 + λa), the largest whose members all finish in time.

        Args:
            ahead: Rows that wait before it.
            law: Batch law of its own batch, if not the usual one.
            slack: Batches of the rows ahead that may still be given up.
            margin: Share by which the other batches ahead may take longer than the law says.
        """
        load = self._load
        slots, largest = load.slots, load.largest
        law = law or load.law()
        free, batch = now, rows
        if len(self._running) >= slots:
            ends = sorted([end for _, end in self._running])
            free = max(now, ends[len(ends) - slots])  # together with one that only waits for an instance
            rate = load.rate.at(now) / slots
            saturated = min(largest, rate * (target - now - law.t0) / (1 + rate * law.a))
            batch = max(rows, round(_OPTIMISM * saturated))
        whole = ahead // largest - slack
        if whole > 0:
            free += whole * law.seconds(largest) * (1 + margin) / slots
        return free + law.seconds(batch) > target
