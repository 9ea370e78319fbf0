"""Queue of a stateful handler, which keeps each sequence on one worker.

The rules of :mod:`salver.dialects.torchserve.engine.job_queue` for models with state (TS-B6, TS-Y3). A
sequence has a queue of its own and belongs to one worker while both live; a batch holds at most one request
of each sequence. A sequence begins with the first request that names it, if there are not too many, and ends
with its last request, after an idle time, after a total time, or with its worker. Requests without a sequence
go to any worker. Pure.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

from salver.dialects.torchserve.engine.job_queue import Batch, Forming, Job, JobQueue, busy, put_first
from salver.kernel.engine.refusals import full, so_many
from salver.words.handlers import Workers

T = TypeVar("T")


class _Sequence(Generic[T]):
    """A sequence in progress; ``worker`` = -1 until it has one."""

    __slots__ = ("began", "has_run", "id", "jobs", "last_used", "running", "worker")

    def __init__(self, id: str, now: float) -> None:
        self.id = id
        self.worker = -1
        self.jobs: deque[Job[T]] = deque()
        self.running: Job[T] | None = None  # running, or in a forming batch
        self.has_run = False
        self.began = self.last_used = now


class _Host(Generic[T]):
    """A worker."""

    __slots__ = ("forming", "is_idle", "is_retired", "ready", "sequences")

    def __init__(self) -> None:
        self.is_idle = False
        self.is_retired = False
        self.forming: Forming[T] | None = None
        self.sequences = 0
        self.ready: OrderedDict[_Sequence[T], None] = OrderedDict()  # with a job that may run


class SequenceQueue(JobQueue[T]):
    """Queue that sends all jobs of a sequence to one worker, in order."""

    def __init__(self, workers: Workers) -> None:
        self.late: list[Job[T]] = []
        self._most = max(1, workers.batch_size)
        self._delay = max(0, workers.max_batch_delay_ms) / 1e3
        self._limit = workers.queue
        self._needs_ticket = workers.needs_ticket
        self._most_sequences = max(1, workers.max_sequences)
        self._most_waiting = max(1, workers.sequence_queue)
        self._idle_s = workers.sequence_idle_ms / 1e3 or math.inf
        self._whole_s = workers.sequence_timeout_ms / 1e3 or math.inf
        self._loose: OrderedDict[Job[T], None] = OrderedDict()  # without a sequence
        self._sequences: dict[str, _Sequence[T]] = {}
        self._hosts: dict[int, _Host[T]] = {}

    def __repr__(self) -> str:
        return f"<SequenceQueue {len(self)} waiting, {len(self._sequences)} sequences>"

    def __len__(self) -> int:
        """Return the number of waiting jobs, including those of forming batches."""
        batches = [host.forming for host in list(self._hosts.values())]
        forming = sum([len(batch.jobs) for batch in batches if batch])
        return len(self._loose) + sum([len(one.jobs) for one in list(self._sequences.values())]) + forming

    @property
    def sequences(self) -> int:
        """Number of sequences in progress."""
        return len(self._sequences)

    def knows(self, sequence: str) -> bool:
        """Return whether a sequence is in progress."""
        return sequence in self._sequences

    def holds(self, worker: int) -> int:
        """Return the number of sequences on a worker."""
        if worker not in self._hosts:
            return 0
        return self._hosts[worker].sequences

    def offer(self, job: Job[T], now: float) -> None:
        """See :class:`~salver.dialects.torchserve.engine.job_queue.JobQueue`."""
        if self._needs_ticket and not any(host.is_idle or host.forming for host in self._hosts.values()):
            raise busy()
        if not job.sequence:
            if len(self._loose) >= self._limit:
                raise full(so_many(len(self._loose)))
            self._loose[job] = None
            return
        one = self._sequences.get(job.sequence)
        if one is None:
            # Idle sequences are ended only when their place is needed, or by take().
            if len(self._sequences) >= self._most_sequences:
                self._end_idle(now)
            if len(self._sequences) >= self._most_sequences:
                raise full(so_many(len(self._sequences), "sequences"))
            one = self._sequences[job.sequence] = _Sequence(job.sequence, now)
        elif len(one.jobs) >= self._most_waiting:
            raise full(so_many(len(one.jobs), "requests of this sequence"))
        one.jobs.append(job)
        one.last_used = now
        self._settle(one)

    def _settle(self, one: _Sequence[T]) -> None:
        """Assign a sequence to a worker, and mark it ready there if it has a job to run."""
        if one.worker < 0:
            there = [pair for pair in self._hosts.items() if not pair[1].is_retired]
            if not there:
                return
            # The worker with the fewest sequences; among equals an idle one.
            found = min(there, key=lambda pair: (pair[1].sequences, not pair[1].is_idle))
            one.worker = found[0]
            found[1].sequences += 1
        host = self._hosts[one.worker]
        if one.jobs and one.running is None:
            host.ready[one] = None
        else:
            host.ready.pop(one, None)

    def discard(self, job: Job[T]) -> bool:
        """See :class:`~salver.dialects.torchserve.engine.job_queue.JobQueue`."""
        for host in self._hosts.values():
            if host.forming is not None and job in host.forming.jobs:
                host.forming.jobs.remove(job)
                if not host.forming.jobs:
                    host.forming, host.is_idle = None, True
                self._let_go(job)
                return True
        if job in self._loose:
            del self._loose[job]
            return True
        one = self._sequences.get(job.sequence)
        if one is None or job not in one.jobs:
            return False
        one.jobs.remove(job)
        self._go_on(one)
        return True

    def _let_go(self, job: Job[T]) -> None:
        """Note that a job of a forming batch will not run."""
        one = self._sequences.get(job.sequence)
        if one is not None:
            one.running = None
            self._go_on(one)

    def _go_on(self, one: _Sequence[T]) -> None:
        if one.jobs or one.running is not None or one.has_run:
            self._settle(one)
        else:
            self._forget(one)  # no worker has a state of it

    def _forget(self, one: _Sequence[T]) -> None:
        del self._sequences[one.id]
        host = self._hosts.get(one.worker)
        if host is not None:
            host.sequences -= 1
            host.ready.pop(one, None)

    def take(self, now: float) -> Batch[T] | None:
        """See :class:`~salver.dialects.torchserve.engine.job_queue.JobQueue`."""
        self._end_old(now)
        for worker, host in self._hosts.items():
            if host.forming is None:
                if not host.is_idle or not (host.ready or (self._loose and not host.is_retired)):
                    continue
                host.forming, host.is_idle = Forming(worker), False
            forming = host.forming
            self._drop_late(forming, now)
            for job in self._pull(host, self._most - len(forming.jobs), now):
                forming.add(job, self._delay)
            if reason := forming.reason(self._most, now):
                host.forming = None
                self._remember(forming.jobs)
                return Batch(worker, forming.jobs, "drain" if self._most == 1 else reason)
            if not forming.jobs:
                host.forming, host.is_idle = None, True
        return None

    def _drop_late(self, forming: Forming[T], now: float) -> None:
        for job in [job for job in forming.jobs if job.deadline <= now]:
            forming.jobs.remove(job)
            self.late.append(job)
            self._let_go(job)

    def refill(self, worker: int, room: int, now: float) -> list[Job[T]]:
        """See :class:`~salver.dialects.torchserve.engine.job_queue.JobQueue`."""
        return self._remember(self._pull(self._hosts[worker], room, now))

    def _remember(self, jobs: list[Job[T]]) -> list[Job[T]]:
        """Note that jobs are going to run."""
        for job in jobs:
            if job.sequence:
                self._sequences[job.sequence].has_run = True
        return jobs

    def _pull(self, host: _Host[T], room: int, now: float) -> list[Job[T]]:
        found: list[Job[T]] = []
        # At most one job of each sequence, the longest ready first; then jobs without a sequence.
        while host.ready and len(found) < room:
            one, _ = host.ready.popitem(last=False)
            while one.jobs:
                job = one.jobs.popleft()
                if job.deadline > now:
                    one.running = job
                    found.append(job)
                    break
                self.late.append(job)
            else:
                self._go_on(one)
        while self._loose and len(found) < room and not host.is_retired:
            job, _ = self._loose.popitem(last=False)
            (found if job.deadline > now else self.late).append(job)
        return found

    def finish(self, jobs: Iterable[Job[T]], now: float) -> None:
        """See :class:`~salver.dialects.torchserve.engine.job_queue.JobQueue`."""
        for job in jobs:
            one = self._sequences.get(job.sequence)
            if one is None or one.running is not job:
                continue  # the sequence was ended, and another one may have its name
            one.running, one.last_used = None, now
            if job.ends:
                one.began, one.has_run = now, False  # further requests begin a new sequence
            self._go_on(one)

    def requeue(self, jobs: Sequence[Job[T]]) -> list[Job[T]]:
        """See :class:`~salver.dialects.torchserve.engine.job_queue.JobQueue`; a sequence ends with its
        worker.
        """
        put_first(self._loose, [job for job in jobs if not job.sequence])
        return [job for job in jobs if job.sequence]

    def add_idle(self, worker: int) -> None:
        """See :class:`~salver.dialects.torchserve.engine.job_queue.JobQueue`."""
        host = self._hosts.get(worker)
        if host is None:
            host = self._hosts[worker] = _Host()
            for one in self._sequences.values():
                if one.worker < 0:
                    self._settle(one)
        host.is_idle = True

    def retire(self, worker: int) -> None:
        """See :class:`~salver.dialects.torchserve.engine.job_queue.JobQueue`; its sequences continue."""
        if worker in self._hosts:
            self._hosts[worker].is_retired = True

    def remove_worker(self, worker: int) -> list[Job[T]]:
        """See :class:`~salver.dialects.torchserve.engine.job_queue.JobQueue`; the state of its sequences is
        lost.
        """
        host = self._hosts.pop(worker, None)
        if host is None:
            return []
        lost: list[Job[T]] = []
        # Jobs of a forming batch have not run: they go back to where they came from, in order.
        for job in reversed(host.forming.jobs if host.forming else ()):
            one = self._sequences.get(job.sequence)
            if one is None:
                self._loose[job] = None
                self._loose.move_to_end(job, last=False)
            else:
                one.jobs.appendleft(job)
                one.running = None
        for one in [one for one in self._sequences.values() if one.worker == worker]:
            if one.has_run:  # its state died with the worker
                lost += one.jobs
                del self._sequences[one.id]
            else:
                one.worker = -1
                self._settle(one)
        return lost

    def _end_idle(self, now: float) -> None:
        idle = [
            one
            for one in self._sequences.values()
            if not one.jobs and one.running is None and now - one.last_used >= self._idle_s
        ]
        for one in idle:
            self._forget(one)

    def _end_old(self, now: float) -> None:
        self._end_idle(now)
        if self._whole_s < math.inf:
            old = [
                o for o in self._sequences.values() if o.running is None and now - o.began >= self._whole_s
            ]
            for one in old:
                self.late += one.jobs
                one.jobs.clear()
                self._forget(one)

    def due(self, now: float) -> float:
        """See :class:`~salver.dialects.torchserve.engine.job_queue.JobQueue`."""
        times = [host.forming.until for host in self._hosts.values() if host.forming is not None]
        for one in self._sequences.values():
            if one.running is None:
                times.append(one.began + self._whole_s)
                if not one.jobs:
                    times.append(one.last_used + self._idle_s)
        return min(times, default=math.inf)

    def clear(self) -> list[Job[T]]:
        """See :class:`~salver.dialects.torchserve.engine.job_queue.JobQueue`."""
        found = list(self._loose)
        self._loose.clear()
        for host in self._hosts.values():
            if host.forming is not None:
                found += host.forming.jobs
                for job in host.forming.jobs:
                    if job.sequence in self._sequences:
                        self._sequences[job.sequence].running = None
                host.forming, host.is_idle = None, True
        for one in list(self._sequences.values()):
            found += one.jobs
            one.jobs.clear()
            if one.running is None:
                self._forget(one)
        return found
