"""Tensors and datatypes, independent of wire and framework.

A :class:`Tensor` is a name, a datatype of the Open Inference Protocol and a C-contiguous
numpy array. Two datatypes need a convention, because numpy has no such type (docs/adr/0001-tensor.md):

* ``BF16`` is stored in a ``uint16`` array that holds the upper half of each float32;
* ``BYTES`` is stored in an ``object`` array whose elements are ``bytes``.
"""

import enum
from collections.abc import Iterable
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_MOST_COUNTED: Final = 1024  # texts that are measured


class DataType(enum.Enum):
    """Datatypes of the Open Inference Protocol, section 2 ("Tensor Data Types").

    Attributes:
        dtype: The numpy dtype that holds it (see the module's note on BF16 and BYTES).
        itemsize: Bytes per element on the wire; 0 for BYTES, whose elements vary.
    """

    BOOL = ("BOOL", "?", 1)
    UINT8 = ("UINT8", "u1", 1)
    UINT16 = ("UINT16", "u2", 2)
    UINT32 = ("UINT32", "u4", 4)
    UINT64 = ("UINT64", "u8", 8)
    INT8 = ("INT8", "i1", 1)
    INT16 = ("INT16", "i2", 2)
    INT32 = ("INT32", "i4", 4)
    INT64 = ("INT64", "i8", 8)
    FP16 = ("FP16", "f2", 2)
    FP32 = ("FP32", "f4", 4)
    FP64 = ("FP64", "f8", 8)
    BF16 = ("BF16", "u2", 2)
    BYTES = ("BYTES", "O", 0)

    dtype: np.dtype[Any]
    itemsize: int

    def __new__(cls, name: str, code: str, itemsize: int) -> "DataType":
        """Create a member whose value is its protocol name, so that configuration can spell it."""
        member = object.__new__(cls)
        member._value_ = name
        member.dtype = np.dtype(code)
        member.itemsize = itemsize
        return member

    @property
    def is_float(self) -> bool:
        """Return whether this is one of the four floating-point types."""
        return self in _FLOATS

    @property
    def is_integer(self) -> bool:
        """Return whether this is one of the eight integer types (BOOL is not one)."""
        return self.dtype.kind in "iu" and self is not DataType.BF16


_FLOATS = (DataType.FP16, DataType.FP32, DataType.FP64, DataType.BF16)

#: Name on the wire -> datatype.
DATATYPES: Final[dict[str, DataType]] = {d.name: d for d in DataType}

_OF_DTYPE: Final[dict[np.dtype[Any], DataType]] = {d.dtype: d for d in DataType if d is not DataType.BF16}


def datatype_of(dtype: "np.dtype[Any] | type") -> DataType:
    """Return the datatype that holds a numpy dtype; strings of any width are BYTES.

    Raises:
        ValueError: for a dtype without a counterpart (complex, datetime, structured).

    >>> datatype_of(np.dtype("float32")).name
    'FP32'
    """
    dtype = np.dtype(dtype)
    known = _OF_DTYPE.get(dtype)
    if known is not None:
        return known
    if dtype.kind in "SU":
        return DataType.BYTES
    if dtype.name == "bfloat16":
        return DataType.BF16
    found = _OF_DTYPE.get(dtype.newbyteorder("="))
    if found is None:
        raise ValueError(f"no tensor datatype holds numpy's {dtype}")
    return found


#: Types without a datatype of their own, for which the model's datatype is assumed.
UNTYPED: Final = (list, tuple, int, float, str, bytes)


class Tensor(msgspec.Struct, frozen=True, gc=False):
    """Named array. Never copied between packages; treat the array as read-only.

    Attributes:
        name: The tensor's name in the model's signature.
        datatype: Its datatype; ``array.dtype`` equals ``datatype.dtype``.
        array: C-contiguous values, the shape included.
    """

    name: str
    datatype: DataType
    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the extents, outermost first."""
        return self.array.shape

    def __repr__(self) -> str:
        """Return name, datatype and shape, but not the values, which may be private."""
        return f"<Tensor {self.name} {self.datatype.name}{list(self.shape)}>"


def tensor(name: str, values: object) -> Tensor:
    """Make a tensor from anything that numpy understands, with the matching datatype.

    Raises:
        ValueError: if numpy's dtype has no counterpart.

    >>> tensor("x", np.zeros((2, 3), "float32"))
    <Tensor x FP32[2, 3]>
    >>> tensor("s", ["a", b"b"]).array.tolist()
    [b'a', b'b']
    """
    array = np.asarray(values)
    kind = datatype_of(array.dtype)
    if kind is DataType.BYTES:
        array = as_bytes(values if array.dtype.kind == "S" else array)
    elif array.dtype.name == "bfloat16":
        array = array.view(np.uint16)
    return Tensor(name, kind, np.ascontiguousarray(array, kind.dtype).reshape(array.shape))


def size_of(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of tensors including texts; estimated from the first texts if there are very many.

    >>> size_of([tensor("x", np.zeros((2, 3), "float32")), tensor("s", ["four"])])
    36
    """
    size = 0
    for each in tensors:
        size += each.array.nbytes
        if each.datatype is DataType.BYTES and (count := each.array.size):
            some = each.array.ravel()[:_MOST_COUNTED]
            size += sum(map(len, some)) * count // len(some)
    return size


def as_bytes(values: object) -> Array:
    """Return an object array of ``bytes`` of the same shape; text becomes UTF-8.

    Raises:
        ValueError: for an element that is neither text nor bytes.
    """
    array = np.asarray(values, dtype=object)
    out = np.empty(array.size, dtype=object)
    for index, value in enumerate(array.ravel().tolist()):
        if isinstance(value, str):
            value = value.encode()
        elif not isinstance(value, bytes):
            raise ValueError(f"a BYTES element must be text or bytes, not {type(value).__name__}")
        out[index] = value
    return out.reshape(array.shape)


def bf16_from_fp32(values: Array) -> Array:
    """Round float32 to bfloat16 (to nearest, ties to even; NaN stays NaN), as uint16.

    >>> bf16_to_fp32(bf16_from_fp32(np.array([1.0, -2.5], "f4"))).tolist()
    [1.0, -2.5]
    """
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16
    quiet = (bits >> 16) | np.uint32(0x40)
    return np.where(np.isnan(values), quiet, rounded).astype(np.uint16)


def bf16_to_fp32(bits: Array) -> Array:
    """Widen bfloat16 (as uint16) to float32, exactly."""
    return (np.ascontiguousarray(bits).astype(np.uint32) << 16).view(np.float32)
