"""Tensors in nested JSON, by TensorFlow Serving's rules and with its error texts.

The first elements decide the shape. Every list must have it, every value must be of the signature's type; an
error names the first that is not (TF-R14, TF-R15, TF-R31). Lists are checked by level, not by value. Pure.
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, Final

import numpy as np

from salver.dialects.tensorflow.json_shown import shown
from salver.encoding.values import MAX_RANK
from salver.words.errors import InvalidInput, SalverError, Unsupported
from salver.words.messages import TensorSpec
from salver.words.tensor import Array, DataType, Tensor

#: Datatype -> its name in TensorFlow's texts.
NAMES: Final[dict[DataType, str]] = {
    DataType.BOOL: "bool",
    DataType.UINT8: "uint8",
    DataType.UINT16: "uint16",
    DataType.UINT32: "uint32",
    DataType.UINT64: "uint64",
    DataType.INT8: "int8",
    DataType.INT16: "int16",
    DataType.INT32: "int32",
    DataType.INT64: "int64",
    DataType.FP16: "half",
    DataType.FP32: "float",
    DataType.FP64: "double",
    DataType.BF16: "bfloat16",
    DataType.BYTES: "string",
}
#: Integers allowed for a datatype in JSON; for up to 32 bits they must fit 32 and wrap around (TF-R14).
RANGES: Final[dict[DataType, tuple[int, int]]] = {
    DataType.INT8: (-(1 << 31), (1 << 31) - 1),
    DataType.INT16: (-(1 << 31), (1 << 31) - 1),
    DataType.INT32: (-(1 << 31), (1 << 31) - 1),
    DataType.UINT8: (-(1 << 31), (1 << 31) - 1),
    DataType.UINT32: (0, (1 << 32) - 1),
    DataType.INT64: (-(1 << 63), (1 << 63) - 1),
    DataType.UINT64: (0, (1 << 64) - 1),
}
#: Datatypes that accept any number: it is rounded, and infinite beyond the type's range.
FLOATS: Final = frozenset((DataType.FP32, DataType.FP64))
#: Values that are checked together in the search for the first wrong one.
_PART: Final = 4096
_TYPES: Final[dict[type, str]] = {type(None): "Null", dict: "Object", list: "Array", str: "String"}
_NUMBERS: Final = frozenset((int, float))
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]*")
_STATUS: Final = {InvalidInput: "INVALID_ARGUMENT", Unsupported: "UNIMPLEMENTED"}


def is_base64(value: Any) -> bool:
    """Return whether a value is ``{"b64": "text"}``, which stands for bytes."""
    return type(value) is dict and len(value) == 1 and type(value.get("b64")) is str


def json_type(value: Any) -> str:
    """Return RapidJSON's name of a value's type."""
    if type(value) is bool:
        return "True" if value else "False"
    return _TYPES.get(type(value), "Number")


def tensor_of(value: Any, expected: TensorSpec) -> Tensor:
    """Return the tensor of a value, which may be nested, or of an array of the right type.

    Raises:
        InvalidInput: It is irregular, or a value is of another type.
        Unsupported: JSON has no form for the datatype (TF-R15).
    """
    if isinstance(value, np.ndarray):
        return Tensor(expected.name, expected.datatype, value)
    array, place, raise_it = _read(value, _shape_of(value, expected), expected.datatype)
    if place is not None:
        raise_it()
    return Tensor(expected.name, expected.datatype, array)


def tensor_of_rows(rows: Sequence[Any], expected: TensorSpec) -> "tuple[Tensor | None, int]":
    """Return the tensor of rows of equal shape, or None and the first row that may be wrong.

    Raises:
        Unsupported, InvalidInput: The first row itself is wrong.
    """
    shape = _shape_of(rows[0], expected)
    array, place, _ = _read(rows, (len(rows), *shape), expected.datatype)
    if place is not None:
        return None, place
    return Tensor(expected.name, expected.datatype, array), -1


class RowCheck:
    """Checks rows one by one, as TensorFlow Serving does, to find its error text for the first wrong one."""

    def __init__(self, inputs: Mapping[str, TensorSpec]) -> None:
        self._inputs = inputs
        self._shapes: dict[str, tuple[int, ...]] = {}

    def add(self, name: str, value: Any) -> None:
        """Check a row. Raises InvalidInput or Unsupported if it is wrong or differs from those before."""
        expected = self._inputs.get(name)
        if expected is None:
            raise InvalidInput(f"JSON object: does not have named input: {name}")
        shape = tensor_of(value, expected).shape
        known = self._shapes.setdefault(name, shape)
        size, wanted = int(np.prod(shape)), int(np.prod(known))
        if size != wanted:
            raise InvalidInput(f"Expecting tensor size: {wanted} but got: {size}")
        if shape != known:
            raise InvalidInput(f"Expecting shape {_brackets(known)} but got: {_brackets(shape)}")


def as_status(error: SalverError) -> str:
    """Return an error as TensorFlow's status prints it inside another text."""
    return f"{_STATUS.get(type(error), 'INVALID_ARGUMENT')}: {error}"


def _brackets(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _shape_of(value: Any, expected: TensorSpec) -> tuple[int, ...]:
    """Return the extents of the first elements."""
    shape = []
    while type(value) is list:
        shape.append(len(value))
        if len(shape) > MAX_RANK:
            raise InvalidInput(
                f"the lists of '{expected.name}' nest deeper than {MAX_RANK} levels", field=expected.name
            )
        if not value:
            break
        value = value[0]
    return tuple(shape)


def _nothing() -> None:
    """Raise nothing."""


def _read(
    value: Any, shape: tuple[int, ...], datatype: DataType
) -> "tuple[Array, int | None, Callable[[], None]]":
    """Return the array; if it is irregular, also the index along the first axis and a raiser of the error.

    The error is the first in the order of the text: an error at a level cuts off the elements behind it, so
    that an error at a deeper level is nearer to the beginning.
    """
    place: int | None = None
    raise_it: Callable[[], None] = _nothing
    level: list[Any] = [value]
    below = 1  # lists or values of this level in one element of the first axis
    for depth, extent in enumerate(shape):
        if not level:
            break
        if depth > 1:
            below *= shape[depth - 1]
        if set(map(type, level)) != {list} or set(map(len, level)) != {extent}:
            index = next(i for i, item in enumerate(level) if type(item) is not list or len(item) != extent)
            place, raise_it = index // below, partial(_refuse_list, level[index], depth, extent, len(shape))
            del level[index:]
        level = list(chain.from_iterable(level))
    if len(shape) > 1:
        below *= shape[-1]
    array, index = _leaves(level, datatype)
    if index >= 0:
        return array, index // below, partial(_refuse_leaf, level[index], datatype, len(shape))
    if place is None:
        array = array.reshape(shape)
    return array, place, raise_it


def _refuse_list(wrong: Any, depth: int, extent: int, rank: int) -> None:
    if type(wrong) is list:
        raise InvalidInput(
            f"Encountered list at unexpected size: {len(wrong)} at level: {depth} expected size: {extent}"
        )
    raise InvalidInput(
        f"JSON Value: {shown(wrong)} found at incorrect level: {depth + 1} in the JSON DOM. "
        f"Expected at level: {rank}"
    )


def _leaves(values: list[Any], datatype: DataType) -> tuple[Array, int]:
    """Return the values as an array, or the index of the first wrong one."""
    if not values:
        return np.empty(0, datatype.dtype), -1
    kinds = set(map(type, values))
    array: Array | None = None
    if datatype in FLOATS and kinds <= _NUMBERS:
        array = rounded(np.array(values, np.float64), datatype)
    elif datatype in RANGES and kinds == {int}:
        least, most = RANGES[datatype]
        if least <= min(values) and max(values) <= most:
            wide = np.uint64 if datatype is DataType.UINT64 else np.int64
            array = np.array(values, wide).astype(datatype.dtype)
    elif datatype is DataType.BOOL and kinds == {bool}:
        array = np.array(values, np.bool_)
    elif datatype is DataType.BYTES and kinds <= {str, dict}:
        array = _strings(values)
    if array is not None:
        return array, -1
    nothing: Array = np.empty(0, datatype.dtype)
    if len(values) <= _PART:
        return nothing, next(i for i, value in enumerate(values) if not _is_good(value, datatype))
    places = range(0, len(values), _PART)
    found = ((at, _leaves(values[at : at + _PART], datatype)[1]) for at in places)
    return nothing, next(at + index for at, index in found if index >= 0)


def rounded(doubles: Array, datatype: DataType) -> Array:
    """Return doubles as FP32 or FP64, converted as C does."""
    with np.errstate(over="ignore"):
        return doubles.astype(datatype.dtype)


def _strings(values: list[Any]) -> "Array | None":
    out = np.empty(len(values), object)
    for index, value in enumerate(values):
        if type(value) is str:
            out[index] = value.encode("utf-8", "surrogateescape")
        elif is_base64(value) and (octets := _unescape(value["b64"])) is not None:
            out[index] = octets
        else:
            return None
    return out


def base64_of(value: Any) -> bytes:
    """Return the bytes of ``{"b64": "text"}``.

    Raises:
        InvalidInput: It has another form, or is not base64.
    """
    if not is_base64(value):
        raise InvalidInput(f"JSON Value: {shown(value)} not formatted correctly for base64 data")
    octets = _unescape(value["b64"])
    if octets is None:
        raise InvalidInput("Unable to base64 decode")
    return octets


def _unescape(text: str) -> bytes | None:
    """Decode base64 as Abseil does: white space is ignored, padding must be right or missing."""
    text = "".join(text.split())
    bare = text.rstrip("=")
    padding = len(text) - len(bare)
    if not _BASE64.fullmatch(bare) or len(bare) % 4 == 1 or padding not in (0, -len(bare) % 4):
        return None
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4))
    except binascii.Error:
        return None


def _is_good(value: Any, datatype: DataType) -> bool:
    try:
        _refuse_leaf(value, datatype, 0)
    except SalverError:
        return False
    return True


def _refuse_leaf(value: Any, datatype: DataType, rank: int) -> None:
    """Raise the error of a value, if it has one."""
    if type(value) is list:
        raise InvalidInput(f"Encountered list at unexpected level: {rank} expected < {rank}")
    name = NAMES[datatype]
    if type(value) is dict and datatype is DataType.BYTES:
        base64_of(value)
        return
    if datatype in FLOATS:
        good = type(value) in _NUMBERS
    elif datatype in RANGES:
        least, most = RANGES[datatype]
        good = type(value) is int and least <= value <= most
    elif datatype is DataType.BOOL:
        good = type(value) is bool
    elif datatype is DataType.BYTES:
        good = type(value) is str
    elif type(value) is dict:
        good = False
    else:
        raise Unsupported(f"Conversion of JSON Value: {shown(value)} to type: {name}")
    if not good:
        raise InvalidInput(
            f"JSON Value: {shown(value)} Type: {json_type(value)} is not of expected type: {name}"
        )
