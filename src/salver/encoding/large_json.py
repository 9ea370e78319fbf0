"""Parser for large tensors in JSON, without a Python object per number.

simdjson returns the numbers of a (nested) list as one buffer. What it cannot represent (booleans, mixed
kinds, NaN) is parsed by :mod:`json_text`; the values are the same either way.
"""

import math
import re
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import simdjson

from salver.encoding.json_text import MOST_QUICK, TOO_DEEP, loads
from salver.encoding.values import MAX_NESTING
from salver.words.errors import InvalidInput

_UNSIGNED = frozenset(("UINT8", "UINT16", "UINT32", "UINT64"))
_SIGNED = frozenset(("INT8", "INT16", "INT32", "INT64"))
_FLOATS = frozenset(("FP32", "FP64"))

#: Most values besides numbers in tensors, and most keys of an object, of which each takes a search.
_MOST_VALUES: Final = 4096
_MOST_KEYS: Final = 32
#: Nanoseconds that simdjson takes for a byte, and more for a mark and what it stands before.
_BYTE: Final = 1
_MARK: Final = 15
_MARKS: Final = b'[{",:'
_MOST_NS: Final = 7_500_000
#: Numbers with more digits than 64 bits hold take 400 ns each.
_DIGITS: Final = re.compile(rb"[0-9.]+")
_MOST_DIGITS: Final = 19
#: Places at which a text is looked at, and the bytes around each.
_SAMPLES: Final = 64
_SAMPLE: Final = 64
_Plain = Callable[[Any], Any]


def loads_large(text: bytes) -> Any:
    """Parse as :func:`json_text.loads`, but ``inputs[i].data`` may be a flat array of numbers."""
    try:
        return _read(text, _plain)
    except (ValueError, RuntimeError, TypeError):  # not supported by this parser
        return loads(text)


def loads_quickly(text: "bytes | memoryview") -> Any:
    """Parse as :func:`loads_large` a request that is nearly all numbers, within some milliseconds.

    None means that it is another kind of request or malformed, or that it may take longer.
    """
    if len(text) > MOST_QUICK or _nanoseconds(text) > _MOST_NS:
        return None
    try:
        return _read(text, _Few().plain)
    except (ValueError, RuntimeError, TypeError, InvalidInput):
        return None


def _nanoseconds(text: "bytes | memoryview") -> float:
    """Return about the time to parse a text; infinity for one with numbers of many digits.

    It is judged by samples, at places that no caller can know since the hash of bytes has a secret: to read
    all of it would take as long as to parse it. A hundredth of long numbers may remain unseen.
    """
    size = len(text)
    tail, last = bytes(text[-_SAMPLE:]), max(size - _SAMPLE, 1)
    places = [hash(b"%d %b" % (number, tail)) % last for number in range(_SAMPLES)]
    seen = b" ".join([text[place : place + _SAMPLE] for place in places])
    for digits in _DIGITS.findall(seen):
        if len(digits) > _MOST_DIGITS and len(digits.replace(b".", b"").lstrip(b"0")) > _MOST_DIGITS:
            return math.inf
    marks = len(seen) - len(seen.translate(None, _MARKS))
    return size * (_BYTE + _MARK * marks / len(seen))


def _read(text: "bytes | memoryview", plain: _Plain) -> Any:
    parser = simdjson.Parser()  # one per call: it is not thread-safe, and its values point into it
    root = parser.parse(text)
    if not isinstance(root, simdjson.Object):
        raise TypeError("no object")
    parsed: dict[str, Any] = {}
    for key in _keys(root):
        value = root[key]
        if key == "inputs" and isinstance(value, simdjson.Array):
            parsed[key] = [_read_input(entry, plain) for entry in value]
        else:
            parsed[key] = plain(value)
    return parsed


def _read_input(entry: Any, plain: _Plain) -> Any:
    if not isinstance(entry, simdjson.Object):
        return plain(entry)
    keys = _keys(entry)
    parsed = {key: plain(entry[key]) for key in keys if key != "data"}
    if "data" in keys:
        data = entry["data"]
        is_list = isinstance(data, simdjson.Array)
        parsed["data"] = _read_numbers(data, parsed.get("datatype"), plain) if is_list else plain(data)
    return parsed


def _keys(value: Any) -> list[str]:
    """Return the keys of an object; ``items()`` would create lists of all its content.

    Raises:
        ValueError: a key is duplicated, where this parser takes the first and others the last; or has a NUL,
            where this parser truncates it.
    """
    keys = list(value.keys())
    if "\0" in "".join(keys):
        raise ValueError("a key has a NUL")
    if len(set(keys)) < len(keys):
        raise ValueError("a key is given twice")
    return keys


def _read_numbers(data: Any, datatype: Any, plain: _Plain) -> Any:
    """Return one buffer if every element is a number of the declared kind, else plain lists."""
    if _nesting(data) > MAX_NESTING:
        raise InvalidInput(TOO_DEEP, field="inputs")
    try:
        if datatype in _FLOATS:
            return np.frombuffer(data.as_buffer(of_type="d"), np.float64)
        if datatype in _SIGNED:
            return np.frombuffer(data.as_buffer(of_type="i"), np.int64)
        if datatype in _UNSIGNED:
            return np.frombuffer(data.as_buffer(of_type="u"), np.uint64)
    except (TypeError, ValueError, RuntimeError):
        pass  # booleans, strings, or out of range: the error of the list names the element
    return plain(data)


def _nesting(data: Any) -> int:
    """Return the levels of lists down to the first element."""
    levels = 0
    while isinstance(data, simdjson.Array):
        levels += 1
        data = data[0] if len(data) else None
    return levels


def _plain(value: Any) -> Any:
    if isinstance(value, simdjson.Array):
        return value.as_list()
    if isinstance(value, simdjson.Object):
        return value.as_dict()
    return value


class _Few:
    """Conversion of values to Python's, as long as they are few."""

    def __init__(self) -> None:
        self._left = _MOST_VALUES

    def plain(self, value: Any, depth: int = 0) -> Any:
        """Return the value. Raises ValueError if there are many."""
        if not isinstance(value, simdjson.Array | simdjson.Object):
            return value
        self._left -= len(value)
        if self._left < 0 or depth > MAX_NESTING:
            raise ValueError("many values")
        if isinstance(value, simdjson.Array):
            return [self.plain(each, depth + 1) for each in value]
        if len(value) > _MOST_KEYS:
            raise ValueError("many keys")
        return {key: self.plain(value[key], depth + 1) for key in _keys(value)}
