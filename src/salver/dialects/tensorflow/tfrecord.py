"""Format of TFRecord files, which hold warm-up requests and prediction logs.

A record is its length, the masked CRC-32C of the length, its bytes, and their masked CRC-32C; numbers are
little-endian. Pure.
"""

import functools
import struct
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from salver.words.errors import InvalidInput

_HEAD: Final = struct.Struct("<QI")
_FOOT: Final = struct.Struct("<I")
_POLYNOMIAL: Final = 0x82F63B78  # Castagnoli's, reflected (RFC 3720, appendix B.4)
_ALL: Final = 0xFFFFFFFF
_BLOCK: Final = 512
_MANY: Final = 32  # number of blocks from which numpy is faster
_Words = npt.NDArray[np.uint32]


def record(content: bytes) -> bytes:
    """Return a record that can be appended to a file."""
    length = struct.pack("<Q", len(content))
    head = _HEAD.pack(len(content), _masked(crc32c(length)))
    return b"".join((head, content, _FOOT.pack(_masked(crc32c(content)))))


def records(file: bytes, *, is_growing: bool = False) -> Iterator[bytes]:
    """Yield the records of a file.

    >>> list(records(record(b"one") + record(b"")))
    [b'one', b'']

    Args:
        is_growing: It is still written, so that its last record may be cut off.

    Raises:
        InvalidInput: It is cut off or damaged; the error names the place.
    """
    at = index = 0
    while at < len(file):
        where = f"record {index} at byte {at}"
        if len(file) - at < _HEAD.size:
            if is_growing:
                return
            raise InvalidInput(f"{where} is cut off")
        length, mark = _HEAD.unpack_from(file, at)
        if mark != _masked(crc32c(file[at : at + 8])):
            raise InvalidInput(
                f"{where} is damaged: the checksum of its length is wrong, or this is no TFRecord file"
            )
        begin = at + _HEAD.size
        end = begin + length
        if len(file) - begin < length + _FOOT.size:
            if is_growing:
                return
            raise InvalidInput(f"{where} is cut off")
        content = file[begin:end]
        (mark,) = _FOOT.unpack_from(file, end)
        if mark != _masked(crc32c(content)):
            raise InvalidInput(f"{where} is damaged: the checksum of its content is wrong")
        yield content
        at, index = end + _FOOT.size, index + 1


def crc32c(data: bytes) -> int:
    """Return Castagnoli's checksum.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    state, rest = _ALL, data
    if len(data) >= _MANY * _BLOCK:
        whole = len(data) // _BLOCK * _BLOCK
        state, rest = _of_blocks(state, data[:whole]), data[whole:]
    table = _table_list()
    for byte in rest:
        state = table[(state ^ byte) & 255] ^ (state >> 8)
    return state ^ _ALL


def _of_blocks(state: int, data: bytes) -> int:
    """Return the state after whole blocks.

    All blocks are computed side by side from state 0 and combined, since a checksum is linear in the state.
    """
    table, columns = _table(), np.frombuffer(data, np.uint8).reshape(-1, _BLOCK).T
    states = np.zeros(columns.shape[1], np.uint32)
    for column in np.ascontiguousarray(columns):
        states = table[(states ^ column) & 255] ^ (states >> 8)
    one, two, three, four = _past_block()
    for own in states.tolist():
        past = one[state & 255] ^ two[state >> 8 & 255] ^ three[state >> 16 & 255] ^ four[state >> 24]
        state = past ^ own
    return state


@functools.cache
def _table() -> _Words:
    states = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        states = np.where(states & 1, states >> 1 ^ np.uint32(_POLYNOMIAL), states >> 1)
    return states


@functools.cache
def _table_list() -> list[int]:
    states: list[int] = _table().tolist()
    return states


@functools.cache
def _past_block() -> list[list[int]]:
    """Return the state after a block of zeros, for each byte of the state before."""
    table, states = _table(), np.arange(256, dtype=np.uint32) << np.arange(0, 32, 8, dtype=np.uint32)[:, None]
    for _ in range(_BLOCK):
        states = table[states & 255] ^ (states >> 8)
    lists: list[list[int]] = states.tolist()
    return lists


def _masked(crc: int) -> int:
    """Mask a checksum by the format's rule, which protects checksums of data that contain checksums."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & _ALL
