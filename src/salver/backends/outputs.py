"""Check of a model's outputs against its signature.

Common to all backends, run after each batch: names, datatypes, ranks and batch rows. Other number types or
memory orders are converted. Knows no framework.

Pure.
"""

from collections.abc import Container, Mapping

import numpy as np

from salver.words.errors import ModelFailed
from salver.words.messages import Signature, TensorSpec
from salver.words.tensor import Array, DataType, as_bytes, bf16_from_fp32


class Outputs:
    """Checker of a model's outputs.

    Args:
        signature: Inputs, outputs and whether axis 0 is the batch.
        model: Name for messages.
    """

    def __init__(self, signature: Signature, model: str) -> None:
        self._model = f"model '{model}'"
        self._specs = [(spec, f"output {spec.name!r} of {self._model}") for spec in signature.outputs]
        self._batched = signature.batched
        self._has_shapes = not signature.judges_shapes

    def check(
        self, answer: object, inputs: Mapping[str, Array], wanted: Container[str] | None = None
    ) -> dict[str, Array]:
        """Return the outputs of the signature, in order, ready for encoding.

        Args:
            wanted: Names of required outputs; None = all.

        Raises:
            ModelFailed: an output is missing, or has another kind, rank or extent; the message names it.
        """
        if not isinstance(answer, Mapping):
            raise ModelFailed(f"{self._model} answered {type(answer).__name__}, not a mapping of outputs")
        rows = next(iter(inputs.values())).shape[0] if self._batched else -1
        checked = {}
        for spec, said in self._specs:
            if wanted is not None and spec.name not in wanted:
                continue
            if spec.name not in answer:
                given = ", ".join(map(str, answer)) or "none"
                raise ModelFailed(f"{self._model} did not give its output {spec.name!r} (it gave: {given})")
            checked[spec.name] = _fit(spec, said, answer[spec.name], rows, self._has_shapes)
        return checked


def _fit(spec: TensorSpec, said: str, value: object, rows: int, has_shape: bool) -> Array:
    """Return one output with its datatype's dtype, C-contiguous; ``rows`` is the extent of axis 0, or -1."""
    array = value if isinstance(value, np.ndarray) else _array(spec, said, value)
    shape = array.shape
    if has_shape and (
        len(shape) != len(spec.shape)
        or any(want not in (-1, got) for want, got in zip(spec.shape, shape, strict=True))
    ):
        raise ModelFailed(f"{said} has shape {list(shape)}, expected {list(spec.shape)}")
    if rows >= 0 and shape[:1] != (rows,):
        raise ModelFailed(f"{said} has {shape[0] if shape else 'no'} rows for a batch of {rows}")
    want = spec.datatype.dtype
    if array.dtype != want or spec.datatype is DataType.BYTES:
        array = _cast(spec, said, array)
    if array.flags.c_contiguous:
        return array
    return np.ascontiguousarray(array)


def _array(spec: TensorSpec, said: str, value: object) -> Array:
    try:
        return np.asarray(value, dtype=object if spec.datatype is DataType.BYTES else None)
    except Exception as error:
        raise ModelFailed(f"{said} is not a tensor: {error}") from error


def _cast(spec: TensorSpec, said: str, array: Array) -> Array:
    kind = spec.datatype
    if kind is DataType.BYTES:
        try:
            return as_bytes(array)
        except ValueError as error:
            raise ModelFailed(f"{said}: {error}") from error
    if kind is DataType.BF16:
        if array.dtype.name == "bfloat16":
            return array.view(np.uint16)
        if array.dtype.kind == "f":
            return bf16_from_fp32(array)
    elif array.dtype.kind in "iu" and kind.is_integer:
        if np.can_cast(array.dtype, kind.dtype) or _in_range(array, kind):
            return array.astype(kind.dtype)
        raise ModelFailed(f"{said} is {array.dtype} with values that {kind.name} cannot hold")
    elif np.can_cast(array.dtype, kind.dtype, "same_kind"):
        return array.astype(kind.dtype)
    raise ModelFailed(f"{said} is {array.dtype}, expected {kind.name}")


def _in_range(array: Array, kind: DataType) -> bool:
    if not array.size:
        return True
    limits = np.iinfo(kind.dtype)
    return limits.min <= int(array.min()) and int(array.max()) <= limits.max
