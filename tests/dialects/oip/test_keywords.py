"""Keyword arguments of MLServer's Hugging Face runtime, and what a model's own inputs make of them."""

import base64
import json
from typing import Any

import numpy as np
import pytest

from salver.dialects.oip.grpc_codec import INFER_RESPONSE, encode_infer
from salver.dialects.oip.json_codec import OpenInferenceHttp
from salver.dialects.oip.keywords import KeywordRequest, with_keywords
from salver.encoding.bodies import HttpBody
from salver.words.errors import InvalidInput
from salver.words.messages import InferRequest, InferResponse, Signature, TensorSpec
from salver.words.tensor import DataType, Tensor

QUESTION, CONTEXT, TEXT = (
    TensorSpec(name, DataType.BYTES, (-1,)) for name in ("question", "context", "text")
)
OUTPUT = (TensorSpec("output", DataType.BYTES, (-1,)),)
TEXTS = Signature((TEXT,), OUTPUT, True, "huggingface_text-classification", converts=True)
ANSWERS = Signature((QUESTION, CONTEXT), OUTPUT, True, "huggingface_question-answering", converts=True)


def entry(name: str, *data: Any, kind: str = "", datatype: str = "BYTES") -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "shape": [len(data), 1], "datatype": datatype, "data": list(data)}
    return {**found, "parameters": {"content_type": kind}} if kind else found


def decoded(signature: Signature, *entries: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    body = json.dumps({"inputs": entries, "parameters": {"content_type": "hf"}}).encode()
    request = OpenInferenceHttp().decode(HttpBody("m", "", body), signature)
    assert isinstance(request, KeywordRequest)
    parameters = {name: value for name, value in request.parameters.items() if name != "content_type"}
    return {tensor.name: tensor.array.tolist() for tensor in request.inputs}, parameters


ENCODED = base64.b64encode(b"good").decode()
REQUESTS = {
    "args": (TEXTS, [entry("args", "good")], {"text": [b"good"]}, {}),
    "array_inputs": (TEXTS, [entry("array_inputs", "good", "bad")], {"text": [b"good", b"bad"]}, {}),
    "own names": (
        ANSWERS,
        [entry("question", "who", kind="str"), entry("context", "I")],
        {"question": [b"who"], "context": [b"I"]},
        {},
    ),
    "objects": (
        ANSWERS,
        [entry("args", '{"question": "who", "context": "I"}', kind="hg_jsonlist")],
        {"question": [b"who"], "context": [b"I"]},
        {},
    ),
    "texts in JSON": (TEXTS, [entry("args", '"good"', kind="hg_json")], {"text": [b"good"]}, {}),
    "base64": (TEXTS, [entry("args", ENCODED, kind="base64")], {"text": [b"good"]}, {}),
    "labels": (
        TEXTS,
        [entry("args", "a"), entry("candidate_labels", "x", "y")],
        {"text": [b"a"]},
        {"candidate_labels": '["x","y"]'},
    ),
    "a label": (
        TEXTS,
        [entry("args", "a"), entry("candidate_labels", "x")],
        {"text": [b"a"]},
        {"candidate_labels": "x"},
    ),
    "a number": (
        TEXTS,
        [entry("args", "a"), entry("top_k", 2, datatype="INT64")],
        {"text": [b"a"]},
        {"top_k": 2},
    ),
    "JSON": (
        TEXTS,
        [entry("args", "a"), entry("tokenizer_kwargs", '{"truncation": true}', kind="hg_json")],
        {"text": [b"a"]},
        {"tokenizer_kwargs": '{"truncation":true}'},
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_keyword_arguments(name: str) -> None:
    signature, entries, inputs, parameters = REQUESTS[name]
    assert decoded(signature, *entries) == (inputs, parameters)


WRONG = {
    "twice": (TEXTS, [entry("args", "a"), entry("text", "b")], "'text' is given twice"),
    "not base64": (TEXTS, [entry("args", "?", kind="base64")], "is not base64"),
    "other names": (ANSWERS, [entry("args", '{"x": "a"}', kind="hg_json")], "objects with context, question"),
    "mixed": (TEXTS, [entry("args", '"a"', '{"x": 1}', kind="hg_jsonlist")], "must be texts, or objects"),
    "a number": (TEXTS, [entry("args", "1", kind="hg_json")], "not a text"),
    "not JSON": (TEXTS, [entry("args", "{", kind="hg_json")], "JSON"),
    "numbers": (TEXTS, [entry("args", 1, kind="hg_json", datatype="INT64")], "must be BYTES"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_named(name: str) -> None:
    signature, entries, said = WRONG[name]
    with pytest.raises(InvalidInput, match=said):
        decoded(signature, *entries)


def rows(*values: bytes) -> Tensor:
    return Tensor("output", DataType.BYTES, np.array(values, object))


ROWS = {
    "one": ("args", [b'{"label":"a"}'], [b'{"label":"a"}']),
    "several of one text": ("args", [b'[{"label":"a"},{"label":"b"}]'], [b'{"label":"a"}', b'{"label":"b"}']),
    "of a list": ("array_inputs", [b'[{"label":"a"}]'], [b'[{"label":"a"}]']),
    "none": ("args", [b"[]"], []),
}


@pytest.mark.parametrize("name", ROWS)
def test_each_result_is_a_row_of_json(name: str) -> None:
    argument, given, wanted = ROWS[name]
    asked = InferRequest("m", (Tensor(argument, DataType.BYTES, np.array([b"a"], object)),))
    request, response = with_keywords(asked, TEXTS), InferResponse("m", "1", (rows(*given),))
    output = json.loads(OpenInferenceHttp().encode(request, response).body)["outputs"][0]
    assert output == {
        "name": "output",
        "datatype": "BYTES",
        "shape": [len(wanted), 1],
        "parameters": {"content_type": "hg_jsonlist"},
        "data": [row.decode() for row in wanted],
    }
    message = INFER_RESPONSE.FromString(encode_infer(request, response))
    assert message.outputs[0].parameters["content_type"].string_param == "hg_jsonlist"
    assert list(message.outputs[0].shape) == [len(wanted), 1]


def test_a_request_with_the_models_own_names_stays_as_it_is() -> None:
    request = InferRequest("m", (rows(b"a"),))
    own = Signature((TensorSpec("output", DataType.BYTES, (-1,)),), OUTPUT, converts=True)
    assert with_keywords(request, own) is request
