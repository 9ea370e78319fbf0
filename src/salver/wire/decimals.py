"""How does TensorFlow Serving write a float, and how are many written fast?

Six significant digits where they read back as the same value, else nine (float32) or seventeen (float64), as
C's ``%g`` lays them out; ``.0`` where there is neither a point nor an exponent (TF-R14). :func:`decimal` is
that rule, a number at a time. :func:`decimals` gives the same text for a whole float32 array by integer
arithmetic on arrays, and leaves to :func:`decimal` the few numbers that lie too near a rounding boundary for
a double to tell. It knows no JSON but the words for what is not finite.
"""

import functools
import math
import struct
from typing import Any, Final, NamedTuple

import numpy as np

from salver.tensor import Array

#: A byte that no JSON text has.
BETWEEN: Final = b"\x01"
_JOINER: Final = BETWEEN.decode()
_FLOAT: Final = struct.Struct("f")
#: Below this many numbers the arrays cost more than they save.
_FEW: Final = 64
#: As many at a time as stay near the processor.
_BLOCK: Final = 8192
#: Bytes of a number's cell: :data:`BETWEEN`, the sign and what precedes the digits (8); three groups of three
#: digits with a point behind one of them (4 each); what follows (4). Zeros are left out in the end.
_CELL: Final = np.dtype([("start", "u8"), ("high", "u4"), ("middle", "u4"), ("low", "u4"), ("end", "u4")])
#: The least and the largest decimal exponent of a normal float32, and of what it may be rounded to.
_LEAST: Final = -38
_MOST: Final = 39
#: Digits that may differ, of nine, by what a double cannot hold; about six times as many as do.
_DOUBT: Final = 2e-6


def decimal(value: "float | np.floating[Any]") -> str:
    """One number; a float32 has to be numpy's.

    >>> [decimal(value) for value in (2.0, 9e6, 1 / 3, np.float32(1 / 3), -math.inf)]
    ['2.0', '9e+06', '0.33333333333333331', '0.333333343', '-Infinity']
    """
    return _single(float(value)) if isinstance(value, np.float32) else _double(float(value))


def _single(value: float) -> str:
    if not math.isfinite(value):
        return _not_finite(value)
    text = f"{value:g}"
    # No decimal of six digits lies so near the middle of two float32 that reading it as a double first errs.
    if _FLOAT.unpack(_FLOAT.pack(float(text)))[0] != value:
        text = f"{value:.9g}"
    return text if "." in text or "e" in text else text + ".0"


def _double(value: float) -> str:
    if not math.isfinite(value):
        return _not_finite(value)
    text = f"{value:g}"
    if float(text) != value:
        text = f"{value:.17g}"
    return text if "." in text or "e" in text else text + ".0"


def _not_finite(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def decimals(values: Array) -> bytes:
    """All of a flat float32 or float64 array, with :data:`BETWEEN` between."""
    if values.dtype != np.float32 or values.size < _FEW:
        one = _single if values.dtype == np.float32 else _double
        return _JOINER.join(map(one, values.tolist())).encode()
    return BETWEEN.join([_block(values[at : at + _BLOCK]) for at in range(0, values.size, _BLOCK)])


def _block(values: Array) -> bytes:
    cells, doubtful = _written(values)
    octets = cells.view(np.uint8).reshape(values.size, _CELL.itemsize)
    for index in np.flatnonzero(doubtful).tolist():
        text = _JOINER + decimal(values[index])
        octets[index] = np.frombuffer(text.encode().ljust(_CELL.itemsize, b"\0"), np.uint8)
    flat = octets.ravel()
    joined: bytes = flat[flat != 0][1:].tobytes()
    return joined


def _written(values: Array) -> tuple[Array, Array]:
    """A cell a number, and which of them are not to be trusted."""
    tables = _tables()
    bits = values.view(np.uint32)
    binade = (bits >> 23) & 0xFF
    with np.errstate(invalid="ignore", over="ignore"):
        size = np.abs(values).astype(np.float64)
        exponent = tables.exponent[binade] + (size >= tables.next_power[binade])
        scaled = size * tables.power[exponent]  # 1e8 to 1e9, but for what a double cannot hold
        nine = np.rint(scaled)
        six = np.rint(scaled * 1e-3) * 1e3
        off = np.abs(six - scaled)
        half = tables.half_step[binade] * tables.power[exponent]
        is_short = off < half
        near = np.abs(off - half) < 1e-3
        near |= (
            ((bits & 0x7FFFFF) == 0) & (off > 0.4 * half) & is_short
        )  # where the steps below are half as wide
        doubtful = near | (~is_short & (np.abs(np.abs(nine - scaled) - 0.5) < _DOUBT))
        doubtful |= ((binade == 0) & (size > 0)) | (binade == 0xFF)
        digits = np.where(is_short, six, nine)
        digits[doubtful] = 0
        digits = digits.astype(np.int32)
    carries = digits >= 1_000_000_000
    digits[carries] = 100_000_000
    exponent += carries
    high = digits // 1_000_000
    rest = digits - high * 1_000_000
    middle = rest // 1000
    low = rest - middle * 1000
    count = np.where(
        low > 0, tables.used[low] + 6, np.where(middle > 0, tables.used[middle] + 3, tables.used[high])
    )
    kind = (exponent * 2 + is_short) * 10 + count
    cells = np.empty(values.size, _CELL)
    cells["start"] = tables.start[kind * 2 + (bits >> 31)]
    cells["high"] = tables.group[high + tables.place[0][kind]]
    cells["middle"] = tables.group[middle + tables.place[1][kind]]
    cells["low"] = tables.group[low + tables.place[2][kind]]
    cells["end"] = tables.end[kind]
    return cells, doubtful


class _Tables(NamedTuple):
    """What is looked up for a number: by its binade, by its kind (exponent, length, digits), or by digits.

    Attributes:
        exponent, next_power, half_step: By binade: decimal exponent, less :data:`_LEAST`, of its least
            number; the power of ten that ends it; half of the step between its numbers.
        power: By exponent: what makes nine digits before the point.
        used: By a group of three digits: how many there are before the last zeros.
        start, place, end: By kind (and sign): what is before the digits, which form each group has, what
            follows.
        group: By three digits and a form.
    """

    exponent: Array
    next_power: Array
    half_step: Array
    power: Array
    used: Array
    start: Array
    place: Array
    end: Array
    group: Array


@functools.cache
def _tables() -> _Tables:
    binades = [0.0, *(math.ldexp(1.0, binade - 127) for binade in range(1, 255)), 1.0]
    exponents = [max(_LEAST, math.floor(math.log10(least))) if least else _LEAST for least in binades]
    kinds = [
        _form(exponent, is_short, count)
        for exponent in range(_LEAST, _MOST + 1)
        for is_short in (False, True)
        for count in range(10)
    ]
    starts = [sign + start for start, _, _ in kinds for sign in (_JOINER, _JOINER + "-")]
    return _Tables(
        np.array(exponents, np.int32) - _LEAST,
        np.array([float(f"1e{exponent + 1}") for exponent in exponents]),
        np.array([math.ldexp(1.0, max(binade, 1) - 151) for binade in range(256)]),
        np.array([float(f"1e{8 - exponent}") for exponent in range(_LEAST, _MOST + 1)]),
        np.array([len(f"{digits:03}".rstrip("0")) for digits in range(1000)], np.int32),
        _packed(starts, np.uint64),
        np.array([places for _, places, _ in kinds], np.int32).T.copy() * 1000,
        _packed([end for _, _, end in kinds], np.uint32),
        _packed(
            [
                f"{digits:03}"[: min(point, kept)] + "." * (point > 0) + f"{digits:03}"[point:kept]
                for point in range(4)
                for kept in range(4)
                for digits in range(1000)
            ],
            np.uint32,
        ),
    )


def _form(exponent: int, is_short: bool, count: int) -> tuple[str, tuple[int, ...], str]:
    """What is before the digits; by group, how many are kept, and behind which is the point; the end."""
    if not count:
        return "0.0", (0, 0, 0), ""
    start, point, end = "", 0, ""
    if not -4 <= exponent < (6 if is_short else 9):
        point, end = int(count > 1), f"e{exponent:+03}"
    elif exponent < 0:
        start = "0." + "0" * (-exponent - 1)
    else:
        point = exponent + 1
        end = "0" * (count <= point)
        count = max(count, point)
    places = []
    for first in (0, 3, 6):
        behind = point - first if first < point <= first + 3 else 0
        places.append(4 * behind + min(max(count - first, 0), 3))
    return start, tuple(places), end


def _packed(texts: list[str], kind: type[np.unsignedinteger[Any]]) -> Array:
    """Short texts as numbers, padded with zero bytes."""
    width = np.dtype(kind).itemsize
    return np.frombuffer(b"".join(text.encode().ljust(width, b"\0") for text in texts), kind)
