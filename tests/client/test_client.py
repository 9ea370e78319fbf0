"""The client's methods: what they send, what they make of the answers."""

from typing import Any

import numpy as np
import orjson
import pytest

from salver.client import Client
from salver.client.encoding import decode_reply, encode_request
from salver.client.http import Reply
from salver.dialects.oip.json_codec import OpenInferenceHttp
from salver.encoding.bodies import HttpBody
from salver.words import errors
from salver.words.messages import InferResponse, Signature, TensorSpec
from salver.words.tensor import DATATYPES, DataType, Tensor, as_bytes, bf16_from_fp32, tensor


def make(kind: DataType) -> Tensor:
    if kind is DataType.BYTES:
        return Tensor("x", kind, as_bytes([["a", b"\xff\x00"], ["", "ä"]]))
    if kind is DataType.BF16:
        return Tensor("x", kind, bf16_from_fp32(np.array([[1.5, -2.0]], "f4")))
    return Tensor("x", kind, np.array([[0, 1], [1, 0]]).astype(kind.dtype))


@pytest.mark.parametrize("kind", DATATYPES.values(), ids=DATATYPES)
def test_every_datatype_survives_the_way_to_the_server_codec_and_back(kind: DataType) -> None:
    sent = make(kind)
    signature = Signature((TensorSpec("x", kind, (-1, 2)),), (TensorSpec("y", kind, (-1, 2)),))
    headers, body = encode_request([sent], id="7", parameters={"timeout": 5})
    codec = OpenInferenceHttp()
    raw = {name.encode(): value.encode() for name, value in headers}
    request = codec.decode(HttpBody("m", "", body, raw), signature)
    assert request.id == "7"
    assert request.parameters["timeout"] == 5
    assert request.inputs[0].datatype is kind
    answer = InferResponse("m", "1", (Tensor("y", kind, request.inputs[0].array),), id="7")
    reply = codec.encode(request, answer)
    (got,) = decode_reply(dict(reply.headers), reply.body)
    assert got.name == "y"
    assert got.datatype is kind
    np.testing.assert_array_equal(got.array, sent.array)


def test_a_json_reply_is_understood_too() -> None:
    body = orjson.dumps(
        {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1, 2.5]}]},
    )
    (got,) = decode_reply({}, body)
    assert got.array.tolist() == [[1.0, 2.5]]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"outputs":[{}]}',
        b'{"outputs":[5]}',
        b'{"outputs":[{"name":"y","datatype":"FP99","shape":[1],"data":[1]}]}',
        b'{"outputs":[{"name":"y","datatype":"FP32","shape":[2],"data":[1]}]}',
        b'{"outputs":[{"name":"y","datatype":"FP32","shape":[2],"parameters":{"binary_data_size":8}}]}',
        b'{"outputs":[{"name":"y","datatype":"FP32","shape":[2],"parameters":5}]}',
        b'{"outputs":[{"name":"y","datatype":"FP32","shape":[-1],"data":[1]}]}',
    ],
)
def test_a_reply_that_is_none_says_so(body: bytes) -> None:
    with pytest.raises(errors.InvalidInput):
        decode_reply({}, body)


class FakeHttp:
    """Records requests and answers each with the same reply."""

    url = "http://fake"

    def __init__(self, status: int = 200, body: Any = None) -> None:
        self.reply = Reply(status, {}, body if isinstance(body, bytes) else orjson.dumps(body))
        self.asked: list[tuple[str, str]] = []

    def request(self, verb: str, path: str, body: bytes = b"", headers: object = ()) -> bytes:
        self.asked.append((verb, path))
        return b""

    async def send(self, request: bytes) -> Reply:
        return self.reply

    async def close(self) -> None: ...


def client_on(http: FakeHttp) -> Client:
    client = Client()
    client._http = http  # type: ignore[assignment]
    return client


async def test_paths_of_every_call() -> None:
    http = FakeHttp(200, {"outputs": []})
    client = client_on(http)
    await client.live()
    await client.ready()
    await client.ready("a/b", "v 1")
    await client.metadata()
    await client.metadata("m")
    await client.statistics()
    await client.statistics("m", "2")
    await client.load("a/b")
    await client.unload("m")
    await client.infer("m", {"x": np.ones(1)}, version="3")
    http.reply = Reply(200, {}, b"[]")
    await client.index()
    assert http.asked == [
        ("GET", "/v2/health/live"),
        ("GET", "/v2/health/ready"),
        ("GET", "/v2/models/a%2Fb/versions/v%201/ready"),
        ("GET", "/v2"),
        ("GET", "/v2/models/m"),
        ("GET", "/v2/models/stats"),
        ("GET", "/v2/models/m/versions/2/stats"),
        ("POST", "/v2/repository/models/a%2Fb/load"),
        ("POST", "/v2/repository/models/m/unload"),
        ("POST", "/v2/models/m/versions/3/infer"),
        ("POST", "/v2/repository/index"),
    ]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.InvalidInput),
        (404, errors.NotFound),
        (413, errors.TooLarge),
        (429, errors.Overloaded),
        (503, errors.NotReady),
        (504, errors.DeadlineExceeded),
        (500, errors.ModelFailed),
        (502, errors.ModelFailed),
    ],
)
async def test_statuses_become_errors_with_the_servers_words(status: int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="because of that") as caught:
        await client_on(FakeHttp(status, {"error": "because of that"})).infer("m", {"x": [1]})
    assert type(caught.value) is kind


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'"error"'])
async def test_an_error_without_words_still_tells_its_status(body: bytes) -> None:
    with pytest.raises(errors.NotReady, match="the server answers 503"):
        await client_on(FakeHttp(503, body)).metadata("m")


async def test_ready_is_a_question_not_an_error() -> None:
    assert not await client_on(FakeHttp(400, {})).ready("m")
    assert await client_on(FakeHttp(200, {})).ready("m")


async def test_an_input_of_no_datatype_is_refused_before_it_is_sent() -> None:
    http = FakeHttp()
    with pytest.raises(errors.InvalidInput, match="complex"):
        await client_on(http).infer("m", {"x": np.array([1j])})
    assert http.asked == []


async def test_outputs_are_arrays_and_bf16_is_widened() -> None:
    described = {"name": "x", "datatype": "BF16", "shape": [1, 2], "parameters": {"binary_data_size": 4}}
    text = orjson.dumps({"outputs": [described]})
    http = FakeHttp()
    http.reply = Reply(
        200,
        {b"inference-header-content-length": str(len(text)).encode()},
        text + make(DataType.BF16).array.tobytes(),
    )
    answer = await client_on(http).infer("m", {"x": tensor("x", [1.0])})
    assert answer["x"].dtype == np.float32
    assert answer["x"].tolist() == [[1.5, -2.0]]
