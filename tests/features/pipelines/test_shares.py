"""Deadlines that are shared out over the steps of a graph."""

import functools
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.features.pipelines.graph import Graph, Rescue, Step
from salver.features.pipelines.shares import Shares, after
from salver.words.errors import DeadlineExceeded
from salver.words.messages import Signature

TOTAL = 0.050


def step(index, reads, *, sure=True, share=0.0, rescue=None):
    reads = tuple(f"t{other}" for other in reads)
    writes = (f"t{index}",)
    return Step(
        index,
        f"s{index}",
        "",
        (),
        {},
        (),
        reads,
        writes,
        "",
        "",
        True,
        False,
        0,
        0,
        None,
        None,
        rescue,
        sure,
        share,
        f"s{index}",
    )


def graph(*steps):
    readers = {}
    for each in steps:
        for tensor in each.reads:
            readers[tensor] = (*readers.get(tensor, ()), each)
    return Graph("g", Signature((), (), True), steps, (), 0, readers, {})


@st.composite
def graphs(draw):
    """A graph with a law for each step, and how much longer than it each step really takes."""
    count = draw(st.integers(1, 12))
    steps = [
        step(
            index,
            draw(st.sets(st.integers(0, index - 1), max_size=3)) if index else (),
            sure=draw(st.booleans()),
            share=draw(st.sampled_from((0.0, 0.0, 0.1, 0.5))),
        )
        for index in range(count)
    ]
    seconds = st.floats(0.0, 0.02)
    return (
        graph(*steps),
        [draw(seconds) for _ in steps],
        [draw(st.floats(0.0, 3.0)) for _ in steps],
    )


def longest(steps, laws, index):
    """The longest path below a step, the naive way."""
    below = [s for s in steps if f"t{index}" in s.reads]
    return max((longest(steps, laws, s.index) + laws[s.index] * s.is_sure for s in below), default=0.0)


@given(graphs())
def test_no_step_begins_too_late_or_past_its_share(made):
    """Of 50 ms: what begins can end in its share, as can what comes after it."""
    whole, laws, factors = made
    shares = Shares(whole)
    for each, law in zip(whole.steps, laws, strict=True):
        shares.seen(each, law)
    shares._learn(0, laws[0])
    need = after(whole.steps, whole.readers, shares._used)
    ended = {}
    for each, law, factor in zip(whole.steps, laws, factors, strict=True):
        index = each.index
        assert need[index] == pytest.approx(longest(whole.steps, shares._used, index))
        if any(f"t{other}" in each.reads and other not in ended for other in range(index)):
            continue
        now = max((ended[other] for other in range(index) if f"t{other}" in each.reads), default=0.0)
        begins = now + law
        try:
            end = shares.end(each, now, 0.0, TOTAL)
        except DeadlineExceeded:
            limit = min(TOTAL - need[index], now + each.time_share * TOTAL if each.time_share else TOTAL)
            assert begins > limit - 1e-9 or now >= limit
            return
        assert now < end <= TOTAL - need[index] + 1e-9
        assert begins <= end + 1e-9
        if each.time_share:
            assert end <= now + each.time_share * TOTAL + 1e-9
        ended[index] = now + law * factor


@given(st.lists(st.floats(0.0, 0.02), min_size=1, max_size=6), st.floats(0.0, 0.05))
def test_a_chain_is_refused_at_its_first_step_or_not_at_all(laws, wait):
    """Where each takes its law, what cannot end in time costs nothing."""
    steps = [step(index, [index - 1] if index else ()) for index in range(len(laws))]
    shares = Shares(graph(*steps))
    for _, (each, law) in itertools.product(range(2), zip(steps, laws, strict=True)):
        shares.seen(each, law)
    shares._used, shares._after = [*laws], after(steps, shares._readers, laws)
    now = wait
    for index, (each, law) in enumerate(zip(steps, laws, strict=True)):
        try:
            shares.end(each, now, 0.0, TOTAL + 1e-9 * (index + 1))
        except DeadlineExceeded:
            assert index == 0 and wait + sum(laws) > TOTAL - 1e-9
            return
        now += law
    assert now <= TOTAL + 1e-6


def test_a_law_falls_at_once_rises_slowly_and_is_forgotten_after_refusals():
    one = step(0, ())
    shares = Shares(graph(one))
    shares.seen(one, 0.4)  # the first run was a bad moment
    refused = 0
    while True:
        try:
            shares.end(one, 0.0, 0.0, TOTAL)
            break
        except DeadlineExceeded as error:
            refused += 1
            assert "s0" in str(error) and "has 50 ms" in str(error)
    assert 10 < refused < 30
    shares.seen(one, 0.001)
    assert shares.laws[0] == 0.001
    shares.seen(one, 0.017)
    assert shares.laws[0] == pytest.approx(0.002)


def test_what_stands_in_for_a_step_has_its_time_kept():
    spare = step(0, ())
    main = step(1, (), rescue=Rescue(None, spare, {}))
    last = step(2, (1,))
    shares = Shares(graph(spare, main, last))
    for each, law in ((last, 0.010), (spare, 0.005), (main, 0.020)):
        shares.seen(each, law)
    end = functools.partial(shares.end, now=0.0, arrival=0.0, deadline=TOTAL)
    assert end(main) == pytest.approx(0.035)
    assert end(spare) == end(last) - 0.010 == pytest.approx(0.040)
