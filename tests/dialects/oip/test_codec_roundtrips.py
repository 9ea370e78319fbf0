"""Every datatype through JSON, binary and gRPC, against ourselves and against tritonclient."""

import json
from typing import Any

import ml_dtypes
import numpy as np
import orjson
import pytest
import tritonclient.grpc as tg
import tritonclient.grpc.service_pb2 as pb
import tritonclient.http as th
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from salver.dialects.oip.grpc_codec import decode_infer, encode_infer
from salver.dialects.oip.json_codec import OpenInferenceHttp
from salver.encoding.bodies import HttpBody
from salver.encoding.json_text import loads
from salver.encoding.large_json import loads_large
from salver.encoding.raw import from_raw, to_raw
from salver.words.messages import InferRequest, InferResponse, RequestedOutput, Signature
from salver.words.tensor import DataType, Tensor

Json = dict[str, Any]
_CODEC = OpenInferenceHttp()
_NO_SIGNATURE = Signature((), ())
_LENGTH = b"inference-header-content-length"
_SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)
_JSON_TYPES = [d for d in DataType if d not in (DataType.FP16, DataType.BF16)]


@st.composite
def tensors(draw: st.DrawFn, *, as_text: bool = False, of: list[DataType] | None = None) -> Tensor:
    datatype = draw(st.sampled_from(of or list(DataType)))
    shape = draw(_SHAPES)
    if datatype is not DataType.BYTES:
        return Tensor("x", datatype, draw(hnp.arrays(datatype.dtype, shape)))
    array = np.empty(int(np.prod(shape)), dtype=object)
    value = st.text(max_size=5).map(str.encode) if as_text else st.binary(max_size=5)
    array[:] = [draw(value) for _ in array]
    return Tensor("x", datatype, array.reshape(shape))


def same(one: Tensor, other: Tensor) -> None:
    assert (one.name, one.datatype, one.shape) == (other.name, other.datatype, other.shape)
    assert one.array.dtype == other.array.dtype
    if one.datatype is DataType.BYTES:
        assert one.array.tolist() == other.array.tolist()
    else:  # bit for bit, but for the sign and payload of NaN
        np.testing.assert_array_equal(one.array, other.array)
        signs = np.signbit(one.array) == np.signbit(other.array)
        assert (signs | (one.array != one.array)).all()


def _as_request(body: bytes) -> bytes:
    """A reply read as a request: its outputs are inputs."""
    root = json.loads(body)
    return json.dumps({"inputs": root["outputs"]}).encode()


def _binary_reply(tensor: Tensor) -> tuple[bytes, int]:
    request = InferRequest("m", (), parameters={"binary_data_output": True})
    reply = _CODEC.encode(request, InferResponse("m", "1", (tensor, tensor)))
    headers = dict(reply.headers)
    is_empty = not tensor.array.size
    assert (headers[b"content-type"] == b"application/octet-stream") != is_empty
    return reply.body, int(headers.get(_LENGTH, len(reply.body)))


@given(tensors(as_text=True, of=_JSON_TYPES))
def test_json(tensor: Tensor) -> None:
    reply = _CODEC.encode(InferRequest("m", ()), InferResponse("m", "1", (tensor,)))
    same(_CODEC.decode(HttpBody("m", "", _as_request(reply.body)), _NO_SIGNATURE).inputs[0], tensor)


@given(tensors(of=[d for d in _JSON_TYPES if d is not DataType.BYTES]), st.booleans())
@settings(max_examples=50)
def test_large_json_reads_the_same(tensor: Tensor, is_nested: bool) -> None:
    data = tensor.array.tolist() if is_nested else tensor.array.ravel().tolist()
    entry = {"name": "x", "shape": tensor.shape, "datatype": tensor.datatype.name, "data": data}
    body = json.dumps({"inputs": [entry], "pad": " " * 20_000}).encode()
    same(_CODEC.decode(HttpBody("m", "", body), _NO_SIGNATURE).inputs[0], tensor)


@given(tensors())
def test_binary(tensor: Tensor) -> None:
    body, length = _binary_reply(tensor)
    head = json.loads(body[:length])
    names = iter("xy")
    for output in head["outputs"]:
        output["name"] = next(names)
    text = json.dumps({"inputs": head["outputs"]}).encode()
    headers = {_LENGTH: str(len(text)).encode()}
    request = _CODEC.decode(HttpBody("m", "", text + body[length:], headers), _NO_SIGNATURE)
    same(request.inputs[0], tensor)
    assert request.inputs[1].array.tobytes() == tensor.array.tobytes() or tensor.datatype is DataType.BYTES
    assert all(t.array.flags.aligned for t in request.inputs)


@given(tensors())
def test_grpc(tensor: Tensor) -> None:
    request = InferRequest("m", ())
    reply = pb.ModelInferResponse.FromString(encode_infer(request, InferResponse("m", "1", (tensor,))))
    output = reply.outputs[0]
    message = pb.ModelInferRequest(
        model_name="m",
        inputs=[{"name": output.name, "datatype": output.datatype, "shape": output.shape}],
        raw_input_contents=reply.raw_output_contents,
    )
    same(decode_infer(message.SerializeToString()).inputs[0], tensor)


@given(tensors(of=_JSON_TYPES))
def test_grpc_typed_contents(tensor: Tensor) -> None:
    kind = tensor.datatype
    field = {
        "BOOL": "bool",
        "INT64": "int64",
        "UINT64": "uint64",
        "FP32": "fp32",
        "FP64": "fp64",
        "BYTES": "bytes",
    }.get(kind.name, "int" if kind.name.startswith("INT") else "uint")
    message = pb.ModelInferRequest(
        model_name="m",
        inputs=[
            {
                "name": "x",
                "datatype": kind.name,
                "shape": tensor.shape,
                "contents": {f"{field}_contents": tensor.array.ravel().tolist()},
            }
        ],
    )
    same(decode_infer(message.SerializeToString()).inputs[0], tensor)


_HTTP_CASES = [(d, False) for d in _JSON_TYPES] + [(d, True) for d in DataType if d is not DataType.BF16]


@pytest.mark.parametrize(("datatype", "is_binary"), _HTTP_CASES)
def test_tritonclient_over_http(datatype: DataType, is_binary: bool) -> None:
    array = np.array([[0, 1, 1]], datatype.dtype)
    if datatype is DataType.BYTES:
        array = np.array([[b"a", b"", "ü".encode()]], dtype=object)
    asked = th.InferInput("x", [1, 3], datatype.name)
    asked.set_data_from_numpy(array, binary_data=is_binary)
    body, length = th.InferenceServerClient.generate_request_body(
        [asked], outputs=[th.InferRequestedOutput("x", binary_data=is_binary)], request_id="7", timeout=5
    )
    headers = {} if length is None else {_LENGTH: str(length).encode()}
    request = _CODEC.decode(HttpBody("m", "", body, headers), _NO_SIGNATURE)
    same(request.inputs[0], Tensor("x", datatype, array))
    assert (request.id, request.parameters["timeout"]) == ("7", 5)
    assert request.outputs[0].name == "x"

    reply = _CODEC.encode(request, InferResponse("m", "1", request.inputs, request.id))
    header = dict(reply.headers).get(_LENGTH)
    result = th.InferenceServerClient.parse_response_body(
        reply.body, header_length=None if header is None else int(header)
    )
    got = result.as_numpy("x")
    is_text = datatype is DataType.BYTES and not is_binary
    assert got.tolist() == ([["a", "", "ü"]] if is_text else array.tolist())
    assert result.get_response()["id"] == "7"


@pytest.mark.parametrize("datatype", [d for d in DataType if d is not DataType.BF16], ids=lambda d: d.name)
def test_tritonclient_over_grpc(datatype: DataType) -> None:
    array = np.array([[0, 1, 1]], datatype.dtype)
    if datatype is DataType.BYTES:
        array = np.array([[b"a", b"", b"\xff"]], dtype=object)
    asked = tg.InferInput("x", [1, 3], datatype.name)
    asked.set_data_from_numpy(array)
    from tritonclient.grpc._utils import _get_inference_request

    message = _get_inference_request(
        inputs=[asked], model_name="m", model_version="", outputs=[tg.InferRequestedOutput("x")],
        request_id="7", sequence_id=0, sequence_start=False, sequence_end=False, priority=0, timeout=5,
        parameters={"a": "b", "c": True},
    )  # fmt: skip
    request = decode_infer(message.SerializeToString())
    same(request.inputs[0], Tensor("x", datatype, array))
    assert request.parameters == {"timeout": 5, "a": "b", "c": True}
    assert request.outputs == (RequestedOutput("x"),)
    reply = encode_infer(request, InferResponse("m", "1", request.inputs, request.id, {"n": 1.5}))
    result = tg.InferResult(pb.ModelInferResponse.FromString(reply))
    assert result.as_numpy("x").tolist() == array.tolist()
    assert result.get_response().parameters["n"].double_param == 1.5


def test_bf16_of_tritonclient() -> None:
    values = np.array([1.0, -2.5, 0.15625], "f4")
    asked = th.InferInput("x", [3], "BF16")
    asked.set_data_from_numpy(values.astype(ml_dtypes.bfloat16))
    body, length = th.InferenceServerClient.generate_request_body([asked])
    request = _CODEC.decode(HttpBody("m", "", body, {_LENGTH: str(length).encode()}), _NO_SIGNATURE)
    assert request.inputs[0].array.tolist() == (values.view("u4") >> 16).tolist()


def test_nonfinite_numbers_are_bare() -> None:
    y = Tensor("y", DataType.FP32, np.array([np.nan, np.inf, -np.inf, 0.1], "f4"))
    reply = _CODEC.encode(InferRequest("m", ()), InferResponse("m", "1", (y,)))
    assert b'"data":[NaN,Infinity,-Infinity,0.1]' in reply.body


def test_numbers_are_written_short() -> None:
    y = Tensor("y", DataType.FP32, np.array([0.1, 1e-7], "f4"))
    body = _CODEC.encode(InferRequest("m", ()), InferResponse("m", "1", (y,), "i", {"k": "v"})).body
    assert orjson.loads(body) == {
        "model_name": "m",
        "model_version": "1",
        "id": "i",
        "parameters": {"k": "v"},
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [2], "data": [0.1, 1e-7]}],
    }


def test_aligned_bytes_are_not_copied() -> None:
    raw = np.arange(8, dtype="f4").tobytes()
    assert np.shares_memory(from_raw(raw, DataType.FP32, [8], 8, "x"), np.frombuffer(raw, "u1"))
    shifted = memoryview(b"." + raw)[1:]
    array = from_raw(shifted, DataType.FP32, [8], 8, "x")
    assert array.flags.aligned
    assert array.tolist() == list(range(8))
    values = np.ones((2, 65_536), "f4")
    assert np.shares_memory(np.frombuffer(to_raw(Tensor("y", DataType.FP32, values)), "u1"), values)


_VALUES = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=3)
_OBJECTS = st.dictionaries(st.text(max_size=3) | st.just("a\0b"), _VALUES, max_size=4)


@given(_OBJECTS, _OBJECTS, _OBJECTS)
def test_a_large_body_says_what_a_small_one_says(whole: Json, one: Json, inner: Json) -> None:
    """Whatever keys it has: the parser for large ones does not find those with a NUL."""
    text = orjson.dumps({**whole, "parameters": inner, "inputs": [{**one, "parameters": inner}]})
    assert loads_large(text) == loads(text)
