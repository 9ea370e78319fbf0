"""Decimal texts of floats as TensorFlow Serving writes them, many at once.

Six significant digits if they read back as the same value, else nine (float32) or seventeen (float64), in the
form of C's ``%g``, with ``.0`` if there is neither a point nor an exponent (TF-R14). :func:`decimal` follows
that rule for one number. :func:`decimals` does so for an array by arithmetic on arrays, which is faster; the
few numbers too near a rounding boundary for that are left to :func:`decimal`. Pure.
"""

import functools
import math
import struct
from fractions import Fraction
from typing import Any, Final, NamedTuple

import numpy as np

from salver.words.tensor import Array

#: Separator: a byte that no JSON text contains.
BETWEEN: Final = b"\x01"
_JOINER: Final = BETWEEN.decode()
_FLOAT: Final = struct.Struct("f")
#: Below this many float32, or twice as many float64, arrays are slower than single numbers.
_FEW: Final = 64
#: Numbers at a time, so that the arrays fit the processor's cache.
_BLOCK: Final = 8192
#: Assumed error of the arithmetic in units of the last digit; about six times the real one.
_DOUBT: Final = 2e-6
#: Splits a double's digits into halves.
_SPLIT: Final = float((1 << 27) + 1)


class _Format(NamedTuple):
    """Properties of float32 or float64.

    Attributes:
        bits: Integer type of the same size.
        fraction, binades: Bits of the fraction, and number of values of the exponent.
        digits: Largest number of digits that are written.
        least, most: Decimal exponents of the numbers that are written fast, and of their rounded values.
        parts: Integers of nine digits that hold the digits.
    """

    bits: type[np.unsignedinteger[Any]]
    fraction: int
    binades: int
    digits: int
    least: int
    most: int
    parts: int


_FLOAT32: Final = _Format(np.uint32, 23, 1 << 8, 9, -38, 39, 1)
#: Exponents of three digits are rare and would need a larger cell.
_FLOAT64: Final = _Format(np.uint64, 52, 1 << 11, 17, -99, 99, 2)


def decimal(value: "float | np.floating[Any]") -> str:
    """Return the text of one number; a float32 has to be numpy's.

    >>> [decimal(value) for value in (2.0, 9e6, 1 / 3, np.float32(1 / 3), -math.inf)]
    ['2.0', '9e+06', '0.33333333333333331', '0.333333343', '-Infinity']
    """
    if isinstance(value, np.float32):
        return _single(float(value))
    return _double(float(value))


def _single(value: float) -> str:
    if not math.isfinite(value):
        return _not_finite(value)
    text = f"{value:g}"
    # No decimal of six digits is so near the middle of two float32 that rounding to a double first errs.
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
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def decimals(values: Array) -> bytes:
    """Return the texts of a flat float32 or float64 array, separated by :data:`BETWEEN`."""
    form, few = _FLOAT64, 2 * _FEW
    if values.dtype == np.float32:
        form, few = _FLOAT32, _FEW
    if values.size < few:
        return _one_by_one(values)
    tables = _tables(form)
    return BETWEEN.join([_block(values[at : at + _BLOCK], tables) for at in range(0, values.size, _BLOCK)])


def _one_by_one(values: Array) -> bytes:
    return _JOINER.join(map(_single if values.dtype == np.float32 else _double, values.tolist())).encode()


def _block(values: Array, tables: "_Tables") -> bytes:
    digits, kind, doubtful = _digits(values, tables)
    if 2 * np.count_nonzero(doubtful) > values.size:
        return _one_by_one(values)
    cells = _cells(digits, kind, np.signbit(values), tables)
    width = tables.cell.itemsize
    octets = cells.view(np.uint8).reshape(values.size, width)
    for index in np.flatnonzero(doubtful).tolist():
        text = _JOINER + decimal(values[index])
        octets[index] = np.frombuffer(text.encode().ljust(width, b"\0"), np.uint8)
    flat = octets.ravel()
    joined: bytes = flat[flat != 0][1:].tobytes()
    return joined


def _digits(values: Array, tables: "_Tables") -> tuple[Array, Array, Array]:
    """Return digits, kinds (without the number of significant digits), and which of them are doubtful."""
    form = tables.format
    bits = values.view(form.bits)
    binade = ((bits >> form.fraction) & (form.binades - 1)).astype(np.intp)
    unit = 10.0 ** (form.digits - 6)
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        size = np.abs(values).astype(np.float64)
        exponent = tables.exponent[binade] + (size >= tables.next_power[binade])
        power = tables.power[exponent]
        scaled = size * power  # all digits are before the point, as far as a double can hold them
        whole = np.rint(scaled)
        rest = scaled - whole
        if form is _FLOAT64:
            rest += _lost(size, power, scaled) + size * tables.power_rest[exponent]
        more = np.rint(rest)
        six = np.rint(scaled / unit) * unit
        off = np.abs(whole - six + rest)
        half = tables.half_step[binade] * power
        is_short = off < half
        doubtful = np.abs(off - half) < 1e-3
        # At a power of two, the steps to smaller numbers are half as wide.
        doubtful |= ((bits & ((1 << form.fraction) - 1)) == 0) & (off > 0.4 * half) & is_short
        doubtful |= ~is_short & (np.abs(np.abs(rest - more) - 0.5) < _DOUBT)
        doubtful |= tables.is_beyond[binade] & (size != 0)
        whole[doubtful] = six[doubtful] = more[doubtful] = 0
        digits = np.where(is_short, six, whole).astype(np.int64)
    least = 10 ** (form.digits - 1)
    if form is _FLOAT64:
        digits += np.where(is_short, 0, more).astype(np.int64)
        doubtful |= (digits < least) & (digits > 0)  # next to a power of ten that is no double
    carries = digits >= 10 * least
    digits[carries] = least
    exponent += carries
    return digits, (exponent * 2 + is_short) * (form.digits + 1), doubtful


def _lost(left: Array, right: Array, product: Array) -> Array:
    """Return the rounding error of a product of doubles (T. J. Dekker, 1971)."""
    big = left * _SPLIT
    left_high = big - (big - left)
    left_low = left - left_high
    big = right * _SPLIT
    right_high = big - (big - right)
    right_low = right - right_high
    lost: Array = left_high * right_high - product + left_high * right_low + left_low * right_high
    lost += left_low * right_low
    return lost


def _cells(digits: Array, kind: Array, is_negative: Array, tables: "_Tables") -> Array:
    """Return a cell for each number, which holds its text between zero bytes."""
    parts = [digits]
    if tables.format is _FLOAT64:
        high = digits // 100_000_000
        parts = [high, (digits - high * 100_000_000) * 10]
    groups = []
    for part in parts:
        part = part.astype(np.int32)
        thousands = part // 1000
        millions = thousands // 1000
        groups += [millions, thousands - millions * 1000, part - thousands * 1000]
    count = tables.used[groups[0]]
    for index, group in enumerate(groups[1:], 1):
        count = np.where(group > 0, tables.used[group] + 3 * index, count)
    kind = kind + count
    cells = np.empty(digits.size, tables.cell)
    cells["start"] = tables.start[kind * 2 + is_negative]
    for index, group in enumerate(groups):
        cells[f"group{index}"] = tables.group[group + tables.place[index][kind]]
    cells["end"] = tables.end[kind]
    return cells


class _Tables(NamedTuple):
    """Lookup tables by a number's binade, its kind (exponent, length, digits), or its digits.

    Attributes:
        cell: Layout of a cell: :data:`BETWEEN`, sign and text before the digits (8 bytes), groups of three
            digits with a point after one of them (4 each), text after the digits (4). Zero bytes are
            removed at the end.
        exponent, next_power, half_step, is_beyond: By binade: decimal exponent of its smallest number
            (counted from the smallest one), the power of ten that ends it, half of the step between its
            numbers, and whether some of its numbers cannot be written fast.
        power, power_rest: By exponent: the factor that moves all digits before the point, and its rounding
            error.
        used: By a group of three digits: how many of them are left without trailing zeros.
        start, place, end: By kind (and sign): text before the digits, form of each group, text after them.
        group: By three digits and a form.
    """

    format: _Format
    cell: np.dtype[Any]
    exponent: Array
    next_power: Array
    half_step: Array
    is_beyond: Array
    power: Array
    power_rest: Array
    used: Array
    start: Array
    place: Array
    end: Array
    group: Array


@functools.cache
def _tables(form: _Format) -> _Tables:
    bias = form.binades // 2 - 1
    least = [math.ldexp(1.0, binade - bias) for binade in range(1, form.binades - 1)]
    found = [form.least - 1, *(math.floor(math.log10(number)) for number in least), form.most]
    exponents = [min(max(exponent, form.least), form.most - 1) for exponent in found]
    steps = [math.ldexp(1.0, max(binade, 1) - bias - form.fraction - 1) for binade in range(form.binades)]
    written = range(form.least, form.most + 1)
    powers = [Fraction(10) ** (form.digits - 1 - exponent) for exponent in written]
    kinds = [
        _form(exponent, 6 if is_short else form.digits, count, 3 * form.parts)
        for exponent in written
        for is_short in (False, True)
        for count in range(form.digits + 1)
    ]
    groups = [(f"group{index}", "u4") for index in range(3 * form.parts)]
    return _Tables(
        form,
        np.dtype([("start", "u8"), *groups, ("end", "u4")]),
        np.array(exponents, np.int32) - form.least,
        np.array([float(f"1e{exponent + 1}") for exponent in exponents]),
        np.array(steps),
        np.array(found) != exponents,
        np.array([float(power) for power in powers]),
        np.array([float(power - Fraction(float(power))) for power in powers]),
        np.array([len(f"{digits:03}".rstrip("0")) for digits in range(1000)], np.int32),
        _packed([sign + start for start, _, _ in kinds for sign in (_JOINER, _JOINER + "-")], np.uint64),
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


def _form(exponent: int, most: int, count: int, groups: int) -> tuple[str, tuple[int, ...], str]:
    """Return the text before the digits, the form of each group (digits, place of the point), and the end."""
    if not count:
        return "0.0", (0,) * groups, ""
    start, point, end = "", 0, ""
    if not -4 <= exponent < most:
        point, end = int(count > 1), f"e{exponent:+03}"
    elif exponent < 0:
        start = "0." + "0" * (-exponent - 1)
    else:
        point = exponent + 1
        end = "0" * (count <= point)
        count = max(count, point)
    places = []
    for first in range(0, 3 * groups, 3):
        behind = point - first if first < point <= first + 3 else 0
        places.append(4 * behind + min(max(count - first, 0), 3))
    return start, tuple(places), end


def _packed(texts: list[str], kind: type[np.unsignedinteger[Any]]) -> Array:
    """Return short texts as integers, padded with zero bytes."""
    width = np.dtype(kind).itemsize
    return np.frombuffer(b"".join(text.encode().ljust(width, b"\0") for text in texts), kind)
