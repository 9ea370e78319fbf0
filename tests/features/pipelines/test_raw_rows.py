"""Raw inputs of pipelines over ``POST /v1/models/NAME``: rows in each form, and answers in the same."""

import json

import numpy as np
import pytest
from pipeline_graphs import specs

from salver.encoding.bodies import HttpBody
from salver.features.pipelines.forms import PipelineJson
from salver.words.errors import InvalidInput
from salver.words.messages import PIPELINE, InferResponse, Signature
from salver.words.tensor import DataType, Tensor, tensor

TEXT = Signature(specs("text BYTES[-1]"), specs("label BYTES[-1]; score FP32[-1]"), True, PIPELINE)
TWO = Signature(specs("text BYTES[-1]; x FP32[-1,2]"), specs("y FP32[-1,2]"), True, PIPELINE)
CODEC = PipelineJson()


def decoded(signature, inputs, kind=b"application/json", **more):
    body = inputs if isinstance(inputs, bytes) else json.dumps({"inputs": inputs, **more}).encode()
    return CODEC.decode(HttpBody("m", "1", body, {b"content-type": kind}), signature)


def arrays(request):
    return {found.name: found.array.tolist() for found in request.inputs}


def answered(request, *outputs):
    return json.loads(CODEC.encode(request, InferResponse("m", "1", outputs)).body)


LABELS = tensor("label", ["good", "bad"]), tensor("score", np.array([0.9, 0.25], np.float32))


@pytest.mark.parametrize("inputs", [["a", "b"], {"text": ["a", "b"]}, [{"text": "a"}, {"text": "b"}]])
def test_a_list_of_rows_gets_a_list(inputs) -> None:
    request = decoded(TEXT, inputs)
    assert arrays(request) == {"text": [b"a", b"b"]}
    assert answered(request, *LABELS) == [{"label": "good", "score": 0.9}, {"label": "bad", "score": 0.25}]
    assert answered(request, LABELS[1]) == [0.9, 0.25]


@pytest.mark.parametrize("inputs", ["a", {"text": "a"}])
def test_a_row_gets_an_answer_alone(inputs) -> None:
    request = decoded(TEXT, inputs)
    assert arrays(request) == {"text": [b"a"]}
    one = tensor("label", ["good"]), tensor("score", np.array([0.9], np.float32))
    assert answered(request, *one) == {"label": "good", "score": 0.9}
    assert answered(request, one[0]) == "good"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (b"text/plain", b"a text"),
        (b"image/png", b"\x89PNG"),
        (b"application/octet-stream", b"{"),
        (b"", b"plain"),
    ],
)
def test_the_body_itself_is_a_row(kind: bytes, body: bytes) -> None:
    assert arrays(decoded(TEXT, body, kind)) == {"text": [body]}


def test_several_inputs_go_by_name() -> None:
    request = decoded(TWO, {"text": "a", "x": [1, 2]}, parameters={"top_k": 2, "list": ["a"]})
    assert arrays(request) == {"text": [b"a"], "x": [[1.0, 2.0]]}
    assert request.parameters == {"top_k": 2, "list": '["a"]'}
    assert answered(request, tensor("y", np.array([[1.5, 2]], np.float32))) == [1.5, 2]
    request = decoded(TWO, [{"text": "a", "x": [1, 2]}, {"x": [3, 4], "text": "b"}])
    assert arrays(request) == {"text": [b"a", b"b"], "x": [[1.0, 2.0], [3.0, 4.0]]}


def test_bytes_that_are_no_text_and_short_floats_are_told_as_they_are() -> None:
    request = decoded(TEXT, ["a"])
    raw = Tensor("label", DataType.BYTES, np.array([[b"\xff", b"ok"]], object))
    assert answered(request, raw) == [[{"b64": "/w=="}, "ok"]]
    half = Tensor("score", DataType.BF16, np.array([0x3F80], np.uint16))
    assert answered(request, half) == [1.0]


@pytest.mark.parametrize(
    ("signature", "inputs", "said"),
    [
        (TWO, "a", "the pipeline has 2 inputs"),
        (TWO, {"text": "a"}, "inputs.x is missing"),
        (TWO, {"text": "a", "x": [1, 2], "z": 1}, "inputs.z is unknown"),
        (TWO, {"text": "a", "x": [[1, 2]]}, "single rows and lists of rows"),
        (TWO, {"text": "a", "x": "b"}, "must hold numbers"),
        (TWO, [{"text": "a", "x": [1, 2]}, {"text": "a"}], r"inputs\[1\] has other names"),
        (TEXT, 3, "text or bytes"),
        (TEXT, b'{"text": "a"}', "inputs is missing"),
    ],
)
def test_what_does_not_fit_is_refused(signature: Signature, inputs, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        decoded(signature, inputs)
