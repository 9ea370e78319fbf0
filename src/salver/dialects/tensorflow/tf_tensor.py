"""Conversion between TensorProto messages and tensors.

Packed numbers of the messages are left as bytes
(:func:`salver.dialects.tensorflow.tf_schema.build_unread`), so that no number becomes a Python object. The
rules are TensorFlow's (``Tensor::FromProto``): ``tensor_content`` prevails over the typed field, missing
values repeat the last one, surplus ones are cut off, and no values mean zeros. Pure.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec
import numpy as np

from salver.dialects.tensorflow.tf_schema import DATA_TYPES, build
from salver.encoding import varints
from salver.encoding.raw import from_raw, to_raw
from salver.encoding.values import cast, count_elements
from salver.words.errors import InvalidInput, TooLarge, Unsupported
from salver.words.tensor import Array, DataType, Tensor

#: Limit of the bytes that a request's tensors may need beyond its own, if few values fill a large shape.
MAX_FILLED: Final = 64 << 20


class _Form(msgspec.Struct, frozen=True, gc=False):
    """Representation of a datatype in a TensorProto.

    Attributes:
        number: Value of ``tensorflow.DataType``.
        field: Field of TensorProto.
        tag: Tag before a value of that field.
        packed: numpy's code of an element of that field; empty for numbers of varying length.
    """

    number: int
    name: str
    datatype: DataType
    field: str
    tag: bytes
    packed: str = ""


def _form(name: str, datatype: DataType, field: str, packed: str = "") -> _Form:
    number = build()["TensorProto"].DESCRIPTOR.fields_by_name[field].number
    return _Form(_NAMES.index(name), name, datatype, field, varints.one(number << 3 | 2), packed)


_NAMES: Final = DATA_TYPES.split()
_CONTENT: Final = varints.one(4 << 3 | 2)
_FORMS: Final = (
    _form("DT_FLOAT", DataType.FP32, "float_val", "<f4"),
    _form("DT_DOUBLE", DataType.FP64, "double_val", "<f8"),
    _form("DT_INT32", DataType.INT32, "int_val"),
    _form("DT_UINT8", DataType.UINT8, "int_val"),
    _form("DT_INT16", DataType.INT16, "int_val"),
    _form("DT_INT8", DataType.INT8, "int_val"),
    _form("DT_STRING", DataType.BYTES, "string_val"),
    _form("DT_INT64", DataType.INT64, "int64_val"),
    _form("DT_BOOL", DataType.BOOL, "bool_val"),
    _form("DT_BFLOAT16", DataType.BF16, "half_val"),
    _form("DT_UINT16", DataType.UINT16, "int_val"),
    _form("DT_HALF", DataType.FP16, "half_val"),
    _form("DT_UINT32", DataType.UINT32, "uint32_val"),
    _form("DT_UINT64", DataType.UINT64, "uint64_val"),
)
_OF_NUMBER: Final = {form.number: form for form in _FORMS}
_OF_TYPE: Final = {form.datatype: form for form in _FORMS}
#: Names in the error texts of TensorFlow's executor.
_WORDS: Final = {
    DataType.FP32: "float",
    DataType.FP64: "double",
    DataType.FP16: "half",
    DataType.BF16: "bfloat16",
    DataType.BYTES: "string",
}


def number_of(datatype: DataType) -> int:
    """Return the value of ``tensorflow.DataType``.

    >>> number_of(DataType.BYTES)
    7
    """
    return _OF_TYPE[datatype].number


def name_of(datatype: DataType) -> str:
    """Return the name in ``tensorflow.DataType``.

    >>> name_of(DataType.FP16)
    'DT_HALF'
    """
    return _OF_TYPE[datatype].name


def word_of(datatype: DataType) -> str:
    """Return the name in TensorFlow's texts.

    >>> word_of(DataType.FP32), word_of(DataType.INT8)
    ('float', 'int8')
    """
    return _WORDS.get(datatype) or datatype.name.lower()


class FillBudget:
    """Bytes that the tensors of one request may still need beyond its own.

    >>> FillBudget(4).take(8, "x")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    salver.words.errors.TooLarge: tensor parsing error: x (few values ...
    """

    def __init__(self, left: int = MAX_FILLED) -> None:
        self._left = left

    def take(self, size: int, alias: str) -> None:
        """Use up some bytes. Raises TooLarge."""
        self._left -= size
        if self._left < 0:
            raise TooLarge(
                f"tensor parsing error: {alias} (few values would fill a tensor of too many bytes)",
                fix="Send all values, as tensor_content.",
            )


def read(proto: Any, alias: str, budget: FillBudget) -> Tensor:
    """Return the tensor in a TensorProto whose numbers are left as bytes.

    Raises:
        InvalidInput: It is wrong; the text is TensorFlow Serving's with the reason.
        TooLarge: Its shape is absurd, or the budget is used up.
        Unsupported: Its datatype is not supported.
    """
    form = _OF_NUMBER.get(proto.dtype)
    if form is None:
        raise _unknown_type(proto.dtype, alias)
    shape = [dim.size for dim in proto.tensor_shape.dim]
    try:
        count = count_elements(shape, alias)
        content = proto.tensor_content
        if not count:
            array = np.empty(0, form.datatype.dtype)
        elif not content:
            array = _from_field(getattr(proto, form.field), form, count, alias, budget)
        elif form.datatype is DataType.BYTES:
            array = _from_strings(content, count)
        else:
            array = from_raw(content, form.datatype, (count,), count, "tensor_content")
        return Tensor(alias, form.datatype, array.reshape(shape))
    except TooLarge:
        raise
    except (InvalidInput, ValueError) as error:
        raise InvalidInput(f"tensor parsing error: {alias} ({error})") from None


def _unknown_type(number: int, alias: str) -> InvalidInput | Unsupported:
    name = _NAMES[number] if 0 <= number < len(_NAMES) else str(number)
    if name == "DT_INVALID" or name.isdecimal():
        return InvalidInput(f"tensor parsing error: {alias} (dtype {name} is none)")
    return Unsupported(f"tensor parsing error: {alias} (tensors of {name} are not supported)")


def _from_field(found: Sequence[bytes], form: _Form, count: int, alias: str, budget: FillBudget) -> Array:
    """Return the values of the typed field, as many as the shape has."""
    datatype = form.datatype
    if datatype is DataType.BYTES:
        values: Array = np.empty(min(count, len(found)), dtype=object)
        values[:] = found[:count]
    else:
        values = _numbers(found[0] if len(found) == 1 else b"".join(found), form)
    if len(values) >= count:
        return values[:count]
    budget.take(count * (datatype.itemsize or 8), alias)
    filled = np.empty(count, datatype.dtype)
    filled[: len(values)] = values
    last: Any = b"" if datatype is DataType.BYTES else 0
    if len(values):
        last = values[-1]
    filled[len(values) :] = last
    return filled


def _numbers(raw: bytes, form: _Form) -> Array:
    datatype = form.datatype
    if form.packed:
        return np.frombuffer(raw, form.packed).astype(datatype.dtype, copy=False)
    found = varints.unpack(raw)
    match form.field:
        case "bool_val":
            flags: Array = found != 0
            return flags
        case "half_val":  # the bits of each, as a number
            return found.astype(np.uint16).view(datatype.dtype)
        case "int_val":  # negative numbers are sign-extended to 64 bits
            return cast(found.astype(np.uint32).view(np.int32), datatype, "int_val")
        case _:
            return found.astype(np.uint64).astype(datatype.dtype)


def _from_strings(content: bytes, count: int) -> Array:
    """Return the strings of a ``tensor_content``: all lengths come first, then all bytes."""
    if count > len(content):  # checked before anything is allocated for the declared count
        raise ValueError(f"tensor_content has {len(content)} bytes, too few for {count} strings")
    lengths_end = 0
    lengths = []
    for _ in range(count):
        length, shift = 0, 0
        while True:
            if lengths_end >= len(content) or shift > 28:
                raise ValueError("tensor_content ends inside the lengths of its strings")
            byte = content[lengths_end]
            lengths_end += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        lengths.append(length)
    if lengths_end + sum(lengths) != len(content):
        raise ValueError("tensor_content has more or fewer bytes than the lengths of its strings say")
    out = np.empty(count, dtype=object)
    at = lengths_end
    for index, length in enumerate(lengths):
        out[index] = content[at : at + length]
        at += length
    return out


def to_bytes(datatype: DataType, array: Array, *, as_content: bool = False) -> bytes:
    """Return a serialised TensorProto.

    Args:
        as_content: Whether the values go into ``tensor_content`` rather than the typed field.
    """
    head = _head(datatype, array.shape)
    if not array.size:
        return head
    form = _OF_TYPE[datatype]
    if datatype is DataType.BYTES:
        values = array.ravel().tolist()
        if not as_content:
            parts = [head]
            for value in values:
                parts += (form.tag, varints.one(len(value)), value)
            return b"".join(parts)
        raw: bytes | memoryview = b"".join([*(varints.one(len(value)) for value in values), *values])
    elif as_content:
        raw = to_raw(Tensor("", datatype, array))
    else:
        raw = _packed(array, form)
    return b"".join((head, _CONTENT if as_content else form.tag, varints.one(len(raw)), raw))


@lru_cache(maxsize=4096)
def _head(datatype: DataType, shape: tuple[int, ...]) -> bytes:
    """Return a TensorProto with type and shape alone."""
    message = build()["TensorProto"](dtype=_OF_TYPE[datatype].number)
    for extent in shape:
        message.tensor_shape.dim.add(size=extent)
    message.tensor_shape.SetInParent()
    return message.SerializeToString()  # type: ignore[no-any-return]


def _packed(array: Array, form: _Form) -> bytes:
    if form.packed:
        return array.astype(form.packed, copy=False).tobytes()
    flat = np.ascontiguousarray(array).reshape(-1)
    match form.field:
        case "bool_val":
            return flat.tobytes()
        case "half_val":
            return varints.pack(flat.view(np.uint16).astype(np.uint64))
        case _ if flat.dtype.kind == "i":
            return varints.pack(flat.astype(np.int64).view(np.uint64))
        case _:
            return varints.pack(flat.astype(np.uint64))
