"""Which worker of a handler runs which requests, and when?

TorchServe's rules as a pure object (TS-B1 to TS-B5): one bounded queue for a model version. An idle worker
takes the first job and waits for others, as long as the first one may be kept waiting, or until its batch is
full. It knows no process, no timer and no event loop: workers are numbers, and the time is an argument.
Sequences of requests have rules of their own (:mod:`salver.dialects.torchserve.engine.sequence_queue`).
"""

import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

from salver.kernel.engine.refusals import full, so_many
from salver.words.errors import Overloaded
from salver.words.handlers import Workers

T = TypeVar("T")


class Job(Generic[T]):
    """A request that is to be run.

    Args:
        what: The request, as the caller knows it.
        arrived: When.
        deadline: From then on it is not begun; inf = it may be at any time.
        sequence: Which sequence it goes on with; empty = with none.
        ends: It is the last one of its sequence.

    Attributes:
        is_alone: No other one shares its run, where runs are of whole batches.
    """

    __slots__ = ("arrived", "deadline", "ends", "is_alone", "sequence", "what")

    def __init__(
        self, what: T, arrived: float, deadline: float = math.inf, sequence: str = "", ends: bool = False
    ) -> None:
        self.is_alone = False
        self.what = what
        self.arrived = arrived
        self.deadline = deadline
        self.sequence = sequence
        self.ends = ends

    def __repr__(self) -> str:
        return f"<Job {self.what!r}{f' of {self.sequence}' if self.sequence else ''}>"


class Batch(NamedTuple, Generic[T]):
    """What a worker is to run now.

    Attributes:
        reason: ``full``, ``time`` or ``drain``, as in :class:`~salver.words.messages.Timing`.
    """

    worker: int
    jobs: list[Job[T]]
    reason: str


class JobQueue(ABC, Generic[T]):
    """Jobs of one model version on their way to its workers."""

    late: list[Job[T]]
    """Those that were given up since they could not be begun in time; whoever answers them clears it."""

    @abstractmethod
    def __len__(self) -> int:
        """Jobs that wait."""

    @abstractmethod
    def offer(self, job: Job[T], now: float) -> None:
        """One more. Raises Overloaded."""

    @abstractmethod
    def discard(self, job: Job[T]) -> bool:
        """Nobody wants it any more; False = it does not wait."""

    @abstractmethod
    def take(self, now: float) -> Batch[T] | None:
        """The next batch that can run, whose worker is busy then; None = there is none now."""

    @abstractmethod
    def refill(self, worker: int, room: int, now: float) -> list[Job[T]]:
        """So many at most, to run in the next step of a worker that is busy."""

    @abstractmethod
    def ended(self, jobs: Iterable[Job[T]], now: float) -> None:
        """They are over."""

    @abstractmethod
    def back(self, jobs: Sequence[Job[T]]) -> list[Job[T]]:
        """Their worker was gone before it saw them: they wait again, before all others; those that cannot."""

    @abstractmethod
    def rest(self, worker: int) -> None:
        """The worker, a new one or one that was busy, has nothing to do."""

    @abstractmethod
    def retire(self, worker: int) -> None:
        """Nothing that is new goes to that worker."""

    @abstractmethod
    def leave(self, worker: int) -> list[Job[T]]:
        """The worker is gone; those jobs that wait and cannot be run by another one."""

    @abstractmethod
    def due(self, now: float) -> float:
        """When to look again though nothing happens; inf = never."""

    @abstractmethod
    def clear(self) -> list[Job[T]]:
        """All that wait, which do so no longer."""


class Forming(Generic[T]):
    """A batch that an idle worker waits to fill.

    Attributes:
        until: When it is to run.
        soonest: Before then no job in it is too late.
    """

    __slots__ = ("jobs", "soonest", "until", "worker")

    def __init__(self, worker: int) -> None:
        self.worker = worker
        self.jobs: list[Job[T]] = []
        self.until = self.soonest = math.inf

    def add(self, job: Job[T], delay: float) -> None:
        """One more; the oldest one says how long others are waited for."""
        self.jobs.append(job)
        if job.arrived + delay < self.until:
            self.until = job.arrived + delay
        if job.deadline < self.soonest:
            self.soonest = job.deadline

    def reason(self, most: int, now: float) -> str:
        """Why it is to run now; empty = it is not."""
        if len(self.jobs) >= most:
            return "full"
        return "time" if self.jobs and now >= self.until else ""


class PlainQueue(JobQueue[T]):
    """Jobs of which any worker may run any."""

    def __init__(self, workers: Workers) -> None:
        self.late: list[Job[T]] = []
        self._most = max(1, workers.batch_size)
        self._delay = max(0, workers.max_batch_delay_ms) / 1e3
        self._limit = workers.queue
        self._needs_ticket = workers.needs_ticket
        self._jobs: OrderedDict[Job[T], None] = OrderedDict()
        self._idle: OrderedDict[int, None] = OrderedDict()  # the longest idle first
        self._forming: Forming[T] | None = None

    def __repr__(self) -> str:
        return f"<PlainQueue {len(self)} waiting, {len(self._idle)} idle>"

    def __len__(self) -> int:
        """Jobs that wait, those of a batch that is filled included."""
        forming = self._forming  # read once: another thread may ask
        return len(self._jobs) + (len(forming.jobs) if forming else 0)

    def offer(self, job: Job[T], now: float) -> None:
        """See :class:`JobQueue`."""
        if self._needs_ticket and not self._idle and self._forming is None:
            raise busy()
        if len(self._jobs) >= self._limit and not self._has_room(now):
            raise full(so_many(len(self._jobs)))
        self._jobs[job] = None

    def _has_room(self, now: float) -> bool:
        """Some of those that wait would not, were they looked at."""
        for job in [job for job in self._jobs if job.deadline <= now]:
            del self._jobs[job]
            self.late.append(job)
        return len(self._jobs) < self._limit or (self._limit == 0 and bool(self._idle or self._forming))

    def discard(self, job: Job[T]) -> bool:
        """See :class:`JobQueue`."""
        if job in self._jobs:
            del self._jobs[job]
            return True
        forming = self._forming
        if forming is None or job not in forming.jobs:
            return False
        forming.jobs.remove(job)
        if not forming.jobs:
            self._give_up(forming)
        return True

    def take(self, now: float) -> Batch[T] | None:
        """See :class:`JobQueue`."""
        forming = self._forming
        if forming is None:
            if not self._idle or not self._jobs:
                return None
            forming = self._forming = Forming(self._idle.popitem(last=False)[0])
        if forming.soonest <= now:
            self._drop_late(forming, now)
        is_full = self._fill(forming, now)
        reason = "full" if is_full and forming.jobs else forming.reason(self._most, now)
        if reason:
            self._forming = None
            return Batch(forming.worker, forming.jobs, "drain" if self._most == 1 else reason)
        if not forming.jobs:
            self._give_up(forming)
        return None

    def _fill(self, forming: Forming[T], now: float) -> bool:
        """Add jobs that may share its run; is nothing waited for, since the next one may not?"""
        jobs = forming.jobs
        while len(jobs) < self._most and self._jobs:
            first = next(iter(self._jobs))
            if first.deadline > now and jobs and (first.is_alone or jobs[0].is_alone):
                return True
            del self._jobs[first]
            if first.deadline > now:
                forming.add(first, self._delay)
            else:
                self.late.append(first)
        return bool(jobs) and jobs[0].is_alone

    def _drop_late(self, forming: Forming[T], now: float) -> None:
        self.late += [job for job in forming.jobs if job.deadline <= now]
        forming.jobs[:] = [job for job in forming.jobs if job.deadline > now]
        forming.soonest = min([job.deadline for job in forming.jobs], default=math.inf)

    def _give_up(self, forming: Forming[T]) -> None:
        """Nothing is left of it, and its worker is the first that is idle."""
        self._forming = None
        self._idle[forming.worker] = None
        self._idle.move_to_end(forming.worker, last=False)

    def refill(self, worker: int, room: int, now: float) -> list[Job[T]]:
        """See :class:`JobQueue`."""
        jobs = self._jobs
        found: list[Job[T]] = []
        while jobs and len(found) < room:
            job, _ = jobs.popitem(last=False)
            (found if job.deadline > now else self.late).append(job)
        return found

    def ended(self, jobs: Iterable[Job[T]], now: float) -> None:
        """See :class:`JobQueue`: nothing that is to be remembered."""

    def back(self, jobs: Sequence[Job[T]]) -> list[Job[T]]:
        """See :class:`JobQueue`."""
        put_first(self._jobs, jobs)
        return []

    def rest(self, worker: int) -> None:
        """See :class:`JobQueue`."""
        self._idle[worker] = None

    def retire(self, worker: int) -> None:
        """See :class:`JobQueue`."""
        self.leave(worker)

    def leave(self, worker: int) -> list[Job[T]]:
        """See :class:`JobQueue`: another one runs all of them."""
        self._idle.pop(worker, None)
        forming = self._forming
        if forming is not None and forming.worker == worker:
            self._forming = None
            put_first(self._jobs, forming.jobs)
        return []

    def due(self, now: float) -> float:
        """See :class:`JobQueue`."""
        return self._forming.until if self._forming is not None else math.inf

    def clear(self) -> list[Job[T]]:
        """See :class:`JobQueue`."""
        found = list(self._jobs)
        self._jobs.clear()
        if self._forming is not None:
            found = self._forming.jobs + found
            self._give_up(self._forming)
        return found


def put_first(waiting: OrderedDict[Job[T], None], jobs: Sequence[Job[T]]) -> None:
    """They wait before all others, in their order."""
    for job in reversed(jobs):
        waiting[job] = None
        waiting.move_to_end(job, last=False)


def busy() -> Overloaded:
    """Every worker is, and the model wants no queue."""
    return full("No worker is idle; retry later.")
