"""Substitutes for the outputs of a step that failed: constants, or another step's outputs. Pure."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np

from salver.encoding.values import typed
from salver.features.pipelines.edges import EdgeType
from salver.words.errors import InvalidInput
from salver.words.tensor import Array, DataType, Tensor


class OnError(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Rule of a step's ``on-error``; one of the two.

    Attributes:
        default: Values of a row by output.
        step: Name of a step above, whose outputs stand in. It runs for that only, unless others read it.
    """

    default: Mapping[str, Any] | None = None
    step: str = ""


_CHOICES: Final = 'Write on-error = "fail", { default = { score = 0.0 } } or { step = "constants" }'


def on_error(told: Any) -> OnError | None:
    """Return what ``on-error`` says; None = the request fails.

    Raises:
        ValueError: it is none of the forms.
    """
    if told in ("", "fail"):
        return None
    try:
        found = msgspec.convert(told, OnError)
    except msgspec.ValidationError as error:
        raise ValueError(f"`on-error` is {told!r}. {_CHOICES}") from error
    if (found.default is None) == (not found.step):
        raise ValueError(f"`on-error` needs one of `default` and `step`. {_CHOICES}")
    return found


def constant(name: str, value: Any, type: EdgeType) -> Array:
    """Return the row of an output that has a constant value.

    Raises:
        ValueError: the value does not fit the output's type.
    """
    shape = type.shape[1:]
    if type.datatype is DataType.BYTES and isinstance(value, bool | int | float):
        raise ValueError(f"{name} is {value!r}, where a text is wanted")
    try:
        array = typed(name, value, type.datatype).array
    except (InvalidInput, TypeError) as error:
        raise ValueError(f"{name} is {value!r}, where {type} is wanted: {error}") from error
    if not array.ndim and shape and -1 not in shape:
        array = np.full(shape, array[()], array.dtype)
    if array.ndim != len(shape) or not all(a in (-1, b) for a, b in zip(shape, array.shape, strict=True)):
        raise ValueError(f"{name} is {value!r}, where a row of {type} is wanted")
    return array


class Constants:
    """Rows of constants.

    Args:
        rows: Row and tensor of the graph by output.
    """

    __slots__ = ("_rows",)

    def __init__(self, rows: Mapping[str, tuple[Array, DataType]]) -> None:
        self._rows = rows

    def __call__(self, count: int) -> list[Tensor]:
        """Return so many rows of each output, by its name in the graph."""
        return [
            Tensor(tensor, datatype, np.repeat(row[None], count, 0))
            for tensor, (row, datatype) in self._rows.items()
        ]
