"""Answers that break a rule, and bins of what the stable version answered first."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from outcomes import CollectorWorld, happened_in, served

from salver.features.releases.experiments.outputs import (
    MOST_NUMBERS,
    OutputCheck,
    Watch,
    code,
    is_beyond,
    places,
)
from salver.features.releases.judge.policy import Policy
from salver.features.releases.judge.procedure import promoted, started, watched
from salver.features.releases.judge.record import proposed
from salver.words.events import Responded
from salver.words.releases import ARMS, Arm, Counts, Shadow, Traffic, unit_number
from salver.words.tensor import DataType, Tensor, tensor

BINS = OutputCheck("score", "bins", "p", bins=4)


def p(*rows):
    return (tensor("p", np.array(rows, np.float32)),)


def told(outputs, **more):
    return Responded(served("ada").assignment, "ada", outputs, **more)


def happened(watch, outputs, *, is_control=False, **more):
    return watch.happened(told(outputs, **more), is_control=is_control)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_what_is_not_finite_is_found_in_any_output_of_floating_numbers(bad, dtype):
    check = OutputCheck("invalid", "bounds")
    good = tensor("a", np.ones((3, 4), dtype)), tensor("n", np.array([7])), tensor("t", ["text"])
    assert not is_beyond(check, good)
    worse = np.ones((3, 4), dtype)
    worse[2, 3] = bad
    assert is_beyond(check, (*good, tensor("b", worse)))
    assert not is_beyond(check, ())


def test_numbers_of_half_a_float_are_read_as_such():
    halves = (np.array([[1.5, np.nan]], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    check = OutputCheck("invalid", "bounds", take="first", most=1.5)
    assert not is_beyond(check, (Tensor("p", DataType.BF16, halves),))
    assert is_beyond(OutputCheck("invalid", "bounds"), (Tensor("p", DataType.BF16, halves),))


@pytest.mark.parametrize(
    ("take", "lowest", "highest"),
    [
        ("each", -1, 6),
        ("first", 1, 4),
        ("last", 2, 6),
        ("sum", 2, 15),
        ("mean", 2 / 3, 5),
        ("max", 2, 6),
        ("argmax", 2, 2),
    ],
)
def test_what_is_taken_of_each_row(take, lowest, highest):
    outputs = p([1, -1, 2], [4, 5, 6])
    for least, most, beyond in ((lowest, highest, False), (lowest + 0.1, highest, True)):
        assert is_beyond(OutputCheck("r", "bounds", "p", take, least, most), outputs) is beyond
    assert is_beyond(OutputCheck("r", "bounds", "p", take, most=highest - 0.1), outputs)


def test_shapes_without_rows_or_numbers():
    each = OutputCheck("r", "bounds", "p", "sum", least=2)
    assert is_beyond(each, (tensor("p", np.float32(1)),))
    assert is_beyond(each, (tensor("p", np.array([2.0, 1.0])),))
    assert not is_beyond(each, (tensor("p", np.empty((0, 3))),))
    assert not is_beyond(each, (tensor("other", np.zeros(3)),))
    assert not is_beyond(each, (tensor("p", ["text"]),))
    assert is_beyond(each, (tensor("p", np.array([[False, True]])),))


def test_of_a_large_output_the_first_numbers_are_looked_at():
    large = np.zeros(MOST_NUMBERS + 1)
    large[-1] = math.nan
    assert not is_beyond(OutputCheck("r", "bounds"), (tensor("p", large),))
    large[MOST_NUMBERS - 1] = math.nan
    assert is_beyond(OutputCheck("r", "bounds"), (tensor("p", large),))


@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=20),
    st.lists(st.floats(-100, 100), min_size=1, max_size=6),
)
def test_each_finite_number_lies_in_one_bin(numbers, bounds):
    bounds = tuple(sorted(bounds))
    check = OutputCheck("s", "bins", bins=len(bounds) + 1, bounds=bounds)
    expected = {sum(bound <= number for bound in bounds) for number in numbers if math.isfinite(number)}
    assert places(check, (tensor("p", np.array(numbers)),)) == sorted(expected)


def test_bins_are_quantiles_of_what_the_stable_version_answered_first():
    watch = Watch()
    watch.checks = (BINS,)
    for number in range(199):
        assert happened(watch, p([number]), is_control=True) == []
        assert happened(watch, p([1e6]), is_control=False) == []
    assert watch.bounds() == {}
    happened(watch, p([199]), is_control=True)
    assert watch.bounds() == {"score": (49.75, 99.5, 149.25)}
    assert watch.bounds() == {}, "told once"
    watch.checks = (OutputCheck("score", "bins", "p", bins=4, bounds=(49.75, 99.5, 149.25)),)
    assert happened(watch, p([10], [1e6]), is_control=False) == ["score.0", "score.3"]


def test_one_large_answer_makes_no_bins():
    watch = Watch()
    watch.checks = (OutputCheck("score", "bins", bins=4),)
    happened(watch, (tensor("p", np.arange(100_000.0)),), is_control=True)
    happened(watch, p([math.nan]), is_control=True)
    assert watch.bounds() == {}
    for _ in range(60):
        happened(watch, (tensor("p", np.arange(1000.0)),), is_control=True)
    (bounds,) = watch.bounds().values()
    assert bounds == tuple(sorted(bounds)) and len(bounds) == 3


def having_id(event, request_id):
    return msgspec.structs.replace(event, request_id=request_id)


def answered(unit, arm, *numbers, **more):
    return Responded(served(unit, arm, **more).assignment, unit, p(numbers))


def test_units_with_odd_answers_count_once_and_their_requests_each_time():
    world = CollectorWorld()
    negative = OutputCheck("negative", "bounds", "p", least=0)
    score = OutputCheck("score", "bins", "p", bins=2, bounds=(0.5,))
    world.collector.watch("r1", (negative, score), keeps_requests=False)
    for unit, arm, number in (("ada", Arm.CANARY, -1), ("ada", Arm.CANARY, -2), ("bo", Arm.BASELINE, 0.7)):
        world.serve(answered(unit, arm, number), served(unit, arm))
    world.serve(answered("cy", Arm.CANARY, -1, reason="always"), answered("di", Arm.STABLE, -1, release="r2"))
    (seen,) = world.close()
    assert seen.bucket.requests == Counts(2, 1, 0)
    assert happened_in(seen.bucket.raw) == {
        "negative": Counts(2),
        "score.0": Counts(2),
        "score.1": Counts(0, 1),
    }
    assert happened_in(seen.bucket.events) == {
        "negative": Counts(1),
        "score.0": Counts(1),
        "score.1": Counts(0, 1),
    }
    assert {metric: met.units.tolist() for metric, met in seen.firsts.items()} == {
        "negative": [unit_number("ada")],
        "score.0": [unit_number("ada")],
        "score.1": [unit_number("bo")],
    }
    assert len(seen.predictions) == 0


def test_bins_of_a_release_are_learnt_from_its_control():
    world = CollectorWorld()
    world.collector.watch("r1", (BINS,), keeps_requests=False)
    for number in range(200):
        world.serve(answered(f"u{number}", Arm.STABLE, number), answered("ada", Arm.CANARY, 1e9))
    assert world.collector.bins("r1") == {"score": (49.75, 99.5, 149.25)}
    (seen,) = world.close()
    assert happened_in(seen.bucket.events) == {}


def test_requests_are_noted_where_outcomes_may_be_posted_by_their_ids():
    world = CollectorWorld()
    world.collector.watch("r1", (), keeps_requests=True)
    alone = served("q-7", has_unit=False)
    world.serve(having_id(served("ada"), "q-1"), having_id(alone, "q-7"))
    (seen,) = world.close()
    asked = seen.predictions
    assert asked.requests.tolist() == [unit_number("q-1"), unit_number("q-7")]
    assert asked.units.tolist() == [unit_number("ada"), unit_number("q-7")]
    assert [ARMS[place] for place in asked.arms] == [Arm.CANARY, Arm.CANARY]
    world.collector.watch("r1", (), keeps_requests=False)
    world.serve(served("bo"))
    assert len(world.close()[0].predictions) == 0


def test_nobody_looks_at_answers_of_a_release_that_is_over():
    policy = Policy(traffic=Traffic(holdback=0.1, shadow=Shadow()))
    release = started(proposed("r1", "m", ("1", "2"), policy, 1.0), 2.0, "")
    assert release.split.is_watched and release.split.shadow == Shadow()
    held_back = promoted(release, 3.0, "it is good")
    assert held_back.split.holdback == 0.1 and held_back.split.is_watched  # it goes on being compared
    assert held_back.split.shadow is None, "callers meet it, which needs no copies"
    assert watched(held_back, 4.0, "another one comes").split is None


def test_one_odd_answer_among_many_is_found():
    world = CollectorWorld()
    world.collector.watch("r1", (OutputCheck("invalid", "bounds"),), keeps_requests=False)
    for odd in (17, None):
        for number in range(64):
            value = math.nan if number == odd else 1.0
            unit = f"u{number}"
            world.serve(answered(unit, Arm.CANARY, 1.0), served(unit))
            world.serve(answered(unit, Arm.CANARY, value), answered("bo", Arm.STABLE, 2.0))
    (seen,) = world.close()
    assert (seen.bucket.requests.canary, happened_in(seen.bucket.raw)) == (128, {"invalid": Counts(1)})
    assert seen.firsts["invalid"].units.tolist() == [unit_number("u17")]


def test_answers_that_nobody_wants_to_know_any_more_are_not_kept():
    world = CollectorWorld()
    world.collector.leave("r1")
    world.serve(answered("ada", Arm.CANARY, math.nan))
    assert not world.collector.answers
    world.collector.answers.extend([answered("ada", Arm.CANARY, math.nan)] * 65_637)
    assert len(world.collector.answers) == 65_536  # and never more, if nobody tells it anything


def test_answers_alone_have_a_time():
    world = CollectorWorld()
    world.collector.watch("r1", (OutputCheck("invalid", "bounds"),), keeps_requests=False)
    world.serve(answered("ada", Arm.CANARY, math.nan))
    (seen,) = world.close()
    assert seen.firsts["invalid"].times.tolist() == [1000.0]


def test_large_answers_are_looked_at_one_by_one():
    watch = Watch()
    watch.checks = (OutputCheck("invalid", "bounds"),)
    large = (tensor("p", np.ones(MOST_NUMBERS)),)
    assert watch.are_fine([told(large)]) and not watch.are_fine([told(large), told(p([1.0]))])
    assert not watch.are_fine([told(p([math.inf]))])
    watch.checks = (BINS,)
    assert not watch.are_fine([told(p([1.0]))])


TEXTS = OutputCheck("label", "bins", "t", bins=3)


def text(*values):
    return (tensor("t", np.array(values, object)),)


def test_of_texts_the_most_frequent_ones_of_the_stable_version_have_bins_of_their_own():
    watch = Watch()
    watch.checks = (TEXTS,)
    for number in range(200):
        said = [b"cat", b"dog", b"cat", b"%d" % number][number % 4]
        assert happened(watch, text(said), is_control=True) == []
    (bounds,) = watch.bounds().values()
    assert bounds == (code(b"cat"), code(b"dog"))
    watch.checks = (msgspec.structs.replace(TEXTS, bounds=bounds),)
    assert happened(watch, text(b"dog", b"yak", b"dog")) == ["label.1", "label.2"]
    assert happened(watch, text(b"cat")) == ["label.0"]
    assert happened(watch, (tensor("t", np.array([1.5])),)) == ["label.0"]  # no text: it is noticed elsewhere
    assert happened(watch, text()) == []


def test_texts_that_are_very_long_or_many_are_told_apart_by_their_beginning():
    long = b"x" * 100_000
    assert code(long) != code(long + b"x") != code(b"x")
    assert code(long) == code(long[:-1] + b"y")
    many = (tensor("t", np.array([b"%d" % number for number in range(1000)], object)),)
    bounds = tuple(code(b"%d" % number) for number in range(1000))
    assert len(places(msgspec.structs.replace(TEXTS, bins=1001, bounds=bounds), many)) == 64


def test_lengths_of_texts_and_numbers_of_rows():
    short = OutputCheck("short", "bounds", "t", "length", least=3)
    assert is_beyond(short, text(b"abc", b"ab")) and not is_beyond(short, text(b"abc"))
    assert is_beyond(OutputCheck("none", "bounds", "p", "length", least=1), (tensor("p", np.empty((0, 3))),))
    assert places(OutputCheck("rows", "bins", "p", "length", bounds=(2.0,)), p([1, 2], [3, 4])) == [1]
    watch = Watch()
    watch.checks = (short,)
    said = (*text(b"a"), *text(b"bc"))  # in two pieces
    assert happened(watch, said) == []
    assert happened(watch, said[:1]) == ["short"]


def test_an_output_that_is_not_there_or_holds_no_numbers_breaks_a_rule_unless_the_caller_did_not_want_it():
    watch = Watch()
    rule, bins = OutputCheck("rule", "bounds", "p", least=0), OutputCheck("s", "bins", "p", bounds=(1.0,))
    watch.checks = (rule, OutputCheck("invalid", "bounds"), bins)
    renamed = (tensor("q", np.ones(3)),)
    assert happened(watch, renamed) == ["rule", "s.unseen"]
    assert happened(watch, renamed, are_chosen=True) == ["rule.unseen", "s.unseen"]
    assert happened(watch, (tensor("p", [b"text"]),)) == ["rule", "s.1"]
    assert happened(watch, (tensor("p", np.ones(0)),)) == []
    assert happened(watch, None) == ["rule.unseen", "invalid.unseen", "s.unseen"]
    watch.checks = (rule,)
    fine, none = told(p([1.0])), told(renamed)
    assert watch.are_fine([fine]) and not watch.are_fine([fine, none]) and not watch.are_fine([told(None)])
    assert not watch.are_fine([told((tensor("p", [b"text"]),))])
    twice = told((*p([1.0]), *p([1.0])))  # in two pieces
    assert not watch.are_fine([twice, none])


def test_of_wide_rows_as_many_are_summed_up_as_hold_those_numbers():
    rows = np.zeros((3, MOST_NUMBERS // 2))
    rows[2] = math.inf
    check = OutputCheck("r", "bounds", take="max")
    assert not is_beyond(check, (tensor("p", rows),))
    assert is_beyond(check, (tensor("p", rows[1:]),))


def test_bins_are_those_of_many_answers_and_of_the_first_ones():
    watch = Watch()
    watch.checks = (BINS,)
    for answers in range(50):
        assert watch.bounds() == {}, answers
        happened(watch, p([1.0] * 16), is_control=True)
    for _ in range(200):
        happened(watch, p([9.0] * 16), is_control=True)
    assert watch.bounds() == {"score": (1.0, 1.0, 1.0)}  # 800 of 16 numbers were kept, and no more


def test_a_row_that_is_too_wide_to_be_summed_up_is_not_looked_at_and_that_is_said():
    watch = Watch()
    watch.checks = (
        OutputCheck("sum", "bounds", "p", "sum", most=1e9),
        OutputCheck("first", "bounds", "p", "first"),
    )
    wide = (tensor("p", np.full((1, (1 << 20) + 1), math.inf, np.float32)),)
    assert happened(watch, wide) == ["sum.unseen", "first"]


def test_numbers_that_a_handler_wrote_in_json():
    watch = Watch()
    watch.checks = (
        OutputCheck("rule", "bounds", "body.numbers", most=1),
        OutputCheck("s", "bins", "body", bins=2),
    )
    body = Tensor("body", DataType.UINT8, np.frombuffer(b'[{"score": 2.5, "of": "cat"}]', np.uint8))
    assert happened(watch, (body,), is_control=True) == ["rule"]
    fine = Tensor("body", DataType.UINT8, np.frombuffer(b'[{"score": 0.5}]', np.uint8))
    assert happened(watch, (fine,)) == []
    assert not watch.are_fine([told((fine,))])
    other = Tensor("body", DataType.UINT8, np.frombuffer(b"a cat", np.uint8))
    assert happened(watch, (other,)) == ["rule"]
    watch.checks = (OutputCheck("rule", "bounds", "body"),)
    assert happened(watch, (other,)) == ["rule"]  # it is a text
    assert not watch.are_fine([told((other,))])


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16"])
def test_numbers_of_every_type_have_bins(dtype):
    watch = Watch()
    watch.checks = (msgspec.structs.replace(BINS, bins=2),)
    for number in range(100):
        happened(watch, (tensor("p", np.array([number % 2], dtype)),), is_control=True)
    assert watch.bounds() == {"score": (0.5,)}


def test_numbers_as_far_apart_as_floats_can_be_have_bins():
    watch = Watch()
    watch.checks = (BINS,)
    for number in range(200):
        far = tensor("p", np.array([1.7e308 * (-1) ** number]))
        happened(watch, (far,), is_control=True)
    assert watch.bounds() == {"score": (-1.7e308, 0.0, 1.7e308)}
