"""Handlers asked by the routes of other protocols."""

import json

import pytest

from salver.dialects.oip.explanation import Explanation
from salver.dialects.oip.json_codec import OpenInferenceHttp
from salver.dialects.tensorflow.json_codec import Explain, Predict
from salver.dialects.torchserve.foreign_forms import HandlerForms
from salver.encoding.bodies import HttpBody
from salver.words import handlers
from salver.words.errors import HandlerFailed, SalverError, Unsupported
from salver.words.handlers import SIGNATURE, HandlerReply
from salver.words.messages import InferRequest, InferResponse, Signature, TensorSpec
from salver.words.tensor import DataType, Tensor

JSON = {b"content-type": b"application/json", b"x-one": b"1"}
FORMS = HandlerForms()
TENSORS = Signature((TensorSpec("x", DataType.FP32, (-1,)),), ())


def answer(reply: HandlerReply) -> InferResponse:
    outputs, parameters = handlers.as_answer(reply)
    tensors = tuple(Tensor(name, DataType.UINT8, array) for name, array in outputs.items())
    return InferResponse("m", "1.0", tensors, parameters=parameters)


def body_of(request: InferRequest) -> tuple[bytes, str, str]:
    form = handlers.form_of(request)
    (part,) = form.parts
    assert form.headers["x-one" if "x-one" in form.headers else "explain"]
    return part.data.tobytes(), part.content_type, form.headers.get("explain", "")


def test_a_handler_gets_the_body_of_v2_as_it_came() -> None:
    body = b'{"inputs": [{"name": "i", "shape": [1], "datatype": "INT32", "data": [1]}], "id": "q"}'
    request = OpenInferenceHttp(forms=FORMS).decode(HttpBody("m", "1.0", body, JSON), SIGNATURE)
    assert body_of(request) == (body, "application/json", "False")
    assert (request.model, request.version) == ("m", "1.0")


def test_tensors_in_binary_become_the_json_of_the_protocol() -> None:
    entry = {"name": "i", "shape": [2], "datatype": "INT32", "parameters": {"binary_data_size": 8}}
    head = json.dumps({"id": "q", "inputs": [entry]}).encode()
    headers = {b"inference-header-content-length": b"%d" % len(head)}
    codec = OpenInferenceHttp(forms=FORMS)
    http = HttpBody("m", "", head + b"\x01\0\0\0\x02\0\0\0", headers)
    for _ in range(2):  # a form that is known, too
        (part,) = handlers.form_of(codec.decode(http, SIGNATURE)).parts
        told = json.loads(part.data.tobytes())
        assert told["inputs"] == [{"name": "i", "shape": [2], "datatype": "INT32", "data": [1, 2]}]
    reply = codec.encode(codec.decode(http, SIGNATURE), answer(HandlerReply(b'{"outputs": []}')))
    assert (reply.status, reply.body) == (200, b'{"outputs": []}')


def test_kserves_first_protocol_for_handlers() -> None:
    http = HttpBody("m", "", b'{"instances": [1]}', JSON)
    for codec, explains in ((Predict(forms=FORMS), "False"), (Explain(forms=FORMS), "True")):
        request = codec.decode(http, SIGNATURE)
        assert body_of(request) == (b'{"instances": [1]}', "application/json", explains)
        assert codec.encode(request, answer(HandlerReply(b"{}", 201))).status == 201
        fault = codec.fault(HandlerFailed("Prediction failed"))
        assert (fault.status, json.loads(fault.body)) == (
            503,
            {
                "error": "Prediction failed",
                "code": 503,
                "type": "InternalServerException",
                "message": "Prediction failed",
            },
        )
    with pytest.raises(Unsupported, match="no explainer"):
        Explain(forms=FORMS).decode(http, TENSORS)
    assert set(json.loads(Predict(forms=FORMS).fault(SalverError("x")).body)) == {"error"}


@pytest.mark.clause("TS-R7")
def test_explanations_by_the_second_protocol() -> None:
    codec = Explanation(FORMS)
    request = codec.decode(HttpBody("m", "", b"x", JSON), SIGNATURE)
    assert body_of(request) == (b"x", "application/json", "True")
    assert codec.encode(request, answer(HandlerReply(b"why"))).body == b"why"
    with pytest.raises(Unsupported, match="no explainer"):
        codec.decode(HttpBody("m", "", b"x"), TENSORS)
    assert json.loads(codec.fault(Unsupported("not so")).body) == {"error": "not so"}


def test_an_answer_has_a_content_type_and_the_handlers_headers() -> None:
    assert FORMS.write(answer(HandlerReply(b"{}", headers={"X-A": "b"}))).headers == (
        (b"content-type", b"application/json"),
        (b"x-a", b"b"),
    )
    typed = FORMS.write(answer(HandlerReply(b"", content_type="image/png")))
    assert typed.headers == ((b"content-type", b"image/png"),)
    with pytest.raises(HandlerFailed, match="asked") as caught:
        FORMS.write(answer(HandlerReply(b"asked", 507, is_error=True)))
    assert caught.value.status == 507
    with pytest.raises(HandlerFailed, match="broke"):
        FORMS.write(InferResponse("m", "1", (), error=HandlerFailed("broke")))
    assert FORMS.write(InferResponse("m", "1", ())).body == b""
    assert handlers.is_form(FORMS.read(HttpBody("m", "", b"")))
