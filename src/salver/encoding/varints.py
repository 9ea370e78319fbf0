"""Varints of protobuf messages, alone and in packed fields.

Seven bits per byte, the lowest first; every byte but a number's last has its top bit set. Packed fields are
read and written as a whole. It knows no message and no sign.

Pure.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from salver.words.errors import InvalidInput

#: Maximum fields of a message scanned in one step, more than most have.
MOST_FIELDS = 2048
_MOST_BYTES = 10  # bytes of a 64-bit number
_BLOCK = 1 << 18  # bytes or numbers per block
_SHORT = [bytes((number,)) for number in range(0x80)]


def unpack(raw: bytes) -> npt.NDArray[np.unsignedinteger]:
    """Return the numbers of a packed field, as ``uint8`` or ``uint64``.

    Raises:
        ValueError: the last one is truncated, or one is too long for 64 bits.

    >>> unpack(bytes([1, 0x96, 1])).tolist()
    [1, 150]
    """
    found = np.frombuffer(raw, np.uint8)
    is_last = found < 0x80
    if is_last.all():
        return found
    if not is_last[-1]:
        raise ValueError("a number is cut off")
    numbers = np.empty(np.count_nonzero(is_last), np.uint64)
    at = done = 0
    while at < len(found):
        end = at + _BLOCK
        if end < len(found):  # to the end of a number
            edge = is_last[end - _MOST_BYTES : end]
            if not edge.any():
                raise ValueError("a number has more than 64 bits")
            end -= int(edge[::-1].argmax())
        block = _unpack_block(found[at:end], is_last[at:end])
        numbers[done : done + len(block)] = block
        at, done = end, done + len(block)
    return numbers


def _unpack_block(found: npt.NDArray[np.uint8], is_last: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
    """Return the numbers of a block; needs about ten times its memory."""
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
    """Return the bytes of these numbers, concatenated.

    >>> pack(np.array([1, 150], np.uint64)).hex()
    '019601'
    """
    if numbers.size > _BLOCK:
        return b"".join([pack(numbers[at : at + _BLOCK]) for at in range(0, numbers.size, _BLOCK)])
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


def one(number: int) -> bytes:
    """Return the bytes of one number.

    >>> one(150).hex()
    '9601'
    """
    if number < 0x80:
        return _SHORT[number]
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def fields(message: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield the fields of a message: number, start and end of the value.

    Raises:
        ValueError: it is not a message, or uses the obsolete groups.

    >>> list(fields(bytes([0x08, 150, 1, 0x12, 1, 7]), 0, 6))
    [(1, 1, 3), (2, 5, 6)]
    """
    while at < end:
        key, at = _read_one(message, at, end)
        match key & 7:
            case 0:
                begin, at = at, _read_one(message, at, end)[1]
            case 1:
                begin, at = at, at + 8
            case 2:
                size, begin = _read_one(message, at, end)
                at = begin + size
            case 5:
                begin, at = at, at + 4
            case kind:
                raise ValueError(f"a field of the wire type {kind}")
        if at > end:
            raise ValueError("a field is cut off")
        yield key >> 3, begin, at


def texts_at(message: bytes, path: Sequence[int]) -> list[str]:
    """Return all texts at a path of field numbers; one empty text if there is none or it is no message.

    A field may come several times, of which parsers take the last: all are returned.

    >>> texts_at(bytes([0x0A, 3, 0x0A, 1, 97, 0x0A, 3, 0x0A, 1, 98]), (1, 1))
    ['a', 'b']
    """
    places = [(0, len(message))]
    try:
        for number in path:
            places = [
                (begin, end)
                for start, stop in places
                for found, begin, end in fields(message, start, stop)
                if found == number
            ]
    except ValueError:
        return [""]
    return [message[begin:end].decode("utf-8", "replace") for begin, end in places] or [""]


#: Numbers of fields whose values are messages, with their outlines; under 0, numbers of fields that are only
#: viewed.
Outline = dict[int, "Outline | frozenset[int]"]


def weigh(message: bytes, outline: Outline, most: int) -> tuple[int, int]:
    """Return the number of fields, up to ``most`` + 1, and the number of bytes that are not only viewed.

    Raises:
        ValueError: it is not a message.
    """
    count = weight = 0
    left: list[tuple[int, int, Outline]] = [(0, len(message), outline)]
    while left:
        at, end, known = left.pop()
        viewed = known.get(0, frozenset())
        for number, begin, after in fields(message, at, end):
            count += 1
            if count > most:
                return count, weight
            inner = known.get(number) if number else None
            if isinstance(inner, dict):
                left.append((begin, after, inner))
            elif number not in viewed:
                weight += after - begin
    return count, weight


def check_fields(message: bytes) -> None:
    """Reject a message without tensors that has too many fields.

    Raises:
        InvalidInput: it has too many.
    """
    try:
        count, _ = weigh(message, {}, MOST_FIELDS)
    except ValueError:
        return  # the parser reports what is wrong
    if count > MOST_FIELDS:
        raise InvalidInput(f"the message has more than {MOST_FIELDS} fields", fix="Send fewer at a time.")


def apart(message: bytes, number: int, most: int) -> tuple[bytes, list[memoryview]]:
    """Return the message without the fields of that number, and their values.

    Raises:
        ValueError: it is not a message, or has more than ``most`` fields.
    """
    whole = memoryview(message)
    rest: list[memoryview] = []
    values: list[memoryview] = []
    before = 0
    for count, (found, begin, end) in enumerate(fields(message, 0, len(message))):
        if count >= most:
            raise ValueError(f"more than {most} fields")
        if found == number:
            values.append(whole[begin:end])
        else:
            rest.append(whole[before:end])
        before = end
    return b"".join(rest), values


def _read_one(message: bytes, at: int, end: int) -> tuple[int, int]:
    """Return a number and the offset after it."""
    number = shift = 0
    while at < end and shift < 7 * _MOST_BYTES:
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
    raise ValueError("a number is cut off, or too long")
