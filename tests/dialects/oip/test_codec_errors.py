"""The exact words for what is wrong with a request."""

import json
import math
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.service_pb2 as pb

from salver.dialects.oip.grpc_codec import decode_infer, parse_infer, read_infer
from salver.dialects.oip.json_codec import OpenInferenceHttp
from salver.dialects.tensorflow.json_codec import Predict
from salver.encoding.bodies import HttpBody
from salver.encoding.json_text import TOO_DEEP
from salver.words.errors import InvalidInput, SalverError, TooLarge, Unsupported
from salver.words.messages import InferRequest, InferResponse, Signature, TensorSpec
from salver.words.tensor import DataType, Tensor

_ONE = Signature((TensorSpec("x", DataType.FP32, (-1, 2)),), (), batched=True)
_TWO = Signature((*_ONE.inputs, TensorSpec("z", DataType.INT64, (-1,))), ())
_LENGTH = b"inference-header-content-length"


def decode(root: Any, tail: bytes | None = None, signature: Signature = _ONE) -> InferRequest:
    text = root if isinstance(root, bytes) else json.dumps(root).encode()
    headers = {} if tail is None else {_LENGTH: str(len(text)).encode()}
    return OpenInferenceHttp().decode(HttpBody("m", "", text + (tail or b""), headers), signature)


def refusal(root: Any, tail: bytes | None = None, signature: Signature = _ONE) -> SalverError:
    with pytest.raises((InvalidInput, TooLarge)) as caught:
        decode(root, tail, signature)
    return caught.value


def x(**fields: Any) -> dict[str, Any]:
    entry = {"name": "x", "shape": [1], "datatype": "INT8", "data": [1]} | fields
    return {"inputs": [{key: value for key, value in entry.items() if value is not None}]}


_JSON_CASES: list[tuple[Any, str, str]] = [
    ([], "the request must be a JSON object, not a list", ""),
    (b" ", "failed to parse the request JSON buffer", ""),
    (b'{"inputs": [}', "failed to parse the request JSON buffer", ""),
    (b'{"id": "\xff"}', "failed to parse the request JSON buffer", ""),
    (b'{"id": "\\ud800", "n": NaN}', "failed to parse the request JSON buffer", ""),
    ({}, "inputs must be a list, not null", "inputs"),
    ({"inputs": {}}, "inputs must be a list, not an object", "inputs"),
    ({"inputs": [1]}, "inputs[0] must be an object, not a number", "inputs[0]"),
    ({"inputs": [{}] * 5000}, "inputs has 5000 entries; at most 4096 are allowed", "inputs"),
    (x(name=7), "inputs[0].name must be a string, not a number", "inputs[0].name"),
    (x(datatype=None), "inputs[0].datatype is null, which is not a datatype", "inputs[0].datatype"),
    (x(datatype="FP31"), "inputs[0].datatype is 'FP31', which is not a datatype", "inputs[0].datatype"),
    (x(datatype=["FP32"]), "inputs[0].datatype is a list, which is not a datatype", "inputs[0].datatype"),
    (x(shape=None), "inputs[0].shape must be a list of integers, not null", "inputs[0].shape"),
    (x(shape=1), "inputs[0].shape must be a list of integers, not a number", "inputs[0].shape"),
    (x(shape=[True]), "inputs[0].shape must hold integers of at least 0, not True", "inputs[0].shape"),
    (x(shape=[1.0]), "inputs[0].shape must hold integers of at least 0, not 1.0", "inputs[0].shape"),
    (x(shape=[-1]), "inputs[0].shape must hold integers of at least 0, not -1", "inputs[0].shape"),
    (x(shape=[2**62, 2**62]), "inputs[0].shape asks for more than", "inputs[0].shape"),
    (x(shape=[0, 2**62, 2**62]), "inputs[0].shape asks for more than", "inputs[0].shape"),
    (x(shape=[1] * 33), "inputs[0].shape has 33 dimensions; at most 32 are allowed", ""),
    (x(data=None), "Input must set only one of the following fields: 'data', 'binary_data_size' in ", ""),
    (x(data=1), "inputs[0].data must be a list, not a number", "inputs[0].data"),
    (x(shape=[3]), "Shape does not match true shape of 'data' field: [3] needs 3 elements", "inputs[0].data"),
    (x(data=[128]), "inputs[0].data holds 128, out of the range of INT8 (-128 to 127)", "inputs[0].data"),
    (x(data=[-1], datatype="UINT64"), "inputs[0].data holds -1, out of the range", "inputs[0].data"),
    (x(data=[1.0]), "inputs[0].data holds a number with a fraction", "inputs[0].data"),
    (x(data=[2**64], datatype="UINT64"), "inputs[0].data holds", "inputs[0].data"),
    (x(data=[2], datatype="BOOL"), "inputs[0].data holds 2, out of the range of BOOL", "inputs[0].data"),
    (x(data=["1"]), "inputs[0].data must hold numbers where INT8 is declared, not '1'", "inputs[0].data"),
    (x(data=[[1, None]]), "inputs[0].data must hold numbers where INT8 is declared, not null", ""),
    (x(data=[{}]), "inputs[0].data must hold numbers where INT8 is declared, not an object", ""),
    (x(data=["a"], datatype="BOOL"), "inputs[0].data must hold booleans where BOOL", "inputs[0].data"),
    (x(data=[1], datatype="BYTES"), "inputs[0].data must hold strings where BYTES", "inputs[0].data"),
    (x(data=[{"b64": "YQ=="}], datatype="BYTES"), "inputs[0].data must hold strings", "inputs[0].data"),
    (x(data=[1e39], datatype="FP32"), "inputs[0].data holds a number too large for FP32", "inputs[0].data"),
    (
        x(datatype="FP16"),
        "receiving FP16 data via JSON is not supported. Please use the binary data format for input x",
        "",
    ),
    (
        x(datatype="BF16"),
        "receiving BF16 data via JSON is not supported. Please use the binary data format for input x",
        "",
    ),
    (x(parameters=1), "inputs[0].parameters must be an object", "inputs[0].parameters"),
    (
        x(parameters={"shared_memory_region": "r"}) | {"outputs": []},
        "Input must set only one of the following fields",
        "",
    ),
    ({"inputs": x()["inputs"] * 2}, "input 'x' already exists in request", ""),
    ({**x(), "outputs": [{"name": "y"}, {"name": "z"}, {"name": "y"}]}, "output 'y' already requested", ""),
    (x() | {"id": 7}, "id must be a string, not a number", "id"),
    (x() | {"parameters": []}, "parameters must be an object, not a list", "parameters"),
    (
        x() | {"parameters": {"p": None}},
        "parameter 'p' has invalid type. It should be either 'int', 'bool', or 'string'.",
        "",
    ),
    (
        x() | {"parameters": {"triton_secret": 1}},
        "parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified.",
        "",
    ),
    (
        x() | {"parameters": {"binary_data_output": 1}},
        "parameters.binary_data_output must be a boolean",
        "parameters.binary_data_output",
    ),
    (x() | {"parameters": {"sequence_start": "yes"}}, "parameters.sequence_start must be a boolean", ""),
    (x() | {"outputs": 1}, "outputs must be a list, not a number", "outputs"),
    (x() | {"outputs": [1]}, "outputs[0] must be an object, not a number", "outputs[0]"),
    (x() | {"outputs": [{}]}, "outputs[0].name must be a string, not null", "outputs[0].name"),
    (
        x() | {"outputs": [{"name": "y", "parameters": {"binary_data": "yes"}}]},
        "outputs[0].parameters.binary_data must be a boolean",
        "outputs[0].parameters.binary_data",
    ),
]


@pytest.mark.parametrize(("root", "text", "field"), _JSON_CASES)
def test_json(root: Any, text: str, field: str) -> None:
    error = refusal(root)
    assert str(error).startswith(text)
    if field:
        assert error.field == field
    if text.startswith(("parameter", "receiving")) and "must" not in text:
        assert str(error) == text  # Triton's words, and no more


def verdict(text: bytes) -> Any:
    try:
        return decode(text).inputs[0].array.tolist()
    except InvalidInput as error:
        return str(error)


@pytest.mark.parametrize("datatype", ["FP32", "INT16", "BOOL", "BYTES"])
@pytest.mark.parametrize(
    "data", [[1, "a"], [1.5, None], [70_000, 3], [2**70, 1], [[1], {}], [[0], [1]], 5, "text", {}, None]
)
def test_large_json_is_read_or_refused_in_the_same_words(datatype: str, data: Any) -> None:
    text = json.dumps(x(datatype=datatype, shape=[2], data=data)).encode()
    assert verdict(text) == verdict(text[:-1] + b" " * 20_000 + b"}")


@pytest.mark.parametrize("space", [b"", b" " * 20_000])
def test_numbers_beyond_double(space: bytes) -> None:
    entry = b'{"name":"x","shape":[1],"datatype":"FP64","data":[1e400]}'
    assert "infinity" in str(refusal(b'{"inputs":[' + entry + b"]" + space + b"}"))


@pytest.mark.parametrize(
    "text",
    [
        b'{"inputs": ' + b"[" * 101 + b"]" * 101 + b"}",
        b"[" * 5000,
        b'{"a":' * 2000,
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":'
        + b"[" * 99
        + b"1"
        + b"]" * 99
        + b"}]}",
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"BYTES","data":' + b"[" * 99 + b"]" * 99 + b"}]}",
        b'{"n":NaN,"inputs":' + b"[" * 3000 + b"]" * 3000 + b"}",
    ],
)
def test_too_deep(text: bytes) -> None:
    assert str(refusal(text)) == TOO_DEEP
    assert str(refusal(text[:1] + b" " * 20_000 + text[1:])) == TOO_DEEP
    with pytest.raises(InvalidInput, match=r"nest|incorrect level|not of expected type"):
        Predict().decode(HttpBody("m", "", text), _ONE)


def test_brackets_in_strings_are_not_depth() -> None:
    error = refusal(json.dumps({"id": "[" * 500 + '"' + "{" * 500}).encode())
    assert str(error).startswith("inputs must be a list")


def test_nested_otherwise_and_ragged_data_are_read_in_order() -> None:
    for data in ([1, 2, 3, 4], [[1, 2, 3, 4]], [[1], [2, 3], 4], [[[1]], [[2]], [[3]], [[4]]]):
        request = decode(x(shape=[2, 2], datatype="FP32", data=data))
        assert request.inputs[0].array.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("space", [b"", b" " * 20_000])
def test_the_last_of_two_keys_counts(space: bytes) -> None:
    text = b'{"inputs":[{"name":"x","shape":[1],"data":[1],"datatype":"INT8","data":[2]}],"id":"a","id":"b"'
    request = decode(text + space + b"}")
    assert (request.id, request.inputs[0].array.tolist()) == ("b", [2])


@pytest.mark.clause("TR-R23")
def test_parameters_beyond_64_bits_are_read_as_triton_reads_them() -> None:
    """TR-R23: but for the id of a sequence, which is unsigned."""
    request = decode(x() | {"parameters": {"k": 2**64 - 1, "n": -(2**63), "sequence_id": 2**64 - 1}})
    assert request.parameters == {"k": 2.0**64, "n": -(2**63), "sequence_id": 2**64 - 1}
    assert type(request.parameters["k"]) is float


def test_coercions() -> None:
    assert decode(x(datatype="BOOL", shape=[3], data=[True, 0, 1])).inputs[0].array.tolist() == [1, 0, 1]
    assert decode(x(datatype="FP64", shape=[2], data=[True, 2**63])).inputs[0].array.tolist() == [1, 2.0**63]
    assert decode(x(datatype="UINT64", data=[2**64 - 1])).inputs[0].array.tolist() == [2**64 - 1]
    assert decode(x(shape=[0], data=[])).inputs[0].array.shape == (0,)
    assert decode(x(shape=[], data=[5])).inputs[0].array.shape == ()
    nan = decode(b'{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[NaN,-Infinity]}]}')
    first, second = nan.inputs[0].array.tolist()
    assert math.isnan(first)
    assert second == -math.inf


def binary(size: Any, **fields: Any) -> dict[str, Any]:
    return x(data=None, datatype="FP32", parameters={"binary_data_size": size}, **fields)


_BINARY_CASES: list[tuple[Any, bytes | None, str]] = [
    (binary(4), None, "inputs[0] has binary_data_size, but the header"),
    (binary(-1), b"abcd", "inputs[0].parameters.binary_data_size must be an integer of at least 0"),
    (binary(True), b"abcd", "inputs[0].parameters.binary_data_size must be an integer of at least 0"),
    (binary(8), b"abcd", "unexpected size for input 'x', expecting 4 additional bytes for model 'm'"),
    (binary(4), b"abcde", "unexpected additional input data for model 'm'"),
    (binary(3), b"abc", "input byte size mismatch for input 'x' for model 'm'. Expected 4, got 3"),
    (binary(4, shape=[2**20, 2**20]), b"abcd", "input byte size mismatch for input 'x' for model 'm'. Exp"),
    (x(parameters={"binary_data_size": 1}), b"a", "Input must set only one of the following fields: 'data'"),
    (x(), b"a", "unexpected additional input data for model 'm'"),
]


@pytest.mark.parametrize(("root", "tail", "text"), _BINARY_CASES)
def test_binary(root: Any, tail: bytes | None, text: str) -> None:
    assert str(refusal(root, tail)).startswith(text)


@pytest.mark.parametrize(
    ("tail", "shape", "text", "tritons"),
    [
        (
            b"\1\0\0",
            [1],
            "inputs[0] has 3 bytes, too few for 1 BYTES elements",
            "incomplete string length indicator for inference input 'x', expecting 4 bytes but only 3 bytes "
            "available",
        ),
        (
            b"\5\0\0\0ab",
            [1],
            "inputs[0]: BYTES element 0 says 5 bytes, 2 are left",
            "incomplete string data for inference input 'x', expecting string of length 5 but only 2 bytes "
            "available",
        ),
        (
            b"\0\0\0\0\0\0\0\0",
            [1],
            "inputs[0] has 4 bytes after its 1 BYTES elements",
            "expected 1 string elements for inference input 'x' for model 'm', got 2",
        ),
        (
            b"\5\0\0\0abcde\0\0\0",
            [2],
            "inputs[0] ends inside the length of BYTES element 1",
            "incomplete string length indicator for inference input 'x', expecting 4 bytes but only 3 bytes "
            "available",
        ),
        (
            b"\xff\xff\xff\xff",
            [2**39],
            "inputs[0] has 4 bytes, too few for",
            "incomplete string data for inference input 'x', expecting string of length 4294967295 but only "
            "0 bytes available",
        ),
        (bytes(4 * 10_000), [1], "inputs[0] has 39996 bytes after its 1 BYTES elements", ""),
    ],
)
def test_packed_strings(tail: bytes, shape: list[int], text: str, tritons: str) -> None:
    root = x(data=None, datatype="BYTES", shape=shape, parameters={"binary_data_size": len(tail)})
    error = refusal(root, tail)
    assert str(error).startswith(text)
    assert error.triton == tritons


def test_a_bool_byte_is_zero_or_one() -> None:
    root = x(data=None, datatype="BOOL", parameters={"binary_data_size": 1})
    assert "BOOL byte" in str(refusal(root, b"\2"))


@pytest.mark.parametrize("value", [b"abc", b"-1", b"", b"1.5", b"99", b"9" * 5000, "²".encode()])
def test_header_length(value: bytes) -> None:
    with pytest.raises(InvalidInput, match="Inference-Header-Content-Length"):
        OpenInferenceHttp().decode(HttpBody("m", "", b"{}", {_LENGTH: value}), _ONE)


def raw(body: bytes, signature: Signature) -> InferRequest:
    return OpenInferenceHttp().decode(HttpBody("m", "", body, {_LENGTH: b"0"}), signature)


def one(datatype: DataType, shape: tuple[int, ...], *, batched: bool = True) -> Signature:
    return Signature((TensorSpec("x", datatype, shape),), (), batched=batched)


def test_raw_binary() -> None:
    request = raw(bytes(8), _ONE)
    assert request.inputs[0].shape == (1, 2)
    assert request.parameters == {"binary_data_output": True}
    assert raw(bytes(24), one(DataType.FP32, (-1, -1, 2))).inputs[0].shape == (1, 3, 2)
    assert raw(b"any", one(DataType.BYTES, (1,), batched=False)).inputs[0].array.tolist() == [b"any"]
    assert raw(b"any", one(DataType.BYTES, (-1, 1))).inputs[0].array.tolist() == [[b"any"]]
    empty = OpenInferenceHttp().decode(HttpBody("m", "", b""), one(DataType.BYTES, (1,), batched=False))
    assert empty.inputs[0].array.tolist() == [b""]
    for signature, body in (
        (_TWO, bytes(8)),
        (_ONE, bytes(7)),
        (one(DataType.FP32, (-1, -1, -1)), bytes(8)),
        (one(DataType.FP32, (-1, 0, -1)), bytes(8)),
        (one(DataType.BYTES, (-1, 2)), b"any"),
        (one(DataType.BYTES, (-1,), batched=False), b"any"),
    ):
        with pytest.raises(InvalidInput):
            raw(body, signature)


def test_what_json_cannot_carry() -> None:
    for datatype, array in (
        (DataType.FP16, np.ones(1, "f2")),
        (DataType.BF16, np.ones(1, "u2")),
        (DataType.BYTES, np.array([b"\xff"], dtype=object)),
    ):
        response = InferResponse("m", "1", (Tensor("y", datatype, array),))
        with pytest.raises((InvalidInput, Unsupported), match="Please use the binary data format for"):
            OpenInferenceHttp().encode(InferRequest("m", ()), response)


_INPUT = {"name": "x", "datatype": "INT8", "shape": [1]}
_GRPC_CASES: list[tuple[dict[str, Any], str]] = [
    ({"inputs": [_INPUT]}, "unable to find data for input tensor 'x' for model 'm' in request."),
    ({"inputs": [_INPUT | {"datatype": ""}]}, "inputs[0].datatype is '', which is not a datatype"),
    ({"inputs": [_INPUT | {"shape": [-1]}]}, "inputs[0].shape must hold integers of at least 0, not -1"),
    ({"inputs": [_INPUT | {"shape": [2**62] * 2}]}, "inputs[0].shape asks for more than"),
    (
        {"inputs": [_INPUT | {"datatype": "FP16", "contents": {"fp32_contents": [1]}}]},
        "unexpected explicit tensor data for input tensor 'x' for model 'm' of type 'FP32', "
        "expected datatype 'FP16'",
    ),
    (
        {"inputs": [_INPUT | {"datatype": "INT9", "contents": {"uint_contents": [1]}}]},
        "unexpected explicit tensor data for input tensor 'x' for model 'm' of type 'UINT32', "
        "expected datatype '<invalid>'",
    ),
    (
        {"inputs": [_INPUT | {"contents": {"int_contents": [1], "fp32_contents": [1]}}]},
        "unexpected explicit tensor data for input tensor 'x' for model 'm', binary data was already",
    ),
    (
        {"inputs": [_INPUT | {"shape": [2], "contents": {"int_contents": [1]}}]},
        "input byte size mismatch for input 'x' for model 'm'. Expected 2, got 1",
    ),
    (
        {"inputs": [_INPUT | {"datatype": "BYTES", "contents": {"bytes_contents": [b"a", b"b"]}}]},
        "expected 1 string elements for inference input 'x' for model 'm', got 2",
    ),
    (
        {"inputs": [_INPUT | {"contents": {"int_contents": [200]}}]},
        "inputs[0].contents.int_contents holds 200, out of the range of INT8",
    ),
    (
        {"inputs": [_INPUT | {"contents": {"fp32_contents": [2]}}]},
        "unexpected explicit tensor data for input tensor 'x' for model 'm' of type 'FP32', "
        "expected datatype 'INT8'",
    ),
    (
        {"inputs": [_INPUT], "raw_input_contents": [b"ab"]},
        "input byte size mismatch for input 'x' for model 'm'. Expected 1, got 2",
    ),
    (
        {"inputs": [_INPUT] * 2, "raw_input_contents": [b"a"]},
        "unable to find data for input tensor 'x' for model 'm' in request.",
    ),
    ({"inputs": [_INPUT] * 2, "raw_input_contents": [b"a", b"b"]}, "input 'x' already exists in request"),
    ({"inputs": [], "outputs": [{"name": "y"}] * 2}, "output 'y' already requested"),
    (
        {"inputs": [_INPUT], "raw_input_contents": [b"a", b"b"]},
        "raw_input_contents has 2 entries for model 'm', but only 1 inputs take one",
    ),
    ({"raw_input_contents": [b""] * 5000}, "raw_input_contents has 5000 entries; at most 4096 are allowed"),
    ({"inputs": [_INPUT] * 5000}, "inputs has 5000 entries; at most 4096 are allowed"),
    ({"outputs": [{"name": "y"}] * 5000}, "outputs has 5000 entries; at most 4096 are allowed"),
    (
        {"parameters": {f"p{at}": {"bool_param": True} for at in range(5000)}},
        "parameters has 5000 entries; at most 4096 are allowed",
    ),
    (
        {"inputs": [_INPUT | {"contents": {"int_contents": [2]}}], "raw_input_contents": [b"a"]},
        "contents field must not be specified when using raw_input_contents for 'x' for model 'm'",
    ),
    (
        {"parameters": {"p": {}}},
        "invalid value type for 'p' parameter, expected int64_param, bool_param, or string_param.",
    ),
    (
        {"parameters": {"p": {"uint64_param": 1}}},
        "invalid value type for 'p' parameter, expected int64_param, bool_param, or string_param.",
    ),
    (
        {"parameters": {"timeout": {"string_param": "x"}}},
        "invalid value type for 'timeout' parameter, expected int64_param.",
    ),
    (
        {"parameters": {"priority": {"bool_param": True}}},
        "invalid value type for 'priority' parameter, expected int64_param or uint64_param.",
    ),
    (
        {"outputs": [{"name": "y", "parameters": {"classification": {"string_param": "2"}}}]},
        "invalid value type for 'classification' parameter, expected int64_param",
    ),
    (
        {"parameters": {"triton_x": {"bool_param": True}}},
        "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys "
        "starting with 'triton_' are allowed: triton_enable_empty_final_response",
    ),
    (
        {"inputs": [_INPUT | {"parameters": {"shared_memory_region": {"string_param": "r"}}}]},
        "'shared_memory_byte_size' must be specified along with 'shared_memory_region' parameter",
    ),
]


@pytest.mark.parametrize(("fields", "text"), _GRPC_CASES)
def test_grpc(fields: dict[str, Any], text: str) -> None:
    with pytest.raises((InvalidInput, TooLarge)) as caught:
        decode_infer(pb.ModelInferRequest(model_name="m", **fields).SerializeToString())
    assert str(caught.value).startswith(text)


def test_surplus_raw_contents_are_left_out_as_triton_does() -> None:
    message = pb.ModelInferRequest(model_name="m", inputs=[_INPUT], raw_input_contents=[b"\1", b"\2"])
    request = read_infer(parse_infer(message.SerializeToString()), ignores_surplus=True)
    assert [tensor.array.tolist() for tensor in request.inputs] == [[1]]


@pytest.mark.parametrize("message", [b"\xff", b"\x0a\x05ab", b"\x0a\x01\xff"])
def test_grpc_that_is_no_message(message: bytes) -> None:
    with pytest.raises(InvalidInput, match="the message is not a ModelInferRequest"):
        decode_infer(message)
