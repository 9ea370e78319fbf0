"""Reading and writing of JSON text, including NaN and hostile input.

orjson does the work; what it rejects but Triton accepts (bare ``NaN`` and ``Infinity``) goes through the
standard library. It knows no protocol.

Pure.
"""

import json
import re
from typing import Any

import numpy as np
import orjson

from salver.words.errors import InvalidInput

#: Triton's limit (TR-R29).
MAX_DEPTH = 100
TOO_DEEP = f"JSON nesting depth exceeds maximum allowed limit ({MAX_DEPTH})"

_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)


def loads(text: "bytes | memoryview") -> Any:
    """Parse JSON.

    Raises:
        InvalidInput: it is not JSON, not UTF-8, or nested too deeply.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        reason = str(error)
    text = bytes(text)
    if is_too_deep(text):
        raise InvalidInput(TOO_DEEP)
    if b"NaN" in text or b"Infinity" in text:
        try:
            root = json.loads(text.decode())
            if b"\\u" in text:  # a lone surrogate, which this parser accepts
                json.dumps(root, ensure_ascii=False).encode()
            return root
        except (ValueError, RecursionError) as error:
            reason = str(error)
    raise InvalidInput(f"failed to parse the request JSON buffer: {reason}")


def is_too_deep(text: bytes) -> bool:
    """Return whether objects and lists nest beyond :data:`MAX_DEPTH`, even in incomplete JSON."""
    if text.count(b"[") + text.count(b"{") <= MAX_DEPTH:
        return False
    depth = 0
    for token in _TOKENS.finditer(text):
        first = text[token.start()]
        if first in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif first in b"]}":
            depth -= 1
    return False


def dumps(value: Any) -> bytes:
    """Return compact JSON of dicts, lists, scalars and numpy arrays; NaN and infinities are bare."""
    text = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    if b"null" in text and _holds_nonfinite(value):  # orjson's form of NaN
        return json.dumps(value, default=_plain, separators=(",", ":")).encode()
    return text


def _plain(value: Any) -> Any:
    if value.dtype == np.float32:  # the shortest text that reads back as the same float32
        return np.asarray(value).astype(str).astype(float).tolist()
    return value.tolist()


def _holds_nonfinite(value: Any) -> bool:
    if isinstance(value, np.ndarray | np.floating):
        return value.dtype.kind == "f" and not bool(np.isfinite(value).all())
    if isinstance(value, dict):
        return any(map(_holds_nonfinite, value.values()))
    if isinstance(value, list):
        return any(map(_holds_nonfinite, value))
    return isinstance(value, float) and not -np.inf < value < np.inf


def kind_of(value: Any) -> str:
    """Return what JSON calls a parsed value."""
    if value is None:
        return "null"
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return names.get(type(value), "a number")


def json_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object that a body holds; an empty body holds an empty one.

    Raises:
        InvalidInput: it is something else.
    """
    root = loads(body) if body.strip() else {}
    if type(root) is not dict:
        raise InvalidInput(f"the body must be a JSON object, not {kind_of(root)}")
    return root
