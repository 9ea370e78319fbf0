"""How do the values in JSON become a numpy array, and back?

One place for every JSON protocol: elements nested or flat in row-major order, checked against
the declared shape and datatype. Nothing wraps and nothing is rounded away: a number that its
datatype cannot hold is refused. It does not know a request, a model or a protocol's object.
"""

from typing import Any

import numpy as np

from salver.errors import InvalidInput, TooLarge, Unsupported
from salver.tensor import DATATYPES, Array, DataType, Tensor

#: numpy 1.26 allows no more; nobody needs more.
MAX_RANK = 32
#: More elements than any body can carry; keeps every product below 64 bits.
MAX_ELEMENTS = 1 << 40

_RAW_ONLY = frozenset((DataType.FP16, DataType.BF16))
_FLOATS = frozenset((DataType.FP32, DataType.FP64))


def count_elements(shape: Any, field: str) -> int:
    """Elements of a declared shape, computed without overflow.

    Raises:
        InvalidInput: not a list of non-negative integers.
        TooLarge: the shape alone is absurd.
    """
    if type(shape) is not list:
        raise InvalidInput(f"{field} must be a list of integers, not {kind_of(shape)}", field=field)
    if len(shape) > MAX_RANK:
        raise TooLarge(f"{field} has {len(shape)} dimensions; at most {MAX_RANK} are allowed", field=field)
    count = extent = 1
    for dim in shape:
        if type(dim) is not int or dim < 0:
            raise InvalidInput(f"{field} must hold integers of at least 0, not {shorten(dim)}", field=field)
        count *= dim
        extent *= dim or 1
    if extent > MAX_ELEMENTS:
        raise TooLarge(f"{field} asks for more than {MAX_ELEMENTS} elements", field=field)
    return count


def find_datatype(name: Any, field: str) -> DataType:
    """The datatype of that name.

    Raises:
        InvalidInput: there is none.
    """
    try:
        return DATATYPES[name]
    except (KeyError, TypeError):
        known = ", ".join(DATATYPES)
        raise InvalidInput(
            f"{field} is {shorten(name)}, which is no datatype", field=field, fix=f"Use one of {known}."
        ) from None


def from_json(data: Any, datatype: DataType, field: str) -> Array:
    """Elements of parsed JSON (a list, nested in any way) as an array of that datatype.

    The array has whatever shape the nesting shows; see :func:`shaped` for the declared one.

    Raises:
        InvalidInput: an element is of the wrong kind, or out of the datatype's range.
    """
    if type(data) is not list:
        raise InvalidInput(f"{field} must be a list, not {kind_of(data)}", field=field)
    if datatype is DataType.BYTES:
        return _from_strings(data, field)
    try:
        found = np.array(data)
    except (ValueError, OverflowError):  # ragged nesting: row-major order still says which is which
        found = _numbers(_flatten(data, field))
    if found.dtype.kind in "OSU" and found.size:
        found = _numbers(_flatten(data, field))
        if found.dtype.kind in "OSU":
            raise InvalidInput(_misfit(data, datatype, field), field=field)
    return cast(found, datatype, field)


def cast(found: Array, datatype: DataType, field: str) -> Array:
    """Numbers or booleans as the wanted datatype, exactly or not at all (floats round).

    Raises:
        InvalidInput: an element is out of the datatype's range or has a fraction.
    """
    wanted = datatype.dtype
    if found.dtype is wanted or not found.size:
        return found.astype(wanted, copy=False)
    if datatype in _FLOATS:
        try:
            with np.errstate(over="raise"):
                return found.astype(wanted)
        except FloatingPointError:
            raise InvalidInput(
                f"{field} holds a number too large for {datatype.name}", field=field
            ) from None
    if datatype in _RAW_ONLY:
        raise InvalidInput(f"{field} cannot hold {datatype.name} as JSON", field=field)
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


def shaped(array: Array, shape: list[int], count: int, field: str) -> Array:
    """The array in its declared shape.

    Raises:
        InvalidInput: it has more or fewer elements than that.
    """
    if array.size != count:
        raise InvalidInput(
            f"Shape does not match true shape of 'data' field: {shape} needs {count} elements, "
            f"{field} has {array.size}",
            field=field,
        )
    return array.reshape(shape)


def to_json(tensor: Tensor) -> Any:
    """Flat row-major elements, ready for the JSON writer: an array, or a list of strings.

    Raises:
        Unsupported: JSON cannot carry them (FP16, BF16, bytes that are not UTF-8).
    """
    if tensor.datatype is DataType.BYTES:
        return _to_strings(tensor.array.ravel().tolist(), tensor.name)
    if tensor.datatype in _RAW_ONLY:
        raise Unsupported(
            f"sending {tensor.datatype.name} data via JSON is not supported. "
            f"Please use the binary data format for output '{tensor.name}'"
        )
    return np.ascontiguousarray(tensor.array).reshape(-1)


def _to_strings(values: list[bytes], name: str) -> list[str]:
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError:
        raise Unsupported(
            f"output '{name}' holds bytes that are not UTF-8, which JSON cannot carry. "
            "Please use the binary data format for it"
        ) from None


def _from_strings(data: list[Any], field: str) -> Array:
    flat = _flatten(data, field)
    out = np.empty(len(flat), dtype=object)
    for index, value in enumerate(flat):
        if type(value) is not str:
            raise InvalidInput(
                f"{field} must hold strings where BYTES is declared, not {shorten(value)}", field=field
            )
        try:
            out[index] = value.encode()
        except UnicodeEncodeError:
            raise InvalidInput(f"{field} holds a string with half a surrogate pair", field=field) from None
    return out


def _flatten(data: list[Any], field: str) -> list[Any]:
    """Elements in row-major order, without recursion: the nesting is the sender's."""
    if not any(type(value) is list for value in data):
        return data
    flat: list[Any] = []
    stack = [iter(data)]
    while stack:
        for value in stack[-1]:
            if type(value) is list:
                if len(stack) >= 100:
                    raise InvalidInput("JSON nesting depth exceeds maximum allowed limit (100)", field=field)
                stack.append(iter(value))
                break
            flat.append(value)
        else:
            stack.pop()
    return flat


def _numbers(flat: list[Any]) -> Array:
    try:
        return np.array(flat)
    except (ValueError, OverflowError):
        return np.array([None])  # of no number's kind: the caller's refusal says what is wrong


def _misfit(data: list[Any], datatype: DataType, field: str) -> str:
    wanted = "booleans" if datatype is DataType.BOOL else "numbers"
    wrong = next((v for v in _flatten(data, field) if type(v) not in (int, float, bool)), None)
    if wrong is None:
        flat = [v for v in _flatten(data, field) if type(v) is int]
        if flat:
            wrong = max(flat, key=abs)
            return f"{field} holds {shorten(wrong)}, out of the range of {datatype.name}"
    return f"{field} must hold {wanted} where {datatype.name} is declared, not {shorten(wrong)}"


def kind_of(value: Any) -> str:
    """What JSON calls a parsed value."""
    if value is None:
        return "null"
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return names.get(type(value), "a number")


def shorten(value: Any) -> str:
    """A parsed value as a few characters of an error message."""
    if isinstance(value, dict | list):
        return kind_of(value)
    if type(value) is int and abs(value) >= 1 << 128:
        return "a huge number"
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
