"""TorchServe's gRPC messages to words and back, and what its clients are told of errors."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchserve_stubs import INFERENCE, MANAGEMENT, asked, inference, management, message

from salver.dialects.torchserve import grpc_codec as wire
from salver.dialects.torchserve.json_layout import read_reply
from salver.dialects.torchserve.rules import SEQUENCE_HEADERS
from salver.encoding.bodies import GrpcStatus
from salver.words import handlers
from salver.words.errors import (
    DeadlineExceeded,
    HandlerFailed,
    InvalidInput,
    NotFound,
    NotReady,
    Overloaded,
    SalverError,
    Unauthenticated,
    Unsupported,
    WaitedTooLong,
)
from salver.words.handlers import HandlerReply, Registration
from salver.words.messages import InferResponse, Signature
from salver.words.tensor import DataType, Tensor

_NO_WORKER = (
    "has no worker to serve inference request. Please use scale workers API to add workers. If this is a "
    "sequence inference, please check if it is closed, or expired; or exceeds maxSequenceJobQueueSize"
)
_PACKAGE = "org.pytorch.serve"


def _said(reply: HandlerReply, **more: Any) -> InferResponse:
    outputs, parameters = handlers.as_answer(reply)
    tensors = tuple([Tensor(name, DataType.UINT8, array) for name, array in outputs.items()])
    return InferResponse("m", "1.0", tensors, parameters=parameters, **more)


def _prediction(raw: bytes | GrpcStatus) -> Any:
    assert isinstance(raw, bytes)
    return message(f"{INFERENCE}.PredictionResponse").FromString(raw)


def _sequence(request: Any) -> wire.SequencePrediction:
    return wire.SequencePrediction(request.SerializeToString(), SEQUENCE_HEADERS, lambda: "0af1")


@pytest.mark.clause("TS-G1", "TS-G2")
@given(
    model=st.text(min_size=1),
    version=st.text(),
    input=st.dictionaries(st.text(), st.binary(), max_size=4),
)
def test_a_request_is_a_form(model: str, version: str, input: dict[str, bytes]) -> None:
    sent = inference("PredictionsRequest", model_name=model, model_version=version, input=input)
    codec = wire.Prediction(sent.SerializeToString())
    request = codec.decode(None, handlers.SIGNATURE)
    assert (codec.model, codec.version) == (request.model, request.version) == (model, version)
    form = handlers.form_of(request)
    assert {part.name: part.data.tobytes() for part in form.parts} == input
    assert form.headers == {}
    assert {part.content_type for part in form.parts} <= {""}


@pytest.mark.clause("TS-G2")
@given(st.binary(max_size=300))
def test_a_reply_is_a_message(body: bytes) -> None:
    codec = wire.Prediction(asked("m").SerializeToString())
    raw = codec.encode(
        codec.decode(None, handlers.SIGNATURE), _said(HandlerReply(body, 404, headers={"a": "b"}))
    )
    assert raw == inference("PredictionResponse", prediction=body).SerializeToString()


@given(st.binary(max_size=60))
def test_whatever_comes_is_read_or_refused(raw: bytes) -> None:
    for read in (wire.Prediction, wire.decode_registration, wire.decode_scale):
        try:
            read(raw)
        except InvalidInput:
            continue


@pytest.mark.clause("TS-G5")
def test_an_error_of_a_handler_ends_the_call() -> None:
    codec = wire.Prediction(asked("m").SerializeToString())
    request = codec.decode(None, handlers.SIGNATURE)
    with pytest.raises(HandlerFailed, match="no") as raised:
        codec.encode(request, _said(HandlerReply(b"no", 507, is_error=True)))
    assert codec.fault(raised.value) == GrpcStatus(13, f"no\n{_PACKAGE}.http.InternalServerException")


def test_models_of_tensors_are_named_the_right_service() -> None:
    with pytest.raises(Unsupported, match=r"inference\.GRPCInferenceService"):
        wire.Prediction(asked("onnx").SerializeToString()).decode(None, Signature((), ()))


@pytest.mark.clause("TS-G5")
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (
            NotFound("x", field="model"),
            (13, f"Model not found: m\n{_PACKAGE}.archive.model.ModelNotFoundException"),
        ),
        (
            NotFound("x", field="version"),
            (
                13,
                "Model version: 7 does not exist for model: m\n"
                f"{_PACKAGE}.archive.model.ModelVersionNotFoundException",
            ),
        ),
        (NotReady("it loads"), (13, f'Model "m" Version 7" {_NO_WORKER}\nInternalServerException.()')),
        (
            Overloaded("full", retry_after=2.5),
            (14, f'Model "m" Version 7" {_NO_WORKER}\nInternalServerException.()', 2500),
        ),
        (InvalidInput("Parameter x"), (13, "Parameter x\nBadRequestException.()")),
        (HandlerFailed("Worker died.", 500), (13, f"Worker died.\n{_PACKAGE}.http.InternalServerException")),
        (
            HandlerFailed("Prediction failed"),
            (14, f"Prediction failed\n{_PACKAGE}.http.InternalServerException"),
        ),
        (Unauthenticated("Token Authorization failed."), (7, "Token Authorization failed.")),
        (DeadlineExceeded("late"), (4, "late")),
        (WaitedTooLong("late"), (13, f"late\n{_PACKAGE}.http.ServiceUnavailableException")),
    ],
)
def test_how_calls_of_inference_end(error: SalverError, status: tuple[Any, ...]) -> None:
    codec = wire.Prediction(asked("m", model_version="7").SerializeToString())
    assert codec.fault(error) == GrpcStatus(*status)
    assert wire.StreamedPrediction(asked("m", model_version="7").SerializeToString()).fault(
        error
    ) == GrpcStatus(*status)


class TestSequences:
    """StreamPredictions2."""

    @pytest.mark.clause("TS-B6")
    def test_a_request_names_its_sequence(self) -> None:
        codec = _sequence(asked("m", sequence_id="s"))
        request = codec.decode(None, handlers.SIGNATURE)
        assert codec.refused is None
        assert [request.parameters[name] for name in handlers.SEQUENCE] == ["s", False, False]
        assert handlers.form_of(request).headers == {"ts_request_sequence_id": "s"}
        reply = _prediction(codec.encode(request, _said(HandlerReply(b"3"))))
        assert (reply.prediction, reply.HasField("sequence_id")) == (b"3", False)

    @pytest.mark.clause("TS-B6")
    def test_inputs_begin_and_end_it(self) -> None:
        more = {"ts_request_sequence_start": b"True", "ts_request_sequence_end": b"true"}
        codec = _sequence(inference("PredictionsRequest", model_name="m", input=more))
        request = codec.decode(None, handlers.SIGNATURE)
        assert [request.parameters[name] for name in handlers.SEQUENCE] == ["ts-seq-0af1", True, True]
        assert handlers.form_of(request).headers == {
            "ts_request_sequence_id": "ts-seq-0af1",
            "ts_request_sequence_start": "true",
            "ts_request_sequence_end": "true",
        }
        assert _prediction(codec.encode(request, _said(HandlerReply(b"3")))).sequence_id == "ts-seq-0af1"

    @pytest.mark.clause("TS-B6")
    @pytest.mark.parametrize(
        ("request_", "text"),
        [
            (asked("m"), "Parameter sequenceId is required."),
            (asked("", sequence_id="s"), "Parameter model_name is required."),
        ],
    )
    def test_what_is_refused_is_told_in_a_message(self, request_: Any, text: str) -> None:
        codec = _sequence(request_)
        assert codec.refused is not None
        status = _prediction(codec.refused).status
        assert (status.code, status.message, codec.farewell) == (13, text, None)
        info = message("google.rpc.ErrorInfo")()
        assert status.details[0].Unpack(info)
        assert info.reason == "BadRequestException.()"

    @pytest.mark.clause("TS-B6")
    def test_errors_are_messages(self) -> None:
        codec = _sequence(asked("m", sequence_id="s"))
        request = codec.decode(None, handlers.SIGNATURE)
        with pytest.raises(HandlerFailed) as raised:
            codec.encode(request, _said(HandlerReply(b"no", 507, is_error=True)))
        failed = _prediction(codec.fault(raised.value)).status
        assert (failed.code, failed.message, len(failed.details)) == (13, "no", 1)
        assert codec.farewell is None
        lost = _prediction(codec.fault(NotFound("x", field="model"))).status
        assert (lost.code, lost.message) == (13, "Model not found: m")
        assert codec.farewell == GrpcStatus(2, "")
        bare = _prediction(codec.fault(Unauthenticated("no key"))).status
        assert (bare.code, bare.message, len(bare.details)) == (7, "no key", 0)

    def test_what_is_no_message_is_told_in_one(self) -> None:
        codec = wire.SequencePrediction(b"\xff", SEQUENCE_HEADERS, lambda: "0af1")
        assert codec.refused is not None
        assert "not a PredictionsRequest" in _prediction(codec.refused).status.message


class TestManagement:
    """Its requests."""

    @pytest.mark.clause("TS-G3")
    def test_what_a_registration_says(self) -> None:
        sent = management(
            "RegisterModelRequest",
            url="a.mar",
            model_name="a",
            handler="h.py:run",
            runtime="python3",
            batch_size=2,
            max_batch_delay=3,
            initial_workers=4,
            response_timeout=5,
            startup_timeout=6,
            synchronous=True,
            s3_sse_kms=True,
        )
        assert wire.decode_registration(sent.SerializeToString()) == Registration(
            "a.mar", "a", "h.py:run", "python3", 2, 3, 4, True, 5, 6, True
        )

    @pytest.mark.clause("TS-G3")
    def test_what_is_left_out_is_not_said(self) -> None:
        sent = management("RegisterModelRequest", url="a.mar", batch_size=-1)
        assert wire.decode_registration(sent.SerializeToString()) == Registration("a.mar", waits=False)
        with pytest.raises(InvalidInput, match=r"Parameter url is required\."):
            wire.decode_registration(b"")

    @pytest.mark.clause("TS-G3")
    def test_how_many_workers(self) -> None:
        sent = management("ScaleWorkerRequest", model_name="a", max_worker=3, synchronous=True)
        assert wire.decode_scale(sent.SerializeToString()) == ("a", "", 1, 3, True)
        sent = management("ScaleWorkerRequest", model_name="a", model_version="2.0", min_worker=2)
        assert wire.decode_scale(sent.SerializeToString()) == ("a", "2.0", 2, None, False)

    @pytest.mark.clause("TS-G1", "TS-G3")
    def test_texts(self) -> None:
        health = message(f"{INFERENCE}.TorchServeHealthResponse")
        for is_healthy, word in ((True, "Healthy"), (False, "Unhealthy")):
            said = health.FromString(wire.encode_health(is_healthy)).health
            assert said == json.dumps({"status": word}, indent=2)
        made = wire.encode_management("done")
        assert message(f"{MANAGEMENT}.ManagementResponse").FromString(made).msg == "done"


def test_no_output_is_an_empty_reply() -> None:
    assert read_reply(InferResponse("m", "1", ())).body == b""
    with pytest.raises(NotReady):
        read_reply(InferResponse("m", "1", (), error=NotReady("x")))
    assert np.array_equal(handlers.part("a", b"").data, np.empty(0, np.uint8))


@pytest.mark.clause("TS-G7")
def test_what_is_streamed_shares_no_run() -> None:
    for kind, wanted in ((wire.Prediction, False), (wire.StreamedPrediction, True)):
        codec = kind(asked("m").SerializeToString())
        assert handlers.is_alone(codec.decode(None, handlers.SIGNATURE)) is wanted
