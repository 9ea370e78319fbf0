"""A request is read the same whether its form has come before or not, whatever was done to its bytes."""

import json
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.service_pb2 as pb
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from salver.dialects.oip import grpc_codec as oip_grpc
from salver.dialects.oip.grpc_codec import InferMessages, decode_infer, encode_infer
from salver.dialects.oip.json_codec import OpenInferenceHttp
from salver.encoding.bodies import HttpBody
from salver.encoding.known_forms import KnownForms
from salver.encoding.raw import to_raw
from salver.words.errors import InvalidInput, SalverError
from salver.words.messages import InferRequest, InferResponse, RequestedOutput, Signature
from salver.words.tensor import DataType, Tensor

_KINDS = [DataType.FP32, DataType.INT8, DataType.INT64, DataType.BOOL, DataType.BYTES, DataType.FP16]
_ANY = Signature((), ())
_LENGTH = b"inference-header-content-length"


@st.composite
def tensors(draw: st.DrawFn, name: str) -> Tensor:
    datatype = draw(st.sampled_from(_KINDS))
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=3))
    if datatype is DataType.BYTES:
        array = np.full(shape, b"ab", dtype=object)
        return Tensor(name, datatype, array)
    return Tensor(name, datatype, draw(hnp.arrays(datatype.dtype, shape)))


@st.composite
def requests(draw: st.DrawFn) -> InferRequest:
    inputs = [draw(tensors(name)) for name in ["x", "y", "zz"][: draw(st.integers(1, 3))]]
    outputs = draw(
        st.sampled_from(
            [
                (),
                (RequestedOutput("o"),),
                (RequestedOutput("o", {"binary_data": True}),),
                (RequestedOutput("o", {"classification": 2}),),
            ]
        )
    )
    parameters = draw(st.sampled_from([{}, {}, {"priority": 2}]))
    mark = draw(st.sampled_from(["", "", "7"]))
    return InferRequest("model", tuple(inputs), "", mark, outputs, parameters)


@st.composite
def spoiled(draw: st.DrawFn, whole: bytes) -> bytes:
    """The same, or with some bytes changed, left out or doubled."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data) - 1)) if data else 0
        match draw(st.sampled_from(["set", "cut", "insert", "end"])):
            case "set" if data:
                data[at] = draw(st.integers(0, 255))
            case "cut":
                del data[at : at + draw(st.integers(1, 3))]
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=3))
            case _:
                data += draw(st.binary(max_size=3))
    return bytes(data)


def _message(request: InferRequest) -> bytes:
    message = pb.ModelInferRequest(model_name=request.model, id=request.id)
    for tensor in request.inputs:
        message.inputs.add(name=tensor.name, datatype=tensor.datatype.name, shape=tensor.shape)
        message.raw_input_contents.append(bytes(to_raw(tensor)))
    for output in request.outputs:
        added = message.outputs.add(name=output.name)
        if "classification" in output.parameters:
            added.parameters["classification"].int64_param = 2
    for name in request.parameters:
        message.parameters[name].int64_param = 2
    return message.SerializeToString()


def _body(request: InferRequest) -> tuple[bytes, int]:
    raws = [bytes(to_raw(tensor)) for tensor in request.inputs]
    root: dict[str, Any] = {
        "inputs": [
            {
                "name": tensor.name,
                "datatype": tensor.datatype.name,
                "shape": list(tensor.shape),
                "parameters": {"binary_data_size": len(raw)},
            }
            for tensor, raw in zip(request.inputs, raws, strict=True)
        ],
        "outputs": [{"name": o.name, "parameters": dict(o.parameters)} for o in request.outputs],
        "parameters": dict(request.parameters),
    }
    if request.id:
        root["id"] = request.id
    text = json.dumps(root).encode()
    return text + b"".join(raws), len(text)


def _said(read: Any, *given: Any) -> Any:
    """What came of it, in a form that can be compared."""
    try:
        request = read(*given)
    except SalverError as error:
        return type(error), str(error)
    inputs = [(t.name, t.datatype, t.shape, t.array.dtype, t.array.tolist()) for t in request.inputs]
    assert all(t.array.flags.aligned for t in request.inputs)
    rest = (request.model, request.version, request.id, request.outputs, dict(request.parameters))
    return repr(inputs), rest


@given(requests(), st.data())
@settings(max_examples=300)
def test_grpc_reads_the_same(request: InferRequest, data: st.DataObject) -> None:
    messages = InferMessages()
    whole = _message(request)
    assert _said(messages.read, whole) == _said(decode_infer, whole)
    other = data.draw(spoiled(whole))
    assert _said(messages.read, other) == _said(decode_infer, other)
    assert _said(messages.read, whole) == _said(decode_infer, whole)


@given(requests(), st.data())
@settings(max_examples=300)
def test_http_reads_the_same(request: InferRequest, data: st.DataObject) -> None:
    codec = OpenInferenceHttp()
    whole, length = _body(request)
    headers = {_LENGTH: str(length).encode()}

    def read(codec: OpenInferenceHttp, body: bytes, headers: dict[bytes, bytes]) -> InferRequest:
        return codec.decode(HttpBody("model", "3", body, headers), _ANY)

    assert _said(read, codec, whole, headers) == _said(read, OpenInferenceHttp(), whole, headers)
    other = data.draw(spoiled(whole))
    headers = {_LENGTH: data.draw(st.sampled_from([headers[_LENGTH], str(length + 1).encode(), b"+9", b"0"]))}
    assert _said(read, codec, other, headers) == _said(read, OpenInferenceHttp(), other, headers)


def test_a_known_message_is_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = InferMessages()
    rows = np.arange(12, dtype=np.float32).reshape(2, 6)
    pair = [Tensor("x", DataType.FP32, rows), Tensor("y", DataType.INT64, np.array([1, 2, 3]))]
    messages.read(_message(InferRequest("model", tuple(pair))))

    def refuse(message: bytes) -> Any:
        raise AssertionError("parsed")

    monkeypatch.setattr(oip_grpc, "parse_infer", refuse)
    pair[0] = Tensor("x", DataType.FP32, rows + 1)
    request = messages.read(_message(InferRequest("model", tuple(pair))))
    np.testing.assert_array_equal(request.inputs[0].array, rows + 1)
    np.testing.assert_array_equal(request.inputs[1].array, [1, 2, 3])


@given(st.lists(tensors("o"), max_size=2), st.sampled_from(["", "7"]), st.booleans())
def test_grpc_writes_the_same(outputs: list[Tensor], mark: str, has_parameters: bool) -> None:
    messages = InferMessages()
    parameters = {"a": 1} if has_parameters else {}
    response = InferResponse("m", "1", tuple(outputs), mark, parameters)
    request = InferRequest("m", ())
    for _ in range(2):
        written = pb.ModelInferResponse.FromString(messages.write(request, response))
        assert written == pb.ModelInferResponse.FromString(encode_infer(request, response))


@given(tensors("o"))
def test_http_writes_the_same(output: Tensor) -> None:
    codec = OpenInferenceHttp()
    response = InferResponse("m", "1", (output,))
    asked, otherwise = InferRequest("m", ()), InferRequest("m", (), parameters={"a": 1})
    if output.datatype is DataType.FP16:
        for request in (asked, otherwise):
            with pytest.raises(InvalidInput, match="sending FP16 data via JSON is not supported"):
                codec.encode(request, response)
        return
    for _ in range(2):
        assert codec.encode(asked, response) == codec.encode(otherwise, response)


def test_there_is_a_bound() -> None:
    known: KnownForms[int, int] = KnownForms()
    for number in range(5000):
        known.add(number, number)
        assert len(known) <= 1024
        assert known.get(number) == number
