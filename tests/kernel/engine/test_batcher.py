"""The batcher neither loses nor repeats nor reorders; its rule is the documented one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.kernel.engine.batcher import Batcher
from salver.kernel.engine.waiting import QueuedRequest
from salver.words.artifacts import Batching
from salver.words.errors import Overloaded


def waiting(payload, rows=1, key=None, arrived=0.0, deadline=None, sender=None):
    return QueuedRequest(payload, rows, key, arrived, deadline, sender)


def fill(batcher, count, **kwargs):
    items = [waiting(i, **kwargs) for i in range(count)]
    for item in items:
        batcher.offer(item)
    return items


def payloads(batch):
    return [w.payload for w in batch.members]


class TestDrain:
    def test_takes_what_is_there(self):
        batcher = Batcher(Batching(max_rows=8))
        fill(batcher, 3)
        assert batcher.due(0.0) == 0.0
        batch = batcher.take(0.0)
        assert payloads(batch) == [0, 1, 2]
        assert (batch.rows, batch.reason, batcher.depth, batcher.rows_waiting) == (3, "drain", 0, 0)
        assert batcher.due(0.0) is None

    def test_stops_at_max_rows(self):
        batcher = Batcher(Batching(max_rows=4))
        fill(batcher, 6)
        batch = batcher.take(0.0)
        assert payloads(batch) == [0, 1, 2, 3]
        assert batch.reason == "full"
        assert payloads(batcher.take(0.0)) == [4, 5]

    def test_ragged_rows_never_split_a_request(self):
        batcher = Batcher(Batching(max_rows=8))
        for index, rows in enumerate((5, 4, 3)):
            batcher.offer(waiting(index, rows=rows))
        assert payloads(batcher.take(0.0)) == [0]
        assert payloads(batcher.take(0.0)) == [1, 2]

    def test_a_request_larger_than_a_batch_runs_alone(self):
        batcher = Batcher(Batching(max_rows=4))
        batcher.offer(waiting("huge", rows=9))
        batcher.offer(waiting("small"))
        assert payloads(batcher.take(0.0)) == ["huge"]
        assert payloads(batcher.take(0.0)) == ["small"]

    def test_disabled_runs_each_alone(self):
        batcher = Batcher(Batching(enabled=False, max_delay_ms=5))
        fill(batcher, 2)
        assert batcher.due(0.0) == 0.0
        assert [payloads(batcher.take(0.0)), payloads(batcher.take(0.0))] == [[0], [1]]


class TestDelay:
    def test_waits_for_the_oldest_to_be_old_enough(self):
        batcher = Batcher(Batching(max_rows=4, max_delay_ms=5))
        batcher.offer(waiting("a", arrived=1.0))
        batcher.offer(waiting("b", arrived=1.004))
        assert batcher.due(1.001) == pytest.approx(1.005)
        batch = batcher.take(1.005)
        assert payloads(batch) == ["a", "b"]
        assert batch.reason == "time"

    def test_a_full_batch_does_not_wait(self):
        batcher = Batcher(Batching(max_rows=2, max_delay_ms=1000))
        fill(batcher, 3, arrived=1.0)
        assert batcher.due(1.0) == 1.0
        assert batcher.take(1.0).reason == "full"
        assert batcher.due(1.0) == 2.0

    def test_preferred_size_closes_early_and_is_kept(self):
        batcher = Batcher(Batching(max_rows=16, max_delay_ms=1000, preferred_rows=(4, 8)))
        fill(batcher, 7, arrived=1.0)
        assert batcher.due(1.0) == 2.0  # the largest preferred size may still fill
        batcher.offer(waiting(7, arrived=1.0))
        assert batcher.due(1.0) == 1.0
        batch = batcher.take(1.0)
        assert (batch.rows, batch.reason) == (8, "preferred")

    def test_after_the_delay_the_best_preferred_size_goes(self):
        batcher = Batcher(Batching(max_rows=16, max_delay_ms=10, preferred_rows=(4, 8)))
        fill(batcher, 6, arrived=1.0)
        assert batcher.take(1.01).rows == 4


class TestQueue:
    def test_is_bounded_and_says_so(self):
        batcher = Batcher(Batching(max_queue=2))
        fill(batcher, 2)
        with pytest.raises(Overloaded, match="Exceeds maximum queue size"):
            batcher.offer(waiting("one more"))
        assert batcher.depth == 2

    def test_expired_are_given_back_not_run(self):
        batcher = Batcher(Batching())
        batcher.offer(waiting("late", deadline=1.0))
        batcher.offer(waiting("fine", deadline=3.0))
        batch = batcher.take(1.0)
        assert payloads(batch) == ["fine"]
        assert [w.payload for w in batch.expired] == ["late"]

    def test_discarded_are_gone(self):
        batcher = Batcher(Batching(max_delay_ms=1000))
        first, second = fill(batcher, 2, arrived=5.0)
        assert batcher.discard(first)
        assert not batcher.discard(first)
        assert (batcher.depth, list(batcher)) == (1, [second])
        assert batcher.discard(second)
        assert batcher.due(9.0) is None
        assert batcher.take(9.0).members == []

    def test_the_dead_do_not_pile_up(self):
        batcher = Batcher(Batching(max_delay_ms=1000))
        for _ in range(1000):
            item = waiting("gone")
            batcher.offer(item)
            batcher.discard(item)
        assert len(item.lane.queue) <= 20

    def test_groups_by_key_oldest_first(self):
        batcher = Batcher(Batching(max_rows=8))
        for index, key in enumerate("abab"):
            batcher.offer(waiting(index, key=key))
        assert payloads(batcher.take(0.0)) == [0, 2]
        assert payloads(batcher.take(0.0)) == [1, 3]

    def test_nobody_overtakes_an_earlier_request_of_the_same_sender(self):
        batcher = Batcher(Batching(max_rows=8))
        for index, (key, sender) in enumerate([("a", 1), ("b", 1), ("a", 1), ("a", 2)]):
            batcher.offer(waiting(index, key=key, sender=sender))
        assert payloads(batcher.take(0.0)) == [0, 3]
        assert payloads(batcher.take(0.0)) == [1]
        assert payloads(batcher.take(0.0)) == [2]


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("offer"),
            st.integers(1, 6),  # rows
            st.sampled_from("ab"),  # key
            st.sampled_from([None, 1, 2]),  # sender
            st.sampled_from([None, 0.0, 2.0, 50.0]),  # seconds until the deadline
        ),
        st.tuples(st.just("take"), st.floats(0.0, 3.0)),
        st.tuples(st.just("discard"), st.integers(0, 40)),
        st.tuples(st.just("limit"), st.integers(1, 8)),
    ),
    max_size=60,
)
POLICIES = st.builds(
    Batching,
    enabled=st.booleans(),
    max_rows=st.integers(1, 8),
    max_delay_ms=st.sampled_from([0.0, 1000.0]),
    preferred_rows=st.sampled_from([(), (2,), (2, 4)]),
    max_queue=st.integers(1, 12),
)


@settings(max_examples=300)
@given(POLICIES, STEPS)
def test_every_request_leaves_exactly_once_and_in_order(policy, steps):
    batcher = Batcher(policy)
    now = 0.0
    offered: list[QueuedRequest] = []
    left: list[QueuedRequest] = []
    order: list[QueuedRequest] = []

    def take():
        batch = batcher.take(now)
        left.extend(batch.members + batch.expired)
        order.extend(batch.members)
        assert batch.rows == sum(w.rows for w in batch.members)
        assert len({w.key for w in batch.members}) <= 1
        assert batch.rows <= batcher.most_rows or len(batch.members) == 1
        assert all(w.deadline is None or w.deadline > now for w in batch.members)
        assert all(w.deadline is not None and w.deadline <= now for w in batch.expired)

    for step in steps:
        if step[0] == "offer":
            _, rows, key, sender, patience = step
            item = waiting(len(offered), rows, key, now, None if patience is None else now + patience, sender)
            try:
                batcher.offer(item)
            except Overloaded:
                assert batcher.depth == policy.max_queue
            else:
                offered.append(item)
        elif step[0] == "take":
            now += step[1]
            take()
        elif step[0] == "limit":
            batcher.most_rows = min(step[1], policy.max_rows if policy.enabled else 1)
        elif step[1] < len(offered) and batcher.discard(offered[step[1]]):
            left.append(offered[step[1]])
        assert batcher.depth == len(offered) - len(left)
        assert batcher.rows_waiting == sum(w.rows for w in batcher)
        assert (batcher.due(now) is None) == (batcher.depth == 0)
    while batcher.depth:
        take()
    assert sorted(w.payload for w in left) == [w.payload for w in offered]
    for sender in (1, 2):
        mine = [w.payload for w in order if w.sender == sender]
        assert mine == sorted(mine)
    for key in "ab":
        same = [w.payload for w in order if w.key == key and w.sender is None]
        assert same == sorted(same)
