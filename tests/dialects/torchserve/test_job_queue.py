"""Queues of handlers: tables, and arbitrary orders of events."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.dialects.torchserve.engine.job_queue import Batch, Job, PlainQueue
from salver.dialects.torchserve.engine.sequence_queue import SequenceQueue
from salver.words.errors import Overloaded
from salver.words.handlers import Workers


def queue_of(**settings: Any) -> PlainQueue[int]:
    return PlainQueue(Workers(**settings))


def whats(jobs: "list[Job[int]]") -> list[int]:
    return [job.what for job in jobs]


def offered(queue: "PlainQueue[int] | SequenceQueue[int]", *whats: int, at: float = 0.0, **more: Any) -> None:
    for what in whats:
        queue.offer(Job(what, at, **more), at)


def taken(
    queue: "PlainQueue[int] | SequenceQueue[int]", at: float = 0.0
) -> "list[tuple[int, list[int], str]]":
    found = []
    while (batch := queue.take(at)) is not None:
        found.append((batch.worker, whats(batch.jobs), batch.reason))
    return found


@pytest.mark.clause("TS-B1")
def test_the_queue_is_bounded_beside_what_runs() -> None:
    queue = queue_of(queue=2)
    queue.add_idle(1)
    offered(queue, 0)
    assert taken(queue) == [(1, [0], "drain")]
    offered(queue, 1, 2)
    with pytest.raises(Overloaded):
        offered(queue, 3)
    assert len(queue) == 2
    queue.add_idle(1)
    assert taken(queue) == [(1, [1], "drain")]
    offered(queue, 4)
    assert whats(queue.clear()) == [2, 4]
    assert len(queue) == 0


@pytest.mark.clause("TS-B1")
def test_those_whose_time_is_over_make_room() -> None:
    queue = queue_of(queue=1)
    queue.offer(Job(0, 0.0, deadline=1.0), 0.0)
    queue.offer(Job(1, 2.0), 2.0)
    assert whats(queue.late) == [0]
    assert whats(queue.clear()) == [1]


@pytest.mark.clause("TS-B2")
def test_the_first_job_waits_for_others_so_long_or_until_the_batch_is_full() -> None:
    queue = queue_of(batch_size=3, max_batch_delay_ms=100)
    queue.add_idle(1)
    offered(queue, 0, at=0.0)
    assert taken(queue, 0.0) == []
    assert queue.due(0.0) == pytest.approx(0.1)
    offered(queue, 1, at=0.05)
    assert taken(queue, 0.05) == []
    assert taken(queue, 0.1) == [(1, [0, 1], "time")]
    queue.add_idle(1)
    offered(queue, 2, 3, 4, 5, at=0.2)
    assert taken(queue, 0.2) == [(1, [2, 3, 4], "full")]
    assert queue.due(0.2) == math.inf


@pytest.mark.clause("TS-B2")
def test_each_worker_takes_a_batch_of_its_own_the_longest_idle_first() -> None:
    queue = queue_of(batch_size=2, max_batch_delay_ms=100)
    for worker in (1, 2, 3):
        queue.add_idle(worker)
    offered(queue, 0, 1, 2, 3, 4)
    assert taken(queue) == [(1, [0, 1], "full"), (2, [2, 3], "full")]
    queue.add_idle(1)
    assert taken(queue, 0.1) == [(3, [4], "time")]


@pytest.mark.clause("TS-B2")
def test_a_batch_size_of_0_counts_as_1_and_a_delay_below_0_as_none() -> None:
    queue = queue_of(batch_size=0, max_batch_delay_ms=-10000)
    queue.add_idle(1)
    offered(queue, 0, 1)
    assert taken(queue) == [(1, [0], "drain")]


@pytest.mark.clause("TS-B3")
def test_with_a_ticket_a_request_is_refused_at_once_while_no_worker_is_idle() -> None:
    queue = queue_of(needs_ticket=True, queue=10)
    with pytest.raises(Overloaded):
        offered(queue, 0)
    queue.add_idle(1)
    offered(queue, 1)
    assert taken(queue) == [(1, [1], "drain")]
    with pytest.raises(Overloaded):
        offered(queue, 2)
    queue.add_idle(1)
    offered(queue, 3)
    assert taken(queue) == [(1, [3], "drain")]


@pytest.mark.clause("TS-B4")
def test_a_job_past_its_time_is_not_run() -> None:
    queue = queue_of(batch_size=2, max_batch_delay_ms=1000)
    offered(queue, 0, deadline=1.0)
    offered(queue, 1)
    queue.add_idle(1)
    assert taken(queue, 1.0) == [(1, [1], "time")]
    assert whats(queue.late) == [0]
    queue.add_idle(1)
    offered(queue, 2, at=1.0, deadline=1.5)
    assert taken(queue, 1.0) == []
    assert taken(queue, 1.6) == [], "it stood in a batch already"
    assert whats(queue.late) == [0, 2]
    offered(queue, 3, at=2.0)
    assert taken(queue, 3.0) == [(1, [3], "time")], "its worker is idle again"


@pytest.mark.clause("TS-B5")
def test_a_running_batch_is_refilled() -> None:
    queue = queue_of(batch_size=2, is_continuous=True)
    queue.add_idle(1)
    offered(queue, 0, 1, 2, 3)
    assert taken(queue) == [(1, [0, 1], "full")]
    assert whats(queue.refill(1, 1, 0.0)) == [2]
    assert whats(queue.refill(1, 0, 0.0)) == []


@pytest.mark.clause("TS-B7")
def test_what_waits_with_a_worker_that_goes_is_run_by_another_first() -> None:
    queue = queue_of(batch_size=3, max_batch_delay_ms=100)
    queue.add_idle(1)
    offered(queue, 0, 1)
    assert taken(queue) == []
    offered(queue, 2)
    assert queue.remove_worker(1) == []
    queue.add_idle(2)
    assert taken(queue) == [(2, [0, 1, 2], "full")]


@pytest.mark.clause("TS-B7")
def test_what_a_worker_did_not_see_is_run_by_another_first() -> None:
    queue = queue_of(batch_size=2, max_batch_delay_ms=0, queue=4)
    queue.add_idle(1)
    offered(queue, 0, 1, 2, 3)
    batch = queue.take(0.0)
    assert batch is not None
    assert queue.requeue(batch.jobs) == []
    queue.add_idle(2)
    queue.add_idle(3)
    assert taken(queue) == [(2, [0, 1], "full"), (3, [2, 3], "full")]


@pytest.mark.clause("TS-B7", "TS-B6")
def test_a_worker_takes_its_sequences_with_it_though_it_did_not_see_a_request() -> None:
    queue = sequences_of(batch_size=3, max_batch_delay_ms=0)
    queue.add_idle(1)
    offered(queue, 0)
    offered(queue, 1, sequence="a")
    offered(queue, 2)
    batch = queue.take(0.0)
    assert batch is not None
    stay = queue.requeue(batch.jobs)
    assert whats(stay) == [1]
    queue.finish(stay, 0.0)
    assert queue.remove_worker(1) == []
    queue.add_idle(2)
    assert taken(queue) == [(2, [0, 2], "time")]


def sequences_of(**settings: Any) -> SequenceQueue[int]:
    return SequenceQueue(Workers(is_stateful=True, **settings))


@pytest.mark.clause("TS-B6")
def test_a_sequence_stays_on_its_worker_and_keeps_its_order() -> None:
    queue = sequences_of(max_sequences=4, sequence_queue=5, batch_size=1)
    queue.add_idle(1)
    queue.add_idle(2)
    job = Job(0, 0.0, sequence="a")
    queue.offer(job, 0.0)
    offered(queue, 1, sequence="a")
    offered(queue, 10, sequence="b")
    first = taken(queue)
    assert sorted(first) == [(1, [0], "drain"), (2, [10], "drain")]
    queue.finish([job], 0.0)
    queue.add_idle(2)
    assert taken(queue) == [], "worker 2 does not have it"
    queue.add_idle(1)
    assert taken(queue) == [(1, [1], "drain")]


@pytest.mark.clause("TS-B6", "TS-Y3")
def test_a_batch_holds_one_request_of_each_sequence() -> None:
    queue = sequences_of(max_sequences=4, sequence_queue=5, batch_size=4, max_batch_delay_ms=5)
    queue.add_idle(1)
    offered(queue, 0, 1, sequence="a")
    offered(queue, 10, sequence="b")
    offered(queue, 20)
    assert taken(queue, 0.005) == [(1, [0, 10, 20], "time")]


@pytest.mark.clause("TS-B6", "TS-Y3")
def test_over_the_limit_no_sequence_begins_until_one_has_been_idle() -> None:
    queue = sequences_of(max_sequences=1, sequence_idle_ms=1500)
    queue.add_idle(1)
    job = Job(0, 0.0, sequence="a")
    queue.offer(job, 0.0)
    assert taken(queue) == [(1, [0], "drain")]
    with pytest.raises(Overloaded):
        offered(queue, 1, at=9.0, sequence="b")
    queue.finish([job], 10.0)
    queue.add_idle(1)
    assert queue.due(10.0) == pytest.approx(11.5)
    with pytest.raises(Overloaded):
        offered(queue, 1, at=11.0, sequence="b")
    offered(queue, 2, at=11.5, sequence="b")
    assert queue.sequences == 1
    with pytest.raises(Overloaded, match="queue"):
        offered(queue, 3, at=11.5, sequence="b")


@pytest.mark.clause("TS-B6")
def test_the_last_request_ends_a_sequence_and_frees_its_slot() -> None:
    queue = sequences_of(max_sequences=1)
    queue.add_idle(1)
    last = Job(0, 0.0, sequence="a", ends=True)
    queue.offer(last, 0.0)
    taken(queue)
    queue.finish([last], 0.0)
    assert queue.sequences == 0
    queue.add_idle(1)
    offered(queue, 1, sequence="b")
    assert taken(queue) == [(1, [1], "drain")]


@pytest.mark.clause("TS-Y3")
def test_a_sequence_is_over_after_its_whole_time() -> None:
    queue = sequences_of(max_sequences=1, sequence_timeout_ms=1000, sequence_queue=2)
    queue.add_idle(1)
    first = Job(0, 0.0, sequence="a")
    queue.offer(first, 0.0)
    taken(queue)
    offered(queue, 1, at=0.5, sequence="a")
    assert taken(queue, 2.0) == [], "it runs"
    queue.finish([first], 2.0)
    queue.add_idle(1)
    assert taken(queue, 2.0) == []
    assert whats(queue.late) == [1]
    assert queue.sequences == 0


@pytest.mark.clause("TS-B6", "TS-B7")
def test_a_sequence_is_lost_with_its_worker_unless_nothing_of_it_has_run() -> None:
    queue = sequences_of(max_sequences=2, sequence_queue=3)
    queue.add_idle(1)
    offered(queue, 0, 1, sequence="a")
    offered(queue, 10, sequence="b")
    assert taken(queue) == [(1, [0], "drain")]
    assert whats(queue.remove_worker(1)) == [1]
    assert queue.sequences == 1
    queue.add_idle(2)
    assert taken(queue) == [(2, [10], "drain")]


@pytest.mark.clause("TS-B6")
def test_a_run_of_a_sequence_that_was_given_up_is_not_taken_for_one_of_its_successor() -> None:
    queue = sequences_of(max_sequences=1, batch_size=2, max_batch_delay_ms=0)
    queue.add_idle(1)
    old = Job(1, 0.0, sequence="s")
    queue.offer(old, 0.0)
    assert queue.take(0.0) == Batch(1, [old], "time")
    assert queue.remove_worker(1) == []  # it did not end in time, and its worker goes
    queue.add_idle(2)
    new, next_one = Job(2, 1.0, sequence="s"), Job(3, 1.0, sequence="s")
    queue.offer(new, 1.0)
    assert queue.take(1.0) == Batch(2, [new], "time")
    queue.finish([old], 1.0)
    queue.offer(next_one, 1.0)
    assert queue.refill(2, 5, 1.0) == []  # one request of a sequence at a time
    queue.finish([new], 2.0)
    assert queue.refill(2, 5, 2.0) == [next_one]


@pytest.mark.clause("TS-B6")
def test_a_worker_that_is_to_go_keeps_its_sequences_and_gets_no_others() -> None:
    queue = sequences_of(max_sequences=4)
    queue.add_idle(1)
    job = Job(0, 0.0, sequence="a")
    queue.offer(job, 0.0)
    taken(queue)
    queue.retire(1)
    queue.finish([job], 0.0)
    queue.add_idle(1)
    offered(queue, 1, sequence="b")
    offered(queue, 2)
    assert taken(queue) == []
    last = Job(3, 0.0, sequence="a", ends=True)
    queue.offer(last, 0.0)
    assert taken(queue) == [(1, [3], "drain")]
    queue.finish([last], 0.0)
    assert queue.holds(1) == 0
    assert queue.remove_worker(1) == []
    queue.add_idle(2)
    assert taken(queue) == [(2, [1], "drain")]
    queue.add_idle(2)
    assert taken(queue) == [(2, [2], "drain")]


class _World:
    """Queue, workers and a clock; knows what became of each job."""

    def __init__(self, workers: Workers) -> None:
        self.queue: PlainQueue[int] | SequenceQueue[int] = (
            SequenceQueue(workers) if workers.is_stateful else PlainQueue(workers)
        )
        self.workers = workers
        self.now = 0.0
        self.jobs: list[Job[int]] = []
        self.fate: dict[int, str] = {}
        self.order: list[int] = []
        self.moved: set[int] = set()
        self.running: dict[int, list[Job[int]]] = {}
        self.alive: set[int] = set()
        self.next_worker = 0

    def end(self, job: Job[int], how: str) -> None:
        assert self.fate.get(job.what) in (None, "running"), (job, how, self.fate[job.what])
        self.fate[job.what] = how

    def look(self) -> None:
        while (batch := self.queue.take(self.now)) is not None:
            assert batch.worker in self.alive
            assert batch.worker not in self.running
            assert 1 <= len(batch.jobs) <= max(1, self.workers.batch_size)
            named = [job.sequence for job in batch.jobs if job.sequence]
            assert len(named) == len(set(named))
            self.begin(batch.worker, batch.jobs)
        for job in self.queue.late:
            self.end(job, "late")
        self.queue.late.clear()
        assert self.queue.due(self.now) >= self.now or self.queue.due(self.now) == math.inf

    def begin(self, worker: int, jobs: list[Job[int]]) -> None:
        self.running.setdefault(worker, []).extend(jobs)
        for job in jobs:
            assert job.what not in self.fate, "it is run once"
            assert job.deadline > self.now
            self.fate[job.what] = "running"
            self.order.append(job.what)

    def offer(self, sequence: str, patience: float, ends: bool) -> None:
        job = Job(len(self.jobs), self.now, self.now + patience, sequence, ends)
        self.jobs.append(job)
        try:
            self.queue.offer(job, self.now)
        except Overloaded:
            self.end(job, "refused")

    def finish(self, worker: int, *, dies: bool, unseen: bool = False) -> None:
        jobs = self.running.pop(worker, [])
        if unseen:
            for job in jobs:
                del self.fate[job.what]
                self.moved.add(job.what)
            jobs = self.queue.requeue(jobs)
        for job in jobs:
            self.end(job, "died" if dies else "done")
        self.queue.finish(jobs, self.now)
        if dies:
            self.alive.discard(worker)
            for job in self.queue.remove_worker(worker):
                self.end(job, "lost")
        elif jobs:
            self.queue.add_idle(worker)

    def come(self) -> None:
        self.next_worker += 1
        self.alive.add(self.next_worker)
        self.queue.add_idle(self.next_worker)


ACTS = st.one_of(
    st.tuples(
        st.just("offer"), st.sampled_from(["", "a", "b", "c"]), st.sampled_from([0.02, 9.9]), st.booleans()
    ),
    st.tuples(st.just("pass"), st.sampled_from([0.001, 0.011, 0.05, 2.0])),
    st.tuples(st.just("finish"), st.integers(1, 6), st.booleans()),
    st.tuples(st.just("gone"), st.integers(1, 6)),
    st.tuples(st.just("discard"), st.integers(0, 40)),
    st.tuples(st.just("retire"), st.integers(1, 6)),
    st.tuples(st.just("refill"), st.integers(1, 6)),
    st.just(("come",)),
)


@pytest.mark.clause("TS-B1", "TS-B2", "TS-B4", "TS-B6")
@given(
    acts=st.lists(ACTS, max_size=60),
    size=st.integers(1, 3),
    stateful=st.booleans(),
    ticket=st.booleans(),
    idle=st.sampled_from([0, 30]),
)
@settings(max_examples=300)
def test_whatever_happens_each_job_has_one_fate_and_none_overtakes(
    acts: list[tuple[Any, ...]], size: int, stateful: bool, ticket: bool, idle: int
) -> None:
    world = _World(
        Workers(
            batch_size=size, max_batch_delay_ms=10, queue=5, needs_ticket=ticket, is_stateful=stateful,
            max_sequences=2, sequence_queue=2, sequence_idle_ms=idle, sequence_timeout_ms=idle * 10,
        )
    )  # fmt: skip
    world.come()
    for kind, *more in acts:
        if kind == "offer":
            world.offer(more[0] if stateful else "", more[1], more[2])
        elif kind == "pass":
            world.now += more[0]
        elif kind == "finish" and more[0] in world.alive:
            world.finish(more[0], dies=more[1])
        elif kind == "gone" and more[0] in world.alive:
            world.finish(more[0], dies=True, unseen=True)
        elif kind == "discard" and more[0] < len(world.jobs):
            job = world.jobs[more[0]]
            if world.queue.discard(job):
                world.end(job, "left")
        elif kind == "retire" and more[0] in world.alive:
            world.queue.retire(more[0])
            if not stateful and more[0] not in world.running:
                world.alive.discard(more[0])
        elif kind == "refill" and more[0] in world.running:
            room = size - len(world.running[more[0]])
            world.begin(more[0], world.queue.refill(more[0], room, world.now))
        elif kind == "come":
            world.come()
        world.look()
    for worker in list(world.alive):
        world.finish(worker, dies=False)
    for job in world.queue.clear():
        world.end(job, "cleared")
    for job in world.queue.late:
        world.end(job, "late")
    assert len(world.queue) == 0
    assert set(world.fate) == set(range(len(world.jobs))), "nothing is lost"
    assert "running" not in world.fate.values()
    for name in ("a", "b", "c", ""):
        mine = [what for what in world.order if world.jobs[what].sequence == name and what not in world.moved]
        if name or not stateful:
            assert mine == sorted(mine), "their order is kept"


def _alone(what: int, at: float = 0.0) -> Job[int]:
    job = Job(what, at)
    job.is_alone = True
    return job


@pytest.mark.clause("TS-G7")
def test_a_job_that_is_to_be_alone_shares_no_run() -> None:
    queue = queue_of(batch_size=4, max_batch_delay_ms=1000)
    for worker in range(4):
        queue.add_idle(worker)
    offered(queue, 0, 1)
    assert taken(queue) == []  # others are waited for
    queue.offer(_alone(2), 0.0)
    assert taken(queue) == [(0, [0, 1], "full"), (1, [2], "full")]
    queue.offer(_alone(3), 0.0)
    queue.offer(_alone(4), 0.0)
    offered(queue, 5)
    assert taken(queue) == [(2, [3], "full"), (3, [4], "full")]
    queue.add_idle(0)
    assert taken(queue) == []
    assert taken(queue, 1.0) == [(0, [5], "time")]


@pytest.mark.clause("TS-G7")
def test_steps_of_a_continuous_batch_take_it_along() -> None:
    queue = queue_of(batch_size=4, is_continuous=True)
    queue.offer(_alone(0), 0.0)
    offered(queue, 1)
    assert whats(queue.refill(7, 3, 0.0)) == [0, 1]
