"""Conversion of byte strings to and from ONNX Runtime.

Its Python interface accepts and returns only ``str``. Bytes that are not UTF-8, such as an image, are passed
as the constant of a generated graph, and read from the runtime's own memory. Each call creates a session,
about 0.3 ms.
"""

import ctypes
import math
from typing import Any

from salver.words.errors import ModelFailed
from salver.words.tensor import Array, as_bytes

_STRING = b"\x08\x08"  # a tensor type: elem_type 1 = STRING
# bytes of a std::string in the C++ library of Linux: address, length, and 16 for short strings
_STD_STRING = 32


def value_of(ort: Any, array: Array) -> Any:
    """Return the runtime's own tensor with these ``bytes``."""
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 4
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(_constant(array), settings, providers=["CPUExecutionProvider"])
    return session.run_with_ort_values(["y"], {})[0]


def bytes_of(value: Any) -> Array:
    """Return the ``bytes`` in the runtime's tensor.

    Raises:
        ModelFailed: the memory layout is not that of the C++ library of Linux, and they are not UTF-8.
    """
    try:
        return as_bytes(value.numpy())
    except UnicodeDecodeError as error:
        count = math.prod(value.shape())
        if value.tensor_size_in_bytes() != _STD_STRING * count:
            raise ModelFailed(f"an output holds strings that are not UTF-8: {error}") from error
        words = (ctypes.c_uint64 * (4 * count)).from_address(value.data_ptr())
        texts = [ctypes.string_at(*words[at : at + 2]) for at in range(0, 4 * count, 4)]
        return as_bytes(texts).reshape(value.shape())


def _constant(array: Array) -> bytes:
    """Return a ModelProto whose only output ``y`` is this tensor."""
    tensor = b"".join([b"\x08" + _varint(extent) for extent in array.shape]) + b"\x10\x08"
    tensor += b"".join([_field(6, text) for text in array.ravel().tolist()])
    attribute = _field(1, b"value") + _field(5, tensor) + b"\xa0\x01\x04"
    node = _field(2, b"y") + _field(4, b"Constant") + _field(5, attribute)
    output = _field(1, b"y") + _field(2, _field(1, _STRING))
    graph = _field(1, node) + _field(2, b"strings") + _field(12, output)
    return b"\x08\x08" + _field(7, graph) + _field(8, b"\x10\x0d")  # IR version 8, operators of version 13


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out) + bytes([number])
