"""Requests that hold inputs by name, and their answers; the protocol's own form is always itself."""

import json
import pickle
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from salver.dialects.oip.json_codec import OpenInferenceHttp
from salver.dialects.oip.short_json import ShortRequest
from salver.encoding.bodies import HttpBody
from salver.words.errors import InvalidInput, TooLarge
from salver.words.messages import InferRequest, InferResponse, Signature, TensorSpec, described
from salver.words.tensor import DATATYPES, DataType, Tensor, tensor

OUT = (TensorSpec("y", DataType.FP32, (-1, 1)), TensorSpec("label", DataType.BYTES, (-1,)))
ONE = Signature((TensorSpec("x", DataType.FP32, (-1, 2)),), OUT, batched=True)
TWO = Signature(
    (
        *ONE.inputs,
        TensorSpec("n", DataType.INT64, (1,)),
        TensorSpec("s", DataType.BYTES, (-1,), optional=True),
    ),
    OUT,
)


def decode(root: Any, signature: Signature = ONE, *, most: int = 0, takes_short: bool = True) -> InferRequest:
    text = root if isinstance(root, bytes) else json.dumps(root).encode()
    codec = OpenInferenceHttp(most=most, takes_short=takes_short)
    return codec.decode(HttpBody("m", "", text), signature)


def inputs(request: InferRequest) -> dict[str, Any]:
    return {t.name: (t.datatype.name, t.array.tolist()) for t in request.inputs}


def only(kind: DataType, *shape: int, name: str = "x") -> Signature:
    return Signature((TensorSpec(name, kind, shape),), OUT)


@pytest.mark.parametrize(
    ("root", "signature", "expected"),
    [
        ({"x": [[1, 2]]}, ONE, {"x": ("FP32", [[1.0, 2.0]])}),
        ([[1, 2], [3, 4.5]], ONE, {"x": ("FP32", [[1.0, 2.0], [3.0, 4.5]])}),
        ({"x": [[1.5, 2]], "n": [3]}, TWO, {"x": ("FP32", [[1.5, 2.0]]), "n": ("INT64", [3])}),
        ({"n": 3, "x": [[1, 2]]}, TWO, {"n": ("INT64", [3]), "x": ("FP32", [[1.0, 2.0]])}),
        (
            {"x": [[1, 2]], "n": [3], "s": ["a", {"b64": "/w=="}]},
            TWO,
            {"x": ("FP32", [[1.0, 2.0]]), "n": ("INT64", [3]), "s": ("BYTES", [b"a", b"\xff"])},
        ),
        ({"x": "text"}, only(DataType.BYTES, -1, 1), {"x": ("BYTES", [[b"text"]])}),
        ({"x": True}, only(DataType.BOOL, -1), {"x": ("BOOL", [True])}),
        ({"x": [0.5]}, only(DataType.FP16, -1), {"x": ("FP16", [0.5])}),
        ({"x": [1]}, only(DataType.UINT8, -1), {"x": ("UINT8", [1])}),
        ({"id": [1]}, only(DataType.UINT8, -1, name="id"), {"id": ("UINT8", [1])}),
        ({"parameters": 1}, only(DataType.UINT8, -1, name="parameters"), {"parameters": ("UINT8", [1])}),
        ([[1.5]], only(DataType.FP32, -1, 1, name="inputs"), {"inputs": ("FP32", [[1.5]])}),
        ({"x": [[0.25] * 4000]}, only(DataType.FP32, -1, -1), {"x": ("FP32", [[0.25] * 4000])}),
        ([[0.25] * 4000], only(DataType.FP32, -1, -1), {"x": ("FP32", [[0.25] * 4000])}),
    ],
)
def test_inputs_by_name(root: Any, signature: Signature, expected: dict[str, Any]) -> None:
    request = decode(root, signature)
    assert inputs(request) == expected
    assert [output.name for output in request.outputs] == ["y", "label"]


@pytest.mark.parametrize(
    ("root", "signature", "said"),
    [
        ({"z": [1]}, ONE, "'m' has no input 'z'. It takes: x FP32[-1,2]"),
        (
            {"x": [[1, 2]]},
            TWO,
            "the input 'n' of 'm' is missing. It takes: x FP32[-1,2], n INT64[1], s BYTES",
        ),
        ([1], TWO, "a list is the input of a model that has one, and 'm' has 3. The inputs are wanted as"),
        ({"x": [[1, 2]], "id": "a"}, ONE, "'m' has no input 'id'"),
        (
            {},
            ONE,
            "inputs must be a list, not null. The inputs are wanted as {name: values}. 'm' takes: x FP32",
        ),
        ({"id": "a", "outputs": []}, ONE, "inputs must be a list, not null"),
        ([], ONE, "the request must be a JSON object, not a list"),
        (b"3", ONE, "not a number. The inputs are wanted as {name: values}. 'm' takes: x FP32[-1,2]"),
        (b"null", ONE, "the request must be a JSON object, not null"),
        ({"x": [[1, 2], [3]]}, ONE, "x is a list whose rows differ in shape"),
        ({"x": [["a", "b"]]}, ONE, "x must hold numbers where FP32 is declared, not 'a'"),
        ({"x": 1}, ONE, "input 'x' must be a list of shape [-1, 2], not a number"),
        ({"x": {"a": 1}}, ONE, "must be a list of shape [-1, 2], not an object"),
        ({"x": None}, only(DataType.FP32, -1), "x must hold numbers"),
        ({"x": [1.5]}, only(DataType.INT32, -1), "a number with a fraction"),
        ({"x": [300]}, only(DataType.UINT8, -1), "x holds 300, out of the range of UINT8"),
        ({"x": [1]}, only(DataType.BYTES, -1), "must hold strings where BYTES is declared"),
        ({"inputs": [[1.5]]}, only(DataType.FP32, -1, 1, name="inputs"), "inputs[0] must be an object"),
        ({"inputs": {"x": [[1, 2]]}}, ONE, "inputs must be a list, not an object"),
        ({"inputs": [], "x": [[1, 2]]}, ONE, ""),
    ],
)
def test_what_does_not_fit(root: Any, signature: Signature, said: str) -> None:
    """A body with ``inputs`` is the protocol's, also of a model that has an input of that name."""
    if not said:
        assert inputs(decode(root, signature)) == {}
        return
    with pytest.raises(InvalidInput) as info:
        decode(root, signature)
    assert said in str(info.value)


def test_a_server_that_stands_in_for_another_takes_the_protocol_alone() -> None:
    with pytest.raises(InvalidInput, match=r"^inputs must be a list, not null$"):
        decode({"x": [[1, 2]]}, takes_short=False)
    with pytest.raises(InvalidInput, match=r"^the request must be a JSON object, not a list$"):
        decode([[1, 2]], takes_short=False)


def test_it_is_no_way_round_the_limit() -> None:
    with pytest.raises(TooLarge):
        decode({"x": [[1, 2]] * 20}, most=100)


@pytest.mark.parametrize("kind", DATATYPES.values(), ids=DATATYPES)
def test_answers_by_name(kind: DataType) -> None:
    values: Any = [["a", "é"]] if kind is DataType.BYTES else np.array([[1, 0]], kind.dtype)
    if kind is DataType.BF16:
        values = np.array([[1, 0]], ml_dtypes.bfloat16)
    response = InferResponse("m", "1", (tensor("y", values), tensor("z", np.float32(0.5))))
    reply = OpenInferenceHttp().encode(decode({"x": [[1, 2]]}), response)
    expected: list[Any] = ["a", "é"] if kind is DataType.BYTES else [1, 0]
    assert json.loads(reply.body) == {"y": [expected], "z": 0.5}


def test_bytes_that_are_no_text_are_base64() -> None:
    response = InferResponse("m", "1", (Tensor("y", DataType.BYTES, np.array([b"\xff", b"a"], object)),))
    reply = OpenInferenceHttp().encode(decode({"x": [[1, 2]]}), response)
    assert json.loads(reply.body) == {"y": [{"b64": "/w=="}, "a"]}


def test_the_protocols_own_form_is_answered_in_it() -> None:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
    request = decode(body)
    assert type(request) is not ShortRequest
    reply = OpenInferenceHttp().encode(request, InferResponse("m", "1", (tensor("y", np.ones(1, "f4")),)))
    assert json.loads(reply.body)["outputs"][0]["name"] == "y"


def test_a_codec_for_another_process_takes_as_much() -> None:
    for takes_short in (True, False):
        codec = pickle.loads(pickle.dumps(OpenInferenceHttp(takes_short=takes_short)))
        if takes_short:
            assert inputs(codec.decode(HttpBody("m", "", b'{"x": [[1, 2]]}'), ONE)) == {
                "x": ("FP32", [[1.0, 2.0]])
            }
        else:
            with pytest.raises(InvalidInput):
                codec.decode(HttpBody("m", "", b'{"x": [[1, 2]]}'), ONE)


def test_many_inputs_are_not_all_listed() -> None:
    specs = [TensorSpec(f"x{i}", DataType.FP32, (1,)) for i in range(30)]
    assert described(specs).endswith("x19 FP32[1] and 10 more")
