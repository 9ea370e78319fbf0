"""Status and form of errors of TensorFlow Serving's REST interface."""

import json

import pytest

from salver.dialects.tensorflow.json_codec import Predict
from salver.words.errors import (
    Cancelled,
    Code,
    Conflict,
    DeadlineExceeded,
    FailedPrecondition,
    Forbidden,
    Internal,
    InvalidInput,
    ModelFailed,
    NotFound,
    NotReady,
    Overloaded,
    SalverError,
    TooLarge,
    Unauthenticated,
    Unsupported,
)


@pytest.mark.clause("TF-R20")
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidInput, 400),
        (FailedPrecondition, 400),
        (TooLarge, 400),
        (Unauthenticated, 401),
        (Forbidden, 403),
        (NotFound, 404),
        (NotReady, 404),
        (Conflict, 409),
        (type("RateLimited", (SalverError,), {"code": Code.RATE_LIMITED}), 429),
        (Cancelled, 499),
        (ModelFailed, 500),
        (Internal, 500),
        (Unsupported, 501),
        (Overloaded, 503),
        (DeadlineExceeded, 504),
    ],
)
def test_status_by_kind_of_error(error: type[SalverError], status: int) -> None:
    reply = Predict().fault(error("so it is"))
    assert reply.status == status
    assert reply.headers[0] == (b"content-type", b"application/json")
    assert list(json.loads(reply.body)) == ["error"]
    assert (len(reply.headers) == 2) == (error is Overloaded)  # Retry-After
