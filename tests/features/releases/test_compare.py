"""Answers held against each other: exactly, nearly, by rank, and as distributions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.features.releases.experiments.compare import MOST_ELEMENTS, Comparison, Distributions, compare
from salver.features.releases.experiments.shadows import ShadowTally
from salver.words.events import Shadowed
from salver.words.releases import Shadow
from salver.words.tensor import DataType, Tensor, tensor

NUMBERS = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=8)
WAYS = ("exact", "tolerance", "ranking", "prefix", "length", "distribution")


def of(*values, name="y"):
    return [tensor(name, np.array(values, np.float32))]


def bf16(*values):
    halves = (np.array(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return [Tensor("y", DataType.BF16, halves)]


@pytest.mark.parametrize("how", WAYS)
@given(values=NUMBERS)
def test_an_answer_agrees_with_itself(how, values):
    assert compare(how, 0.0, of(*values), of(*values)) == Comparison(True)


@pytest.mark.parametrize("how", ("exact", "tolerance", "ranking"))
@given(one=NUMBERS, other=NUMBERS)
def test_a_distance_is_the_same_or_less_the_other_way_round_and_never_negative(how, one, other):
    size = min(len(one), len(other))
    there = compare(how, 0.0, of(*one[:size]), of(*other[:size]))
    back = compare(how, 0.0, of(*other[:size]), of(*one[:size]))
    assert there.agrees == back.agrees
    assert there.distance >= 0
    if how != "tolerance":
        assert there.distance == back.distance


@pytest.mark.parametrize("how", WAYS)
def test_other_outputs_or_shapes_never_agree(how):
    assert compare(how, 1e9, of(1), of(1, name="z")) == Comparison(False, math.inf, "there is no 'y'")
    more = compare(how, 1e9, of(1), of(1) + of(1, name="z"))
    assert more == Comparison(False, math.inf, "there is 'z', too")
    shorter = compare(how, 1e9, of(1, 2), of(1))
    if how in ("prefix", "length"):
        assert shorter == Comparison(True, 0.5)
    else:
        assert shorter == Comparison(False, math.inf, "'y' is [1], not [2]")
    flat = compare(how, 1e9, [tensor("y", np.ones((1, 2), "f4"))], of(1, 2))
    assert flat == Comparison(False, math.inf, "'y' is [2], not [1, 2]")
    text = compare(how, 1e9, [tensor("y", [b"1"])], of(1))
    assert text == Comparison(False, math.inf, "'y' is FP32, not BYTES")


def test_exact_is_to_the_bit_and_the_type_but_for_what_is_no_number():
    assert compare("exact", 1.0, of(1, 2), of(1, 2.0000002)).distance == 0.5
    assert compare("exact", 1.0, of(math.nan), of(math.nan)).agrees
    wide = [tensor("y", np.array([1.0]))]
    assert compare("exact", 1.0, of(1), wide).what == "'y' is FP64, not FP32"
    texts = [tensor("y", [b"a", b"b"])], [tensor("y", [b"a", b"c"])]
    assert compare("exact", 1.0, *texts) == Comparison(False, 0.5, "'y' differs by 0.5")


def test_the_order_of_outputs_does_not_matter():
    one, two = of(1, name="a") + of(2, name="b"), of(2, name="b") + of(1, name="a")
    assert compare("exact", 0.0, one, two).agrees


@pytest.mark.parametrize(
    ("one", "other", "agrees"),
    [
        (1000.0, 1000.9, True),  # relative
        (0.0, 0.0009, True),  # absolute
        (1000.0, 1002.0, False),
        (0.0, 0.002, False),
        (math.nan, math.nan, True),
        (math.inf, math.inf, True),
        (math.inf, -math.inf, False),
        (1.0, math.nan, False),
        (math.nan, 1.0, False),
    ],
)
def test_a_tolerance_is_absolute_or_relative_whichever_is_kinder(one, other, agrees):
    assert compare("tolerance", 1e-3, of(one), of(other)).agrees is agrees
    assert compare("tolerance", 1e-3, of(one, 5.0), of(other, 5.0)).agrees is agrees


def test_numbers_of_other_types_are_numbers():
    assert compare("tolerance", 1e-2, of(1.0, 2.0), bf16(1.0, 2.0)).agrees
    assert compare("tolerance", 1e-2, bf16(3.0), bf16(4.0)).distance == pytest.approx(1 / 3)
    assert compare("tolerance", 0.0, of(3.0), [tensor("y", np.array([3]))]).agrees
    texts = [tensor("y", [b"a"])], [tensor("y", [b"b"])]
    assert compare("tolerance", 0.5, *texts).distance == 1.0


def test_a_ranking_counts_pairs_that_change_places():
    assert compare("ranking", 0.0, of(3, 2, 1), of(30, 20, 10)).agrees
    assert compare("ranking", 0.0, of(3, 2, 1), of(1, 2, 3)).distance == 1.0
    assert compare("ranking", 0.0, of(3, 2, 1), of(2, 3, 1)).distance == pytest.approx(1 / 3)
    assert compare("ranking", 0.0, of(3, 2, 1), of(2, 2, 1)).distance == pytest.approx(1 / 6)
    rows = [tensor("y", np.array([[3, 2], [3, 2]]))], [tensor("y", np.array([[3, 2], [2, 3]]))]
    assert compare("ranking", 0.5, *rows).distance == 1.0  # of the row that has most
    assert compare("ranking", 0.0, of(7), of(9)).agrees  # nothing to rank


def test_of_many_classes_the_best_ten_of_either_are_ranked():
    scores = np.arange(1000.0)
    shuffled = np.concatenate([np.random.default_rng(1).permutation(scores[:980]), scores[980:]])
    assert compare("ranking", 0.0, of(*scores), of(*shuffled)).agrees
    new_best = np.concatenate([[5000.0], scores[1:]])
    assert 0 < compare("ranking", 0.0, of(*scores), of(*new_best)).distance < 0.3
    for place, agrees in ((10, False), (11, True)):  # of which two change places with the next ones
        swapped = scores.copy()
        swapped[[-place, -place - 1]] = swapped[[-place - 1, -place]]
        assert compare("ranking", 0.0, of(*scores), of(*swapped)).agrees is agrees


def test_distributions_need_a_thousand_numbers_and_tell_a_shift():
    rng = np.random.default_rng(5)
    same, moved = Distributions(), Distributions()
    for _ in range(400):
        values = rng.normal(size=10)
        same.add(of(*values), of(*rng.normal(size=10)))
        moved.add(of(*values), of(*(values + 1)))
    assert sum(same.counts["stable"]) == sum(moved.counts["canary"]) == 4000
    assert same.shift < 0.06
    assert 0.3 < moved.shift < 0.45  # 0.383 between two normal laws, a little less in bins


def test_distributions_hold_little_and_count_what_is_no_number():
    found = Distributions()
    for _ in range(99):
        found.add(of(*range(10)), of(*range(10)))
    assert (found.shift, sum(found.counts["stable"])) == (0.0, 0)
    for _ in range(200):
        found.add(of(*range(10)), of(*[math.nan] * 10))
    assert found._first == []
    assert found.counts["canary"][-1] == 2000
    assert found.shift > 0.6
    assert found.counts["stable"][-1] == 0


def test_distributions_of_texts_and_of_constants():
    texts, constant = Distributions(), Distributions()
    for _ in range(1100):
        texts.add([tensor("y", [b"a"])], [tensor("y", [b"b"])])
        constant.add(of(5), of(5))
    assert texts.shift == constant.shift == 0.0
    nothing = Distributions()
    for _ in range(1000):
        nothing.add([], [])
    assert nothing._first == []


def event(number, outcome="ok", agrees=True, distance=0.0):
    return Shadowed("m", "2", "r1", "ada", f"q{number}", outcome, 0.01, 0.02, agrees, distance)


def test_a_report_counts_and_keeps_the_worst_examples():
    tally = ShadowTally(Shadow())
    for number in range(100):
        found = Comparison(number % 2 == 0, number / 10, "" if number % 2 == 0 else "'y' differs")
        tally.count(event(number), found)
    tally.count(event(100), Comparison(False, 0.01, "'y' differs"))
    for _ in range(3):
        tally.count(event(0, "model_failed"), None)
    tally.dropped += 7
    report = tally.report()
    assert (report.asked, report.agreed, report.differed, report.dropped) == (104, 50, 51, 7)
    assert report.failed == {"model_failed": 3}
    assert [example.request_id for example in report.examples[:3]] == ["q99", "q97", "q95"]
    assert len(report.examples) == 20
    assert report.examples[-1].request_id == "q61"
    assert report.seconds[0] < report.seconds[1]
    assert report.shift == 0.0


def test_a_report_of_distributions_has_their_shift():
    tally = ShadowTally(Shadow(compare="distribution"))
    for _ in range(1100):
        tally.weigh(of(1), of(2))
    assert tally.report().shift == 1.0


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [
        ([1, 2], [math.nan, math.nan], 0.5),
        ([1, math.nan], [1, math.nan], 0),
        ([3, -math.inf, -math.inf], [5, -math.inf, -math.inf], 0),
        ([math.inf, 1], [1, math.inf], 1),
    ],
)
def test_a_ranking_of_what_is_not_finite(one, other, distance):
    assert compare("ranking", 0.0, of(*one), of(*other)).distance == distance


@given(one=st.binary(max_size=12), other=st.binary(max_size=12))
def test_texts_that_begin_alike_or_are_as_long(one, other):
    pair = [tensor("t", np.array([each], object)) for each in (one, other)]
    longest = max(len(one), len(other))
    alike = next((n for n in range(longest + 1) if one[: n + 1] != other[: n + 1]), longest)
    apart = {"prefix": longest - alike, "length": abs(len(one) - len(other))}
    for how, expected in apart.items():
        there = compare(how, 0.0, [pair[0]], [pair[1]])
        assert there.distance == pytest.approx(expected / longest if longest else 0.0)
        assert there.distance == compare(how, 0.0, [pair[1]], [pair[0]]).distance


def test_rows_that_begin_alike():
    tokens = [tensor("ids", np.array(ids)) for ids in ([5, 6, 7, 8], [5, 6, 9, 8], [5, 6])]
    assert compare("prefix", 0.5, tokens[:1], tokens[1:2]) == Comparison(True, 0.5)
    assert compare("prefix", 0.0, tokens[:1], tokens[2:]).distance == 0.5
    assert compare("prefix", 0.0, of(1), of(2)).distance == 1.0
    none = [tensor("ids", np.array([], int))]
    assert compare("prefix", 0.0, none, none).agrees
    assert compare("length", 0.0, tokens[:1], none).distance == 1.0
    scalars = [tensor("n", np.float32(value)) for value in (1, 1, 2)]
    assert compare("prefix", 0.0, scalars[:1], scalars[1:2]).agrees
    assert not compare("prefix", 0.0, scalars[:1], scalars[2:]).agrees


@pytest.mark.parametrize("how", WAYS)
def test_of_what_is_very_large_the_beginning_is_looked_at_and_that_is_said(how):
    ones = np.ones(MOST_ELEMENTS + 5, np.float32)
    last = ones.copy()
    last[-1] = 2
    found = compare(how, 0.0, [tensor("y", ones)], [tensor("y", last)])
    assert (found.agrees, found.notes) == (
        True,
        (f"of 'y' the first {MOST_ELEMENTS} elements were looked at",),
    )


def test_other_types_are_noted_though_the_numbers_are_alike():
    found = compare("tolerance", 0.0, of(3.0), [tensor("y", np.array([3]))])
    assert found == Comparison(True, 0.0, "", ("'y' is INT64, not FP32",))


def test_the_report_tells_what_is_odd_and_keeps_few_kinds_of_it():
    tally = ShadowTally(Shadow())
    for number in range(30):
        tally.count(event(number), Comparison(False, math.inf, f"'y' is [{number}], not [1]"))
    tally.count(event(0), Comparison(True, notes=("'y' is FP64, not FP32",)))
    notes = tally.report().notes
    assert (len(notes), notes["others"], notes["'y' is [0], not [1]"]) == (21, 11, 1)
