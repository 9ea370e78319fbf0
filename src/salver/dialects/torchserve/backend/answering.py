"""How is one run of a handler made, whatever asks for it?

What it is told of its requests, what its failures mean, and where pieces go that it sends before its last
word. Knows no wire; where requests come from and replies go to is its callers'.
"""

import logging
import time
from asyncio import CancelledError
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from salver.dialects.torchserve.backend.replies import Replies, refused, replies_to
from salver.dialects.torchserve.backend.requests import data_of, headers_of
from salver.words.handlers import Form

if TYPE_CHECKING:
    from ts.context import Context

_TIME: Final = "PredictionTime"
_log = logging.getLogger(__name__)


class Run(msgspec.Struct):
    """One call of a handler.

    Attributes:
        data: Of each request, what its parts hold.
        ids: Of requests, by index.
    """

    data: list[dict[str, Any]]
    ids: dict[int, str]
    began: float = 0.0


class Pieces:
    """What a handler takes for the connection to its server (``context.cl_socket``).

    Args:
        take: Is handed every piece, with the id of its request.
    """

    def __init__(self, take: Callable[[Replies], None]) -> None:
        self._take: Callable[[Replies], None] | None = take

    def sendall(self, replies: Replies) -> None:
        """Hand over what ``create_predict_response`` has made; without effect when the run is over."""
        if (take := self._take) is not None:
            take(replies)

    def close(self) -> None:
        """The run is over."""
        self._take = None


def begin(context: "Context", asked: Sequence[tuple[str, Form]], is_decoded: bool, pieces: Pieces) -> Run:
    """Tell the context of the requests, each with its id."""
    from ts.context import RequestProcessor

    ids = {index: id for index, (id, _) in enumerate(asked)}
    context.request_ids = ids
    context.request_processor = [RequestProcessor(headers_of(form)) for _, form in asked]
    context.cl_socket = pieces
    context.metrics.request_ids = ids
    return Run([data_of(form, is_decoded) for _, form in asked], ids, time.perf_counter())


def failed(error: BaseException, ids: dict[int, str]) -> Replies:
    """What the callers are told of what a handler raised (TS-R19).

    Raises:
        BaseException: it is no failure: a handler that calls ``sys.exit`` wants its worker ended.
    """
    from ts.utils.util import PredictionException

    if isinstance(error, PredictionException):
        _log.error("Prediction error", exc_info=error)
        return refused(ids, str(error.message), error.error_code)
    if isinstance(error, MemoryError) or (isinstance(error, Exception) and "CUDA" in str(error)):
        _log.error("Out of memory", exc_info=error)
        return refused(ids, "Out of resources", 507)
    if isinstance(error, Exception | CancelledError):
        _log.warning("Invoking custom service failed.", exc_info=error)
        return refused(ids, "Prediction failed", 503)
    raise error


def finish(context: "Context", run: Run, said: object) -> Replies:
    """What the callers are told of what a handler returned."""
    if not isinstance(said, list):
        _log.warning("model: %s, Invalid return type: %s.", context.model_name, type(said))
        return refused(run.ids, "Invalid model predict output", 503)
    if len(said) != len(run.data):
        wanted = len(run.data)
        _log.warning(
            "model: %s, number of batch response mismatched, expect: %d, got: %d.",
            context.model_name, wanted, len(said),
        )  # fmt: skip
        return refused(run.ids, "number of batch response mismatched", 503)
    context.metrics.add_time(_TIME, round((time.perf_counter() - run.began) * 1000, 2))
    return replies_to(said, run.ids, "Prediction success", 200, context)


def kind_of(form: Form) -> str:
    """Requests of one kind may share a run: the first one's headers say what it is to be."""
    headers = form.headers
    if headers.get("describe") == "True":
        return "describe"
    return "explain" if headers.get("explain") == "True" else ""


def by_kind(asked: list[tuple[str, Form]]) -> list[list[tuple[str, Form]]]:
    """The requests of each run, in their order."""
    if len(asked) == 1:
        return [asked]
    runs: dict[str, list[tuple[str, Form]]] = {}
    for each in asked:
        runs.setdefault(kind_of(each[1]), []).append(each)
    return list(runs.values())
