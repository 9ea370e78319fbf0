"""How does a handler say something before its last word?"""

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
    """What ``context.cl_socket.sendall`` takes: of each request what is said to it.

    Args:
        ret: By index; None: an error, which ``message`` and ``code`` tell.
        ts_stream_next: More follows.
    """
    return make_replies(ret, req_id_map, message, code, context, ts_stream_next)


def send_intermediate_predict_response(
    ret: Sequence[Any] | None, req_id_map: Mapping[int, str], message: str, code: int, context: Any = None
) -> None:
    """As ``ts.handler_utils.utils`` has it, where it moved to."""
    context.cl_socket.sendall(create_predict_response(ret, req_id_map, message, code, context, True))
