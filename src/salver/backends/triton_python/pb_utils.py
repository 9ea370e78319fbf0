"""What does a Triton Python model import as ``triton_python_backend_utils``?

Tensors, requests, responses, errors and look-ups, named and behaving as its Python backend has them
(TR-A3), over numpy alone. It knows no host, queue or wire; :mod:`salver.backends.triton_python.model`
makes the requests and reads the responses. Names that Triton has and this module has not raise
AttributeError with the reason.
"""

import enum
import json
import struct
import sys
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final, Protocol

import numpy as np

from salver.errors import ModelFailed
from salver.tensor import Array, DataType, bf16_to_fp32, datatype_of

TRITONSERVER_REQUEST_FLAG_SEQUENCE_START: Final = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_END: Final = 2
TRITONSERVER_RESPONSE_COMPLETE_FINAL: Final = 1
TRITONSERVER_REQUEST_RELEASE_ALL: Final = 1
TRITONSERVER_REQUEST_RELEASE_RESCHEDULE: Final = 2

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
_NOT_HERE: Final = frozenset(
    {
        "InferenceTrace",
        "Metric",
        "MetricFamily",
        "ModelConfig",
        "PreferredMemory",
        "is_model_ready",
        "load_model",
        "unload_model",
    }
)


def __getattr__(name: str) -> Any:
    if name in _NOT_HERE:
        raise AttributeError(f"triton_python_backend_utils.{name} is not offered by Salver yet")
    raise AttributeError(f"module 'triton_python_backend_utils' has no attribute {name!r}")


class TritonModelException(ModelFailed):  # Triton's name
    """Raised by a model: the requests of this run fail."""

    def __init__(self, message: object = "", *, field: str = "", fix: str = "") -> None:
        super().__init__(str(message), field=field, fix=fix)


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
        self._message = str(message)
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


class Tensor:
    """A named array, ``[batch, …]`` where the model has a ``max_batch_size``.

    Args:
        numpy_array: Of any number type, or of objects or strings for a ``TYPE_STRING`` tensor.
    """

    def __init__(self, name: str, numpy_array: Array) -> None:
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
    def given(cls, name: str, datatype: DataType, array: Array) -> "Tensor":
        """One of a request's inputs; the array belongs to the model from now on."""
        tensor = cls.__new__(cls)
        tensor._name = name
        tensor._datatype = datatype
        tensor._array = bf16_to_fp32(array) if datatype is DataType.BF16 else array
        return tensor

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

    def __dlpack__(self, stream: Any = None) -> Any:
        """As :meth:`to_dlpack`, by the array API's name."""
        if self._array.dtype.kind in "OSU":
            raise TritonModelException("DLPack does not have support for string tensors.")
        return self._array.__dlpack__()

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


class InferenceRequest:
    """One request, as ``execute`` gets it. Salver makes them; calling other models is not offered yet."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise TritonModelException("a model cannot call other models in Salver yet")

    @classmethod
    def given(
        cls,
        inputs: Iterable[Tensor],
        id: str,
        outputs: Iterable[str],
        parameters: Mapping[str, Any],
        outlet: "Outlet | None" = None,
    ) -> "InferenceRequest":
        """One to be executed.

        Args:
            outputs: Names of those that the caller wants.
            parameters: As the caller sent them, the server's own among them.
            outlet: Where the responses of a decoupled model go.
        """
        request = cls.__new__(cls)
        request._inputs = list(inputs)
        request._id = id
        request._outputs = list(outputs)
        request._parameters = parameters
        request._sender = InferenceResponseSender(outlet) if outlet else None
        return request

    _inputs: list[Tensor]
    _id: str
    _outputs: list[str]
    _parameters: Mapping[str, Any]
    _sender: "InferenceResponseSender | None"

    def inputs(self) -> list[Tensor]:
        """Those that were sent."""
        return self._inputs

    def request_id(self) -> str:
        """The caller's mark, or empty."""
        return self._id

    def correlation_id(self) -> int | str:
        """Of its sequence; 0 for none."""
        id: int | str = self._parameters.get("sequence_id", 0)
        return id

    def requested_output_names(self) -> list[str]:
        """What the caller wants; all outputs if it did not say."""
        return self._outputs

    def flags(self) -> int:
        """Whether it starts or ends a sequence, in Triton's bits."""
        start = TRITONSERVER_REQUEST_FLAG_SEQUENCE_START if self._parameters.get("sequence_start") else 0
        return start | (TRITONSERVER_REQUEST_FLAG_SEQUENCE_END if self._parameters.get("sequence_end") else 0)

    def timeout(self) -> int:
        """The caller's, in microseconds; 0 for none."""
        return int(self._parameters.get("timeout", 0))

    def parameters(self) -> str:
        """The caller's own parameters, as JSON text."""
        return json.dumps({k: v for k, v in self._parameters.items() if not _is_reserved(k)})

    def is_cancelled(self) -> bool:
        """True once nobody waits for the responses of a decoupled model; others are never told."""
        return self._sender is not None and self._sender.is_cancelled()

    def get_response_sender(self) -> "InferenceResponseSender":
        """Of a decoupled model's request; always the same."""
        if self._sender is None:
            raise TritonModelException(
                "'get_response_sender' function must be called only when the model is using the decoupled "
                "transaction policy."
            )
        return self._sender

    def set_release_flags(self, flags: int) -> None:
        """Rescheduling is for sequences that iterate, which Salver does not serve yet."""
        if flags != TRITONSERVER_REQUEST_RELEASE_ALL:
            raise TritonModelException("a request cannot be rescheduled in Salver yet")


_RESERVED: Final = frozenset(
    {"sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "binary_data_output"}
)


def _is_reserved(name: str) -> bool:
    return name in _RESERVED or name.startswith("triton_")


class InferenceResponse:
    """The answer to one request.

    Args:
        error: Counts alone, if it is given.
        parameters: JSON text of an object whose values are texts, numbers or booleans.
    """

    def __init__(
        self,
        output_tensors: Iterable[Tensor] = (),
        error: TritonError | None = None,
        parameters: str = "",
    ) -> None:
        self._tensors = list(output_tensors)
        for tensor in self._tensors:
            if not isinstance(tensor, Tensor):
                raise TypeError(f"an output must be a pb_utils.Tensor, not {type(tensor).__name__}")
        if not isinstance(error, TritonError | None):
            raise TypeError(f"an error must be a pb_utils.TritonError, not {type(error).__name__}")
        self._error = error
        self._parameters = parameters

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


class Outlet(Protocol):
    """Where a sender's responses go."""

    def put(self, response: InferenceResponse | None, is_last: bool) -> None:
        """Pass one on, if there is one; wait until it has been taken."""
        ...

    def is_cancelled(self) -> bool:
        """Nobody waits for them."""
        ...

    def close(self) -> None:
        """None follows."""
        ...


class InferenceResponseSender:
    """Sends the responses of a decoupled model, from any thread.

    The request is over when the sender says so, or is gone.
    """

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self._is_closed = False

    def __del__(self) -> None:
        self._outlet.close()

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        """Send a response, or say that none follows, or both; waits until it has been taken."""
        if self._is_closed:
            raise TritonModelException("Unable to send response. Response sender has been closed.")
        if flags not in (0, TRITONSERVER_RESPONSE_COMPLETE_FINAL):
            raise TritonModelException("Unable to send response. Unsupported flag provided.")
        if response is None and not flags:
            raise TritonModelException(
                "Inference Response object must be provided when the response flags is set to zero."
            )
        self._is_closed = bool(flags)
        self._outlet.put(response, self._is_closed)

    def is_cancelled(self) -> bool:
        """True once nobody waits for more."""
        return self._outlet.is_cancelled()


class LogLevel(enum.IntEnum):
    """Of a line in the log, numbered as in Triton."""

    INFO = 0
    WARNING = 1
    ERROR = 2
    VERBOSE = 3


class Logger:
    """Lines for the server's log, where they stand with the model's name."""

    INFO: ClassVar = LogLevel.INFO
    WARNING: ClassVar = LogLevel.WARNING
    ERROR: ClassVar = LogLevel.ERROR
    VERBOSE: ClassVar = LogLevel.VERBOSE

    @staticmethod
    def log(message: str, level: int = LogLevel.INFO) -> None:
        """One line; verbose ones are left out, as Triton leaves them out unless asked."""
        if level != LogLevel.VERBOSE:
            sys.stderr.write(f"{LogLevel(level).name}: {message}\n")

    @classmethod
    def log_info(cls, message: str) -> None:
        """Information."""
        cls.log(message, LogLevel.INFO)

    @classmethod
    def log_warn(cls, message: str) -> None:
        """A warning."""
        cls.log(message, LogLevel.WARNING)

    @classmethod
    def log_error(cls, message: str) -> None:
        """An error."""
        cls.log(message, LogLevel.ERROR)

    @classmethod
    def log_verbose(cls, message: str) -> None:
        """A detail."""
        cls.log(message, LogLevel.VERBOSE)


def get_input_tensor_by_name(inference_request: InferenceRequest, name: str) -> Tensor | None:
    """The input of that name; None if the request has none."""
    return next((tensor for tensor in inference_request.inputs() if tensor.name() == name), None)


def get_output_tensor_by_name(inference_response: InferenceResponse, name: str) -> Tensor | None:
    """The output of that name; None if the response has none."""
    return next((tensor for tensor in inference_response.output_tensors() if tensor.name() == name), None)


def get_input_config_by_name(model_config: Mapping[str, Any], name: str) -> Any:
    """The input's part of a configuration; None if there is no such input."""
    return next((part for part in model_config.get("input", ()) if part["name"] == name), None)


def get_output_config_by_name(model_config: Mapping[str, Any], name: str) -> Any:
    """The output's part of a configuration; None if there is no such output."""
    return next((part for part in model_config.get("output", ()) if part["name"] == name), None)


def using_decoupled_model_transaction_policy(model_config: Mapping[str, Any]) -> bool:
    """Whether the model sends its responses one by one."""
    return bool(model_config.get("model_transaction_policy", {}).get("decoupled", False))


def triton_string_to_numpy(triton_type_string: str) -> Any:
    """The numpy type of ``TYPE_…``; KeyError for one that numpy does not have."""
    return TRITON_STRING_TO_NUMPY[triton_type_string]


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
