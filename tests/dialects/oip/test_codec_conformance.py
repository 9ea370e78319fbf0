"""The published suite on the built-in codecs, and its gRPC variant."""

import numpy as np
import orjson
import pytest
import tritonclient.grpc.service_pb2 as pb

from salver.dialects.oip.faults import grpc_status
from salver.dialects.oip.grpc_codec import decode_infer, encode_infer
from salver.dialects.oip.json_codec import OpenInferenceHttp
from salver.dialects.tensorflow.json_codec import Predict
from salver.dialects.triton.generate import GenerateCodec
from salver.encoding.bodies import HttpBody
from salver.testing.codecs import CodecConformance, every_error, mutations, survives
from salver.words.errors import SalverError
from salver.words.messages import InferResponse, Signature, TensorSpec
from salver.words.tensor import DataType, Tensor

_TWO = Signature(
    inputs=(TensorSpec("x", DataType.FP32, (-1, 2)), TensorSpec("s", DataType.BYTES, (-1,))),
    outputs=(TensorSpec("y", DataType.FP32, (-1, 3)), TensorSpec("t", DataType.BYTES, (-1,))),
    batched=True,
)
_ONE = Signature(
    inputs=(TensorSpec("x", DataType.INT32, (-1, 2)),),
    outputs=(TensorSpec("y", DataType.FP32, (-1, 3)),),
    batched=True,
)
_X = {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [[1.5, 2], [3, -4e9]]}
_S = {"name": "s", "shape": [2], "datatype": "BYTES", "data": ["ä\\", ""]}


def _binary() -> HttpBody:
    raw = np.arange(4, dtype="f4").tobytes(), b"\1\0\0\0a\2\0\0\0\xff\0"
    head = orjson.dumps(
        {
            "inputs": [
                {"name": "x", "shape": [2, 2], "datatype": "FP32", "parameters": {"binary_data_size": 16}},
                {"name": "s", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": 11}},
            ],
            "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
        }
    )
    length = str(len(head)).encode()
    return HttpBody("m", "7", head + b"".join(raw), {b"inference-header-content-length": length})


class TestGenerate(CodecConformance):
    codec = GenerateCodec()
    signature = Signature(
        inputs=(
            TensorSpec("text_input", DataType.BYTES, (1,)),
            TensorSpec("max_tokens", DataType.INT32, (1,), optional=True),
            TensorSpec("x", DataType.FP32, (-1, 2), optional=True),
        ),
        outputs=(TensorSpec("text_output", DataType.BYTES, (1,)), TensorSpec("y", DataType.FP32, (-1, 3))),
    )
    samples = (
        HttpBody("m", "", b'{"text_input": "a\\u00fc"}'),
        HttpBody("m", "2", b'{"id": "7", "text_input": ["a"], "x": [[1, 2.5], [3, 4]], "stream": true}'),
        HttpBody("m", "", b'{"text_input": "a", "parameters": {"max_tokens": 3, "temperature": 0.5}}'),
    )


class TestOpenInferenceHttp(CodecConformance):
    codec = OpenInferenceHttp()
    signature = _TWO
    samples = (
        HttpBody("m", "", orjson.dumps({"inputs": [_X, _S]})),
        HttpBody(
            "m",
            "3",
            orjson.dumps(
                {
                    "id": "a",
                    "parameters": {"k": 1, "binary_data_output": True},
                    "inputs": [_X],
                    "outputs": [{"name": "y"}, {"name": "t", "parameters": {"binary_data": False}}],
                }
            ),
        ),
        _binary(),
    )


class TestRawBinary(CodecConformance):
    codec = OpenInferenceHttp()
    signature = _ONE
    samples = (HttpBody("m", "", bytes(8), {b"inference-header-content-length": b"0"}),)


class TestTensorFlowServingRows(CodecConformance):
    codec = Predict()
    signature = _TWO
    samples = (
        HttpBody("m", "", orjson.dumps({"instances": [{"x": [1, 2], "s": "a"}, {"x": [1, 2], "s": "b"}]})),
        HttpBody("m", "", orjson.dumps({"instances": [{"x": [1, 2.5], "s": {"b64": "/wA="}}]})),
        HttpBody("m", "1", orjson.dumps({"inputs": {"x": [[1, 2]], "s": ["a"]}})),
    )


class TestTensorFlowServingBareRows(CodecConformance):
    codec = Predict()
    signature = _ONE
    samples = (
        HttpBody("m", "", b'{"instances": [[1, 2], [3, 4]]}'),
        HttpBody("m", "", b'{"signature_name": "serving_default", "inputs": [[1, 2]]}'),
    )


def _messages() -> list[bytes]:
    typed = pb.ModelInferRequest(
        model_name="m",
        id="a",
        inputs=[
            {"name": "x", "datatype": "INT8", "shape": [2], "contents": {"int_contents": [1, -128]}},
            {"name": "s", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [b"\xff"]}},
        ],
        outputs=[{"name": "y"}],
    )
    typed.parameters["priority"].int64_param = 3
    raw = pb.ModelInferRequest(
        model_name="m",
        inputs=[
            {"name": "x", "datatype": "FP32", "shape": [2]},
            {"name": "s", "datatype": "BYTES", "shape": [1]},
        ],
        raw_input_contents=[bytes(8), b"\1\0\0\0a"],
    )
    return [typed.SerializeToString(), raw.SerializeToString()]


class TestGrpc:
    """The same promises, of messages without HTTP around them."""

    @pytest.mark.parametrize("message", _messages())
    def test_survives(self, message: bytes) -> None:
        assert survives(decode_infer, message)
        for end in range(len(message)):
            survives(decode_infer, message[:end])
        for damaged in mutations(message, count=500):
            survives(decode_infer, damaged)

    def test_answers_encode(self) -> None:
        request = decode_infer(_messages()[0])
        y = Tensor("y", DataType.FP32, np.ones((1, 3), "f4"))
        reply = pb.ModelInferResponse.FromString(
            encode_infer(request, InferResponse("m", "1", (y,), request.id))
        )
        assert (reply.id, reply.outputs[0].name) == ("a", "y")

    def test_every_fault_has_a_status(self) -> None:
        for error in every_error():
            status = grpc_status(error)
            assert 1 <= status.code <= 16
            assert "Do else." in status.message

    def test_fault_of_the_root(self) -> None:
        assert grpc_status(SalverError("x")).code == 13
