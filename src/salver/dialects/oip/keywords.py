"""Requests of MLServer's Hugging Face runtime: each input is a keyword argument of the task's pipeline.

``args``, ``array_inputs`` and other names of the first argument are the model's first input, names of the
model's inputs are those, and all others are parameters (``candidate_labels``, ``top_k``). The answer is a
row of JSON for each result, of shape [n, 1]. A request with the model's own names only, and without a
``content_type``, is answered as any other.

Pure.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import orjson

from salver.encoding.json_text import loads
from salver.words.errors import InvalidInput
from salver.words.messages import InferRequest, InferResponse, Parameter, RequestedOutput, Signature
from salver.words.tensor import DataType, Tensor

CONTENT_TYPE: Final = "content_type"
#: Content type of an output with a row of JSON for each result.
ROWS_OF_JSON: Final = "hg_jsonlist"
#: Content types of an input whose elements are JSON.
_JSON: Final = ("hg_json", ROWS_OF_JSON)
#: Names of the first argument; only the second is a list by itself.
_FIRST: Final = ("args", "array_inputs", "inputs", "text_inputs", "sequences")
_LIST: Final = "array_inputs"
_NONE: Final[Mapping[str, str]] = {}


class KeywordRequest(InferRequest, frozen=True):
    """Request by keyword arguments; ``is_single``: of one text, whose results are rows of their own."""

    is_single: bool = True


def content_types(entries: Sequence[Any]) -> dict[str, str]:
    """Return the content types of inputs in JSON, by name; those without one are left out."""
    found = {}
    for entry in entries:
        kind = (entry.get("parameters") or {}).get(CONTENT_TYPE)
        if isinstance(kind, str):
            found[entry["name"]] = kind
    return found


def with_keywords(
    request: InferRequest, signature: Signature, kinds: Mapping[str, str] = _NONE
) -> InferRequest:
    """Return a request by keyword arguments for the model's own inputs; any other as it is.

    Args:
        kinds: Content types by the name of the input.

    Raises:
        InvalidInput: a content type does not fit the data, or the first argument is given twice.
    """
    own = {spec.name for spec in signature.inputs}
    if not kinds and all(tensor.name in own for tensor in request.inputs):
        return request
    columns: dict[str, list[Any]] = {}
    parameters: dict[str, Parameter] = dict(request.parameters)
    for tensor in request.inputs:
        kind = kinds.get(tensor.name, "")
        if tensor.name not in own and tensor.name not in _FIRST:
            parameters[tensor.name] = _parameter(tensor, kind)
            continue
        name = tensor.name if tensor.name in own else signature.inputs[0].name
        for column, values in _columns(tensor, kind, name, own).items():
            if column in columns:
                raise InvalidInput(
                    f"the input {column!r} is given twice, once as {tensor.name!r}", field="inputs"
                )
            columns[column] = values
    return KeywordRequest(
        request.model,
        tuple(Tensor(name, DataType.BYTES, _array(values)) for name, values in columns.items()),
        request.version,
        request.id,
        request.outputs or tuple(RequestedOutput(spec.name) for spec in signature.outputs),
        parameters,
        is_single=all(tensor.name != _LIST for tensor in request.inputs),
    )


def _columns(tensor: Tensor, kind: str, name: str, own: set[str]) -> dict[str, list[Any]]:
    """Return the elements of a tensor for an input, or, of objects in JSON, for each of their members."""
    values = tensor.array.ravel().tolist()
    if kind == "base64":
        return {name: [_plain(value, tensor.name) for value in values]}
    if kind not in _JSON:
        return {name: values}
    rows = [loads(_bytes(value, tensor.name)) for value in values]
    names = list(rows[0]) if rows and type(rows[0]) is dict else [name]
    if names == [name]:
        rows = [row if type(row) is dict else {name: row} for row in rows]
    for row in rows:
        if type(row) is not dict or list(row) != names or not own.issuperset(names):
            raise InvalidInput(
                f"the elements of {tensor.name!r} must be texts, or objects with {', '.join(sorted(own))}",
                field=tensor.name,
            )
        if any(type(value) is not str for value in row.values()):
            raise InvalidInput(f"{tensor.name!r} has a value that is not a text", field=tensor.name)
    return {column: [row[column].encode() for row in rows] for column in names}


def _plain(value: Any, name: str) -> bytes:
    try:
        return base64.b64decode(_bytes(value, name), validate=True)
    except binascii.Error as error:
        raise InvalidInput(f"{name!r} is not base64: {error}", field=name) from None


def _bytes(value: Any, name: str) -> bytes:
    if isinstance(value, bytes):
        return value
    raise InvalidInput(f"{name!r} must be BYTES", field=name)


def _parameter(tensor: Tensor, kind: str) -> Parameter:
    """Return a tensor as a parameter: several values are a list in JSON, as those of requests are."""
    values = tensor.array.ravel().tolist()
    try:
        values = [value.decode() if isinstance(value, bytes) else value for value in values]
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{tensor.name!r} is not valid UTF-8", field=tensor.name) from error
    if kind in _JSON and all(isinstance(value, str) for value in values):
        values = [loads(value.encode()) for value in values]
    if len(values) == 1 and isinstance(values[0], bool | int | float | str):
        return values[0]
    return orjson.dumps(values[0] if len(values) == 1 else values).decode()


def _array(values: Sequence[Any]) -> Any:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def in_rows(request: KeywordRequest, response: InferResponse) -> InferResponse:
    """Return the response with a row of JSON for each result."""
    outputs = []
    for tensor in response.outputs:
        if tensor.datatype is not DataType.BYTES:
            outputs.append(tensor)
            continue
        rows = tensor.array.ravel().tolist()
        if request.is_single and len(rows) == 1 and rows[0][:1] == b"[":
            rows = [orjson.dumps(one) for one in orjson.loads(rows[0])]
        outputs.append(Tensor(tensor.name, tensor.datatype, _array(rows).reshape(-1, 1)))
    return msgspec.structs.replace(response, outputs=tuple(outputs))


def mark(entry: dict[str, Any]) -> None:
    """Say in the JSON of an output that it has a row of JSON for each result."""
    entry.setdefault("parameters", {})[CONTENT_TYPE] = ROWS_OF_JSON
