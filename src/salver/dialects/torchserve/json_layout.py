"""Replies of handlers, and the layout of TorchServe's replies.

JSON as Gson prints it, one key a line (TS-R22), and the headers of every reply (TS-R16), which replies of
handlers have as well. Pure.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

import orjson

from salver.encoding.bodies import HttpReply
from salver.words.errors import HandlerFailed
from salver.words.handlers import HandlerReply, reply_of
from salver.words.messages import InferResponse

JSON: Final = (b"content-type", b"application/json")
_NO_CACHE: Final = (
    (b"pragma", b"no-cache"),
    (b"cache-control", b"no-cache; no-store, must-revalidate, private"),
    (b"expires", b"Thu, 01 Jan 1970 00:00:00 UTC"),
)
#: Says that more pieces of the answer follow (TS-R15).
STREAM_NEXT: Final = (b"ts_stream_next", b"true")
_LAYOUT: Final = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
#: Headers that the server writes, so that a handler cannot break the framing of a reply.
_OF_FRAMES: Final = frozenset(("content-length", "transfer-encoding", "connection", "content-type"))
_NAME: Final = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)  # RFC 9110, section 5.6.2
_BREAKING: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class TorchServeReply(HttpReply, gc=False):
    """A reply with fields that only TorchServe's replies have.

    Attributes:
        reason: Phrase of the status line; None = the standard one.
        is_last: Whether no piece follows.
    """

    reason: str | None = None
    is_last: bool = True


def to_json(value: Any) -> bytes:
    """Return JSON with an indentation of two; without a final line feed, as gRPC carries it.

    >>> print(to_json({"status": "Healthy", "of": []}).decode())
    {
      "status": "Healthy",
      "of": []
    }
    """
    try:
        text = orjson.dumps(value, option=_LAYOUT)
    except TypeError:  # half of a surrogate pair, or a number beyond 64 bits
        text = orjson.dumps(_plain(value), option=_LAYOUT)
    if b"\xe2\x80\xa8" in text or b"\xe2\x80\xa9" in text:  # line ends to JavaScript
        text = text.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return text


def json_reply(value: Any, status: int = 200, more: Sequence[tuple[bytes, bytes]] = ()) -> TorchServeReply:
    """Return a reply with a JSON body.

    Args:
        more: Further headers.
    """
    return TorchServeReply(status, to_json(value) + b"\n", (JSON, *more))


def status_reply(text: str, status: int = 200) -> TorchServeReply:
    """Return a reply with a status text."""
    return json_reply({"status": text}, status)


def read_reply(response: InferResponse, most: int = 0) -> HandlerReply:
    """Return the reply, or piece of one, that a response carries.

    Args:
        most: Maximum bytes (``max_response_size``); 0 = no limit.

    Raises:
        SalverError: the handler failed, or its reply is over the limit.
    """
    if response.error is not None:
        raise response.error
    body = None
    if response.outputs:
        body = response.outputs[0].array
    reply = reply_of(body, response.parameters)
    if reply.is_error:
        raise HandlerFailed(reply.body.decode("utf-8", "replace"), reply.status)
    return check_size(reply, most)


def check_size(reply: HandlerReply, most: int) -> HandlerReply:
    """Return the reply unchanged. Raises HandlerFailed if it has more than ``most`` bytes; 0 = no limit."""
    if most and len(reply.body) > most:
        raise HandlerFailed(f"the answer has {len(reply.body)} bytes, and max_response_size is {most}", 500)
    return reply


def handler_reply(reply: HandlerReply, *, is_last: bool = True) -> TorchServeReply:
    """Return the reply, or piece of one, of a handler that has not failed.

    The phrase of the status line is empty where the handler gave none (TS-R14).
    """
    if not reply.content_type and not reply.headers and not reply.reason:
        return TorchServeReply(reply.status, reply.body, (), "", is_last)
    headers = []
    if reply.content_type:
        headers.append((b"content-type", _value(reply.content_type)))
    for name, value in reply.headers.items():
        lower = name.lower()
        if _NAME.fullmatch(name) and (lower not in _OF_FRAMES or (lower == "content-type" and not headers)):
            headers.append((lower.encode(), _value(value)))
    return TorchServeReply(reply.status, reply.body, tuple(headers), _line(reply.reason), is_last)


def all_headers(
    reply: HttpReply, request_id: bytes, cors: Sequence[tuple[bytes, bytes]] = ()
) -> list[tuple[bytes, bytes]]:
    """Return the headers of a reply in TorchServe's order, without those of framing."""
    return [*reply.headers, (b"x-request-id", request_id), *cors, *_NO_CACHE]


def _value(text: str) -> bytes:
    return _line(text).strip().encode("utf-8", "replace")


def _line(text: str) -> str:
    """Return a text without control characters, which could end a header."""
    return _BREAKING.sub(" ", text)


def _plain(value: Any) -> Any:
    """Return a value that orjson accepts: unpaired surrogates replaced, large numbers as text."""
    if isinstance(value, dict):
        return {_plain(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if value is None or isinstance(value, bool | float):
        return value
    return str(value)
