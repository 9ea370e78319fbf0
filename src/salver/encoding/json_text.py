"""Reading and writing of JSON text, including NaN and hostile input.

orjson does the work; what it rejects but Triton accepts (bare ``NaN`` and ``Infinity``) goes through the
standard library. It knows no protocol.

Pure.
"""

import json
import math
import re
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, Final

import numpy as np
import orjson

from salver.words.errors import InvalidInput

#: Triton's limit (TR-R29).
MAX_DEPTH = 100
TOO_DEEP = f"JSON nesting depth exceeds maximum allowed limit ({MAX_DEPTH})"

#: Stands in a value for text that is written by itself. Hashes of strings differ with each process, so that
#: nobody outside can know it.
HOLE = f"{hash('hole'):x}{hash('in a text'):x}"
_FEW_NUMBERS = 1 << 13
_FEW_STRINGS = 1 << 10
_FEW_LETTERS = 1 << 17

_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)
#: Bytes from which a second parser is worthwhile.
LARGE = 8_192
#: Bytes of the largest body that may be parsed on the event loop.
MOST_QUICK: Final = 4 << 20


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


def list_pieces(values: Any) -> list[bytes]:
    """Return the JSON list of a flat array, or of strings, in pieces.

    A thread that writes it lets others run after each, as the writer holds the interpreter's lock.
    """
    pieces = [b"["]
    if isinstance(values, np.ndarray):
        for at in range(0, len(values), _FEW_NUMBERS):
            pieces += (_numbers(values[at : at + _FEW_NUMBERS]), b",")
    else:
        for at in range(0, len(values), _FEW_STRINGS):
            texts = values[at : at + _FEW_STRINGS]
            if sum(map(len, texts)) <= _FEW_LETTERS:
                pieces += (dumps(texts)[1:-1], b",")
                continue
            for text in texts:
                parts = (
                    dumps(text[at : at + _FEW_LETTERS])[1:-1] for at in range(0, len(text), _FEW_LETTERS)
                )
                pieces += (b'"', *parts, b'"', b",")
    if len(pieces) > 1:
        pieces.pop()
    return [*pieces, b"]"]


#: JSON of numbers that are not finite, as Python writes it; others are NaN.
_NOT_FINITE: Final = {math.inf: b"Infinity", -math.inf: b"-Infinity"}


def _numbers(values: "np.ndarray[Any, Any]") -> bytes:
    text = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
    if b"null" not in text:
        return text
    whole = bytearray()
    parts = text.split(b"null")
    for part, odd in zip(parts, values[~np.isfinite(values)].tolist(), strict=False):
        whole += part + _NOT_FINITE.get(odd, b"NaN")
    return bytes(whole + parts[-1])


def filled(text: bytes, long: Sequence[Sequence[bytes]]) -> bytes:
    """Return a JSON text with what stands for each :data:`HOLE` in it, in their order."""
    if not long:
        return text
    parts: list[bytes] = []
    for part, pieces in zip_longest(text.split(b'"%b"' % HOLE.encode()), long, fillvalue=()):
        parts += (bytes(part), *pieces)
    return b"".join(parts)  # of nothing but bytes, for which it releases the interpreter's lock


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
