"""The codec of TorchServe's inference routes."""

import pytest

from salver.dialects.torchserve.predict import HandlerQuery, Prediction
from salver.words import handlers
from salver.words.errors import Code, HandlerFailed, NotFound, NoVersion, Overloaded, Unsupported
from salver.words.handlers import HandlerReply
from salver.words.messages import InferRequest, InferResponse, Signature
from salver.words.tensor import DataType, Tensor


def codec(version: str = "", *known: str, most: int = 0) -> Prediction:
    return Prediction("m", version, known.__contains__, most)


def answer(reply: HandlerReply, *, is_last: bool = True) -> InferResponse:
    outputs, parameters = handlers.as_answer(reply)
    tensors = tuple(Tensor(name, DataType.UINT8, array) for name, array in outputs.items())
    return InferResponse("m", "1.0", tensors, parameters=parameters, is_last=is_last)


@pytest.mark.clause("TS-R3", "TS-R17")
def test_a_request_is_a_form_with_its_headers_and_sequence() -> None:
    headers = {"X-One": "1", "explain": "False"}
    request = codec("2.0").decode(
        HandlerQuery(b"x", "text/plain", headers, id="id", sequence=("s", True, False)), handlers.SIGNATURE
    )
    assert (request.model, request.version, request.id) == ("m", "2.0", "id")
    assert [request.parameters[name] for name in handlers.SEQUENCE] == ["s", True, False]
    form = handlers.form_of(request)
    assert form.headers == headers
    assert [(part.name, part.data.tobytes(), part.content_type) for part in form.parts] == [
        ("body", b"x", "text/plain")
    ]


def test_a_model_of_tensors_is_no_handler() -> None:
    with pytest.raises(Unsupported, match="no handler"):
        codec().decode(HandlerQuery(b""), Signature((), ()))


@pytest.mark.clause("TS-R14", "TS-R15")
def test_an_answer_is_the_handlers_bytes_and_says_whether_more_follow() -> None:
    request = InferRequest("m", ())
    reply = codec().encode(request, answer(HandlerReply(b"ab", 201, "Made"), is_last=False))
    assert (reply.status, reply.reason, reply.body, reply.is_last) == (201, "Made", b"ab", False)
    assert codec().encode(request, InferResponse("m", "1", (), is_last=True)).body == b""
    with pytest.raises(HandlerFailed, match="asked") as caught:
        codec().encode(request, answer(HandlerReply(b"asked", 418, is_error=True)))
    assert caught.value.status == 418
    with pytest.raises(HandlerFailed, match="max_response_size is 2"):
        codec(most=2).encode(request, answer(HandlerReply(b"abc")))
    with pytest.raises(HandlerFailed, match="broke"):
        codec().encode(request, InferResponse("m", "1", (), error=HandlerFailed("broke")))


@pytest.mark.clause("TS-R21")
def test_faults_name_what_is_missing() -> None:
    missing = NotFound("in other words")
    assert b"Model not found: m" in codec().fault(missing).body
    assert b"Model not found: m" in codec("x").fault(NoVersion("so")).body
    assert b"Model version: x does not exist for model: m" in codec("x", "m").fault(NoVersion("so")).body
    assert b"Model version: 9 does not exist for model: m" in codec("9", "m").fault(missing).body
    assert b"has no worker" in codec("", "m").fault(missing).body  # it is there, and failed
    assert b'Model \\"m\\" has no worker' in codec().fault(Overloaded("full")).body
    assert codec().fault(HandlerFailed("x", 400)).status == 400
    assert HandlerFailed("x").code is Code.MODEL_FAILED
