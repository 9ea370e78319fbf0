"""Raw inputs of a pipeline and its answer, as JSON: a row or a list of rows, by name where there are several.

Pure.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from salver.encoding.json_text import dumps, kind_of
from salver.encoding.values import typed
from salver.words.errors import InvalidInput
from salver.words.messages import InferResponse, TensorSpec, described
from salver.words.tensor import DataType, Tensor, bf16_to_fp32

Wrap = Callable[[InferResponse], bytes]
_MOST_SHOWN: Final = 100


def read(inputs: Any, specs: Sequence[TensorSpec]) -> tuple[tuple[Tensor, ...], Wrap]:
    """Return the tensors of the rows in ``inputs``, and what writes the answer in the same form.

    Args:
        inputs: A row or a list of rows of the only input; an object with rows by name; a list of objects; or
            the bytes of the only input.

    Raises:
        InvalidInput: they do not fit the inputs of the pipeline.
    """
    known = {spec.name: spec for spec in specs}
    columns = _columns(inputs, known)
    tensors = []
    forms = set()
    for name, values in columns.items():
        spec = known[name]
        found = typed(name, values, spec.datatype)
        is_row = found.array.ndim == len(spec.shape) - 1
        forms.add(is_row)
        tensors.append(Tensor(name, spec.datatype, found.array[None] if is_row else found.array))
    if len(forms) > 1:
        raise InvalidInput("inputs has single rows and lists of rows", field="inputs", fix=_fix(specs))
    return tuple(tensors), _row if True in forms else _rows


def _columns(inputs: Any, known: Mapping[str, TensorSpec]) -> Mapping[str, Any]:
    """Return values by the name of their input."""
    if type(inputs) is list and inputs and all(type(row) is dict for row in inputs):
        names = inputs[0].keys()
        for index, row in enumerate(inputs):
            if row.keys() != names:
                raise InvalidInput(
                    f"inputs[{index}] has other names than inputs[0]", field=f"inputs[{index}]"
                )
        inputs = {name: [row[name] for row in inputs] for name in names}
    if type(inputs) is not dict:
        if len(known) > 1:
            said = f"the pipeline has {len(known)} inputs, and inputs is {kind_of(inputs)}"
            raise InvalidInput(said, field="inputs", fix=_fix(known.values()))
        return dict.fromkeys(known, inputs)
    for name in inputs:
        if name not in known:
            at = f"inputs.{name[:_MOST_SHOWN]}"
            raise InvalidInput(f"{at} is unknown", field=at, fix=_fix(known.values()))
    for spec in known.values():
        if spec.name not in inputs:
            at = f"inputs.{spec.name}"
            raise InvalidInput(f"{at} is missing", field=at, fix=_fix(known.values()))
    return inputs


def _fix(specs: Any) -> str:
    return f"It takes {described(specs)}: one row, or a list of rows."


def _row(response: InferResponse) -> bytes:
    return dumps(rows_of(response)[0])


def _rows(response: InferResponse) -> bytes:
    return dumps(rows_of(response))


def rows_of(response: InferResponse) -> list[Any]:
    """Return the rows of the answer: values of the only output, or objects of several."""
    columns = {tensor.name: _values(tensor) for tensor in response.outputs}
    if len(columns) == 1:
        (values,) = columns.values()
        return values
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _values(tensor: Tensor) -> list[Any]:
    if tensor.datatype is DataType.BYTES:
        return [_told(value) for value in tensor.array.tolist()]
    if tensor.datatype is DataType.BF16:
        return list(bf16_to_fp32(tensor.array))
    return list(tensor.array)  # numbers keep their precision; as floats of Python they would be longer


def _told(value: Any) -> Any:
    if isinstance(value, list):
        return [_told(each) for each in value]
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}
