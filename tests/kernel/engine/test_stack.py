"""Requests to the inputs of one run, and its outputs theirs again."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.backends.protocol import Answer
from salver.kernel.engine.admission import Admission
from salver.kernel.engine.stack import Stack
from salver.kernel.engine.waiting import Batch, QueuedRequest
from salver.words.errors import InvalidOutput
from salver.words.messages import InferRequest, Signature, TensorSpec
from salver.words.tensor import DataType, Tensor

PAIR = Signature(
    (TensorSpec("a", DataType.INT64, (-1, 2)), TensorSpec("b", DataType.INT64, (-1,), optional=True)),
    (TensorSpec("a", DataType.INT64, (-1, 2)),),
    batched=True,
)


def waiting(rows: int, start: int, *, with_b: bool = False) -> QueuedRequest:
    a = np.arange(start, start + 2 * rows, dtype=np.int64).reshape(rows, 2)
    tensors = [Tensor("a", DataType.INT64, a)]
    if with_b:
        tensors.append(Tensor("b", DataType.INT64, np.arange(rows, dtype=np.int64)))
    bound = Admission("m", PAIR, ()).bind(InferRequest("m", tuple(tensors)))
    return QueuedRequest((bound, None), bound.rows, bound.key, 0.0, None, None)


def stack(**settings: Any) -> Stack:
    return Stack("m", PAIR, None, pads=False, **settings)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.booleans())
def test_each_request_gets_its_own_rows_back(rows: list[int], with_b: bool) -> None:
    members = [waiting(count, 10 * index, with_b=with_b) for index, count in enumerate(rows)]
    whole = stack().inputs([member.payload[0] for member in members])
    assert set(whole) == ({"a", "b"} if with_b else {"a"})
    assert len(whole["a"]) == sum(rows)
    stack().check(whole, sum(rows))
    parts = stack().parts({"a": whole["a"]}, members)
    for member, part in zip(members, parts, strict=True):
        assert part["a"].tolist() == member.payload[0].arrays[0].tolist()


def test_a_lone_request_is_not_copied() -> None:
    (member,) = [waiting(3, 0)]
    assert stack().inputs([member.payload[0]])["a"] is member.payload[0].arrays[0]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "gave no output 'a'"),
    ({"a": np.int64(3)}, r"of shape \[\] for 2 rows"),
    ({"a": np.zeros((3, 2))}, r"of shape \[3, 2\] for 2 rows"),
]


@pytest.mark.parametrize(("outputs", "text"), WRONG, ids=["none", "scalar", "too many"])
def test_what_is_no_answer_to_a_batch_is_refused(outputs: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidOutput, match=text):
        stack().check(outputs, 2)
    batch = Batch([waiting(2, 0)], 2, "drain", [])
    with pytest.raises(InvalidOutput, match=text):
        stack().check_batch(outputs, batch)
    stack().check_batch([Answer({})], batch)  # each answer is its request's own affair


def test_a_model_without_a_batch_may_give_any_shape() -> None:
    alone = Signature(PAIR.inputs, PAIR.outputs)
    Stack("m", alone, None, pads=False).check({"a": np.zeros((3, 2))}, 2)
