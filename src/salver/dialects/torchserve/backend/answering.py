"""One call of a handler: its input, its failures, and the pieces that it sends before its result.

No wire and no process is known here.
"""

import json
import logging
import time
from asyncio import CancelledError
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from salver.dialects.torchserve.backend.replies import Replies, error_replies, make_replies
from salver.words.handlers import Form, Part

if TYPE_CHECKING:
    from ts.context import Context

_TIME: Final = "PredictionTime"
_log = logging.getLogger(__name__)


class Run(msgspec.Struct):
    """One call of a handler.

    Attributes:
        data: Values of the parts of each request.
        ids: Ids of requests, by index.
    """

    data: list[dict[str, Any]]
    ids: dict[int, str]
    began: float = 0.0


class PieceSocket:
    """Stand-in for the connection to the server (``context.cl_socket``).

    Args:
        take: Receives every piece, with the id of its request.
    """

    def __init__(self, take: Callable[[Replies], None]) -> None:
        self._take: Callable[[Replies], None] | None = take

    def sendall(self, replies: Replies) -> None:
        """Pass on what ``create_predict_response`` returned; without effect when the run is over."""
        if (take := self._take) is not None:
            take(replies)

    def close(self) -> None:
        """End the run."""
        self._take = None


def data_of(form: Form, is_decoded: bool) -> dict[str, Any]:
    """Return parts by name: JSON as objects, text as text, others (and malformed ones) as bytearrays
    (TS-R13).
    """
    return {part.name: _value(part, is_decoded) for part in form.parts}


def headers_of(form: Form) -> dict[str, Any]:
    """Return the headers as they were sent, and each part's name with its content type."""
    headers: dict[str, Any] = {part.name: {"content-type": part.content_type} for part in form.parts}
    headers.update(form.headers)
    return headers


def _value(part: Part, is_decoded: bool) -> Any:
    content = bytearray(part.data.data)
    if not is_decoded:
        return content
    try:
        if part.content_type == "application/json":
            return json.loads(content.decode())
        if part.content_type.startswith("text"):
            return content.decode()
    except (ValueError, RecursionError) as error:
        _log.warning("part %r is no %s and stays bytes: %s", part.name, part.content_type, error)
    return content


def begin(
    context: "Context", requests: Sequence[tuple[str, Form]], is_decoded: bool, pieces: PieceSocket
) -> Run:
    """Prepare the context for a run of requests, each given with its id."""
    from ts.context import RequestProcessor

    ids = {index: id for index, (id, _) in enumerate(requests)}
    context.request_ids = ids
    context.request_processor = [RequestProcessor(headers_of(form)) for _, form in requests]
    context.cl_socket = pieces
    context.metrics.request_ids = ids
    return Run([data_of(form, is_decoded) for _, form in requests], ids, time.perf_counter())


def failure_replies(error: BaseException, ids: dict[int, str]) -> Replies:
    """Return the replies to an exception of a handler (TS-R19).

    Raises:
        BaseException: it is no failure: a handler calls ``sys.exit`` to end its worker.
    """
    from ts.utils.util import PredictionException

    if isinstance(error, PredictionException):
        _log.error("Prediction error", exc_info=error)
        return error_replies(ids, str(error.message), error.error_code)
    if isinstance(error, MemoryError) or (isinstance(error, Exception) and "CUDA" in str(error)):
        _log.error("Out of memory", exc_info=error)
        return error_replies(ids, "Out of resources", 507)
    if isinstance(error, Exception | CancelledError):
        _log.warning("Invoking custom service failed.", exc_info=error)
        return error_replies(ids, "Prediction failed", 503)
    raise error


def finish(context: "Context", run: Run, result: object) -> Replies:
    """Return the replies to the result of a handler."""
    if not isinstance(result, list):
        _log.warning("model: %s, Invalid return type: %s.", context.model_name, type(result))
        return error_replies(run.ids, "Invalid model predict output", 503)
    if len(result) != len(run.data):
        wanted = len(run.data)
        _log.warning(
            "model: %s, number of batch response mismatched, expect: %d, got: %d.",
            context.model_name, wanted, len(result),
        )  # fmt: skip
        return error_replies(run.ids, "number of batch response mismatched", 503)
    context.metrics.add_time(_TIME, round((time.perf_counter() - run.began) * 1000, 2))
    return make_replies(result, run.ids, "Prediction success", 200, context)


def kind_of(form: Form) -> str:
    """Return the kind of a request from its headers; requests of one kind may share a run."""
    for kind in ("describe", "explain"):
        if form.headers.get(kind) == "True":
            return kind
    return ""


def group_by_kind(requests: list[tuple[str, Form]]) -> list[list[tuple[str, Form]]]:
    """Group requests into runs, in order."""
    if len(requests) == 1:
        return [requests]
    runs: dict[str, list[tuple[str, Form]]] = {}
    for each in requests:
        runs.setdefault(kind_of(each[1]), []).append(each)
    return list(runs.values())
