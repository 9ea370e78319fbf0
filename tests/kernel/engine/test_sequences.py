"""Sequences and slots (TR-S4, TR-C9), without a clock or a model: order, one at a time, no slot lost."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from salver.kernel.engine.sequences import Register, SequenceScheduler, Turn
from salver.words.artifacts import Control, Sequences
from salver.words.errors import InvalidInput, Overloaded

DIRECT = Sequences("direct")
OLDEST = Sequences("oldest", candidates=3)
READY = Sequences("direct", controls=(Control("READY", "ready"),))
MUST_START = (
    "inference request for sequence {} to model 'm' must specify the START flag "
    "on the first request of the sequence"
)


def scheduler(config=DIRECT, instances=1, rows=2, max_queue=100, **more):
    return SequenceScheduler("m", instances, rows, config, max_queue, **more)


def payloads(company):
    return [turn and turn.payload for turn in company.turns]


def run(slots, instance=0, now=0.0):
    """One run of an instance, begun and ended; what ran."""
    company = slots.take(instance, now)
    for turn in company.turns:
        if turn is not None:
            slots.done(turn, now)
    return payloads(company)


@pytest.mark.clause("TR-S4")
@pytest.mark.parametrize("id", [77, "walk-1"])
def test_the_first_request_must_start(id):
    with pytest.raises(InvalidInput) as refused:
        scheduler().offer(id, "a", False, False, 0.0)
    assert str(refused.value) == MUST_START.format(id)


@pytest.mark.clause("TR-S4")
def test_after_the_end_comes_a_start():
    slots = scheduler()
    slots.offer(5, "a", True, True, 0.0)
    with pytest.raises(InvalidInput):
        slots.offer(5, "b", False, False, 0.0)
    slots.offer(5, "c", True, False, 0.0)
    assert run(slots) == ["a"]
    assert run(slots) == ["c"]
    assert slots.live == 1


@pytest.mark.clause("TR-S4")
def test_a_number_and_a_text_are_two_sequences():
    slots = scheduler()
    slots.offer(5, "number", True, False, 0.0)
    slots.offer("5", "text", True, False, 0.0)
    assert slots.live == 2


@pytest.mark.clause("TR-S4")
def test_one_request_of_a_sequence_at_a_time():
    slots = scheduler()
    for name in "abc":
        slots.offer(1, name, name == "a", False, 0.0)
    first = slots.take(0, 0.0)
    assert payloads(first) == ["a"]
    assert slots.due(0, 0.0) is None
    slots.done(first.turns[0], 0.0)
    assert run(slots) == ["b"]
    assert run(slots) == ["c"]


@pytest.mark.clause("TR-S4")
def test_a_start_on_a_live_sequence_takes_its_place():
    slots = scheduler(rows=1)
    first = slots.offer(1, "a", True, False, 0.0)
    again = slots.offer(1, "b", True, False, 0.0)
    assert first.sequence is again.sequence
    assert run(slots) == ["a"]
    assert run(slots) == ["b"]
    assert (slots.live, slots.waiting) == (1, 0)


@pytest.mark.clause("TR-S4")
def test_direct_a_sequence_keeps_its_row():
    slots = scheduler(READY)
    slots.offer(1, "a1", True, False, 0.0)
    slots.offer(2, "b1", True, False, 0.0)
    assert run(slots) == ["a1", "b1"]
    slots.offer(2, "b2", False, False, 0.0)
    assert run(slots) == [None, "b2"]
    slots.offer(1, "a2", False, True, 0.0)
    assert run(slots) == ["a2", None]
    slots.offer(3, "c1", True, False, 0.0)  # the row of the one that ended
    assert run(slots) == ["c1", None]


@pytest.mark.clause("TR-S4")
def test_direct_without_a_ready_control_has_no_empty_rows():
    slots = scheduler()
    slots.offer(1, "a1", True, False, 0.0)
    slots.offer(2, "b1", True, False, 0.0)
    run(slots)
    slots.offer(2, "b2", False, False, 0.0)
    assert run(slots) == ["b2"]


@pytest.mark.clause("TR-S4")
def test_sequences_are_spread_over_instances():
    slots = scheduler(instances=2)
    for id in (1, 2, 3):
        slots.offer(id, id, True, False, 0.0)
    assert run(slots, 0) == [1, 3]
    assert run(slots, 1) == [2]


@pytest.mark.clause("TR-S4")
def test_oldest_first_and_no_more_than_candidates():
    slots = scheduler(OLDEST)
    for id in (1, 2, 3, 4):
        slots.offer(id, id, True, True, 0.0)
    assert (slots.live, slots.waiting) == (3, 1)
    assert run(slots) == [1, 2]
    assert run(slots) == [3, 4]
    assert (slots.live, slots.waiting, slots.queued) == (0, 0, 0)


@pytest.mark.clause("TR-C9")
def test_candidates_are_as_many_as_rows_if_not_said():
    slots = scheduler(Sequences("oldest"), rows=2)
    for id in (1, 2, 3):
        slots.offer(id, id, True, False, 0.0)
    assert (slots.live, slots.waiting) == (2, 1)


@pytest.mark.clause("TR-C9")
def test_oldest_waits_for_a_preferred_size():
    slots = scheduler(Sequences("oldest", candidates=8, max_delay_ms=1000, preferred_rows=(2, 4)), rows=4)
    slots.offer(1, "a", True, False, 0.0)
    assert slots.due(0, 0.5) == 1.0
    slots.offer(2, "b", True, False, 0.5)
    assert slots.due(0, 0.5) == 0.5
    slots.offer(3, "c", True, False, 0.5)
    company = slots.take(0, 0.5)
    assert (payloads(company), company.reason) == (["a", "b"], "preferred")
    assert slots.due(0, 0.5) == 1.5
    company = slots.take(0, 1.5)
    assert (payloads(company), company.reason) == (["c"], "time")


@pytest.mark.clause("TR-C9")
def test_direct_waits_until_enough_slots_have_a_request():
    slots = scheduler(Sequences("direct", max_delay_ms=1000, min_fill=0.5), rows=4)
    slots.offer(1, "a", True, False, 0.0)
    assert slots.due(0, 0.0) == 1.0
    slots.offer(2, "b", True, False, 0.0)
    assert slots.due(0, 0.0) == 0.0
    assert slots.take(0, 0.0).reason == "preferred"


@pytest.mark.clause("TR-C9")
def test_direct_does_not_wait_if_any_fill_will_do():
    slots = scheduler(Sequences("direct", max_delay_ms=1000), rows=4)
    slots.offer(1, "a", True, False, 0.0)
    assert slots.due(0, 0.0) == 0.0


def test_what_cannot_be_stacked_does_not_share_a_run():
    slots = scheduler(Sequences("oldest"), rows=3, key=lambda turn: turn.payload[0])
    for id, name in enumerate(("x1", "y1", "x2"), 1):
        slots.offer(id, name, True, False, 0.0)
    assert run(slots) == ["x1", "x2"]
    assert run(slots) == ["y1"]


@pytest.mark.clause("TR-C9")
def test_a_sequence_that_is_silent_for_too_long_ends():
    slots = scheduler(Sequences("direct", idle_ms=2000), rows=1)
    slots.offer(1, "a", True, False, 0.0)
    slots.offer(2, "b", True, False, 0.0)
    assert slots.next_reap() is None  # it has a request
    run(slots, now=1.0)
    assert slots.next_reap() == 3.0
    assert not slots.reap(2.9)
    assert [sequence.id for sequence in slots.reap(3.0)] == [1]
    assert run(slots, now=3.0) == ["b"]
    with pytest.raises(InvalidInput, match="2000 ms"):
        slots.offer(1, "c", False, False, 3.0)


def test_one_that_waits_for_a_slot_does_not_end_of_it():
    slots = scheduler(Sequences("direct", idle_ms=1), rows=1)
    slots.offer(1, "a", True, False, 0.0)
    slots.offer(2, "b", True, True, 0.0)
    slots.take(0, 0.0)
    assert not slots.reap(100.0)
    assert slots.waiting == 1


def test_a_queue_has_an_end():
    slots = scheduler(max_queue=2)
    slots.offer(1, "a", True, False, 0.0)
    slots.offer(1, "b", False, False, 0.0)
    with pytest.raises(Overloaded, match="Exceeds maximum queue size"):
        slots.offer(1, "c", False, True, 0.0)
    with pytest.raises(Overloaded):
        slots.offer(2, "d", True, False, 0.0)
    assert (slots.live, slots.waiting) == (1, 0)


def test_a_request_that_is_given_up_ends_its_sequence_and_those_behind_it():
    slots = scheduler(rows=1)
    turns = [slots.offer(1, name, name == "a", name == "d", 0.0) for name in "abcd"]
    assert [turn.payload for turn in slots.withdraw(turns[1], "because", 0.0)] == ["c", "d"]
    assert run(slots) == ["a"]
    assert (slots.live, slots.queued) == (0, 0)
    with pytest.raises(InvalidInput, match="because"):
        slots.offer(1, "e", False, False, 0.0)


def test_a_gap_does_not_reach_beyond_the_next_start():
    slots = scheduler(rows=1)
    turns = [slots.offer(1, name, name in "ac", False, 0.0) for name in "abcd"]
    assert not slots.withdraw(turns[1], "because", 0.0)
    assert [run(slots)[0] for _ in "acd"] == ["a", "c", "d"]
    assert slots.live == 1


def test_one_that_is_given_up_in_the_backlog_never_gets_a_slot():
    slots = scheduler(rows=1)
    slots.offer(1, "a", True, False, 0.0)
    waiting = slots.offer(2, "b", True, False, 0.0)
    assert not slots.withdraw(waiting, "because", 0.0)
    assert (slots.live, slots.waiting) == (1, 0)


def test_what_runs_is_not_taken_back():
    slots = scheduler()
    turn = slots.offer(1, "a", True, False, 0.0)
    slots.take(0, 0.0)
    assert not slots.withdraw(turn, "because", 0.0)
    slots.done(turn, 0.0)
    assert slots.live == 1


def test_an_instance_that_forgets_ends_what_it_knew():
    slots = scheduler(rows=3)
    slots.offer(1, "quiet", True, False, 0.0)
    slots.offer(2, "goes on", True, False, 0.0)
    run(slots)
    slots.offer(2, "lost", False, False, 0.0)
    slots.offer(3, "new", True, False, 0.0)
    assert [turn.payload for turn in slots.lose(0, "it died", 0.0)] == ["lost"]
    assert slots.live == 1
    assert run(slots) == ["new"]
    for id in (1, 2):
        with pytest.raises(InvalidInput, match="it died"):
            slots.offer(id, "x", False, False, 0.0)


@pytest.mark.clause("TR-S5")
def test_a_request_may_be_run_once_more():
    slots = scheduler(rows=1)
    turn = slots.offer(1, "a", True, False, 0.0)
    slots.take(0, 0.0)
    slots.again(turn, 0.0)
    assert slots.queued == 1
    slots.take(0, 0.0)
    assert not turn.starts
    turn.ends = True
    slots.done(turn, 0.0)
    assert slots.live == 0


@pytest.mark.clause("TR-S4")
def test_what_is_shut_ends_with_what_it_was_asked():
    """As when its version has been replaced, and has waited long enough."""
    slots = scheduler(rows=2)
    for id, name in ((1, "a"), (1, "b"), (2, "c"), (3, "d")):
        slots.offer(id, name, name != "b", False, 0.0)
    assert [slots.knows(id) for id in (1, 2, 3, 4)] == [True, True, True, False]
    assert run(slots) == ["a", "c"]
    slots.shut("replaced", 0.0)
    assert not any(slots.knows(id) for id in (1, 2, 3))
    assert run(slots) == ["b", "d"]  # one that waited for a slot has the place of one that had nothing to do
    assert slots.is_empty
    with pytest.raises(InvalidInput) as refused:
        slots.offer(2, "e", False, False, 0.0)
    assert str(refused.value) == f"{MUST_START.format(2)}. replaced"
    slots.offer(2, "e", True, True, 0.0)
    assert run(slots) == ["e"]
    with pytest.raises(InvalidInput) as refused:
        slots.offer(2, "f", False, False, 0.0)
    assert str(refused.value) == MUST_START.format(2)


def test_why_sequences_ended_is_not_kept_without_end():
    register = Register()
    for id in range(3000):
        register.explain(id, f"{id}")
    assert (register.why(0), register.why(2999)) == ("", "2999")
    assert sum(bool(register.why(id)) for id in range(3000)) == 1024


@pytest.mark.clause("TR-S4")
def test_of_two_versions_that_know_an_id_the_one_where_it_began_last_is_asked():
    old, new = scheduler(), scheduler()
    old.register = new.register = Register()
    old.offer(1, "a", True, False, 0.0)
    assert (old.knows(1), new.knows(1)) == (True, False)
    new.offer(1, "b", True, False, 0.0)
    assert (old.knows(1), new.knows(1)) == (False, True)
    new.offer(1, "c", False, True, 0.0)
    assert (run(new), run(new)) == (["b"], ["c"])
    assert (old.knows(1), new.knows(1)) == (False, False)
    old.offer(1, "d", True, False, 0.0)
    assert old.knows(1)
    old.clear()
    assert repr(new.register) == "<Register of 0 sequences>"


class Slots(RuleBasedStateMachine):
    """Anything in any order: what comes of it is a sequence for each id, and slots that add up."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.numbers = itertools.count()
        self.rows, self.instances = 2, 2
        self.slots = scheduler(
            Sequences("oldest", candidates=3, idle_ms=3000), self.instances, self.rows, max_queue=12
        )
        self.waiting: dict[int, Turn] = {}
        self.running: dict[int, list[Turn]] = {}
        self.at: dict[int, int] = {}  # by id: the number of the last request that ran
        self.places: dict[object, int] = {}

    @rule(id=st.integers(1, 8), starts=st.booleans(), ends=st.booleans())
    def come(self, id, starts, ends):
        number = next(self.numbers)
        try:
            turn = self.slots.offer(id, number, starts, ends, self.now)
        except (InvalidInput, Overloaded):
            return
        self.waiting[number] = turn

    @rule(instance=st.integers(0, 1))
    def begin(self, instance):
        if instance in self.running or self.slots.due(instance, self.now) is None:
            return
        company = self.slots.take(instance, self.now)
        turns = [turn for turn in company.turns if turn is not None]
        assert 1 <= len(turns) <= self.rows
        ids = [turn.sequence.id for turn in turns]
        busy = [t.sequence.id for others in self.running.values() for t in others]
        assert len(set(ids + busy)) == len(ids) + len(busy)
        for turn in turns:
            assert turn.payload in self.waiting
            del self.waiting[turn.payload]
            assert turn.payload > self.at.get(turn.sequence.id, -1)
            self.at[turn.sequence.id] = turn.payload
            if not turn.starts:  # it is where the request before it was
                assert self.places[turn.sequence] == instance
            self.places[turn.sequence] = instance
        self.running[instance] = turns

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data):
        instance = data.draw(st.sampled_from(sorted(self.running)))
        for turn in self.running.pop(instance):
            self.slots.done(turn, self.now)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data):
        number = data.draw(st.sampled_from(sorted(self.waiting)))
        turn = self.waiting.pop(number)
        for other in self.slots.withdraw(turn, "gone", self.now):
            del self.waiting[other.payload]

    @rule(instance=st.integers(0, 1))
    def die(self, instance):
        for turn in self.slots.lose(instance, "dead", self.now):
            del self.waiting[turn.payload]

    @rule()
    def shut(self):
        self.slots.shut("replaced", self.now)
        assert not any(self.slots.knows(id) for id in range(1, 9))
        assert self.slots.is_empty == (not self.waiting and not self.running)

    @rule(seconds=st.sampled_from([0.5, 2.0, 5.0]))
    def wait(self, seconds):
        self.now += seconds
        self.slots.reap(self.now)

    @invariant()
    def it_adds_up(self):
        assert self.slots.queued == len(self.waiting)
        assert 0 <= self.slots.live <= 6
        assert not (self.slots.waiting and self.slots.live < 6)

    def teardown(self):
        """Once everything has run, silence ends whatever is left: every slot is free again."""
        for turns in self.running.values():
            for turn in turns:
                self.slots.done(turn, self.now)
        for _ in range(1000):
            due = [i for i in range(self.instances) if self.slots.due(i, self.now) is not None]
            for instance in due:
                run(self.slots, instance, self.now)
            self.now += 10
            if not self.slots.reap(self.now) and not due:
                break
        assert (self.slots.live, self.slots.waiting, self.slots.queued) == (0, 0, 0)
        assert self.slots.is_empty
        assert repr(self.slots.register) == "<Register of 0 sequences>"


TestSlots = Slots.TestCase
TestSlots.settings = settings(max_examples=150, stateful_step_count=40)


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=30),
    st.integers(1, 4),
    st.sampled_from([READY, OLDEST]),
)
def test_every_sequence_gets_its_turn(lengths, rows, config):
    """Of sequences of any lengths, all sent at once: every request runs, in its sequence's order."""
    slots = scheduler(config, rows=rows, max_queue=1000)
    for id, length in enumerate(lengths, 1):
        for step in range(length):
            slots.offer(id, (id, step), step == 0, step == length - 1, 0.0)
    seen = []
    while slots.due(0, 0.0) is not None:
        seen += [payload for payload in run(slots) if payload]
    for id, length in enumerate(lengths, 1):
        assert [step for who, step in seen if who == id] == list(range(length))
    assert (slots.live, slots.waiting, slots.queued) == (0, 0, 0)
