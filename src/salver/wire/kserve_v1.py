"""How does a KServe v1 (and TensorFlow Serving) predict request become words, and the answer JSON?

Rows (``instances`` to ``predictions``) or columns (``inputs`` to ``outputs``) of
``POST /v1/models/{m}:predict``. Names and datatypes come from the signature, shapes from the
nesting. It knows no route and no loaded model.
"""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from salver.errors import InvalidInput, SalverError, Unsupported
from salver.messages import InferRequest, InferResponse, Parameter, Signature, TensorSpec
from salver.tensor import Array, DataType, Tensor, bf16_to_fp32
from salver.wire.bodies import HttpBody, HttpReply
from salver.wire.faults import KSERVE_V1, http_fault
from salver.wire.json_text import TOO_DEEP, dumps, is_too_deep, loads
from salver.wire.values import from_json, kind_of, shorten

#: Marks a request that came in columns, so that its answer goes out in columns.
_COLUMNS = "v1_columns"
_IN_COLUMNS: Mapping[str, Parameter] = {_COLUMNS: True}
_IN_ROWS: Mapping[str, Parameter] = {}


class KServeV1:
    """Codec of ``POST /v1/models/{m}:predict``."""

    protocol = "kserve-v1"

    def decode(self, http: HttpBody, signature: Signature) -> InferRequest:
        """The request; rows become columns.

        Raises:
            InvalidInput: naming the field.
        """
        try:
            return _decode(http, signature)
        except InvalidInput:
            if is_too_deep(http.body):
                raise InvalidInput(TOO_DEEP) from None
            raise

    def encode(self, request: InferRequest, response: InferResponse) -> HttpReply:
        """Predictions row by row, bare where there is one output; or columns if asked in columns.

        Raises:
            Unsupported: rows were asked for, but the outputs have no common first axis.
        """
        columns = {tensor.name: _readable(tensor) for tensor in response.outputs}
        in_columns = _COLUMNS in request.parameters
        if len(columns) == 1:
            ((name, column),) = columns.items()
            if in_columns:
                return HttpReply(200, dumps({"outputs": _listed(column)}))
            _count_rows({name: column})
            return HttpReply(200, dumps({"predictions": _listed(column)}))
        if in_columns:
            return HttpReply(200, dumps({"outputs": {n: _listed(c) for n, c in columns.items()}}))
        rows = [{n: _listed(c[row]) for n, c in columns.items()} for row in range(_count_rows(columns))]
        return HttpReply(200, dumps({"predictions": rows}))

    def fault(self, error: SalverError) -> HttpReply:
        """``{"error": text}`` with TensorFlow Serving's status."""
        return http_fault(error, KSERVE_V1)


def _decode(http: HttpBody, signature: Signature) -> InferRequest:
    root = loads(http.body)
    if type(root) is not dict:
        raise InvalidInput(f"the request must be a JSON object, not {kind_of(root)}")
    if root.get("signature_name", "") not in ("", "serving_default"):
        raise InvalidInput(
            f"signature_name is {shorten(root['signature_name'])}, which the model does not have",
            field="signature_name",
            fix="Leave it out.",
        )
    if ("instances" in root) == ("inputs" in root):
        raise InvalidInput(
            'the request must hold either "instances" (rows) or "inputs" (columns)',
            fix='Send {"instances": [...]}.',
        )
    specs = {spec.name: spec for spec in signature.inputs}
    if "instances" in root:
        inputs = _from_rows(root["instances"], specs, http.model)
        return InferRequest(http.model, inputs, http.version, parameters=_IN_ROWS)
    inputs = _from_columns(root["inputs"], specs, http.model)
    return InferRequest(http.model, inputs, http.version, parameters=_IN_COLUMNS)


def _from_rows(rows: Any, specs: dict[str, TensorSpec], model: str) -> tuple[Tensor, ...]:
    if type(rows) is not list or not rows:
        raise InvalidInput("instances must be a list of at least one row", field="instances")
    if not _names_inputs(rows[0]):
        return (_column(rows, _only(specs, "instances", model), "instances"),)
    names = list(rows[0])
    for index, row in enumerate(rows):
        if type(row) is not dict or row.keys() != rows[0].keys():
            raise InvalidInput(
                f"instances[{index}] must be an object with the keys of instances[0]: {names}",
                field=f"instances[{index}]",
            )
    return tuple(
        _column([row[name] for row in rows], _find(specs, name, model), f"instances[].{name}")
        for name in names
    )


def _from_columns(columns: Any, specs: dict[str, TensorSpec], model: str) -> tuple[Tensor, ...]:
    if not _names_inputs(columns):
        return (_column(columns, _only(specs, "inputs", model), "inputs"),)
    return tuple(
        _column(value, _find(specs, name, model), f"inputs.{name}") for name, value in columns.items()
    )


def _names_inputs(value: Any) -> bool:
    """True for an object of named inputs; ``{"b64": ...}`` alone is one value."""
    return type(value) is dict and value.keys() != {"b64"}


def _only(specs: dict[str, TensorSpec], field: str, model: str) -> TensorSpec:
    required = [spec for spec in specs.values() if not spec.optional] or list(specs.values())
    if len(required) != 1:
        raise InvalidInput(
            f"model '{model}' has {len(specs)} inputs, so {field} must name them: {list(specs)}", field=field
        )
    return required[0]


def _find(specs: dict[str, TensorSpec], name: str, model: str) -> TensorSpec:
    spec = specs.get(name)
    if spec is None:
        raise InvalidInput(f"unexpected inference input '{name}' for model '{model}'", field=name)
    return spec


def _column(value: Any, spec: TensorSpec, field: str) -> Tensor:
    if type(value) is list:
        array = from_json(value, spec.datatype, field, is_regular=True)
    else:
        array = from_json([value], spec.datatype, field, is_regular=True).reshape(())
    return Tensor(spec.name, spec.datatype, array)


def _count_rows(columns: dict[str, Array]) -> int:
    counts: set[int] = {column.shape[0] if column.ndim else -1 for column in columns.values()}
    if len(counts) == 1 and (count := counts.pop()) >= 0:
        return count
    shapes = ", ".join(f"{name}{list(column.shape)}" for name, column in columns.items())
    raise Unsupported(
        f"the outputs have no common first axis to cut into rows: {shapes}",
        fix='Ask in columns: {"inputs": {...}}.',
    )


def _readable(tensor: Tensor) -> Array:
    """Values that JSON has words for, in the tensor's shape."""
    array = tensor.array
    if tensor.datatype is DataType.BYTES:
        out = np.empty(array.size, dtype=object)
        out[:] = [_text(value) for value in array.ravel().tolist()]
        return out.reshape(array.shape)
    if tensor.datatype is DataType.FP16:
        return array.astype(np.float32)
    return bf16_to_fp32(array) if tensor.datatype is DataType.BF16 else array


def _text(value: bytes) -> "str | dict[str, str]":
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}


def _listed(column: Any) -> Any:
    """As the JSON writer takes it: a contiguous array of numbers, or lists."""
    if not isinstance(column, np.ndarray):
        return column  # one element
    if column.dtype == object or not column.ndim:
        return column.tolist()
    return np.ascontiguousarray(column)
