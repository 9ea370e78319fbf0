"""Whether anybody waits for the answer to a request; asked between the steps of a long run."""

import time

from salver.words.errors import Cancelled, DeadlineExceeded, SalverError
from salver.words.messages import InferRequest


def is_abandoned(request: InferRequest) -> bool:
    """Return whether the caller has gone away, or the deadline has passed."""
    if request.is_gone is not None and request.is_gone():
        return True
    return request.deadline is not None and time.monotonic() > request.deadline


def abandoned(request: InferRequest) -> SalverError:
    """Return the error of such a request."""
    if request.deadline is not None and time.monotonic() > request.deadline:
        return DeadlineExceeded(f"the deadline of a request to model '{request.model}' passed while it ran")
    return Cancelled(f"the caller of model '{request.model}' has gone away")
