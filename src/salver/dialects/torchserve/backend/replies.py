"""Replies made from what a handler returned, set and sent.

TorchServe's rules of bodies, statuses and headers; a header marks pieces that others follow. No process and
no wire is known here.
"""

import functools
import io
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from salver.words.handlers import HandlerReply

#: Header that says whether more pieces follow.
NEXT: Final = "ts_stream_next"
#: Replies, each with the id of its request.
Replies = list[tuple[str, HandlerReply]]
_TYPE = "content-type"
_SCALARS: Final = frozenset((str, int, float, bool, type(None)))
_log = logging.getLogger(__name__)


class ReplyContext(Protocol):
    """Settings of replies besides their bodies; implemented by ``ts.context.Context``."""

    stopping_criteria: Any

    def get_response_status(self, idx: int) -> tuple[int | None, str | None]:
        """Return code and phrase."""
        ...

    def get_response_headers(self, idx: int) -> dict[str, str]:
        """Return the headers, including the content type."""
        ...

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        """Set a header, replacing its value."""
        ...


class _Unserialisable(Exception):
    pass


def make_replies(
    values: Sequence[Any] | None,
    ids: Mapping[int, str],
    message: str,
    code: int,
    context: ReplyContext | None = None,
    is_piece: bool = False,
) -> Replies:
    """Return a reply to each request.

    Args:
        values: Values by index; None = the run failed, with ``message`` and ``code``.
        is_piece: Whether more pieces follow.
    """
    if values is None:
        return error_replies(ids, message, code)
    try:
        return [(id, _reply(values[index], index, context, is_piece)) for index, id in ids.items()]
    except _Unserialisable as error:
        _log.warning("Unable to serialize model output: %s", error)
        return error_replies(ids, "Unsupported model output data type.", 503)
    except Exception:
        _log.warning("The status or headers that the handler has set are invalid.", exc_info=True)
        return error_replies(ids, "Prediction failed", 503)


def error_replies(ids: Mapping[int, str], message: str, code: object) -> Replies:
    """Return a reply to each request that says that the run failed."""
    if code == 413:
        code = 507
    reply = HandlerReply(b"Prediction failed", 503, is_error=True)
    if code == 200:  # raised with a code of success: TorchServe hides the message
        reply = HandlerReply(b"error")
    elif type(code) is int and 100 <= code <= 999:
        reply = HandlerReply(message.encode(errors="replace"), code, is_error=True)
    return [(id, reply) for id in ids.values()]


def _reply(value: Any, index: int, context: ReplyContext | None, is_piece: bool) -> HandlerReply:
    body = _body(value)
    if context is None:
        return HandlerReply(body)
    _mark_next(value, index, context, is_piece)
    headers, content_type = dict(context.get_response_headers(index)), ""
    for key in [key for key in headers if key.lower() == _TYPE]:
        content_type = headers.pop(key) or ""
    status, reason = context.get_response_status(index)
    if status is None:
        status = 200
    _check(status, reason or "", content_type, headers)
    return HandlerReply(body, status, reason or "", content_type, headers)


def _check(status: object, reason: object, content_type: object, headers: Mapping[Any, Any]) -> None:
    texts = (reason, content_type, *headers, *headers.values())
    if type(status) is not int or not 100 <= status <= 999:
        raise ValueError(f"status {status!r}")
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"phrase {reason!r}, headers {headers!r}, content type {content_type!r}")


def _mark_next(value: Any, index: int, context: ReplyContext, is_piece: bool) -> None:
    """Set the header that says whether more pieces follow."""
    if is_piece:
        context.set_response_header(index, NEXT, "true")
    elif context.stopping_criteria:
        is_over = context.stopping_criteria[index](value)
        if is_over is not None:
            context.set_response_header(index, NEXT, str(not is_over).lower())
    elif context.get_response_headers(index).get(NEXT) == "true":
        context.set_response_header(index, NEXT, "false")


def to_json(value: Any, end: str = "\n") -> str:
    """Return ``json.dumps(value, indent=2)``, using Python's fast encoder for flat values.

    Args:
        end: End of a line, and the indentation of the next.
    """
    kind, line, items = type(value), f"{end}  ", value
    if kind is dict:
        items = value.values()
    if kind in (list, dict) and value:
        if _SCALARS.issuperset(map(type, items)):
            text = _flat(line).encode(value)
            return f"{text[0]}{line}{text[1:-1]}{end}{text[-1]}"
        if kind is list:
            return f"[{line}{f',{line}'.join([to_json(each, line) for each in value])}{end}]"
    return json.dumps(value, indent=2).replace("\n", end)


@functools.cache
def _flat(line: str) -> json.JSONEncoder:
    return json.JSONEncoder(separators=(f",{line}", ": "))


def _body(value: Any) -> bytes:
    """Return the body of a value: bytes and text unchanged, tensors as PyTorch writes them, others as JSON
    (TS-R14).
    """
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    torch = sys.modules.get("torch")  # a handler without PyTorch must not import it here
    try:
        if isinstance(value, str):
            return value.encode()
        if torch is not None and isinstance(value, torch.Tensor):
            torch.save(value, buffer := io.BytesIO())
            return buffer.getvalue()
        return to_json(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise _Unserialisable(f"{type(value).__name__}: {error}") from error
