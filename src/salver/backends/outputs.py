"""Did the model answer what its signature promises?

One check for all backends, run after each batch: names, datatypes, ranks and batch rows. What is
merely of another number type or memory order is converted. Knows no framework.
"""

from collections.abc import Mapping

import numpy as np

from salver.errors import ModelFailed
from salver.messages import Signature, TensorSpec
from salver.tensor import Array, DataType, as_bytes, bf16_from_fp32


class Outputs:
    """Holds a model to its signature.

    Args:
        signature: Inputs, outputs and whether axis 0 is the batch.
    """

    def __init__(self, signature: Signature) -> None:
        self._specs = signature.outputs
        self._first = signature.inputs[0].name if signature.batched else ""

    def check(self, answer: object, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs of the signature, in its order, ready for the wire.

        Raises:
            ModelFailed: an output is missing, of another kind, rank or extent; the message names it.
        """
        if not isinstance(answer, Mapping):
            raise ModelFailed(f"the model answered {type(answer).__name__}, not a mapping of outputs")
        rows = inputs[self._first].shape[0] if self._first else -1
        checked = {}
        for spec in self._specs:
            if spec.name not in answer:
                given = ", ".join(map(str, answer)) or "none"
                raise ModelFailed(f"the model did not give its output {spec.name!r} (it gave: {given})")
            checked[spec.name] = fit(spec, answer[spec.name], rows)
        return checked


def fit(spec: TensorSpec, value: object, rows: int = -1) -> Array:
    """One output as its datatype's dtype, C-contiguous.

    Args:
        rows: Extent that axis 0 must have, or -1.

    Raises:
        ModelFailed: it cannot be that output.
    """
    array = value if isinstance(value, np.ndarray) else _array(spec, value)
    shape = array.shape
    if len(shape) != len(spec.shape) or any(
        want not in (-1, got) for want, got in zip(spec.shape, shape, strict=True)
    ):
        raise ModelFailed(f"output {spec.name!r} has shape {list(shape)}, expected {list(spec.shape)}")
    if rows >= 0 and shape[0] != rows:
        raise ModelFailed(f"output {spec.name!r} has {shape[0]} rows for a batch of {rows}")
    want = spec.datatype.dtype
    if array.dtype != want or spec.datatype is DataType.BYTES:
        array = _cast(spec, array)
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def _array(spec: TensorSpec, value: object) -> Array:
    try:
        return np.asarray(value, dtype=object if spec.datatype is DataType.BYTES else None)
    except Exception as error:
        raise ModelFailed(f"output {spec.name!r} is not a tensor: {error}") from error


def _cast(spec: TensorSpec, array: Array) -> Array:
    kind = spec.datatype
    if kind is DataType.BYTES:
        try:
            return as_bytes(array)
        except ValueError as error:
            raise ModelFailed(f"output {spec.name!r}: {error}") from error
    if kind is DataType.BF16:
        if array.dtype.name == "bfloat16":
            return array.view(np.uint16)
        if array.dtype.kind == "f":
            return bf16_from_fp32(array)
    elif np.can_cast(array.dtype, kind.dtype, "same_kind") or (
        array.dtype.kind in "iu" and kind.is_integer and _in_range(array, kind)
    ):
        return array.astype(kind.dtype)
    raise ModelFailed(f"output {spec.name!r} is {array.dtype}, expected {kind.name}")


def _in_range(array: Array, kind: DataType) -> bool:
    if not array.size:
        return True
    limits = np.iinfo(kind.dtype)
    return limits.min <= int(array.min()) and int(array.max()) <= limits.max
