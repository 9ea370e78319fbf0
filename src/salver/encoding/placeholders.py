"""Placeholder tensors for example requests.

Pure.
"""

from collections.abc import Sequence
from typing import Any

from salver.words.messages import TensorSpec
from salver.words.tensor import DataType


def extents(spec: TensorSpec) -> list[int]:
    """Return the tensor's shape with 1 for any free extent.

    >>> extents(TensorSpec("x", DataType.FP32, (-1, 3)))
    [1, 3]
    """
    return [max(extent, 1) for extent in spec.shape]


def zero(spec: TensorSpec) -> object:
    """Return one element of the tensor as a JSON value."""
    if spec.datatype is DataType.BYTES:
        return "text"
    if spec.datatype is DataType.BOOL:
        return False
    return 0.0 if spec.datatype.is_float else 0


def filled(shape: Sequence[int], value: object) -> Any:
    """Return nested lists of that shape, filled with the value.

    >>> filled((2, 1), 0)
    [[0], [0]]
    """
    if not shape:
        return value
    return [filled(shape[1:], value)] * shape[0]
