"""What is said to callers by what a handler returned, set and sent?

TorchServe's rules of bodies, statuses and headers; what it says before its last word says so in a header. It
knows no process and no wire.
"""

import functools
import io
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from salver.words.handlers import HandlerReply

#: The header that says whether more follows.
NEXT: Final = "ts_stream_next"
#: Replies, each with the id of its request.
Replies = list[tuple[str, HandlerReply]]
_TYPE = "content-type"
_SCALARS: Final = frozenset((str, int, float, bool, type(None)))
_log = logging.getLogger(__name__)


class Said(Protocol):
    """What a handler has said of replies beside their bodies; ``ts.context.Context`` is one."""

    stopping_criteria: Any

    def get_response_status(self, idx: int) -> tuple[int, str | None]:
        """Code and phrase."""
        ...

    def get_response_headers(self, idx: int) -> dict[str, str]:
        """Also the content type."""
        ...

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        """In place of an older value."""
        ...


class _Unserialisable(Exception):
    pass


def replies_to(
    said: Sequence[Any] | None,
    ids: Mapping[int, str],
    message: str,
    code: int,
    context: Said | None = None,
    is_piece: bool = False,
) -> Replies:
    """A reply to each request.

    Args:
        said: By index; None = the run failed, and ``message`` and ``code`` say how.
        is_piece: More follows to each of them.
    """
    if said is None:
        return refused(ids, message, code)
    try:
        return [(id, _reply(said[index], index, context, is_piece)) for index, id in ids.items()]
    except _Unserialisable as error:
        _log.warning("Unable to serialize model output: %s", error)
        return refused(ids, "Unsupported model output data type.", 503)
    except Exception:
        _log.warning("What the handler has set of its reply cannot be said.", exc_info=True)
        return refused(ids, "Prediction failed", 503)


def refused(ids: Mapping[int, str], message: str, code: object) -> Replies:
    """To each of them, that the run failed."""
    if code == 200:  # raised with a code of success: its callers see a word, and no reason
        reply = HandlerReply(b"error")
    elif type(code) is int and 100 <= code <= 999:
        reply = HandlerReply(message.encode(errors="replace"), 507 if code == 413 else code, is_error=True)
    else:
        reply = HandlerReply(b"Prediction failed", 503, is_error=True)
    return [(id, reply) for id in ids.values()]


def _reply(value: Any, index: int, context: Said | None, is_piece: bool) -> HandlerReply:
    body = _body(value)
    if context is None:
        return HandlerReply(body)
    _say_next(value, index, context, is_piece)
    headers, content_type = dict(context.get_response_headers(index)), ""
    if headers:
        for key in [key for key in headers if key.lower() == _TYPE]:
            content_type = headers.pop(key) or ""
    status, reason = context.get_response_status(index)
    status = 200 if status is None else status
    _check(status, reason or "", content_type, headers)
    return HandlerReply(body, status, reason or "", content_type, headers)


def _check(status: object, reason: object, content_type: object, headers: Mapping[Any, Any]) -> None:
    texts = (reason, content_type, *headers, *headers.values())
    if type(status) is not int or not 100 <= status <= 999:
        raise ValueError(f"status {status!r}")
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"phrase {reason!r}, headers {headers!r}, content type {content_type!r}")


def _say_next(value: Any, index: int, context: Said, is_piece: bool) -> None:
    if is_piece:
        context.set_response_header(index, NEXT, "true")
    elif context.stopping_criteria:
        is_over = context.stopping_criteria[index](value)
        if is_over is not None:
            context.set_response_header(index, NEXT, "false" if is_over else "true")
    elif context.get_response_headers(index).get(NEXT) == "true":
        context.set_response_header(index, NEXT, "false")


def printed(value: Any, end: str = "\n") -> str:
    """``json.dumps(value, indent=2)``, which Python's fast encoder cannot do, and does here for what is flat.

    Args:
        end: The end of a line, and the indentation of the next.
    """
    kind, line = type(value), f"{end}  "
    if kind in (list, dict) and value:
        if _SCALARS.issuperset(map(type, value.values() if kind is dict else value)):
            text = _flat(line).encode(value)
            return f"{text[0]}{line}{text[1:-1]}{end}{text[-1]}"
        if kind is list:
            return f"[{line}{f',{line}'.join([printed(each, line) for each in value])}{end}]"
    return json.dumps(value, indent=2).replace("\n", end)


@functools.cache
def _flat(line: str) -> json.JSONEncoder:
    return json.JSONEncoder(separators=(f",{line}", ": "))


def _body(value: Any) -> bytes:
    """Bytes and text as they are, tensors as PyTorch writes them, all else as JSON (TS-R14)."""
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    torch = sys.modules.get("torch")
    try:
        if isinstance(value, str):
            return value.encode()
        if torch is not None and isinstance(value, torch.Tensor):
            torch.save(value, buffer := io.BytesIO())
            return buffer.getvalue()
        return printed(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise _Unserialisable(f"{type(value).__name__}: {error}") from error
