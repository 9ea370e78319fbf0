"""Queue of a handler, which decides which worker runs which requests, and when.

TorchServe's rules as a pure object (TS-B1 to TS-B5): one bounded queue for a model version. An idle worker
takes the first job and waits for others until the first one's delay is over or the batch is full. Workers are
numbers and times are arguments; processes, timers and event loops are not known.
:mod:`salver.dialects.torchserve.engine.sequence_queue` has the rules for sequences.
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
    """A request to run.

    Args:
        what: The request.
        arrived: Time of arrival.
        deadline: Time after which it must not begin; inf = none.
        sequence: Its sequence; empty = none.
        ends: Whether it is the last request of its sequence.

    Attributes:
        is_alone: Whether it must not share a run, where runs are whole batches.
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
        of = f" of {self.sequence}" if self.sequence else ""
        return f"<Job {self.what!r}{of}>"


class Batch(NamedTuple, Generic[T]):
    """Jobs for a worker to run now.

    Attributes:
        reason: ``full``, ``time`` or ``drain``, as in :class:`~salver.words.messages.Timing`.
    """

    worker: int
    jobs: list[Job[T]]
    reason: str


class JobQueue(ABC, Generic[T]):
    """Waiting jobs of one model version, and its idle workers."""

    late: list[Job[T]]
    """Jobs past their deadline; the owner fails them and clears the list."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of waiting jobs."""

    @abstractmethod
    def offer(self, job: Job[T], now: float) -> None:
        """Add a job. Raises Overloaded."""

    @abstractmethod
    def discard(self, job: Job[T]) -> bool:
        """Remove an abandoned job; return False if it was not waiting."""

    @abstractmethod
    def take(self, now: float) -> Batch[T] | None:
        """Return the next batch that can run, and mark its worker busy; None = none now."""

    @abstractmethod
    def refill(self, worker: int, room: int, now: float) -> list[Job[T]]:
        """Return up to ``room`` jobs for the next step of a busy worker."""

    @abstractmethod
    def finish(self, jobs: Iterable[Job[T]], now: float) -> None:
        """Note that jobs are over."""

    @abstractmethod
    def requeue(self, jobs: Sequence[Job[T]]) -> list[Job[T]]:
        """Put jobs first that their worker has not read; return those that cannot run elsewhere."""

    @abstractmethod
    def add_idle(self, worker: int) -> None:
        """Note that a worker, new or busy before, is idle."""

    @abstractmethod
    def retire(self, worker: int) -> None:
        """Give no new jobs to a worker."""

    @abstractmethod
    def remove_worker(self, worker: int) -> list[Job[T]]:
        """Remove a worker; return waiting jobs that no other worker can run."""

    @abstractmethod
    def due(self, now: float) -> float:
        """Return when to call :meth:`take` again without other events; inf = never."""

    @abstractmethod
    def clear(self) -> list[Job[T]]:
        """Remove and return all waiting jobs."""


class Forming(Generic[T]):
    """A batch that an idle worker is waiting to fill.

    Attributes:
        until: When it is to run.
        soonest: Earliest deadline of its jobs.
    """

    __slots__ = ("jobs", "soonest", "until", "worker")

    def __init__(self, worker: int) -> None:
        self.worker = worker
        self.jobs: list[Job[T]] = []
        self.until = self.soonest = math.inf

    def add(self, job: Job[T], delay: float) -> None:
        """Add a job; the oldest one determines the delay."""
        self.jobs.append(job)
        if job.arrived + delay < self.until:
            self.until = job.arrived + delay
        if job.deadline < self.soonest:
            self.soonest = job.deadline

    def reason(self, most: int, now: float) -> str:
        """Return why the batch is to run now; empty = it is not."""
        if len(self.jobs) >= most:
            return "full"
        if self.jobs and now >= self.until:
            return "time"
        return ""


class PlainQueue(JobQueue[T]):
    """Queue of jobs that any worker may run."""

    def __init__(self, workers: Workers) -> None:
        self.late: list[Job[T]] = []
        self._most = max(1, workers.batch_size)
        self._delay = max(0, workers.max_batch_delay_ms) / 1e3
        self._limit = workers.queue
        self._needs_ticket = workers.needs_ticket
        self._jobs: OrderedDict[Job[T], None] = OrderedDict()
        self._idle: OrderedDict[int, None] = OrderedDict()  # longest idle first
        self._forming: Forming[T] | None = None

    def __repr__(self) -> str:
        return f"<PlainQueue {len(self)} waiting, {len(self._idle)} idle>"

    def __len__(self) -> int:
        """Return the number of waiting jobs, including those of a forming batch."""
        forming = self._forming  # read once, since other threads may call
        if forming is None:
            return len(self._jobs)
        return len(self._jobs) + len(forming.jobs)

    def offer(self, job: Job[T], now: float) -> None:
        """See :class:`JobQueue`."""
        if self._needs_ticket and not self._idle and self._forming is None:
            raise busy()
        if len(self._jobs) >= self._limit and not self._has_room(now):
            raise full(so_many(len(self._jobs)))
        self._jobs[job] = None

    def _has_room(self, now: float) -> bool:
        """Drop jobs past their deadline; return whether the queue has room then."""
        # Only looked for when the queue is full, since it costs a pass over all jobs.
        for job in [job for job in self._jobs if job.deadline <= now]:
            del self._jobs[job]
            self.late.append(job)
        # A model without a queue takes one job while a worker can begin it at once.
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
        if forming.soonest <= now:  # spares a pass over the jobs otherwise
            self._drop_late(forming, now)
        is_complete = self._fill(forming, now)
        if not forming.jobs:
            self._give_up(forming)
            return None
        reason = "full" if is_complete else forming.reason(self._most, now)
        if not reason:
            return None
        self._forming = None
        return Batch(forming.worker, forming.jobs, "drain" if self._most == 1 else reason)

    def _fill(self, forming: Forming[T], now: float) -> bool:
        """Add jobs that may share the run; return whether the batch need not wait for more."""
        jobs = forming.jobs
        while len(jobs) < self._most and self._jobs:
            first = next(iter(self._jobs))
            # A job that must be alone ends the batch before it, which then need not wait for more.
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
        """Dissolve an empty batch; its worker becomes the first idle one."""
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

    def finish(self, jobs: Iterable[Job[T]], now: float) -> None:
        """See :class:`JobQueue`; nothing has to be done."""

    def requeue(self, jobs: Sequence[Job[T]]) -> list[Job[T]]:
        """See :class:`JobQueue`."""
        put_first(self._jobs, jobs)
        return []

    def add_idle(self, worker: int) -> None:
        """See :class:`JobQueue`."""
        self._idle[worker] = None

    def retire(self, worker: int) -> None:
        """See :class:`JobQueue`."""
        self.remove_worker(worker)

    def remove_worker(self, worker: int) -> list[Job[T]]:
        """See :class:`JobQueue`; other workers can run all jobs."""
        self._idle.pop(worker, None)
        forming = self._forming
        if forming is not None and forming.worker == worker:
            self._forming = None
            put_first(self._jobs, forming.jobs)
        return []

    def due(self, now: float) -> float:
        """See :class:`JobQueue`."""
        if self._forming is None:
            return math.inf
        return self._forming.until

    def clear(self) -> list[Job[T]]:
        """See :class:`JobQueue`."""
        found = list(self._jobs)
        self._jobs.clear()
        if self._forming is not None:
            found = self._forming.jobs + found
            self._give_up(self._forming)
        return found


def put_first(waiting: OrderedDict[Job[T], None], jobs: Sequence[Job[T]]) -> None:
    """Put jobs before all others, in their order."""
    for job in reversed(jobs):
        waiting[job] = None
        waiting.move_to_end(job, last=False)


def busy() -> Overloaded:
    """Return the error for a model without a queue whose workers are all busy."""
    return full("No worker is idle; retry later.")
