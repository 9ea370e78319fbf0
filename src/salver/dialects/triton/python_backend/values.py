"""What are the errors, tensors and responses that a Triton Python model handles (TR-A3)?

Over numpy alone; :mod:`salver.dialects.triton.python_backend.pb_utils` gives them their names.
"""

import enum
import json
import operator
import struct
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final

import numpy as np

from salver.words.errors import (
    Cancelled,
    Code,
    Conflict,
    InvalidInput,
    ModelFailed,
    NotFound,
    NotReady,
    SalverError,
    UnknownError,
    Unsupported,
)
from salver.words.tensor import Array, DataType, as_bytes, bf16_from_fp32, bf16_to_fp32, datatype_of
from salver.words.tensor import Tensor as Plain

TRITON_STRING_TO_NUMPY: Final[dict[str, Any]] = {
    "TYPE_BOOL": bool,
    "TYPE_UINT8": np.uint8,
    "TYPE_UINT16": np.uint16,
    "TYPE_UINT32": np.uint32,
    "TYPE_UINT64": np.uint64,
    "TYPE_INT8": np.int8,
    "TYPE_INT16": np.int16,
    "TYPE_INT32": np.int32,
    "TYPE_INT64": np.int64,
    "TYPE_FP16": np.float16,
    "TYPE_FP32": np.float32,
    "TYPE_FP64": np.float64,
    "TYPE_STRING": np.object_,
}
#: numpy's scalar types by Triton's number of the datatype, from 1 on.
_BY_NUMBER: Final[list[Any]] = [np.bool_, *list(TRITON_STRING_TO_NUMPY.values())[1:]]


class TritonModelException(ModelFailed):  # Triton's name
    """Raised by a model: the requests of this run fail."""

    def __init__(self, message: object = "", *, field: str = "", fix: str = "") -> None:
        super().__init__(str(message), field=field, fix=fix)


def text_of(value: object, what: str) -> str:
    """The value as a plain text; bytes stand for the text that they are in UTF-8, as in Triton.

    Raises:
        TypeError: it is no text.
    """
    if type(value) is str:
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise TypeError(f"{what} must be a text, and is not UTF-8: {error}") from error
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a text, not {type(value).__name__}")
    return str.__str__(value)  # of numpy's, or another subclass, which messages do not carry


def number_of(value: Any, what: str) -> int:
    """The value as a plain whole number.

    Raises:
        TypeError: it is none of 64 bits.
    """
    try:
        number = operator.index(value)
    except TypeError as error:
        raise TypeError(f"{what} must be a whole number, not {type(value).__name__}") from error
    if not -(1 << 63) <= number < 1 << 64:
        raise TypeError(f"{what} is beyond 64 bits")
    return number


class TritonErrorCode(enum.IntEnum):
    """Kinds of :class:`TritonError`, numbered as in Triton's C API."""

    UNKNOWN = 0
    INTERNAL = 1
    NOT_FOUND = 2
    INVALID_ARG = 3
    UNAVAILABLE = 4
    UNSUPPORTED = 5
    ALREADY_EXISTS = 6
    CANCELLED = 7


class TritonError:
    """The error that one request is answered with."""

    UNKNOWN: ClassVar = TritonErrorCode.UNKNOWN
    INTERNAL: ClassVar = TritonErrorCode.INTERNAL
    NOT_FOUND: ClassVar = TritonErrorCode.NOT_FOUND
    INVALID_ARG: ClassVar = TritonErrorCode.INVALID_ARG
    UNAVAILABLE: ClassVar = TritonErrorCode.UNAVAILABLE
    UNSUPPORTED: ClassVar = TritonErrorCode.UNSUPPORTED
    ALREADY_EXISTS: ClassVar = TritonErrorCode.ALREADY_EXISTS
    CANCELLED: ClassVar = TritonErrorCode.CANCELLED

    def __init__(self, message: str = "", code: int = TritonErrorCode.INTERNAL) -> None:
        self._message = text_of(message, "the message of a TritonError")
        self._code = TritonErrorCode(code)

    def __str__(self) -> str:
        """The message."""
        return self._message

    def message(self) -> str:
        """What the caller reads."""
        return self._message

    def code(self) -> TritonErrorCode:
        """Its kind."""
        return self._code


_Code = TritonErrorCode
KINDS: Final[Mapping[TritonErrorCode, type[SalverError]]] = {
    _Code.UNKNOWN: UnknownError,
    _Code.INTERNAL: ModelFailed,
    _Code.NOT_FOUND: NotFound,
    _Code.INVALID_ARG: InvalidInput,
    _Code.UNAVAILABLE: NotReady,
    _Code.UNSUPPORTED: Unsupported,
    _Code.ALREADY_EXISTS: Conflict,
    _Code.CANCELLED: Cancelled,
}
_CODES: Final = {
    Code.UNKNOWN: _Code.UNKNOWN,
    Code.NOT_FOUND: _Code.NOT_FOUND,
    Code.INVALID_INPUT: _Code.INVALID_ARG,
    Code.TOO_LARGE: _Code.INVALID_ARG,
    Code.NOT_READY: _Code.UNAVAILABLE,
    Code.OVERLOADED: _Code.UNAVAILABLE,
    Code.DEADLINE_EXCEEDED: _Code.UNAVAILABLE,
    Code.UNSUPPORTED: _Code.UNSUPPORTED,
    Code.CONFLICT: _Code.ALREADY_EXISTS,
    Code.CANCELLED: _Code.CANCELLED,
}


def error_of(error: SalverError) -> TritonError:
    """What another model answered with, as this one sees it."""
    return TritonError(str(error), _CODES.get(error.code, _Code.INTERNAL))


class Tensor:
    """A named array, ``[batch, …]`` where the model has a ``max_batch_size``.

    Args:
        numpy_array: Of any number type, or of objects or strings for a ``TYPE_STRING`` tensor.
    """

    def __init__(self, name: str, numpy_array: Array) -> None:
        name = text_of(name, "the name of a tensor")
        if not name:
            raise TritonModelException("Tensor name cannot be an empty string.")
        if not isinstance(numpy_array, np.ndarray):
            raise TypeError(f"tensor {name!r} must be a numpy array, not {type(numpy_array).__name__}")
        try:
            self._datatype = datatype_of(numpy_array.dtype)
        except ValueError as error:
            raise TritonModelException(f"tensor {name!r}: {error}") from error
        self._name = name
        if not numpy_array.flags.c_contiguous:
            numpy_array = np.ascontiguousarray(numpy_array)
        self._array = numpy_array

    def __repr__(self) -> str:
        """Name, datatype and shape."""
        return f"<Tensor {self._name} {self._datatype.name}{self.shape()}>"

    @classmethod
    def given(cls, tensor: Plain) -> "Tensor":
        """One of a request's inputs or another model's outputs, which the model may write to and keep."""
        array = tensor.array if tensor.array.flags.writeable else tensor.array.copy()
        made = cls.__new__(cls)
        made._name = tensor.name
        made._datatype = tensor.datatype
        made._array = bf16_to_fp32(array) if tensor.datatype is DataType.BF16 else array
        return made

    def plain(self) -> Plain:
        """As the server knows tensors."""
        array = self._array
        if self._datatype is DataType.BF16:
            array = bf16_from_fp32(array)
        elif self._datatype is DataType.BYTES:
            array = as_bytes(as_texts(array))
        return Plain(self._name, self._datatype, array)

    @staticmethod
    def from_dlpack(name: str, tensor: Any) -> "Tensor":
        """A tensor over the memory of another framework's, which must lie on the CPU.

        Args:
            tensor: With ``__dlpack__``, or a DLPack capsule.
        """
        source = tensor if hasattr(tensor, "__dlpack__") else _Capsule(tensor)
        try:
            return Tensor(name, np.from_dlpack(source))
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise TritonModelException(f"tensor {name!r} cannot be taken over by DLPack: {error}") from error

    def to_dlpack(self) -> Any:
        """A DLPack capsule over the same memory."""
        return self.__dlpack__()

    def __dlpack__(self, **wishes: Any) -> Any:
        """As :meth:`to_dlpack`, by the array API's name, with that standard's arguments."""
        if self._array.dtype.kind in "OSU":
            raise TritonModelException("DLPack does not have support for string tensors.")
        return self._array.__dlpack__(**wishes)

    def __dlpack_device__(self) -> tuple[int, int]:
        """The CPU, in DLPack's numbers."""
        return 1, 0

    def name(self) -> str:
        """Its name."""
        return self._name

    def as_numpy(self) -> Array:
        """The values; those of strings are ``bytes`` objects, those of BF16 FP32."""
        return self._array

    def shape(self) -> list[int]:
        """Extents, outermost first."""
        return list(self._array.shape)

    def is_cpu(self) -> bool:
        """Always: tensors lie in the CPU's memory here."""
        return True

    def triton_dtype(self) -> int:
        """Triton's number of its datatype."""
        return 14 if self._datatype is DataType.BF16 else numpy_to_triton_type(self._array.dtype) or 13


class _Capsule:
    """A DLPack capsule as numpy wants it."""

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


class InferenceResponse:
    """The answer to one request.

    Args:
        error: Counts alone, if it is given.
        parameters: An object whose values are texts, numbers or booleans, or its JSON text.
    """

    def __init__(
        self,
        output_tensors: Iterable[Tensor] = (),
        error: TritonError | None = None,
        parameters: Mapping[str, Any] | str | None = None,
    ) -> None:
        self._tensors = list(output_tensors)
        for tensor in self._tensors:
            if not isinstance(tensor, Tensor):
                raise TypeError(f"an output must be a pb_utils.Tensor, not {type(tensor).__name__}")
        if not isinstance(error, TritonError | None):
            raise TypeError(f"an error must be a pb_utils.TritonError, not {type(error).__name__}")
        self._error = error
        is_text = isinstance(parameters, str | bytes)
        self._parameters = text_of(parameters, "parameters") if is_text else json.dumps(parameters or {})

    def output_tensors(self) -> list[Tensor]:
        """Its outputs."""
        return self._tensors

    def has_error(self) -> bool:
        """True if it is an error."""
        return self._error is not None

    def error(self) -> TritonError | None:
        """Which one."""
        return self._error

    def parameters(self) -> str:
        """Of the response, as JSON text."""
        return self._parameters


def as_texts(array: Array) -> Array:
    """A tensor's array; objects that are no text are said as text, as Triton says them."""
    if array.dtype.kind != "O":
        return array
    items = array.ravel().tolist()
    if set(map(type, items)) <= {bytes, str}:
        return array
    texts = np.empty(len(items), dtype=object)
    texts[:] = [item if isinstance(item, bytes) else str(item).encode() for item in items]
    return texts.reshape(array.shape)


def triton_string_to_numpy(triton_type_string: str) -> Any:
    """The numpy type of ``TYPE_…``; KeyError for one that numpy does not have."""
    return TRITON_STRING_TO_NUMPY[text_of(triton_type_string, "a datatype")]


def triton_to_numpy_type(data_type: int) -> Any:
    """The numpy type of Triton's number; None for one that numpy does not have."""
    return _BY_NUMBER[data_type - 1] if 1 <= data_type <= len(_BY_NUMBER) else None


def numpy_to_triton_type(data_type: Any) -> int | None:
    """Triton's number of a numpy type or dtype; None for one that Triton does not have."""
    if data_type == np.bytes_:
        data_type = np.object_
    return next((number for number, known in enumerate(_BY_NUMBER, 1) if data_type == known), None)


def serialize_byte_tensor(input_tensor: Array) -> bytes:
    """Strings as Triton's binary form: each with its length in four bytes before it."""
    parts = []
    for item in input_tensor.ravel().tolist():
        text = item if isinstance(item, bytes) else str(item).encode()
        parts += [struct.pack("<I", len(text)), text]
    return b"".join(parts)


def deserialize_bytes_tensor(encoded_tensor: Any) -> Array:
    """The strings of Triton's binary form, in one dimension."""
    content = bytes(encoded_tensor)
    texts = []
    start = 0
    while start < len(content):
        (length,) = struct.unpack_from("<I", content, start)
        texts.append(content[start + 4 : start + 4 + length])
        start += 4 + length
    return np.array(texts, dtype=np.object_)
