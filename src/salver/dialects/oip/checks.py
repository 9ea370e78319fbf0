"""Checks and errors that the JSON and gRPC codecs of Open Inference share.

Pure.
"""

from collections.abc import Sequence
from typing import Final

from salver.words.errors import InvalidInput, tritons
from salver.words.messages import RequestedOutput
from salver.words.tensor import DataType, Tensor

#: Bytes of the length before each string.
_LENGTH: Final = 4
#: Strings that are counted for an error's text.
_MOST_COUNTED: Final = 8192


def unfit(text: str) -> InvalidInput:
    """Return an error whose text begins with the request's id, as in Triton (TR-R30); the codec adds it."""
    error = InvalidInput(text)
    error.about = ""
    return error


def first_twice(named: Sequence[Tensor | RequestedOutput]) -> str:
    """Return the first name that occurs twice; empty if all differ."""
    seen: set[str] = set()
    for each in named:
        if each.name in seen:
            break
        seen.add(each.name)
    return each.name


def once_each(outputs: Sequence[RequestedOutput]) -> None:
    """Raise InvalidInput for an output that is requested twice."""
    if len(outputs) > 1 and len({output.name for output in outputs}) < len(outputs):
        raise InvalidInput(f"output '{first_twice(outputs)}' already requested")


def wrong_size(
    error: InvalidInput, raw: "bytes | memoryview", datatype: DataType, count: int, name: str, model: str
) -> InvalidInput:
    """Return the error of an input whose bytes do not fit its shape, with Triton's text."""
    wanted = count * datatype.itemsize
    if not datatype.itemsize:
        return _wrong_strings(error, raw, count, f"'{name}'", model)
    if len(raw) == wanted:
        return error
    return unfit(
        f"input byte size mismatch for input '{name}' for model '{model}'. Expected {wanted}, got {len(raw)}"
    )


def _wrong_strings(
    error: InvalidInput, raw: "bytes | memoryview", count: int, name: str, model: str
) -> InvalidInput:
    at = found = 0
    while (left := len(raw) - at) and found <= _MOST_COUNTED:
        if left < _LENGTH:
            text = f"incomplete string length indicator for inference input {name}, expecting {_LENGTH}"
            return tritons(error, f"{text} bytes but only {left} bytes available")
        length = int.from_bytes(raw[at : at + _LENGTH], "little")
        if length > left - _LENGTH:
            text = f"incomplete string data for inference input {name}, expecting string of length {length}"
            return tritons(error, f"{text} but only {left - _LENGTH} bytes available")
        at += _LENGTH + length
        found += 1
    if found > _MOST_COUNTED:
        return error
    error.about = ""
    text = f"expected {count} string elements for inference input {name} for model '{model}', got {found}"
    return tritons(error, text)
