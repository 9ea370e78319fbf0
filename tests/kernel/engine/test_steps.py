"""The iteration-level scheduler: joins, slots, budget, chunks, levels; and what never happens, by search."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.kernel.engine.step_pace import StepPace
from salver.kernel.engine.steps import StepScheduler, StepSequence
from salver.words.artifacts import Steps
from salver.words.errors import InvalidInput, Overloaded

TWO = Steps(max_sequences=2, max_context=100, max_chunk=64)


def scheduler_of(limits=TWO, max_queue=100, **options):
    return StepScheduler(limits, max_queue, **options)


def sequence(name="s", prompt=1, most=3, **options):
    return StepSequence(name, prompt, most, **options)


def names(sequences):
    return [s.payload for s in sequences]


def step(scheduler, now=0.0):
    """One step as the shell does it; who ended with it."""
    plan = scheduler.plan(now)
    plan.advance()
    over = []
    for each in plan.everyone:
        if each.is_answering and each.is_live:
            each.given += 1
            if each.given == each.most:
                scheduler.finish(each)
                over.append(each.payload)
    return plan, over


def test_sequences_join_and_leave_between_any_two_steps():
    scheduler = scheduler_of()
    for name, most in (("a", 1), ("b", 3), ("c", 2)):
        scheduler.offer(sequence(name, most=most))
    seen = []
    while scheduler.active or scheduler.waiting:
        plan, over = step(scheduler)
        seen.append((names(plan.rows), plan.freed, over))
    assert seen == [(["a", "b"], [], ["a"]), (["b", "c"], [0], []), (["b", "c"], [], ["b", "c"])]
    assert scheduler.has_work  # two slots are to be released yet
    assert scheduler.plan(0.0).freed == [1, 0]
    assert not scheduler.has_work


def test_a_sequence_given_up_frees_its_slot_at_the_next_step_and_not_before():
    scheduler = scheduler_of()
    one, two, three = sequence("1"), sequence("2"), sequence("3")
    for each in (one, two, three):
        scheduler.offer(each)
    plan = scheduler.plan(0.0)
    assert scheduler.finish(one)
    assert not scheduler.finish(one)
    assert plan.slots == [0, 1]  # what is under way keeps to its slots
    plan.advance()
    after = scheduler.plan(0.0)
    assert (after.freed, names(after.rows), after.slots) == ([0], ["2", "3"], [1, 0])


def test_the_whole_budget_of_a_sequence_is_reserved_when_it_joins_and_nobody_overtakes():
    scheduler = scheduler_of(Steps(max_sequences=4, max_context=10, max_tokens=20))
    for name, prompt, most in (("a", 5, 5), ("b", 4, 4), ("c", 3, 3), ("d", 1, 1)):
        scheduler.offer(sequence(name, prompt, most))
    plan, _ = step(scheduler)
    assert sorted(names(plan.everyone)) == ["a", "b"]  # "d" would fit beside them, yet "c" came first
    assert scheduler.reserved == 18


@pytest.mark.parametrize(("prompt", "most"), [(60, 41), (101, 1)])
def test_what_could_never_run_is_refused_with_both_numbers(prompt, most):
    with pytest.raises(InvalidInput, match=rf"{prompt} tokens .* {most} .* 100 tokens"):
        scheduler_of().offer(sequence(prompt=prompt, most=most))


def test_a_full_queue_refuses_and_stays_as_it_was():
    scheduler = scheduler_of(max_queue=2)
    for name in "ab":
        scheduler.offer(sequence(name))
    with pytest.raises(Overloaded):
        scheduler.offer(sequence("c"))
    assert names(scheduler.everyone()) == ["a", "b"]


def test_late_ones_leave_wherever_they_are():
    scheduler = scheduler_of()
    for name, deadline in (("a", 5.0), ("b", None), ("c", 4.0), ("d", 9.0)):
        scheduler.offer(sequence(name, deadline=deadline))
    step(scheduler, now=1.0)
    plan, _ = step(scheduler, now=5.0)
    assert sorted(names(plan.expired)) == ["a", "c"]
    assert names(plan.rows) == ["b", "d"]


def test_a_higher_level_goes_first_and_a_lower_one_after_so_many_passes():
    scheduler = scheduler_of(Steps(max_sequences=1), max_passes=3)
    for name, level in [("low", 3), *((f"h{i}", 1) for i in range(6))]:
        scheduler.offer(sequence(name, most=1, level=level))
    order = []
    while scheduler.waiting or scheduler.active:
        order += step(scheduler)[1]
    assert order == ["h0", "h1", "h2", "low", "h3", "h4", "h5"]


def test_a_lone_prompt_is_read_in_the_largest_chunks():
    scheduler = scheduler_of()
    one = sequence(prompt=70)
    scheduler.offer(one)
    sizes = []
    while not one.is_answering:
        plan, _ = step(scheduler)
        sizes.append(plan.chunk_tokens or len(plan.rows))
    assert sizes == [64, 6]


def test_beside_others_a_prompt_is_read_by_the_token_until_the_pace_is_known():
    scheduler = scheduler_of()
    scheduler.offer(sequence("old", most=50))
    step(scheduler)
    new = sequence("new", prompt=40)
    scheduler.offer(new)
    plan, _ = step(scheduler)
    assert (names(plan.rows), plan.chunk, new.read) == (["old", "new"], None, 1)
    scheduler.pace.stepped(1, 0.010)
    scheduler.pace.prefilled(8, 0.003)
    plan, _ = step(scheduler)
    assert (names(plan.rows), names([plan.chunk]), plan.chunk_tokens, new.read) == (["old"], ["new"], 8, 9)


def test_a_second_unread_prompt_goes_on_by_the_token_meanwhile():
    scheduler = scheduler_of(Steps(max_sequences=3, max_chunk=16))
    scheduler.offer(sequence("a", prompt=30))
    scheduler.offer(sequence("b", prompt=30))
    scheduler.pace.stepped(1, 1.0)
    scheduler.pace.prefilled(16, 0.1)
    plan, _ = step(scheduler)
    assert (names(plan.rows), plan.chunk.payload, plan.chunk_tokens) == (["b"], "a", 16)


def test_with_blocks_a_prompt_is_read_in_whole_ones_and_then_the_rest():
    scheduler = scheduler_of(Steps(max_sequences=3, max_context=100, max_chunk=16))
    scheduler.block = 6
    first, second = StepSequence("first", 27, 5), StepSequence("second", 1, 5)
    for sequence in (first, second):
        scheduler.offer(sequence)
    sizes = []
    while not second.is_answering:
        plan = scheduler.plan(0.0)
        sizes.append((plan.chunk.payload, plan.chunk_tokens, [row.payload for row in plan.rows]))
        plan.advance()
    # Alone twelve of sixteen; nobody knows yet how long a chunk beside an answer takes; a token alone, too.
    assert sizes == [("first", 12, []), ("first", 12, []), ("first", 3, []), ("second", 1, ["first"])]
    assert scheduler.plan(0.0).chunk is None


def test_what_turns_out_to_be_known_shortens_a_chunk():
    scheduler = scheduler_of(Steps(max_sequences=1, max_context=100, max_chunk=64))
    scheduler.block = 6
    sequence = StepSequence("one", 27, 5)
    scheduler.offer(sequence)
    plan = scheduler.plan(0.0)
    assert plan.chunk_tokens == 24
    sequence.read = 18
    assert plan.advance() == 9 and sequence.is_answering


def test_pace_allows_what_lengthens_a_step_by_the_share_and_not_more():
    pace = StepPace(largest=256, share=0.5)
    pace.stepped(8, 0.010)
    for tokens, seconds in ((1, 0.001), (32, 0.004), (64, 0.0051), (256, 0.02)):
        pace.prefilled(tokens, seconds)
    assert pace.chunk(8) == 32
    assert pace.chunk(100) == 32  # the nearest smaller step known
    pace.prefilled(33, 0.0)  # no power of two: says nothing of one
    assert pace.chunk(8) == 32


def test_pace_forgets_a_spike_and_follows_a_change():
    pace = StepPace(largest=64)
    pace.stepped(4, 0.010)
    pace.prefilled(64, 0.003)
    pace.prefilled(64, 0.010)  # somebody else had the core
    assert pace.chunk(4) == 64
    for _ in range(50):
        pace.prefilled(64, 0.010)
    assert pace.chunk(4) < 64


offers = st.tuples(
    st.just("offer"), st.integers(1, 12), st.integers(1, 6), st.integers(1, 3), st.none() | st.integers(0, 40)
)
moves = st.lists(
    st.one_of(offers, st.tuples(st.just("step")), st.tuples(st.just("leave"), st.integers(0, 9)))
)


@settings(max_examples=80)
@given(moves, st.integers(1, 4), st.integers(18, 40), st.booleans())
def test_no_slot_leaks_no_budget_is_exceeded_and_nobody_is_lost_or_doubled(moves, slots, budget, known):
    scheduler = scheduler_of(Steps(max_sequences=slots, max_context=18, max_tokens=budget, max_chunk=4), 8)
    if known:
        scheduler.pace.stepped(1, 1.0)
        scheduler.pace.prefilled(4, 0.2)
    live, ended, joined = [], [], {1: [], 2: [], 3: []}
    count = now = 0
    for move in [*moves, *[("step",)] * 120]:
        if move[0] == "offer":
            _, prompt, most, level, patience = move
            deadline = None if patience is None else now + patience
            each = sequence(count, prompt, most, level=level, deadline=deadline)
            count += 1
            try:
                scheduler.offer(each)
                live.append(each)
            except Overloaded:
                assert scheduler.waiting == 8
        elif move[0] == "leave":
            if live:
                each = live.pop(move[1] % len(live))
                assert scheduler.finish(each)
                ended.append(each.payload)
        else:
            now += 1
            plan, over = step(scheduler, now)
            taken = [*plan.slots, *([plan.chunk_slot] if plan.chunk else [])]
            assert len(set(taken)) == len(taken) <= slots
            assert all(0 <= slot < slots for slot in taken)
            assert sum(s.prompt + s.most for s in scheduler.everyone() if s.slot >= 0) == scheduler.reserved
            assert scheduler.reserved <= budget
            gone = [*names(plan.expired), *over]
            ended += gone
            for each in sorted(plan.everyone, key=lambda s: s.payload):
                if each.payload not in joined[each.level]:
                    joined[each.level].append(each.payload)
            live = [s for s in live if s.payload not in gone]
    assert not live and not scheduler.active and not scheduler.waiting and not scheduler.reserved
    assert len(set(ended)) == len(ended)
    for order in joined.values():
        assert order == sorted(order)  # within a level, first come is first served
    scheduler.plan(now)
    for name in range(slots):
        scheduler.offer(sequence(name, 1, 1))
    assert sorted(scheduler.plan(now).slots) == list(range(slots))  # every slot is there again
