"""Requests of tensors as a handler's JSON, and its JSON as tensors."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.dialects.torchserve.tensors import answer_of, as_form, as_tensors
from salver.words import handlers
from salver.words.errors import HandlerFailed
from salver.words.handlers import HandlerReply
from salver.words.messages import InferRequest, InferResponse
from salver.words.tensor import DataType, Tensor, bf16_from_fp32, tensor


def _asked(*tensors: Tensor, id: str = "r") -> Any:
    request = as_form(InferRequest("m", tensors, "1.0", id))
    assert handlers.is_form(request)
    (part,) = handlers.form_of(request).parts
    assert (part.name, part.content_type) == ("body", "application/json")
    return json.loads(part.data.tobytes())


def _said(told: Any) -> InferResponse:
    body = told if isinstance(told, bytes) else json.dumps(told).encode()
    outputs, parameters = handlers.as_answer(HandlerReply(body, 201))
    tensors = tuple([Tensor(name, DataType.UINT8, array) for name, array in outputs.items()])
    return InferResponse("m", "1.0", tensors, parameters=parameters)


def test_tensors_become_the_json_of_the_protocol() -> None:
    half = np.array([[0.5, 2.0]], np.float16)
    told = _asked(
        tensor("a", np.array([[1, 2]], np.int64)),
        tensor("b", [b"hi", b"\xff"]),
        Tensor("c", DataType.FP16, half),
        Tensor("d", DataType.BF16, bf16_from_fp32(np.array([1.5], np.float32))),
        tensor("e", np.array([0.1], np.float32)),
    )
    assert told == {
        "id": "r",
        "model_name": "m",
        "inputs": [
            {"name": "a", "shape": [1, 2], "datatype": "INT64", "data": [1, 2]},
            {"name": "b", "shape": [2], "datatype": "BYTES", "data": ["aGk=", "/w=="]},
            {"name": "c", "shape": [1, 2], "datatype": "FP16", "data": [0.5, 2.0]},
            {"name": "d", "shape": [1], "datatype": "BF16", "data": [1.5]},
            {"name": "e", "shape": [1], "datatype": "FP32", "data": [0.1]},
        ],
    }


@given(
    st.sampled_from(["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8"]),
    st.lists(st.integers(0, 1), max_size=6),
)
def test_what_a_handler_gives_back_is_what_it_got(dtype: str, values: list[int]) -> None:
    given_ = tensor("a", np.array(values, dtype).reshape(1, -1))
    told = _asked(given_)
    response = as_tensors(_said({"id": told["id"], "outputs": told["inputs"]}))
    (found,) = response.outputs
    assert (found.name, found.datatype, response.id, dict(response.parameters)) == (
        "a",
        given_.datatype,
        "r",
        {},
    )
    np.testing.assert_array_equal(found.array, given_.array)


@pytest.mark.parametrize(
    "told",
    [
        b"",
        b"no json",
        b"[]",
        b"{}",
        {"outputs": 3},
        {"outputs": [{}]},
        {"outputs": [{"name": "a", "datatype": "INT8", "shape": [1], "data": [300]}]},
        {"outputs": [{"name": "a", "datatype": "INT8", "shape": [2], "data": [3]}]},
        {"outputs": [{"name": "a", "datatype": "INT8", "shape": [1 << 50], "data": [3]}]},
        {"outputs": [{"name": "a", "datatype": "NONE", "shape": [1], "data": [3]}]},
    ],
)
def test_an_answer_without_tensors_is_the_bytes_that_it_is(told: Any) -> None:
    response = _said(told)
    body = response.outputs[0].array.tobytes()
    with pytest.raises(HandlerFailed, match="not of the Open Inference Protocol"):
        answer_of(HandlerReply(body))
    (found,) = as_tensors(response).outputs
    assert (found.name, found.array.tobytes()) == ("body", body)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner)))
def test_any_answer_is_tensors_or_bytes(told: Any) -> None:
    assert len(as_tensors(_said({"outputs": told})).outputs) == (told != [])
    assert as_tensors(
        _said({"outputs": [{"name": told, "datatype": "FP32", "shape": told, "data": told}]})
    ).outputs


def test_an_error_of_the_handler_is_one() -> None:
    outputs, parameters = handlers.as_answer(HandlerReply(b"no", 507, is_error=True))
    tensors = (Tensor("body", DataType.UINT8, outputs["body"]),)
    with pytest.raises(HandlerFailed, match="no"):
        as_tensors(InferResponse("m", "1.0", tensors, parameters=parameters))
