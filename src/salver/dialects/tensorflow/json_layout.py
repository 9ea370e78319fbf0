"""Layout of tensors in TensorFlow Serving's JSON (TF-R29).

In rows, an instance's lists are on one line; in columns, every value has a line of its own, indented by four
blanks per level, as RapidJSON's ``PrettyWriter`` does it with its two settings. Pure.
"""

import base64
import re
from collections.abc import Sequence
from typing import Final

import numpy as np
import orjson

from salver.dialects.tensorflow.decimals import BETWEEN, decimals
from salver.words.tensor import DataType, Tensor, bf16_to_fp32

#: Bytes that no JSON text contains, one for each number of lists that end and begin between two elements.
_MARKS: Final = bytes([*range(1, 9), 11, 12, *range(14, 32), *range(0xF8, 0x100)])
_ESCAPES: Final = re.compile(rb"\\(?:u00[01][0-9a-f]|.)")


def quoted(text: str) -> bytes:
    """Return a JSON string.

    >>> quoted('a"\\x1b')
    b'"a\\\\"\\\\u001B"'
    """
    json = orjson.dumps(text)
    if b"\\u" in json:  # RapidJSON writes hexadecimal digits as capitals
        return _ESCAPES.sub(_capital, json)
    return json


def _capital(part: re.Match[bytes]) -> bytes:
    if part[0][1:2] == b"u":
        return b"\\u" + part[0][2:].upper()
    return part[0]


def rows(tensor: Tensor, depth: int) -> list[bytes]:
    """Return each element along axis 0, which has to exist, on one line.

    Args:
        depth: Number of objects and lists around each.
    """
    shape = tensor.shape[1:]
    if not tensor.array.size:
        return [_empty(shape)] * tensor.shape[0]
    opening, closing = b"[" * len(shape), b"]" * len(shape)
    return [opening + row + closing for row in _rows(tensor, depth, b"\x00").split(b"\x00")]


def rows_on_one_line(tensor: Tensor, depth: int) -> bytes:
    """Return :func:`one_line` of :func:`rows`, without an object for each row."""
    rank = len(tensor.shape) - 1
    if not tensor.array.size:
        return one_line(rows(tensor, depth), depth - 1)
    text = _rows(tensor, depth, b"]" * rank + b", " + b"[" * rank)
    return b"[" * (rank + 1) + text + b"]" * rank + _line(depth - 1) + b"]"


def _rows(tensor: Tensor, depth: int, between: bytes) -> bytes:
    """Return all rows, without the outer brackets."""
    rank = len(tensor.shape) - 1
    within = [b"]" * rolls + b", " + b"[" * rolls for rolls in range(rank)]
    return _with_separators(_elements(tensor, depth + rank), tensor.shape, [*within, between])


def lines(tensor: Tensor, depth: int) -> bytes:
    """Return the whole tensor, each element on a line of its own.

    Args:
        depth: Number of objects and lists around it.
    """
    shape = tensor.shape
    rank = len(shape)
    if not tensor.array.size:
        return _empty_lines(shape, depth)
    breaks = [_line(depth + level) for level in range(rank + 1)]
    down = b"".join(b"[" + breaks[level] for level in range(1, rank + 1))
    up = b"".join(breaks[level] + b"]" for level in range(rank - 1, -1, -1))
    between = []
    for rolls in range(rank):
        outer = rank - rolls  # level of the elements that the comma separates
        ends = b"".join(breaks[level] + b"]" for level in range(rank - 1, outer - 1, -1))
        begins = b"".join(b"[" + breaks[level] for level in range(outer + 1, rank + 1))
        between.append(ends + b"," + breaks[outer] + begins)
    return down + _with_separators(_elements(tensor, depth + rank), shape, between) + up


def _line(depth: int) -> bytes:
    return b"\n" + b"    " * depth


def _with_separators(joined: bytes, shape: Sequence[int], between: Sequence[bytes]) -> bytes:
    """Replace the marks between elements by their separators.

    Args:
        between: Separators by the number of axes that end there.
    """
    if len(shape) > 1:
        octets = np.frombuffer(bytearray(joined), np.uint8)
        places = np.flatnonzero(octets == _MARKS[0])
        stride = 1
        for axis, mark in zip(reversed(shape[1:]), _MARKS[1:], strict=False):
            stride *= axis
            octets[places[stride - 1 :: stride]] = mark
        joined = octets.tobytes()
    for mark, text in zip(_MARKS, between, strict=False):
        joined = joined.replace(bytes([mark]), text)
    return joined


def _elements(tensor: Tensor, depth: int) -> bytes:
    """Return all elements in order, separated by :data:`BETWEEN`."""
    array = tensor.array.ravel()
    if tensor.datatype is DataType.BYTES:
        is_binary = tensor.name.endswith("_bytes")
        return BETWEEN.join([_string(value, depth, is_binary=is_binary) for value in array.tolist()])
    if tensor.datatype.is_float:
        if tensor.datatype is DataType.FP16:
            array = array.astype(np.float32)
        elif tensor.datatype is DataType.BF16:
            array = bf16_to_fp32(array)
        return decimals(array)
    return orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].replace(b",", BETWEEN)


def _string(value: bytes, depth: int, *, is_binary: bool) -> bytes:
    """Return a text, or base64 if it is binary by name or content (TF-R13)."""
    if not is_binary:
        try:
            return quoted(value.decode())
        except UnicodeDecodeError:
            pass
    return b'{%b"b64": "%b"%b}' % (_line(depth + 1), base64.b64encode(value), _line(depth))


def _empty(shape: Sequence[int]) -> bytes:
    """Return a tensor without elements, on one line."""
    if not shape:
        return b""
    return b"[" + b", ".join([_empty(shape[1:])] * shape[0]) + b"]"


def _empty_lines(shape: Sequence[int], depth: int) -> bytes:
    if not shape:
        return b""
    return list_of([_empty_lines(shape[1:], depth + 1)] * shape[0], depth)


def object_of(members: Sequence[tuple[bytes, bytes]], depth: int) -> bytes:
    """Return a JSON object of quoted names and texts, each member on lines of its own."""
    return b"{" + _indented([name + b": " + text for name, text in members], depth) + b"}"


def list_of(items: Sequence[bytes], depth: int) -> bytes:
    """Return a list of texts, each on lines of its own; an empty list on one line."""
    if items:
        return b"[" + _indented(items, depth) + b"]"
    return b"[]"


def one_line(items: Sequence[bytes], depth: int) -> bytes:
    """Return a list of texts on one line, except for its end."""
    if items:
        return b"[" + b", ".join(items) + _line(depth) + b"]"
    return b"[]"


def _indented(items: Sequence[bytes], depth: int) -> bytes:
    return _line(depth + 1) + (b"," + _line(depth + 1)).join(items) + _line(depth)
