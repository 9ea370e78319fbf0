"""Lists that are written in pieces read back as what is written whole."""

import json

import numpy as np
import pytest

from salver.dialects.oip.classification import Classes, top_classes
from salver.dialects.oip.json_codec import OpenInferenceHttp
from salver.dialects.triton.generate import GenerateCodec
from salver.encoding.json_text import dumps, list_pieces
from salver.encoding.raw import joined
from salver.encoding.values import MAX_STRINGS, is_long
from salver.words.errors import TooLarge
from salver.words.messages import InferRequest, InferResponse, RequestedOutput
from salver.words.tensor import DataType, Tensor, as_bytes

NUMBERS = np.random.default_rng(0).normal(size=300_000).astype("f4")
ODD = NUMBERS.copy()
ODD[[0, 9_000, 299_999]] = np.nan, np.inf, -np.inf
TEXT = 'é"\\\n' * 200_000


@pytest.mark.parametrize(
    "values",
    [np.arange(5), np.zeros(0, "f4"), NUMBERS, NUMBERS.astype("f8"), NUMBERS > 0, [], ["", "a"], [TEXT, "b"]],
    ids=range(8),
)
def test_pieces_are_what_is_written_whole(values: "np.ndarray | list[str]") -> None:
    assert b"".join(list_pieces(values)) == dumps(values)


def test_numbers_that_json_does_not_know_keep_their_places() -> None:
    np.testing.assert_array_equal(np.array(json.loads(b"".join(list_pieces(ODD))), "f4"), ODD)


LONG = [
    Tensor("n", DataType.FP32, ODD.reshape(3, -1)),
    Tensor("s", DataType.BYTES, as_bytes([TEXT])),
    Tensor("t", DataType.FP32, np.array([1.5, np.nan], "f4")),
]


def response(*tensors: Tensor) -> InferResponse:
    return InferResponse("m", "1", tensors, id="\x00id")


def test_long_outputs_lie_among_others() -> None:
    reply = json.loads(OpenInferenceHttp().encode(InferRequest("m", ()), response(*LONG)).body)
    assert [output["name"] for output in reply["outputs"]] == ["n", "s", "t"]
    np.testing.assert_array_equal(np.array(reply["outputs"][0]["data"], "f4"), ODD)
    assert reply["outputs"][1]["data"] == [TEXT]
    assert (reply["id"], reply["outputs"][2]["data"][0]) == ("\x00id", 1.5)


def test_one_long_output_alone() -> None:
    plain = InferResponse("m", "1", (LONG[0],))
    reply = json.loads(OpenInferenceHttp().encode(InferRequest("m", ()), plain).body)
    np.testing.assert_array_equal(np.array(reply["outputs"][0]["data"], "f4"), ODD)


def test_long_outputs_of_generate() -> None:
    reply = json.loads(GenerateCodec().encode(InferRequest("m", ()), response(*LONG)).body)
    np.testing.assert_array_equal(np.array(reply["n"], "f4"), ODD)
    assert reply["s"] == TEXT


def test_raw_outputs_lie_behind_the_json() -> None:
    request = InferRequest("m", (), outputs=(RequestedOutput("n", {"binary_data": True}),))
    reply = OpenInferenceHttp().encode(request, response(LONG[0]))
    length = int(dict(reply.headers)[b"inference-header-content-length"])
    assert reply.body[length:] == ODD.tobytes()
    assert joined([b"a", memoryview(bytes(3 << 20)), b"", b"z"]) == b"a" + bytes(3 << 20) + b"z"


@pytest.mark.parametrize("tensor", [*LONG[:2], Tensor("s", DataType.BYTES, as_bytes(["a"] * 10_000))])
def test_what_takes_long_is_written_on_a_thread(tensor: Tensor) -> None:
    for codec in (OpenInferenceHttp(), GenerateCodec()):
        assert codec.takes_long(response(tensor))
        assert not codec.takes_long(response(LONG[2]))
    assert is_long([LONG[2], tensor])


def test_no_more_classes_than_strings() -> None:
    scores = Tensor("y", DataType.FP32, np.zeros((2, MAX_STRINGS), "f4"))
    with pytest.raises(TooLarge, match="output 'y' would have 262146 classes; at most 262144"):
        top_classes(scores, Classes(MAX_STRINGS // 2 + 1, (), True))
