"""Tensors read from command-line options and shown as text.

Options are checked against the model's metadata before anything is sent, so that messages name the option.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from salver.encoding.values import cast
from salver.words.errors import InvalidInput
from salver.words.messages import TensorSpec
from salver.words.tensor import Array, DataType, Tensor, as_bytes, bf16_from_fp32

_EDGE = 4


def parse_inputs(words: Sequence[str], wanted: Sequence[TensorSpec]) -> dict[str, Tensor]:
    """Return tensors that fit the model from ``NAME=VALUE`` options.

    Raises:
        InvalidInput: a word has no ``=``, names no input, cannot be read, or does not fit.
    """
    by_name = {spec.name: spec for spec in wanted}
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise InvalidInput(f"--input {word!r} is not NAME=VALUE")
        if name not in by_name:
            raise InvalidInput(f"the model has no input {name!r}", fix=f"It has: {', '.join(by_name)}.")
        found[name] = parse_tensor(value, by_name[name])
    if missing := [name for name in by_name if name not in found]:
        raise InvalidInput(f"no --input is given for {', '.join(missing)}", fix=explain(wanted))
    return found


def explain(wanted: Sequence[TensorSpec]) -> str:
    """Return a sentence on the inputs that the model wants."""
    return "It wants: " + ", ".join(f"{s.name} {s.datatype.name}{list(s.shape)}" for s in wanted) + "."


def parse_tensor(value: str, spec: TensorSpec) -> Tensor:
    """Return one value as the input that ``spec`` describes; a missing batch dimension is added.

    Raises:
        InvalidInput: it cannot be read, or is of another shape or kind.
    """
    field = f"--input {spec.name}"
    from_file = value.startswith("@")
    array = _read_file(Path(value[1:]), spec, field) if from_file else _read_text(value, spec, field)
    if array.ndim == len(spec.shape) - 1:
        array = array[None]
    fits = array.ndim == len(spec.shape) and all(
        want in (-1, have) for want, have in zip(spec.shape, array.shape, strict=True)
    )
    if not fits:
        raise InvalidInput(f"{field} has shape {list(array.shape)}, the model wants {list(spec.shape)}")
    return Tensor(spec.name, spec.datatype, np.ascontiguousarray(array))


def _read_file(path: Path, spec: TensorSpec, field: str) -> Array:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{field}: cannot read {path}: {error.strerror}") from None
    if path.suffix == ".npy":
        try:
            return _as_datatype(np.load(io.BytesIO(content), allow_pickle=False), spec.datatype, field)
        except (ValueError, EOFError) as error:
            raise InvalidInput(f"{field}: {path} is not a readable .npy file: {error}") from None
    if path.suffix == ".json":
        return _from_json(content, spec.datatype, f"{field}: {path}")
    if spec.datatype is DataType.BYTES:
        return as_bytes(content)
    raise InvalidInput(f"{field}: {path} must be .npy or .json for a {spec.datatype.name} tensor")


def _read_text(value: str, spec: TensorSpec, field: str) -> Array:
    if spec.datatype is DataType.BYTES and not value.lstrip().startswith(("[", '"')):
        return as_bytes(value)
    return _from_json(value.encode(), spec.datatype, field)


def _from_json(text: bytes, datatype: DataType, field: str) -> Array:
    try:
        array = np.array(orjson.loads(text))
    except ValueError as error:
        raise InvalidInput(f"{field} is neither JSON nor @FILE: {error}") from None
    return _as_datatype(array, datatype, field)


def _as_datatype(array: Array, datatype: DataType, field: str) -> Array:
    if datatype is DataType.BYTES:
        try:
            return as_bytes(array)
        except ValueError as error:
            raise InvalidInput(f"{field}: {error}") from None
    if array.dtype.kind not in "biuf":
        raise InvalidInput(f"{field} must hold numbers for {datatype.name}")
    if datatype is DataType.BF16:
        return bf16_from_fp32(array)
    if datatype is DataType.FP16:
        return array.astype(np.float16)
    return cast(array, datatype, field)


def examples(wanted: Sequence[TensorSpec], rows: int, seed: int) -> dict[str, Tensor]:
    """Return inputs that fit: numbers around zero for floats, zeros for integers, a word for BYTES.

    Args:
        wanted: The model's inputs; the first free dimension becomes ``rows``, others 1.
        rows: Size of the batch.
        seed: Of the numbers.
    """
    chance = np.random.default_rng(seed)
    made = {}
    for spec in wanted:
        shape = [max(extent, 1) for extent in spec.shape]
        if spec.shape and spec.shape[0] == -1:
            shape[0] = rows
        if spec.datatype is DataType.BYTES:
            array: Array = as_bytes(np.full(shape, "salver"))
        elif spec.datatype is DataType.BF16:
            array = bf16_from_fp32(chance.standard_normal(shape, np.float32))
        elif spec.datatype.is_float:
            array = chance.standard_normal(shape).astype(spec.datatype.dtype)
        else:
            array = np.zeros(shape, spec.datatype.dtype)
        made[spec.name] = Tensor(spec.name, spec.datatype, np.ascontiguousarray(array))
    return made


def shown(array: Array) -> str:
    """Return values in few characters.

    >>> shown(np.arange(100.0))
    '[ 0.  1.  2.  3. ... 96. 97. 98. 99.]'
    """
    if array.dtype == object:
        array = np.array(texts(array), dtype=object)
    return np.array2string(array, threshold=24, edgeitems=_EDGE, precision=5, max_line_width=100)


def texts(array: Array) -> Any:
    """Return nested lists for JSON; bytes become text, with escapes where they are not UTF-8."""
    if array.dtype != object:
        return array.tolist()
    flat = [value.decode("utf-8", "backslashreplace") for value in array.ravel().tolist()]
    return np.array(flat, dtype=object).reshape(array.shape).tolist()
