"""How is a large tensor in JSON read without a Python object per number?

simdjson hands the numbers of a (nested) list over as one buffer. What it cannot (booleans,
mixed kinds, NaN) is read by :mod:`json_text`; the values are the same either way.
"""

from typing import Any

import numpy as np
import simdjson

from salver.wire.json_text import loads

#: Bytes from which a second parser pays for itself.
LARGE = 16_384

_UNSIGNED = frozenset(("UINT8", "UINT16", "UINT32", "UINT64"))
_SIGNED = frozenset(("INT8", "INT16", "INT32", "INT64"))
_FLOATS = frozenset(("FP32", "FP64"))


def loads_large(text: bytes) -> Any:
    """As :func:`json_text.loads`, but ``inputs[i].data`` may be a flat array of numbers."""
    parser = simdjson.Parser()  # one per call: it is not for two threads, and its values point into it
    try:
        root = parser.parse(text)
        if not isinstance(root, simdjson.Object):
            return loads(text)
        parsed: dict[str, Any] = {}
        for key, value in root.items():
            if key == "inputs" and isinstance(value, simdjson.Array):
                parsed[key] = [_read_input(entry) for entry in value]
            else:
                parsed[key] = _plain(value)
        return parsed
    except (ValueError, RuntimeError, TypeError):  # not its kind of JSON
        return loads(text)


def _read_input(entry: Any) -> Any:
    if not isinstance(entry, simdjson.Object):
        return _plain(entry)
    data = None
    parsed: dict[str, Any] = {}
    for key, value in entry.items():
        if key == "data" and isinstance(value, simdjson.Array):
            data = value
        else:
            parsed[key] = _plain(value)
    if data is not None:
        parsed["data"] = _read_numbers(data, parsed.get("datatype"))
    return parsed


def _read_numbers(data: Any, datatype: Any) -> Any:
    """One buffer, where every element is a number of the declared kind; else plain lists."""
    try:
        if datatype in _FLOATS:
            return np.frombuffer(data.as_buffer(of_type="d"), np.float64)
        if datatype in _SIGNED:
            return np.frombuffer(data.as_buffer(of_type="i"), np.int64)
        if datatype in _UNSIGNED:
            return np.frombuffer(data.as_buffer(of_type="u"), np.uint64)
    except (TypeError, ValueError, RuntimeError):
        pass  # booleans, strings, or out of range: the list says which, in words
    return data.as_list()


def _plain(value: Any) -> Any:
    if isinstance(value, simdjson.Array):
        return value.as_list()
    if isinstance(value, simdjson.Object):
        return value.as_dict()
    return value
