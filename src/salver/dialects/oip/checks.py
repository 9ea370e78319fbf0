"""Checks and errors that the JSON and gRPC codecs of Open Inference share.

Pure.
"""

from collections.abc import Sequence

from salver.words.errors import InvalidInput
from salver.words.messages import RequestedOutput
from salver.words.tensor import DataType, Tensor


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
    raw: "bytes | memoryview", datatype: DataType, count: int, name: str, model: str
) -> InvalidInput | None:
    """Return Triton's error for an input of the wrong number of bytes, or None."""
    wanted = count * datatype.itemsize
    if not datatype.itemsize or len(raw) == wanted:
        return None
    return unfit(
        f"input byte size mismatch for input '{name}' for model '{model}'. Expected {wanted}, got {len(raw)}"
    )
