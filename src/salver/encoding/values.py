"""Conversion between JSON values and numpy arrays.

Common to all JSON protocols: elements nested or flat in row-major order, checked against the declared shape
and datatype. Numbers never wrap or lose precision: one that its datatype cannot hold is rejected. It knows no
request, model or protocol.

Pure.
"""

import base64
import struct
from collections.abc import Iterable
from typing import Any

import numpy as np

from salver.encoding.json_text import HOLE, MAX_DEPTH, TOO_DEEP, kind_of, list_pieces
from salver.words.errors import InvalidInput, TooLarge, Unsupported
from salver.words.tensor import DATATYPES, Array, DataType, Tensor, as_bytes, bf16_from_fp32

#: Limit of numpy 1.26.
MAX_RANK = 32
#: More elements than any body can hold; keeps every product below 64 bits.
MAX_ELEMENTS = 1 << 40
#: More inputs, outputs or parameters than any model has; keeps a request's cost proportional to its bytes.
MAX_TENSORS = 4096
#: Maximum strings in one tensor of BYTES, each of which is a Python object.
MAX_STRINGS = 1 << 18
#: Elements and bytes that take one to five milliseconds to write.
_MANY_STRINGS = 1 << 13
_MANY_NUMBERS = 1 << 18
_MANY_BYTES = 1 << 19

#: The limit of JSON nesting, less the three levels around a tensor's data.
MAX_NESTING = MAX_DEPTH - 3
_SMALL = 512
_NONE: Any = object()  # null is also a value
_RAW_ONLY = frozenset((DataType.FP16, DataType.BF16))
_FLOATS = frozenset((DataType.FP16, DataType.FP32, DataType.FP64))


def count_elements(shape: Any, owner: str) -> int:
    """Return the number of elements of the declared shape of ``owner`` (``inputs[0]``), without overflow.

    Raises:
        InvalidInput: not a list of non-negative integers.
        TooLarge: the shape alone is too large.
    """
    if type(shape) is not list:
        raise _bad_shape(f"must be a list of integers, not {kind_of(shape)}", owner)
    if len(shape) > MAX_RANK:
        raise TooLarge(f"{owner}.shape has {len(shape)} dimensions; at most {MAX_RANK} are allowed")
    count = extent = 1
    for dim in shape:
        if type(dim) is not int or dim < 0:
            raise _bad_shape(f"must hold integers of at least 0, not {shorten(dim)}", owner)
        count *= dim
        extent *= dim or 1
    if extent > MAX_ELEMENTS:
        raise TooLarge(f"{owner}.shape asks for more than {MAX_ELEMENTS} elements", field=f"{owner}.shape")
    return count


def _bad_shape(problem: str, owner: str) -> InvalidInput:
    return InvalidInput(f"{owner}.shape {problem}", field=f"{owner}.shape")


def find_datatype(name: Any, owner: str) -> DataType:
    """Return the datatype of ``owner`` (``inputs[0]``) by name.

    Raises:
        InvalidInput: there is no such datatype.
    """
    try:
        return DATATYPES[name]
    except (KeyError, TypeError):
        raise InvalidInput(
            f"{owner}.datatype is {shorten(name)}, which is not a datatype",
            field=f"{owner}.datatype",
            fix=f"Use one of {', '.join(DATATYPES)}.",
        ) from None


def from_json(data: Any, datatype: DataType, field: str, *, is_regular: bool = False) -> Array:
    """Convert elements of parsed JSON (a list, nested in any way) to an array of that datatype.

    Regular nesting determines the shape; ragged nesting is read in row-major order into one dimension, unless
    ``is_regular`` forbids it. See :func:`shaped` for a declared shape.

    Raises:
        InvalidInput: an element is of the wrong kind, or out of the datatype's range.
    """
    if type(data) is not list:
        raise InvalidInput(f"{field} must be a list, not {kind_of(data)}", field=field)
    if datatype is DataType.BYTES:
        return _from_strings(data, field, is_regular)
    if datatype is DataType.FP32 and len(data) <= _SMALL:
        try:  # three times as fast as numpy for a flat list; "=" rejects overflow
            return np.frombuffer(struct.pack(f"={len(data)}f", *data), np.float32)
        except (struct.error, OverflowError):
            pass  # nested, or not all numbers in range
    try:
        found = np.array(data)
        kind = found.dtype.kind
    except (ValueError, OverflowError):  # ragged or too deep
        kind = "O"
    if kind in "OSU":  # not all numbers, or not regular
        if is_regular and kind == "O" and _is_ragged(data):
            raise InvalidInput(f"{field} is a list whose rows differ in shape", field=field)
        found = _numbers(_flatten(data, field), datatype, field)
    if datatype is DataType.UINT64 and found.dtype.kind == "f":
        found = _integers(_flatten(data, field), found)
    return cast(found, datatype, field)


def cast(found: Array, datatype: DataType, field: str) -> Array:
    """Convert numbers or booleans to the datatype without loss (floats are rounded).

    Raises:
        InvalidInput: an element is out of the datatype's range or has a fraction.
    """
    wanted = datatype.dtype
    if (found.dtype is wanted and datatype is not DataType.BF16) or not found.size:
        return found.astype(wanted, copy=False)
    if datatype is DataType.BF16:
        return bf16_from_fp32(cast(found, DataType.FP32, field))
    if datatype in _FLOATS:
        try:
            with np.errstate(over="raise"):
                return found.astype(wanted)
        except FloatingPointError:
            raise InvalidInput(f"{field} holds a number too large for {datatype.name}", field=field) from None
    if found.dtype.kind == "f":
        raise InvalidInput(
            f"{field} holds a number with a fraction, or out of range, where {datatype.name} is declared",
            field=field,
        )
    if datatype is DataType.BOOL:
        low, high = 0, 1
    else:
        limits = np.iinfo(wanted)
        low, high = int(limits.min), int(limits.max)
    least, most = int(found.min()), int(found.max())
    if least < low or most > high:
        wrong = least if least < low else most
        raise InvalidInput(
            f"{field} holds {wrong}, out of the range of {datatype.name} ({low} to {high})", field=field
        )
    return found.astype(wanted)


def typed(name: str, values: object, datatype: DataType) -> Tensor:
    """Return a tensor of a known datatype from anything that numpy understands.

    Raises:
        InvalidInput: the values are ragged, of another kind, or out of the datatype's range.
    """
    try:
        if datatype is DataType.BYTES:
            return Tensor(name, datatype, as_bytes(values))
        array = np.asarray(values)
    except ValueError as error:
        raise InvalidInput(f"input {name!r}: {error}", field=name) from None
    if array.dtype.kind not in "biuf":
        raise InvalidInput(f"input {name!r} must hold numbers, since it is {datatype.name}", field=name)
    cast_to = np.ascontiguousarray(cast(array, datatype, f"input {name!r}"))
    return Tensor(name, datatype, cast_to.reshape(array.shape))


def shaped(array: Array, shape: list[int], count: int, field: str) -> Array:
    """Return the array in its declared shape.

    Raises:
        InvalidInput: the number of elements differs.
    """
    if array.size != count:
        raise InvalidInput(
            f"Shape does not match true shape of 'data' field: {shape} needs {count} elements, "
            f"{field} has {array.size}",
            field=field,
        )
    return array.reshape(shape)


def is_long(tensors: Iterable[Tensor]) -> bool:
    """Return whether writing them would delay other requests."""
    for tensor in tensors:  # written out, as it is asked of each answer
        count = tensor.array.size
        if count > _MANY_STRINGS and (count > _MANY_NUMBERS or tensor.datatype is DataType.BYTES):
            return True
        if tensor.datatype is DataType.BYTES and sum(map(len, tensor.array.ravel().tolist())) > _MANY_BYTES:
            return True
    return False


def to_json(tensor: Tensor) -> Any:
    """Return flat row-major elements for the JSON writer: an array, or a list of strings.

    Raises:
        InvalidInput: they are FP16 or BF16, which have no JSON form.
        Unsupported: they are bytes that are not UTF-8.
    """
    if tensor.datatype is DataType.BYTES:
        return _to_strings(tensor.array.ravel().tolist(), tensor.name)
    if tensor.datatype in _RAW_ONLY:
        raise InvalidInput(
            f"sending {tensor.datatype.name} data via JSON is not supported. "
            "Please use the binary data format for output"
        )
    return tensor.array.ravel()


def to_json_within(tensor: Tensor, long: list[list[bytes]]) -> Any:
    """Return what :func:`to_json` does; long tensors go to ``long`` as text (:func:`~.json_text.filled`)."""
    values = to_json(tensor)
    if not is_long((tensor,)):
        return values
    long.append(list_pieces(values))
    return HOLE


def _to_strings(values: list[bytes], name: str) -> list[str]:
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError:
        raise Unsupported(
            f"output '{name}' holds bytes that are not UTF-8, which JSON cannot carry. "
            "Please use the binary data format for it"
        ) from None


def _from_strings(data: list[Any], field: str, is_regular: bool) -> Array:
    flat = np.array(data, dtype=object) if is_regular else np.array(_flatten(data, field), dtype=object)
    out = np.empty(flat.size, dtype=object)
    for index, value in enumerate(flat.ravel().tolist()):
        if type(value) is str:
            out[index] = value.encode()
        elif type(value) is dict and is_regular:
            out[index] = _from_base64(value, field)
        else:
            raise InvalidInput(
                f"{field} must hold strings where BYTES is declared, not {shorten(value)}", field=field
            )
    return out.reshape(flat.shape)


def _from_base64(value: dict[str, Any], field: str) -> bytes:
    text = value.get("b64")
    if len(value) == 1 and type(text) is str:
        try:
            return base64.b64decode(text, validate=True)
        except ValueError:  # bad alphabet or padding
            pass
    raise InvalidInput(f'{field} holds an object that is not {{"b64": "base64 text"}}', field=field)


def _flatten(data: list[Any], field: str) -> list[Any]:
    """Return elements in row-major order without recursion, because the sender controls the nesting."""
    if not any(type(value) is list for value in data):
        return data
    flat: list[Any] = []
    stack = [iter(data)]
    while stack:
        for value in stack[-1]:
            if type(value) is list:
                if len(stack) >= MAX_NESTING:
                    raise InvalidInput(TOO_DEEP, field=field)
                stack.append(iter(value))
                break
            flat.append(value)
        else:
            stack.pop()
    return flat


def _is_ragged(data: list[Any]) -> bool:
    """Return False if all lists of one depth have equal length and only the deepest hold values."""
    level = data
    while True:
        lists = [value for value in level if type(value) is list]
        if not lists:
            return False
        if len(lists) < len(level) or len({len(value) for value in lists}) > 1:
            return True
        level = [inner for value in lists for inner in value]


def _numbers(flat: list[Any], datatype: DataType, field: str) -> Array:
    """Return numbers or booleans; raise for the first other element."""
    wrong = next((value for value in flat if type(value) not in (int, float, bool)), _NONE)
    if wrong is not _NONE:
        wanted = "numbers"
        if datatype is DataType.BOOL:
            wanted = "booleans"
        raise InvalidInput(
            f"{field} must hold {wanted} where {datatype.name} is declared, not {shorten(wrong)}", field=field
        )
    try:
        found = np.array(flat)
    except OverflowError:
        found = np.array([None])
    if found.dtype.kind == "O":  # an integer beyond 64 bits
        wrong = max((value for value in flat if type(value) is int), key=abs)
        raise InvalidInput(
            f"{field} holds {shorten(wrong)}, out of the range of {datatype.name}", field=field
        )
    return found


def _integers(flat: list[Any], found: Array) -> Array:
    """Return integers that numpy converted to floats because no integer type holds the whole range."""
    if all(type(value) in (int, bool) for value in flat):
        return np.array(flat, dtype=object).reshape(found.shape)
    return found


def shorten(value: Any) -> str:
    """Shorten a parsed value to a few characters, for an error message."""
    if isinstance(value, dict | list):
        return kind_of(value)
    if type(value) is int and abs(value) >= 1 << 128:
        return "a huge number"
    text = "null" if value is None else repr(value)
    if len(text) <= 60:
        return text
    return f"{text[:57]}..."
