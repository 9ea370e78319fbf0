"""How do many whole numbers lie in a packed field of a protobuf message?

Seven bits a byte, the lowest first; every byte but a number's last has its top bit set. Many numbers are read
and written at a time. It knows no message and no sign.
"""

import numpy as np
import numpy.typing as npt

_MOST_BYTES = 10  # of one number of 64 bits


def unpack(raw: bytes) -> npt.NDArray[np.unsignedinteger]:
    """The numbers, of as many bits as they need: ``uint8`` or ``uint64``.

    Raises:
        ValueError: the last one is cut off, or one is too long for 64 bits.

    >>> unpack(bytes([1, 0x96, 1])).tolist()
    [1, 150]
    """
    found = np.frombuffer(raw, np.uint8)
    is_last = found < 0x80
    if is_last.all():
        return found
    if not is_last[-1]:
        raise ValueError("a number is cut off")
    ends = np.flatnonzero(is_last)
    starts = np.concatenate(([0], ends[:-1] + 1))
    longest = int((ends - starts).max()) + 1
    if longest > _MOST_BYTES:
        raise ValueError("a number has more than 64 bits")
    numbers = np.zeros(len(ends), np.uint64)
    for byte in range(longest):
        at = starts + byte
        has = at <= ends
        bits = (found[at[has]] & 0x7F).astype(np.uint64)
        numbers[has] |= bits << np.uint64(7 * byte)
    return numbers


def pack(numbers: npt.NDArray[np.uint64]) -> bytes:
    """The bytes of these numbers, one behind the other.

    >>> pack(np.array([1, 150], np.uint64)).hex()
    '019601'
    """
    if not numbers.size:
        return b""
    most = int(numbers.max())
    if most < 0x80:
        return numbers.astype(np.uint8).tobytes()
    lengths = np.ones(numbers.size, np.intp)
    longest = max(1, -(-most.bit_length() // 7))
    for byte in range(1, longest):
        lengths += numbers >= np.uint64(1 << (7 * byte))
    ends = np.cumsum(lengths)
    starts = ends - lengths
    out = np.empty(int(ends[-1]), np.uint8)
    for byte in range(longest):
        has = lengths > byte
        bits = (numbers[has] >> np.uint64(7 * byte)) & np.uint64(0x7F)
        bits |= np.where(lengths[has] > byte + 1, np.uint64(0x80), np.uint64(0))
        out[starts[has] + byte] = bits
    return out.tobytes()
