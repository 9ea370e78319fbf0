"""What can be compared of answers in pieces, and of what handlers wrote."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.features.releases.experiments.answers import MOST_BYTES, AnswerPieces, read, strung
from salver.words.handlers import BODY
from salver.words.messages import InferResponse
from salver.words.tensor import DataType, Tensor, size_of, tensor


def piece(*outputs):
    return InferResponse("m", "1", outputs)


def body(text):
    return Tensor(BODY, DataType.UINT8, np.frombuffer(text, np.uint8))


def test_texts_are_strung_together_place_by_place_and_rows_appended():
    one = [tensor("t", [[b"a"], [b"x"]]), tensor("p", np.array([[1, 2]]))]
    two = [tensor("p", np.array([[3, 4], [5, 6]])), tensor("t", [[b"b"], [b"y"]])]
    texts, rows = strung([*one, *two])
    assert texts.array.tolist() == [[b"ab"], [b"xy"]]
    assert rows.array.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert strung(one) == tuple(one)


@pytest.mark.parametrize(
    ("one", "two", "values"),
    [
        (np.ones((1, 2)), np.ones((1, 3)), [1.0] * 5),
        (np.float64(1), np.float64(2), [1.0, 2.0]),
        ([b"a", b"b"], [b"c"], [b"a", b"b", b"c"]),
    ],
)
def test_pieces_that_do_not_fit_are_one_row(one, two, values):
    (found,) = strung([tensor("y", one), tensor("y", two)])
    assert found.array.tolist() == values


@pytest.mark.parametrize("pair", [([b"a"], [1]), ([1], [b"a"]), ([1.0], [1])])
def test_pieces_of_different_types_are_no_numbers_any_more(pair):
    (found,) = strung([tensor("y", each) for each in pair])
    assert (found.datatype, found.array.size) == (DataType.BYTES, 1)


def test_pieces_are_kept_until_they_are_too_many():
    pieces = AnswerPieces()
    pieces.add(piece(tensor("y", [1.0])))
    assert pieces.kept is not None and len(pieces.kept) == 1
    pieces.add(piece(tensor("t", [b"x" * MOST_BYTES])))
    assert pieces.kept is None
    pieces.add(piece())
    assert pieces.kept is None
    many = AnswerPieces()
    for _ in range(5000):
        many.add(piece())
    assert many.kept is None


def test_the_size_of_texts_is_their_bytes():
    assert size_of([tensor("t", [b"abc", b"d"])]) == 4 + 2 * 8
    assert size_of([tensor("p", np.ones(3, np.float32))]) == 12
    assert size_of([tensor("t", np.empty(0, object))]) == 0
    many = np.array([b"abc"] * 100_000, object)
    assert size_of([tensor("t", many.reshape(10, -1))]) == 100_000 * (8 + 3)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.floats(-1e6, 1e6) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_any_json_is_numbers_and_the_rest(value):
    found = read([body(json.dumps(value).encode())])
    assert found[0].datatype is DataType.BYTES
    again = read([body(json.dumps(value, sort_keys=True, indent=2).encode())])
    assert [each.array.tolist() for each in found] == [each.array.tolist() for each in again]


@pytest.mark.parametrize(
    "text",
    [b"a cat", b"", b"\xff\x00", b'"\xff"', b"[NaN]", b"[" * 100_000, b"1" * 400, b"1" * 200_000],
)
def test_a_body_that_is_no_json_is_a_text(text):
    (found,) = read([body(text)])
    assert found.array.tolist() == [text]


def test_other_outputs_are_as_they_are():
    given = (tensor("y", [1.0]), tensor(BODY, [2.0]))
    assert read(given) == given
