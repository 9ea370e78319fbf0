"""If a request came now, could it be answered in time?

From the runs under way, what waits, the arrival rate and the batch law. Used at the door: work that cannot be
done in time is refused before it costs anything, at once instead of after a wait. Pure.
"""

import math

from salver.kernel.engine.rules import LawOf
from salver.stats.batch_law import BatchLaw

#: Of the batch that a saturated server would run: to refuse in error loses capacity for good, to
#: admit in error costs one request a wait (it is given up before it runs).
_OPTIMISM = 0.7


class Rate:
    """Rows per second, forgetting exponentially.

    Args:
        memory: Seconds.

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
        """So many came."""
        self._value = self.at(now) + rows / self._memory
        self._last = now

    def at(self, now: float) -> float:
        """The estimate."""
        return self._value * math.exp((self._last - now) / self._memory)


class Outlook:
    """Predicts whether there is any hope.

    Args:
        slots: Batches at the same time.
        largest: Most rows of a batch.
        rate: Of arrivals; whoever counts them keeps it.

    Attributes:
        slots: As given, unless it changes.

    >>> from salver.stats.batch_law import BatchLaw
    >>> outlook = Outlook(lambda: BatchLaw(1.0, 4.0), slots=1, largest=8, rate=Rate(1.0))
    >>> outlook.is_hopeless(1, 0, now=0.0, target=5.0)  # idle
    False
    >>> outlook.started(8, now=0.0)
    >>> outlook.is_hopeless(1, 0, now=2.0, target=16.0)  # not before 12 + 5
    True
    """

    __slots__ = ("_largest", "_law", "_rate", "_running", "slots")

    def __init__(self, law: LawOf, slots: int, largest: int, rate: Rate) -> None:
        self._law = law
        self.slots = slots
        self._largest = largest
        self._rate = rate
        self._running: list[tuple[float, float]] = []  # (begin, expected end)

    @property
    def is_busy(self) -> bool:
        """Something runs."""
        return bool(self._running)

    def started(self, rows: int, now: float, law: BatchLaw | None = None) -> None:
        """A run began, for which another law than the usual one may hold."""
        self._running.append((now, now + (law or self._law()).seconds(rows)))

    def began(self, planned: float, now: float) -> None:
        """The run that was to begin then does so now."""
        for index, (begin, end) in enumerate(self._running):
            if begin == planned:
                self._running[index] = now, now + end - begin
                return

    def ended(self, began: float) -> None:
        """The run that began then is over."""
        for index, (begin, _) in enumerate(self._running):
            if begin == began:
                del self._running[index]
                return

    def is_hopeless(
        self, rows: int, ahead: float, now: float, target: float, law: BatchLaw | None = None
    ) -> bool:
        """True if its answer cannot be there by the target.

        It would have to wait for the next idle instance, for what is ahead of it, and for a batch as large as
        those of a saturated server: b = λ(S - t0) / (1 + λa), the largest whose members all make it.

        Args:
            ahead: Rows that wait before it.
            law: Of its own batch, if not the usual one.
        """
        law = law or self._law()
        free, batch = now, rows
        if len(self._running) >= self.slots:
            ends = sorted([end for _, end in self._running])
            free = max(now, ends[len(ends) - self.slots])  # with one that only waits for an instance
            rate = self._rate.at(now) / self.slots
            saturated = min(self._largest, rate * (target - now - law.t0) / (1 + rate * law.a))
            batch = max(rows, round(_OPTIMISM * saturated))
        whole = ahead // self._largest - 1  # of those ahead, one batch's worth may yet be given up
        if whole > 0:
            free += whole * law.seconds(self._largest) / self.slots
        return free + law.seconds(batch) > target
