"""Parser for large tensors in JSON, without a Python object per number.

simdjson returns the numbers of a (nested) list as one buffer. What it cannot represent (booleans, mixed
kinds, NaN) is parsed by :mod:`json_text`; the values are the same either way.

Pure.
"""

from typing import Any

import numpy as np
import simdjson

from salver.encoding.json_text import TOO_DEEP, loads
from salver.encoding.values import MAX_NESTING
from salver.words.errors import InvalidInput

_UNSIGNED = frozenset(("UINT8", "UINT16", "UINT32", "UINT64"))
_SIGNED = frozenset(("INT8", "INT16", "INT32", "INT64"))
_FLOATS = frozenset(("FP32", "FP64"))


def loads_large(text: bytes) -> Any:
    """Parse as :func:`json_text.loads`, but ``inputs[i].data`` may be a flat array of numbers."""
    parser = simdjson.Parser()  # one per call: it is not thread-safe, and its values point into it
    try:
        root = parser.parse(text)
        if not isinstance(root, simdjson.Object):
            return loads(text)
        parsed: dict[str, Any] = {}
        for key in _keys(root):
            value = root[key]
            if key == "inputs" and isinstance(value, simdjson.Array):
                parsed[key] = [_read_input(entry) for entry in value]
            else:
                parsed[key] = _plain(value)
        return parsed
    except (ValueError, RuntimeError, TypeError):  # not supported by this parser
        return loads(text)


def _read_input(entry: Any) -> Any:
    if not isinstance(entry, simdjson.Object):
        return _plain(entry)
    keys = _keys(entry)
    parsed = {key: _plain(entry[key]) for key in keys if key != "data"}
    if "data" in keys:
        data = entry["data"]
        is_list = isinstance(data, simdjson.Array)
        parsed["data"] = _read_numbers(data, parsed.get("datatype")) if is_list else _plain(data)
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


def _read_numbers(data: Any, datatype: Any) -> Any:
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
    return data.as_list()


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
