"""TorchServe's errors over HTTP and gRPC."""

import json

import pytest

from salver.dialects.torchserve.faults import (
    TORCHSERVE,
    UNAUTHORIZED,
    NamedFault,
    class_of,
    fault_of,
    grpc_code,
    has_no_worker,
    http_fault,
    inference_status,
    management_status,
    no_model,
    no_version,
)
from salver.words import errors
from salver.words.errors import (
    BadArchive,
    BadGraph,
    Code,
    Conflict,
    DeadlineExceeded,
    HandlerFailed,
    HostDied,
    InvalidInput,
    ModelFailed,
    NoDownload,
    NoRoute,
    NotFound,
    NotReady,
    NoVersion,
    NoWorkflow,
    Overloaded,
    SalverError,
    StillDefault,
    TooLarge,
    Unauthenticated,
    WorkersFailed,
    WorkflowFailed,
    WrongVerb,
)

INTERNAL, UNAVAILABLE, ABORTED, NOT_FOUND, INVALID, DENIED, UNKNOWN = 13, 14, 10, 5, 3, 7, 2


@pytest.mark.clause("TS-R19")
def test_the_table_is_total() -> None:
    assert set(TORCHSERVE) == set(Code)


@pytest.mark.clause("TS-R19", "TS-R21")
@pytest.mark.parametrize(
    ("error", "status", "kind", "message"),
    [
        (NoRoute("x"), 404, "ResourceNotFoundException",
         "Requested resource is not found, please refer to API document."),
        (WrongVerb("x"), 405, "MethodNotAllowedException",
         "Requested method is not allowed, please refer to API document."),
        (no_model("m"), 404, "ModelNotFoundException", "Model not found: m"),
        (no_version("m", "9"), 404, "ModelVersionNotFoundException",
         "Model version: 9 does not exist for model: m"),
        (InvalidInput("no url"), 400, "BadRequestException", "no url"),
        (Conflict("Model version 1.0 is already registered for model m"), 409, "ConflictStatusException",
         "Model version 1.0 is already registered for model m"),
        (Unauthenticated(UNAUTHORIZED), 400, "InvalidKeyException", UNAUTHORIZED),
        (StillDefault("Cannot remove default version for model m"), 403, "InvalidModelVersionException",
         "Cannot remove default version for model m"),
        (BadArchive("x"), 400, "InvalidModelException", "x"),
        (NoDownload("x"), 400, "DownloadArchiveException", "x"),
        (BadGraph("x"), 400, "InvalidDAGException", "x"),
        (NoWorkflow("x"), 404, "WorkflowNotFoundException", "x"),
        (WorkflowFailed("x"), 500, "WorkflowException", "x"),
        (WorkersFailed("Failed to start workers for model m version: 1.0"), 500, "InternalServerException",
         "Failed to start workers for model m version: 1.0"),
        (HandlerFailed("Prediction failed"), 503, "InternalServerException", "Prediction failed"),
        (HandlerFailed("asked for 599", 599), 599, "InternalServerException", "asked for 599"),
        (HandlerFailed("asked for 201", 201), 201, "InternalServerException", "asked for 201"),
        (HandlerFailed("asked for 413", 413), 507, "InternalServerException", "asked for 413"),
        (HandlerFailed("odd", 7), 500, "InternalServerException", "odd"),
        (HostDied("Worker died."), 500, "InternalServerException", "Worker died."),
        (NamedFault("x", 500, "JsonSyntaxException"), 500, "JsonSyntaxException", "x"),
        (InvalidInput("half \ud800"), 400, "BadRequestException", "half ?"),
    ],
)  # fmt: skip
def test_errors_over_http(error: SalverError, status: int, kind: str, message: str) -> None:
    reply = http_fault(error)
    assert reply.status == status
    assert json.loads(reply.body) == {"code": status, "type": kind, "message": message}
    assert reply.reason is None


@pytest.mark.clause("TS-R22")
def test_an_error_is_laid_out_as_every_reply() -> None:
    assert http_fault(no_model("nobody")).body == (
        b'{\n  "code": 404,\n  "type": "ModelNotFoundException",\n  "message": "Model not found: nobody"\n}\n'
    )


@pytest.mark.clause("TS-R21")
def test_a_model_without_room_or_workers_says_so_with_the_stray_quote() -> None:
    tail = (
        " has no worker to serve inference request. Please use scale workers API to add workers. If this is "
        "a sequence inference, please check if it is closed, or expired; or exceeds maxSequenceJobQueueSize"
    )
    assert fault_of(NotReady("loading"), "m").message == 'Model "m"' + tail
    assert fault_of(Overloaded("full"), "m", "1.0").message == 'Model "m" Version 1.0"' + tail
    assert has_no_worker("m", is_describing=True) == (
        'Model "m" has no worker to serve describe request. Please use scale workers API to add workers.'
    )
    assert fault_of(NotReady("as it is")).message == "as it is"


def test_a_full_queue_says_when_to_come_back() -> None:
    reply = http_fault(Overloaded("full", retry_after=2.2), "m")
    assert (reply.status, (b"retry-after", b"3") in reply.headers) == (503, True)
    assert inference_status(Overloaded("full", retry_after=0.25), "m").pushback_ms == 250
    assert (b"retry-after", b"1") in http_fault(Overloaded("full", retry_after=float("-inf"))).headers


def test_a_deadline_that_passed_is_503() -> None:
    assert fault_of(DeadlineExceeded("late"), "m").status == 503
    assert inference_status(DeadlineExceeded("late"), "m").code == 4


@pytest.mark.clause("TS-R16")
def test_what_is_too_large_is_refused_without_a_body() -> None:
    reply = http_fault(TooLarge("x"))
    assert (reply.status, reply.body, reply.headers) == (413, b"", ())


@pytest.mark.clause("TS-R19")
def test_a_success_that_is_raised_is_the_word_error() -> None:
    reply = http_fault(HandlerFailed("asked for 200", 200))
    assert (reply.status, reply.body, reply.headers) == (200, b"error", ())


def test_missing_models_are_told_by_the_name_that_was_asked_for() -> None:
    assert fault_of(NotFound("of another protocol"), "m").message == "Model not found: m"
    told = fault_of(NoVersion("of another protocol"), "m", "x")
    assert (told.kind, told.message) == (
        "ModelVersionNotFoundException",
        "Model version: x does not exist for model: m",
    )


@pytest.mark.clause("TS-G5")
@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (no_model("m"), INTERNAL,
         "Model not found: m\norg.pytorch.serve.archive.model.ModelNotFoundException"),
        (HandlerFailed("Prediction failed"), UNAVAILABLE,
         "Prediction failed\norg.pytorch.serve.http.InternalServerException"),
        (HandlerFailed("x", 507), INTERNAL, "x\norg.pytorch.serve.http.InternalServerException"),
        (InvalidInput("Parameter model_name is required."), INTERNAL,
         "Parameter model_name is required.\nBadRequestException.()"),
        (NotReady(""), INTERNAL, has_no_worker("m") + "\nInternalServerException.()"),
        (Overloaded(""), UNAVAILABLE, has_no_worker("m") + "\nInternalServerException.()"),
        (Unauthenticated(UNAUTHORIZED), DENIED, UNAUTHORIZED),
        (errors.Cancelled("gone"), 1, "gone"),
        (ModelFailed("x"), UNAVAILABLE, "x\norg.pytorch.serve.http.InternalServerException"),
    ],
)  # fmt: skip
def test_errors_of_inference_over_grpc(error: SalverError, code: int, text: str) -> None:
    status = inference_status(error, "m")
    assert (status.code, status.message) == (code, text)


@pytest.mark.clause("TS-G5")
@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (no_version("m", "8"), NOT_FOUND,
         "Model version: 8 does not exist for model: m\n"
         "org.pytorch.serve.archive.model.ModelVersionNotFoundException"),
        (InvalidInput("Parameter url is required."), INVALID,
         "Parameter url is required.\norg.pytorch.serve.http.BadRequestException"),
        (Conflict("there"), ABORTED, "there\norg.pytorch.serve.http.ConflictStatusException"),
        (StillDefault("it is"), UNKNOWN, "it is\norg.pytorch.serve.http.InvalidModelVersionException"),
        (Unauthenticated(UNAUTHORIZED), DENIED, UNAUTHORIZED),
        (WorkersFailed("x"), INTERNAL, "x\norg.pytorch.serve.http.InternalServerException"),
        (NoDownload("x"), INVALID, "x\norg.pytorch.serve.archive.DownloadArchiveException"),
    ],
)  # fmt: skip
def test_errors_of_management_over_grpc(error: SalverError, code: int, text: str) -> None:
    status = management_status(error)
    assert (status.code, status.message) == (code, text)


@pytest.mark.clause("TS-G5")
def test_statuses_of_http_have_one_of_grpc_each() -> None:
    rows = {
        400: 3,
        401: 16,
        403: 7,
        404: 5,
        409: 10,
        413: 8,
        416: 11,
        429: 8,
        499: 1,
        501: 12,
        503: 14,
        504: 4,
    }
    assert {status: grpc_code(status) for status in rows} == rows
    assert [grpc_code(status) for status in (405, 418, 500, 507, 200)] == [9, 9, 13, 13, 13]
    assert class_of("ErrorDataDecoderException").endswith("HttpPostRequestDecoder$ErrorDataDecoderException")


def test_every_kind_of_error_has_a_form() -> None:
    for code in Code:
        error = SalverError("x")
        error.code = code
        assert http_fault(error, "m").status >= 400
        assert inference_status(error, "m").code > 0
        assert management_status(error).code > 0
