"""Error objects of OpenAI's routes. Pure."""

from typing import Final

import orjson

from salver.encoding.bodies import HttpReply
from salver.transport.faults import HTTP, clean, json_headers
from salver.words.errors import Code, OutOfScope, QuotaExceeded, SalverError

#: HTTP status of OpenAI's routes.
OPENAI: Final[dict[Code, int]] = {**HTTP, Code.CANCELLED: 400}
#: ``type`` and ``code`` by status, as in OpenAI's interface or Triton's front end.
_KINDS: Final[dict[int, tuple[str, str]]] = {
    401: ("authentication_error", "invalid_auth"),
    413: ("invalid_request_error", "content_too_large"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
}


def openai_fault(error: SalverError) -> HttpReply:
    """Return OpenAI's error object. Never raises."""
    status = OPENAI[error.code]
    kind, code = _KINDS.get(status, ("invalid_request_error" if status < 500 else "server_error", None))
    if error.code is Code.NOT_FOUND:
        code = "model_not_found"
    elif isinstance(error, OutOfScope):
        kind = "permission_error"
    elif isinstance(error, QuotaExceeded):
        kind = code = "insufficient_quota"
    fault = {"message": clean(str(error)), "type": kind, "param": clean(error.field) or None, "code": code}
    return HttpReply(status, orjson.dumps({"error": fault}), json_headers(error))
