"""Errors, tensors and responses of Triton Python models (TR-A3)."""

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
    """Exception of a model that fails all requests of a run."""

    def __init__(self, message: object = "", *, field: str = "", fix: str = "") -> None:
        super().__init__(str(message), field=field, fix=fix)


def text_of(value: object, what: str) -> str:
    """Return a value as a plain text; bytes are decoded as UTF-8, as in Triton.

    Raises:
        TypeError: It is no text.
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
    return str.__str__(value)  # messages cannot carry numpy's and other subclasses


def number_of(value: Any, what: str) -> int:
    """Return a value as a plain integer.

    Raises:
        TypeError: It is no integer of 64 bits.
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
    """Error as the answer to one request."""

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
        """Return the message."""
        return self._message

    def message(self) -> str:
        """Return the text for the caller."""
        return self._message

    def code(self) -> TritonErrorCode:
        """Return the kind."""
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
    """Return another model's error in the form that models see."""
    return TritonError(str(error), _CODES.get(error.code, _Code.INTERNAL))


class Tensor:
    """Named array, ``[batch, …]`` if the model has a ``max_batch_size``.

    Args:
        numpy_array: Array of numbers, or of objects or strings for a ``TYPE_STRING`` tensor.
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
        """Return name, datatype and shape."""
        return f"<Tensor {self._name} {self._datatype.name}{self.shape()}>"

    @classmethod
    def from_server(cls, tensor: Plain) -> "Tensor":
        """Return a tensor of the server's that the model may write to and keep."""
        array = tensor.array
        if not array.flags.writeable:
            array = array.copy()
        own = cls.__new__(cls)
        own._name = tensor.name
        own._datatype = tensor.datatype
        own._array = bf16_to_fp32(array) if tensor.datatype is DataType.BF16 else array
        return own

    def plain(self) -> Plain:
        """Return the tensor in the server's form."""
        array = self._array
        if self._datatype is DataType.BF16:
            array = bf16_from_fp32(array)
        elif self._datatype is DataType.BYTES:
            array = as_bytes(as_texts(array))
        return Plain(self._name, self._datatype, array)

    @staticmethod
    def from_dlpack(name: str, tensor: Any) -> "Tensor":
        """Return a tensor that shares the memory of another framework's, which must be the CPU's.

        Args:
            tensor: Object with ``__dlpack__``, or a DLPack capsule.
        """
        source = tensor if hasattr(tensor, "__dlpack__") else _Capsule(tensor)
        try:
            return Tensor(name, np.from_dlpack(source))
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise TritonModelException(f"tensor {name!r} cannot be taken over by DLPack: {error}") from error

    def to_dlpack(self) -> Any:
        """Return a DLPack capsule that shares the memory."""
        return self.__dlpack__()

    def __dlpack__(self, **options: Any) -> Any:
        """Return a DLPack capsule, with the arguments of the array API."""
        if self._array.dtype.kind in "OSU":
            raise TritonModelException("DLPack does not have support for string tensors.")
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        """Return DLPack's numbers of the CPU."""
        return 1, 0

    def name(self) -> str:
        """Return the name."""
        return self._name

    def as_numpy(self) -> Array:
        """Return the values: strings as ``bytes`` objects, BF16 as FP32."""
        return self._array

    def shape(self) -> list[int]:
        """Return the extents, outermost first."""
        return list(self._array.shape)

    def is_cpu(self) -> bool:
        """Return True: all tensors are in the CPU's memory."""
        return True

    def triton_dtype(self) -> int:
        """Return Triton's number of the datatype."""
        if self._datatype is DataType.BF16:
            return 14
        return numpy_to_triton_type(self._array.dtype) or 13


class _Capsule:
    """DLPack capsule in the form that numpy needs."""

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


class InferenceResponse:
    """Answer to one request.

    Args:
        error: Error; if given, the outputs are ignored.
        parameters: Object whose values are texts, numbers or booleans, or its JSON text.
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
        """Return the outputs."""
        return self._tensors

    def has_error(self) -> bool:
        """Return whether it is an error."""
        return self._error is not None

    def error(self) -> TritonError | None:
        """Return the error; None = none."""
        return self._error

    def parameters(self) -> str:
        """Return the parameters of the response as JSON text."""
        return self._parameters


def as_texts(array: Array) -> Array:
    """Return an array of objects as texts, converted as Triton does; others stay as they are."""
    if array.dtype.kind != "O":
        return array
    items = array.ravel().tolist()
    if set(map(type, items)) <= {bytes, str}:
        return array
    texts = np.empty(len(items), dtype=object)
    texts[:] = list(map(_encode, items))
    return texts.reshape(array.shape)


def _encode(item: object) -> bytes:
    if isinstance(item, bytes):
        return item
    return str(item).encode()


def triton_string_to_numpy(triton_type_string: str) -> Any:
    """Return the numpy type of ``TYPE_…``; KeyError if numpy has none."""
    return TRITON_STRING_TO_NUMPY[text_of(triton_type_string, "a datatype")]


def triton_to_numpy_type(data_type: int) -> Any:
    """Return the numpy type of Triton's number; None if numpy has none."""
    if 1 <= data_type <= len(_BY_NUMBER):
        return _BY_NUMBER[data_type - 1]
    return None


def numpy_to_triton_type(data_type: Any) -> int | None:
    """Return Triton's number of a numpy type or dtype; None if Triton has none."""
    if data_type == np.bytes_:
        data_type = np.object_
    return next((number for number, known in enumerate(_BY_NUMBER, 1) if data_type == known), None)


def serialize_byte_tensor(input_tensor: Array) -> bytes:
    """Serialise strings in Triton's binary form, each after its length in four bytes."""
    parts = []
    for text in map(_encode, input_tensor.ravel().tolist()):
        parts += [struct.pack("<I", len(text)), text]
    return b"".join(parts)


def deserialize_bytes_tensor(encoded_tensor: Any) -> Array:
    """Return the strings of Triton's binary form, in one dimension."""
    content = bytes(encoded_tensor)
    texts = []
    start = 0
    while start < len(content):
        (length,) = struct.unpack_from("<I", content, start)
        texts.append(content[start + 4 : start + 4 + length])
        start += 4 + length
    return np.array(texts, dtype=np.object_)
