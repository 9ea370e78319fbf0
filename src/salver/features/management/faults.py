"""Errors of the management interface, as problems of RFC 9457.

Pure.
"""

from typing import Final

import orjson

from salver.encoding.bodies import HttpReply
from salver.transport.faults import HTTP, JSON, clean, json_headers
from salver.words.errors import Code, Outdated, SalverError, Unidentified

#: HTTP status of the management interface.
API: Final[dict[Code, int]] = HTTP


def api_fault(error: SalverError) -> HttpReply:
    """Return a problem, with the field and the fix apart as well. Never raises."""
    status = 412
    if not isinstance(error, Outdated):
        status = API[error.code]
    problem = {
        "type": f"urn:salver:problem:{error.code}",
        "title": str(error.code).replace("_", " ").capitalize(),
        "status": status,
        "detail": clean(error.message),
    }
    problem |= {key: clean(text) for key, text in (("field", error.field), ("fix", error.fix)) if text}
    headers: list[tuple[bytes, bytes]] = [(b"content-type", b"application/problem+json")]
    headers += [pair for pair in json_headers(error) if pair != JSON]
    if status == 401 and not isinstance(error, Unidentified):
        headers.append((b"www-authenticate", b"Bearer"))  # RFC 9110, section 11.6.1
    return HttpReply(status, orjson.dumps(problem), tuple(headers))
