"""Pieces of an answer that a handler sends before its result."""

from collections.abc import Mapping, Sequence
from typing import Any

from salver.dialects.torchserve.backend.replies import Replies, make_replies


def create_predict_response(
    ret: Sequence[Any] | None,
    req_id_map: Mapping[int, str],
    message: str,
    code: int,
    context: Any = None,
    ts_stream_next: bool = False,
) -> Replies:
    """Return the argument of ``context.cl_socket.sendall``: a reply to each request.

    Args:
        ret: Values by index; None = an error, described by ``message`` and ``code``.
        ts_stream_next: Whether more pieces follow.
    """
    return make_replies(ret, req_id_map, message, code, context, ts_stream_next)


def send_intermediate_predict_response(
    ret: Sequence[Any] | None, req_id_map: Mapping[int, str], message: str, code: int, context: Any = None
) -> None:
    """Send a piece; the same as in ``ts.handler_utils.utils``, where it has moved."""
    context.cl_socket.sendall(create_predict_response(ret, req_id_map, message, code, context, True))
