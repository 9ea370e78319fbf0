"""Child process that decodes large bodies, beside the server's event loop.

Parsers of JSON and protobuf hold the interpreter lock for a whole body: 2 ms per megabyte of numbers, 80 ms
per megabyte of nested lists. A thread would block the event loop for as long; another process does not. It
reads one job at a time from a socket, answers with the result or the error, and exits when the socket closes.
"""

import contextlib
import ctypes
import gc
import io
import os
import pickle
import resource
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from salver.encoding.values import MAX_STRINGS
from salver.words.errors import InvalidInput, SalverError, TooLarge
from salver.words.messages import InferRequest
from salver.words.tensor import Array, DataType, Tensor

#: Sizes of the pickled job and of the body that follows it.
WORK: Final = struct.Struct(">QQ")
#: Size of the pickled reply, and the number of buffers that follow; their sizes come after it.
REPLY: Final = struct.Struct(">QI")
SIZE: Final = struct.Struct(">Q")
#: Most values of a result without arrays; the parent unpickles them on its event loop, 0.1 µs each.
MOST_VALUES: Final = 200_000
#: Size of a body, in bytes, after which memory is returned to the system.
_TRIM: Final = 4 << 20
#: Lower priority than the server's, so that small requests come first.
_NICE: Final = 5


class _Pickler(pickle.Pickler):
    """Pickler that sends arrays out of band, arrays of strings as bytes and lengths."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is Tensor and value.datatype is DataType.BYTES:
            flat: list[bytes] = value.array.ravel().tolist()
            lengths = np.fromiter(map(len, flat), np.int64, len(flat))
            data = pickle.PickleBuffer(b"".join(flat))
            return _strings, (value.name, value.array.shape, lengths, data)
        return NotImplemented


def _strings(name: str, shape: tuple[int, ...], lengths: npt.NDArray[np.int64], data: Any) -> Tensor:
    """Return a tensor of strings; the interpreter lock is released in between."""
    ends = np.cumsum(lengths).tolist()
    whole = memoryview(data)
    array: Array = np.empty(len(ends), object)
    begin = 0
    for index, end in enumerate(ends):
        array[index] = bytes(whole[begin:end])
        begin = end
    return Tensor(name, DataType.BYTES, array.reshape(shape))


def check(result: Any) -> Any:
    """Refuse a result that would block the parent's event loop.

    Raises:
        InvalidInput: there are more values or strings than the parent can unpickle quickly.
    """
    if isinstance(result, InferRequest):
        strings = sum(each.array.size for each in result.inputs if each.datatype is DataType.BYTES)
        if strings > MAX_STRINGS:
            raise InvalidInput(f"the request holds {strings} strings; at most {MAX_STRINGS} are allowed")
        return result
    left = [result]
    count = 0
    while left:
        value = left.pop()
        count += 1
        if type(value) is list:
            left += value
        elif type(value) is dict:
            left += value.values()
        elif fields := getattr(type(value), "__struct_fields__", None):
            left += [getattr(value, name) for name in fields]
        if count + len(left) > MOST_VALUES:
            raise InvalidInput(
                f"the request holds more than {MOST_VALUES} values", fix="Send fewer at a time."
            )
    return result


def answer(work: bytes, data: bytes) -> tuple[bytes, Sequence[memoryview]]:
    """Do one job; return the pickled reply and its buffers."""
    try:
        function, given = pickle.loads(work)
        told: tuple[Any, SalverError | None, str | None] = (check(function(data, *given)), None, None)
    except SalverError as error:
        told = (None, error, error.about)
    except (MemoryError, RecursionError):
        told = (None, TooLarge("decoding the request takes more memory than one request may have"), None)
    buffers: list[pickle.PickleBuffer] = []
    out = io.BytesIO()
    _Pickler(out, 5, buffer_callback=buffers.append).dump(told)
    return out.getvalue(), [buffer.raw() for buffer in buffers]


def serve(sock: socket.socket, trim: Callable[[int], object]) -> None:
    """Do jobs until the other side closes the socket."""
    while True:
        head = _received(sock, WORK.size)
        if head is None:
            return
        sizes = WORK.unpack(head)
        work, data = (_received(sock, size) for size in sizes)
        if work is None or data is None:
            return
        text, buffers = answer(work, data)
        sock.sendall(REPLY.pack(len(text), len(buffers)))
        sock.sendall(b"".join(SIZE.pack(buffer.nbytes) for buffer in buffers) + text)
        for buffer in buffers:
            sock.sendall(buffer)
        del work, data, text, buffers
        if sizes[1] > _TRIM:
            gc.collect()
            trim(0)


def _received(sock: socket.socket, size: int) -> bytes | None:
    out = bytearray(size)
    view = memoryview(out)
    at = 0
    while at < size:
        count = sock.recv_into(view[at:])
        if not count:
            return None
        at += count
    return bytes(out)


def _trimmer() -> Callable[[int], object]:
    try:
        return ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):
        return lambda pad: None


def main() -> None:
    """Serve on the file descriptor, within the bytes of memory, in the command line."""
    place, most_memory = map(int, sys.argv[1:])
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (most_memory, most_memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.nice(_NICE)
    with socket.socket(fileno=place) as sock, contextlib.suppress(ConnectionError):
        serve(sock, _trimmer())
