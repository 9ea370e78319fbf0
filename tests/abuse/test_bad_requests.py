"""Requests that are wrong in every way we can think of: the exact error, and nobody hurt."""

import gzip
import json
import struct
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException
from waiting import PATIENCE_S

from salver.testing.process import ServerProcess

MLP = "/v2/models/mlp/infer"
IDENTITY = "/v2/models/identity_fp32/infer"


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [1, 16], "data": [0.5] * 16} | changes


def refused(
    server: ServerProcess, body: bytes | dict[str, Any], path: str = MLP, **headers: str
) -> tuple[int, str]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, reply = server.ask("POST", path, raw, {k.replace("_", "-"): v for k, v in headers.items()})
    return status, json.loads(reply)["error"]


WRONG_TENSORS = {
    "wrong width": (tensor(shape=[1, 17], data=[0.0] * 17), "Expected [-1,16], got [1,17]"),
    "no batch dimension": (tensor(shape=[16]), "For one row send the shape [1, 16]"),
    "no rows": (tensor(shape=[0, 16], data=[]), "batch-size must be >= 1"),
    "wrong datatype": (tensor(datatype="INT32", data=[1] * 16), "data-type is 'INT32'"),
    "no such datatype": (tensor(datatype="FLOAT"), "inputs[0].datatype is 'FLOAT', which is not a datatype"),
    "too few elements": (tensor(data=[0.5] * 15), "needs 16 elements, inputs[0].data has 15"),
    "too many elements": (tensor(data=[0.5] * 17), "needs 16 elements, inputs[0].data has 17"),
    "text for numbers": (tensor(data=["a"] * 16), "inputs[0].data"),
    "null for a number": (tensor(data=[None] * 16), "inputs[0].data"),
    "negative extent": (tensor(shape=[-1, 16]), "integers of at least 0"),
    "fractional extent": (tensor(shape=[1.5, 16]), "integers of at least 0"),
    "extent as text": (tensor(shape=["1", "16"]), "integers of at least 0"),
    "shape is no list": (tensor(shape=16), "must be a list"),
    "overflowing product": (tensor(shape=[2**32, 2**32]), "asks for more than"),
    "overflowing extent": (tensor(shape=[2**63, 16]), "asks for more than"),
    "enormous extent": (tensor(shape=[10**30, 16]), "inputs[0].shape"),
    "wraps to the true size": (tensor(shape=[2**60 + 1, 16]), "asks for more than"),
    "enormous and empty": (tensor(shape=[2**62, 0], data=[]), "asks for more than"),
    "too many dimensions": (tensor(shape=[1] * 100), "100 dimensions; at most 32"),
    "too large for float32": (tensor(data=[1e300] + [0.5] * 15), "too large for FP32"),
    "name is no text": (tensor(name=5), "inputs[0].name must be a string"),
    "unknown name": (tensor(name="z"), "unexpected inference input 'z' for model 'mlp'"),
    "FP16 in JSON": (tensor(datatype="FP16"), "receiving FP16 data via JSON is not supported"),
    "binary size without binary": (
        {"name": "x", "datatype": "FP32", "shape": [1, 16], "parameters": {"binary_data_size": 64}},
        "Inference-Header-Content-Length is missing",
    ),
    "half a place in shared memory": (
        {"name": "x", "datatype": "FP32", "shape": [1, 16], "parameters": {"shared_memory_region": "r"}},
        "'shared_memory_byte_size' must be specified",
    ),
}


@pytest.mark.parametrize("case", WRONG_TENSORS)
def test_wrong_tensors(strict: ServerProcess, case: str) -> None:
    given, text = WRONG_TENSORS[case]
    status, error = refused(strict, {"inputs": [given]})
    assert status == 400
    assert text in error


WRONG_BODIES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "Expected 64, got 0"),  # a raw binary request without a byte
    "not JSON": (b"hello", "JSON"),
    "cut short": (json.dumps({"inputs": [tensor()]}).encode()[:-10], "JSON"),
    "trailing garbage": (json.dumps({"inputs": [tensor()]}).encode() + b"}", "JSON"),
    "a list": (b"[]", "the request must be a JSON object, not a"),
    "a number": (b"1", "the request must be a JSON object, not a"),
    "no inputs": (b"{}", "inputs must be a list"),
    "inputs is an object": (b'{"inputs":{}}', "inputs must be a list"),
    "an input is null": (b'{"inputs":[null]}', "inputs[0] must be an object"),
    "empty inputs": (b'{"inputs":[]}', "expected 1 inputs but got 0"),
    "invalid UTF-8 in a name": (b'{"inputs":[{"name":"\xff\xfe"}]}', "UTF-8"),
    "lone surrogate": (rb'{"inputs":[{"name":"\ud800","shape":[1],"datatype":"FP32","data":[1]}]}', ""),
    "deep nesting": (b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nesting depth"),
    "deep nesting, cut short": (b'{"inputs":' + b"[" * 100_000, ""),
    "NUL bytes": (b"\0" * 1000, "JSON"),
    "twice the same input": (json.dumps({"inputs": [tensor(), tensor()]}).encode(), "'x' already exists"),
    "five thousand inputs": (json.dumps({"inputs": [tensor(data=[])] * 5000}).encode(), "at most 4096"),
    "unknown output": (
        json.dumps({"inputs": [tensor()], "outputs": [{"name": "nope"}]}).encode(),
        "unexpected inference output 'nope'",
    ),
    "a parameter that is a list": (
        json.dumps({"inputs": [tensor()], "parameters": {"a": [1]}}).encode(),
        "parameter 'a' has invalid type",
    ),
    "a timeout that is text": (
        json.dumps({"inputs": [tensor()], "parameters": {"timeout": "soon"}}).encode(),
        "timeout",
    ),
    "a negative timeout": (
        json.dumps({"inputs": [tensor()], "parameters": {"timeout": -1}}).encode(),
        "timeout",
    ),
    "an id that is a number": (json.dumps({"id": 5, "inputs": [tensor()]}).encode(), "id must be a string"),
    "NaN": (b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[nan]}]}', ""),
}


@pytest.mark.parametrize("case", WRONG_BODIES)
def test_wrong_bodies(strict: ServerProcess, case: str) -> None:
    body, text = WRONG_BODIES[case]
    status, error = refused(strict, body)
    assert status == 400
    assert text in error
    assert error


@pytest.mark.parametrize("spelling", ["NaN", "Infinity", "-Infinity"])
def test_values_that_are_not_numbers_pass_or_are_refused_but_never_changed(
    strict: ServerProcess, spelling: str
) -> None:
    body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1.0,%s]}]}' % spelling.encode()
    status, reply = strict.ask("POST", IDENTITY, body)
    if status == 200:
        (output,) = json.loads(reply)["outputs"]
        np.testing.assert_array_equal(output["data"], [1.0, float(spelling.replace("inity", ""))])
    else:
        assert status == 400
        assert json.loads(reply)["error"]


def binary(values: np.ndarray, size: int | None = None, shape: list[int] | None = None) -> tuple[bytes, int]:
    """Body and JSON length of a binary request."""
    given = {
        "name": "x",
        "datatype": "FP32",
        "shape": shape or list(values.shape),
        "parameters": {"binary_data_size": values.nbytes if size is None else size},
    }
    wanted = {"name": "y", "parameters": {"binary_data": True}}
    head = json.dumps({"inputs": [given], "outputs": [wanted]}).encode()
    return head + values.tobytes(), len(head)


def test_nan_and_infinities_survive_in_binary(strict: ServerProcess) -> None:
    values = np.array([[np.nan, np.inf, -np.inf, -0.0]], np.float32)
    body, length = binary(values)
    status, reply = strict.ask("POST", IDENTITY, body, {"Inference-Header-Content-Length": str(length)})
    assert status == 200
    assert reply.endswith(values.tobytes())


def test_infinities_that_json_cannot_carry_are_no_defect_of_the_server(strict: ServerProcess) -> None:
    values = np.array([[np.nan, np.inf]], np.float32)
    body, length = binary(values)
    body = body.replace(b'"binary_data": true', b'"binary_data":false')
    status, reply = strict.ask("POST", IDENTITY, body, {"Inference-Header-Content-Length": str(length)})
    assert status in (200, 400, 501), reply
    assert b"incident" not in reply


WRONG_LENGTHS = {
    "beyond the body": ("99999999", "but the body has"),
    "negative": ("-1", "must be a number of bytes"),
    "text": ("abc", "must be a number of bytes"),
    "enormous": ("9" * 40, "must be a number of bytes"),
    "inside the JSON": ("20", "JSON"),
}


@pytest.mark.parametrize("case", WRONG_LENGTHS)
def test_wrong_header_lengths(strict: ServerProcess, case: str) -> None:
    length, text = WRONG_LENGTHS[case]
    body, _ = binary(np.zeros((1, 16), np.float32))
    status, error = refused(strict, body, Inference_Header_Content_Length=length)
    assert status == 400
    assert text in error


@pytest.mark.parametrize("size", [0, 1, 63, 65, 2**62, -4])
def test_wrong_binary_sizes(strict: ServerProcess, size: int) -> None:
    body, length = binary(np.zeros((1, 16), np.float32), size)
    status, error = refused(strict, body, Inference_Header_Content_Length=str(length))
    assert status == 400
    assert ("inputs[0]" if size < 0 else "input 'x'") in error


def test_every_truncation_of_a_binary_request_is_refused(strict: ServerProcess) -> None:
    body, length = binary(np.zeros((1, 16), np.float32))
    for cut in range(0, len(body), 7):
        status, error = refused(strict, body[:cut], Inference_Header_Content_Length=str(length))
        assert status == 400, cut
        assert error


WRONG_BYTES = {
    "length beyond the end": struct.pack("<I", 2**32 - 1) + b"ab",
    "cut in the length": b"\x05\x00",
    "one element too many": struct.pack("<I", 1) + b"a" + struct.pack("<I", 1) + b"b",
    "nothing at all": b"",
}


@pytest.mark.parametrize("case", WRONG_BYTES)
def test_wrong_bytes_tensors(strict: ServerProcess, case: str) -> None:
    raw = WRONG_BYTES[case]
    given = {"name": "x", "datatype": "BYTES", "shape": [1, 1], "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [given]}).encode()
    path = "/v2/models/identity_bytes/infer"
    status, error = refused(strict, head + raw, path, Inference_Header_Content_Length=str(len(head)))
    assert status == 400
    assert "inputs[0]" in error


@pytest.mark.parametrize("value", [128, -129, 2**70, 1.5])
def test_integers_that_do_not_fit_are_refused_not_wrapped(strict: ServerProcess, value: float) -> None:
    body = {"inputs": [{"name": "x", "datatype": "INT8", "shape": [1, 1], "data": [value]}]}
    status, error = refused(strict, body, "/v2/models/identity_int8/infer")
    assert status == 400
    assert "INT8" in error or "range" in error


@pytest.mark.clause("TR-R29")
def test_a_body_over_the_limit_is_refused_before_it_is_read(strict: ServerProcess) -> None:
    status, error = refused(strict, b" " * (5 << 20))
    assert status == 400
    assert f"exceeds the maximum allowed input size of {4 << 20} bytes" in error
    assert "--max-body-mb" in error


@pytest.mark.clause("TR-R29")
def test_a_body_that_inflates_beyond_the_limit_is_refused(strict: ServerProcess) -> None:
    bomb = gzip.compress(b" " * (64 << 20))
    assert len(bomb) < 100_000
    status, error = refused(strict, bomb, Content_Encoding="gzip")
    assert status == 400
    assert f"inflates to more than the maximum of {4 << 20} bytes" in error


def test_compression_that_is_none_of_ours_or_broken(strict: ServerProcess) -> None:
    status, error = refused(strict, b"x", Content_Encoding="br")
    assert status in (400, 501)
    assert "br" in error
    status, error = refused(strict, b"not gzip", Content_Encoding="gzip")
    assert status == 400
    assert "gzip" in error


UNKNOWN_PATHS = {
    "/v2/models/nobody/infer": (404, "Request for unknown model: 'nobody' is not found"),
    "/v2/models/mlp/versions/9/infer": (404, "Request for unknown model: 'mlp' version 9 is not found"),
    "/v2/models/%FF%FE/infer": (400, "not valid UTF-8"),
    "/v2/models/..%2F..%2Fetc%2Fpasswd/infer": (404, "is not found"),
    "/v2/models/" + "a" * 8000 + "/infer": (404, "is not found"),
    "/v2/models//infer": (404, ""),
    "/v2/models/mlp/infer/": (404, "Not Found"),
    "/v2/models/mlp/nothing": (404, "Not Found"),
    "/v2/models/%00/infer": (404, "is not found"),
}


@pytest.mark.parametrize("path", UNKNOWN_PATHS, ids=range(len(UNKNOWN_PATHS)))
def test_unknown_paths_and_models(strict: ServerProcess, path: str) -> None:
    status, text = UNKNOWN_PATHS[path]
    found, error = refused(strict, {"inputs": [tensor()]}, path)
    assert found == status
    assert text in error


def test_wrong_messages_over_grpc(strict: ServerProcess) -> None:
    with triton.InferenceServerClient(strict.address) as client:
        for shape, text in (([2**32, 2**32], ""), ([-1, 16], ""), ([1, 17], ""), ([16], "")):
            given = triton.InferInput("x", [1, 16], "FP32")
            given.set_data_from_numpy(np.zeros((1, 16), np.float32))
            given._input.shape[:] = shape
            with pytest.raises(InferenceServerException) as caught:
                client.infer("mlp", [given])
            assert caught.value.status() in ("StatusCode.INVALID_ARGUMENT", "StatusCode.RESOURCE_EXHAUSTED")
            assert text in caught.value.message()
        given = triton.InferInput("x", [1, 16], "FP32")
        with pytest.raises(InferenceServerException) as caught:
            client.infer("mlp", [given])
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_a_message_over_the_limit_compressed_or_not(strict: ServerProcess, compression: str | None) -> None:
    values = np.zeros((1, 2_000_000), np.float32)
    given = triton.InferInput("x", list(values.shape), "FP32")
    given.set_data_from_numpy(values)
    with (
        triton.InferenceServerClient(strict.address) as client,
        pytest.raises(InferenceServerException) as caught,
    ):
        client.infer("identity_fp32", [given], compression_algorithm=compression)
    assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
    assert str(4 << 20) in caught.value.message()


def test_bytes_that_are_no_protobuf(strict: ServerProcess) -> None:
    with grpc.insecure_channel(strict.address) as channel:
        for method, status in (
            ("ModelInfer", grpc.StatusCode.INVALID_ARGUMENT),
            ("Nothing", grpc.StatusCode.UNIMPLEMENTED),
        ):
            call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
            with pytest.raises(grpc.RpcError) as caught:
                call(b"\xff\xff\xff\xff", timeout=PATIENCE_S)
            assert caught.value.code() == status
