"""Codec of Triton's generate extension."""

import json

import numpy as np
import pytest

from salver.dialects.triton.generate import GenerateCodec, event
from salver.encoding.bodies import HttpBody, HttpReply
from salver.words.errors import DeadlineExceeded, InvalidInput, NotFound, Overloaded, SalverError, Unsupported
from salver.words.messages import InferRequest, InferResponse, Signature, TensorSpec
from salver.words.tensor import DataType, Tensor, tensor

SIGNATURE = Signature(
    inputs=(
        TensorSpec("text_input", DataType.BYTES, (1,)),
        TensorSpec("max_tokens", DataType.INT32, (1,), optional=True),
        TensorSpec("stop", DataType.BYTES, (-1,), optional=True),
        TensorSpec("x", DataType.FP32, (-1, 2), optional=True),
    ),
    outputs=(),
)


def decode(document) -> InferRequest:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return GenerateCodec().decode(HttpBody("m", "3", body), SIGNATURE)


def inputs(document):
    return {t.name: (t.datatype.name, t.array.tolist()) for t in decode(document).inputs}


def test_keys_of_the_signature_become_tensors_and_others_parameters():
    request = decode({"id": "7", "text_input": "hi", "max_tokens": 5, "stream": True, "seed": 3, "t": 0.5})
    assert (request.model, request.version, request.id) == ("m", "3", "7")
    assert {t.name: t.array.tolist() for t in request.inputs} == {"text_input": [b"hi"], "max_tokens": [5]}
    assert request.parameters == {"stream": True, "seed": 3, "t": 0.5}


def test_the_parameters_object_is_read_alike_and_the_top_level_goes_before_it():
    document = {"text_input": "a", "max_tokens": 2, "parameters": {"max_tokens": 9, "stop": ["x"], "k": "v"}}
    assert inputs(document)["max_tokens"] == ("INT32", [2])
    assert inputs(document)["stop"] == ("BYTES", [b"x"])
    assert decode(document).parameters == {"k": "v"}


def test_new_dimensions_stand_in_front():
    assert inputs({"x": [1, 2]})["x"] == ("FP32", [[1.0, 2.0]])
    assert inputs({"x": [[1, 2], [3, 4]]})["x"] == ("FP32", [[1.0, 2.0], [3.0, 4.0]])
    with pytest.raises(InvalidInput, match="can not convert input 'x' to tensor with proper shape"):
        inputs({"x": 4})


@pytest.mark.clause("TR-R6")
def test_lists_in_lists_are_one_where_the_input_has_fewer_dimensions():
    assert inputs({"max_tokens": [[5]]})["max_tokens"] == ("INT32", [5])
    assert inputs({"x": [[[1, 2]]]})["x"] == ("FP32", [[1.0, 2.0]])
    assert inputs({"stop": [["a", "b"], ["c", "d"]]})["stop"] == ("BYTES", [b"a", b"b", b"c", b"d"])


def test_null_is_as_if_it_were_not_there():
    assert inputs({"text_input": "a", "max_tokens": None, "parameters": None, "seed": None}) == {
        "text_input": ("BYTES", [b"a"])
    }


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"[", "failed to parse the request JSON buffer"),
        ([1], "must be a JSON object, not a list"),
        ({"parameters": 3}, "parameters must be an object, not a number"),
        ({"id": 3}, "id must be a string"),
        ({"text_input": 3}, "text_input must hold strings where BYTES is declared, not 3"),
        ({"parameters": {"max_tokens": "9"}}, "parameters.max_tokens must hold numbers"),
        ({"max_tokens": 1.5}, "fraction"),
        ({"other": [1]}, "parameter 'other' has invalid type"),
        ({"parameters": {"o": {}}}, "parameter 'o' has invalid type"),
        ({"triton_x": 1}, "reserved"),
        (b'{"x": ' + b"[" * 200 + b"]" * 200 + b"}", "nesting depth"),
    ],
)
def test_what_is_wrong_is_named(document, reason):
    with pytest.raises(InvalidInput, match=reason):
        decode(document)


def test_the_reply_has_outputs_as_keys_one_element_as_a_scalar():
    outputs = (
        tensor("text_output", ["grün"]),
        tensor("score", np.array([0.5], "f4")),
        tensor("ids", np.array([[1, 2], [3, 4]])),
    )
    response = InferResponse("m", "1", outputs, "7", {"finish_reason": "length"})
    reply = GenerateCodec().encode(InferRequest("m", ()), response)
    assert json.loads(reply.body) == {
        "model_name": "m",
        "model_version": "1",
        "id": "7",
        "finish_reason": "length",
        "text_output": "grün",
        "score": 0.5,
        "ids": [1, 2, 3, 4],
    }


def test_what_json_cannot_carry_is_refused():
    half = Tensor("y", DataType.FP16, np.ones(1, "f2"))
    with pytest.raises(InvalidInput, match="sending FP16"):
        GenerateCodec().encode(InferRequest("m", ()), InferResponse("m", "1", (half,)))


def test_an_event_is_one_line_whatever_the_text_holds():
    reply = GenerateCodec().encode(
        InferRequest("m", ()), InferResponse("m", "1", (tensor("text_output", ["a\n\r\n\u2028b"]),))
    )
    text = event(reply)
    assert text.startswith(b"data: {") and text.endswith(b"}\n\n")
    assert text.count(b"\n") == 2 and b"\r" not in text
    assert json.loads(text[6:])["text_output"] == "a\n\r\n\u2028b"


def test_overload_says_when_to_come_back():
    reply = GenerateCodec().fault(Overloaded("full"))
    assert isinstance(reply, HttpReply)
    assert reply.status == 503
    assert any(name == b"retry-after" for name, _ in reply.headers)


@pytest.mark.clause("TR-R6")
@pytest.mark.parametrize("kind", [NotFound, DeadlineExceeded, Unsupported])
def test_what_comes_from_the_model_is_400_whatever_it_calls_it(kind: type[SalverError]):
    error = kind("text")
    assert GenerateCodec().fault(error).status != 400
    error.is_late = True
    assert GenerateCodec().fault(error) == HttpReply(400, b'{"error":"text"}')
    piece = InferResponse("m", "1", (), error=kind("text"))
    assert GenerateCodec().encode(InferRequest("m", ()), piece) == HttpReply(400, b'{"error":"text"}')


@pytest.mark.clause("TR-R6")
@pytest.mark.parametrize(
    "body",
    [
        b'{"text_input":"a","text_input":"b"}',
        b'{"text_input":"a","k":1,"k":1}',
        b'{"id":"a","text_input":"a","id":"b"}',
        b'{"text_input":"a","\\u0074ext_input":"b"}',
        b'{"text_input":"a","parameters":{"k":1,"k":2}}',
        b'{"text_input":"a","parameters":{},"parameters":{"k":2}}',
        b'{"text_input":"a","max_tokens":NaN,"max_tokens":1}',
    ],
)
def test_a_key_that_stands_twice_is_refused(body):
    with pytest.raises(InvalidInput, match="stands twice in the request"):
        decode(body)


@pytest.mark.clause("TR-R6")
@pytest.mark.parametrize(
    "body",
    [
        b'{"text_input":"text_input","k":"k"}',
        b'{"text_input":"say \\"k\\": k\\n","k":"\\"k\\""}',
        b'{"text_input":"a","max_tokens":1,"parameters":{"max_tokens":2}}',
    ],
)
def test_a_key_that_a_value_repeats_is_not(body):
    assert decode(body).inputs


@pytest.mark.clause("TR-R6")
def test_an_output_without_elements_is_an_empty_list():
    outputs = (tensor("text", np.empty((0, 1), object)), tensor("x", np.empty((2, 0), "f4")))
    reply = GenerateCodec().encode(InferRequest("m", ()), InferResponse("m", "1", outputs))
    assert json.loads(reply.body) == {"model_name": "m", "model_version": "1", "text": [], "x": []}
