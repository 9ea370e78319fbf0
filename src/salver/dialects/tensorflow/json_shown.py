"""JSON values in error texts, as RapidJSON's pretty writer shows them, cut after 256 bytes. Pure."""

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

import numpy as np

from salver.dialects.tensorflow.decimals import decimal
from salver.dialects.tensorflow.json_layout import quoted

_MOST_BYTES: Final = 256
_MAX_FLOAT: Final = float(np.finfo(np.float32).max)


def shown(value: Any) -> str:
    """Return the text of a parsed value.

    >>> shown([1, 2.5])
    '[\\n    1,\\n    2.5\\n]'
    """
    if type(value) is int and not -(1 << 63) <= value < 1 << 64:
        value = float(value)
    if type(value) is float:
        return decimal(np.float32(value) if abs(value) <= _MAX_FLOAT else value)
    text = bytearray()
    for piece in _pieces(value):
        text += piece
        if len(text) >= _MOST_BYTES:
            break
    return text[:_MOST_BYTES].decode("utf-8", "ignore")


def _pieces(value: Any) -> Iterator[bytes]:
    """Yield the text in pieces, without recursion; like RapidJSON, stop at a number that is not finite."""
    stack: list[Iterator[tuple[bytes, Any]]] = []
    ends: list[bytes] = []
    prefix = b""
    while True:
        yield prefix
        if isinstance(value, dict | list) and value:
            begin, end = (b"[", b"]") if isinstance(value, list) else (b"{", b"}")
            yield begin
            ends.append(end)
            stack.append(iter(_members(value)))
            comma = b""
        elif isinstance(value, float) and not math.isfinite(value):
            return
        else:
            yield _scalar(value)
            comma = b","
        while stack:
            following = next(stack[-1], None)
            if following is not None:
                prefix, value = following
                yield comma + b"\n" + b"    " * len(stack)
                break
            stack.pop()
            yield b"\n" + b"    " * len(stack) + ends.pop()
            comma = b","
        else:
            return


def _members(value: "dict[str, Any] | list[Any]") -> list[tuple[bytes, Any]]:
    if isinstance(value, list):
        return [(b"", item) for item in value[:_MOST_BYTES]]
    return [(_quoted(key) + b": ", item) for key, item in islice(value.items(), _MOST_BYTES)]


def _quoted(text: str) -> bytes:
    return quoted(text[:_MOST_BYTES].encode("utf-8", "replace").decode())


def _scalar(value: Any) -> bytes:
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, dict):  # empty, as lists are here
        return b"{}"
    if isinstance(value, list):
        return b"[]"
    if value is None or isinstance(value, bool):
        return {None: b"null", True: b"true", False: b"false"}[value]
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 64:
        return str(value).encode()
    return _double(float(value)).encode()


def _double(value: float) -> str:
    """Return the shortest digits in the layout of RapidJSON's Grisu2: ``1e21`` without a sign or a point.

    >>> [_double(value) for value in (1.0, 1e20, 1.5e21, 1e-7, -0.00001)]
    ['1.0', '100000000000000000000.0', '1.5e21', '1e-7', '-0.00001']
    """
    mantissa, _, power = f"{value!r}".partition("e")
    sign = "-" if mantissa.startswith("-") else ""
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(power or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    if not digits:
        return sign + "0.0"
    if len(digits) <= point <= 21:
        return sign + digits.ljust(point, "0") + ".0"
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    return f"{sign}{digits[0]}{'.' * (len(digits) > 1)}{digits[1:]}e{point - 1}"
