"""What does a handler see of a form?

A mapping of names to values, decoded by their content types, and the headers. It knows no process.
"""

import json
import logging
from typing import Any

from salver.words.handlers import Form, Part

_log = logging.getLogger(__name__)


def data_of(form: Form, is_decoded: bool) -> dict[str, Any]:
    """JSON as objects, text as text, all else (and what is neither) as bytes that may be changed (TS-R13)."""
    return {part.name: _value(part, is_decoded) for part in form.parts}


def headers_of(form: Form) -> dict[str, Any]:
    """Names as they were sent; beside them each part's name, with its content type."""
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
