"""TR-R27: an output as its best classes."""

import json
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.service_pb2 as pb

from salver.dialects.oip.classification import Classes, ClassRequest, classified, top_classes, with_classes
from salver.dialects.oip.grpc_codec import decode_infer, encode_infer
from salver.dialects.oip.json_codec import OpenInferenceHttp
from salver.encoding.bodies import HttpBody
from salver.words.errors import InvalidInput
from salver.words.messages import InferRequest, InferResponse, RequestedOutput, Signature, TensorSpec
from salver.words.tensor import DataType, Tensor

_Y = TensorSpec("y", DataType.FP32, (-1, 4), labels=("ant", "", "cat"))
_SIGNATURE = Signature(
    (TensorSpec("x", DataType.FP32, (-1, 1)),), (_Y, TensorSpec("s", DataType.BYTES, (-1, 1))), batched=True
)
_SCORES = np.array([[0.1, 0.7, 0.15, 0.05], [4, 3, 2, 1]], "f4")


def request(count: Any, name: str = "y", version: str = "3") -> InferRequest:
    return InferRequest("m", (), version, "id", (RequestedOutput(name, {"classification": count}),), {"k": 1})


def best(array: Any, datatype: DataType, wanted: Classes) -> list[Any]:
    tensor = top_classes(Tensor("y", datatype, np.array(array, datatype.dtype)), wanted)
    assert tensor.datatype is DataType.BYTES
    return tensor.array.tolist()


def test_the_best_of_each_row_with_its_label_where_it_has_one() -> None:
    asked = with_classes(request(3), _SIGNATURE)
    assert (asked.model, asked.version, asked.id, asked.parameters) == ("m", "3", "id", {"k": 1})
    (y,) = classified(asked, InferResponse("m", "1", (Tensor("y", DataType.FP32, _SCORES),))).outputs
    assert y.array.tolist() == [
        [b"0.700000:1", b"0.150000:2:cat", b"0.100000:0:ant"],
        [b"4.000000:0:ant", b"3.000000:1", b"2.000000:2:cat"],
    ]


@pytest.mark.parametrize(
    ("datatype", "values", "texts"),
    [
        (DataType.FP64, [1.0, 1.0, 1.0], [b"1.000000:0", b"1.000000:1", b"1.000000:2"]),
        (DataType.FP32, [np.nan, np.inf, -np.inf], [b"inf:1", b"nan:0", b"-inf:2"]),
        (DataType.UINT8, [0, 255, 7], [b"255:1", b"7:2", b"0:0"]),
        (DataType.INT64, [-(2**63), 2**62, 0], [b"4611686018427387904:1", b"0:2", b"-9223372036854775808:0"]),
        (DataType.INT8, [], []),
        (DataType.FP32, [[1, 2], [4, 3]], [b"4.000000:2", b"3.000000:3", b"2.000000:1", b"1.000000:0"]),
    ],
)
def test_without_a_batch_all_is_one_row(datatype: DataType, values: Any, texts: list[bytes]) -> None:
    assert best(values, datatype, Classes(99, (), False)) == texts
    assert best(values, datatype, Classes(1, (), False)) == texts[:1]


def test_none_wanted_or_no_such_output_is_an_ordinary_request() -> None:
    for asked in (request(0), request(2, "z"), InferRequest("m", (), outputs=(RequestedOutput("y"),))):
        assert with_classes(asked, _SIGNATURE) is asked
        response = InferResponse("m", "1", ())
        assert classified(asked, response) is response


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (request(-1), "parameter 'classification' of output 'y' must be at least 0"),
        (request(1, "s"), "class result not available for output due to unsupported type 'BYTES'"),
    ],
)
def test_what_has_no_classes(asked: InferRequest, text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        with_classes(asked, _SIGNATURE)
    assert str(caught.value) == text


@pytest.mark.parametrize("is_binary", [False, True])
def test_http(is_binary: bool) -> None:
    codec = OpenInferenceHttp()
    wanted = {"name": "y", "parameters": {"classification": 1, "binary_data": is_binary}}
    entry = {"name": "x", "shape": [2, 1], "datatype": "FP32", "data": [1, 2]}
    body = {"inputs": [entry], "outputs": [wanted]}
    asked = codec.decode(HttpBody("m", "", json.dumps(body).encode()), _SIGNATURE)
    reply = codec.encode(asked, InferResponse("m", "1", (Tensor("y", DataType.FP32, _SCORES),)))
    if is_binary:
        assert reply.body.endswith(b"\n\0\0\x000.700000:1\x0e\0\0\x004.000000:0:ant")
    else:
        (output,) = json.loads(reply.body)["outputs"]
        assert output == {
            "name": "y",
            "datatype": "BYTES",
            "shape": [2, 1],
            "data": ["0.700000:1", "4.000000:0:ant"],
        }
    wanted["parameters"] = {"classification": "2"}
    with pytest.raises(InvalidInput, match=r"outputs\[0\].parameters.classification must be an integer"):
        codec.decode(HttpBody("m", "", json.dumps(body).encode()), _SIGNATURE)


def test_grpc() -> None:
    message = pb.ModelInferRequest(
        model_name="m", outputs=[{"name": "y", "parameters": {"classification": {"int64_param": 2}}}]
    )
    asked = with_classes(decode_infer(message.SerializeToString()), _SIGNATURE)
    assert isinstance(asked, ClassRequest)
    response = InferResponse("m", "1", (Tensor("y", DataType.FP32, _SCORES[1:]),))
    reply = pb.ModelInferResponse.FromString(encode_infer(asked, response))
    assert (reply.outputs[0].datatype, list(reply.outputs[0].shape)) == ("BYTES", [1, 2])
    assert reply.raw_output_contents[0] == b"\x0e\0\0\x004.000000:0:ant\n\0\0\x003.000000:1"
