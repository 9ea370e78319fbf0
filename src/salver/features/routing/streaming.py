"""Requests and pieces of ``generate_stream``, the form in which instances stream over HTTP/1.1. Pure."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from salver.encoding.values import from_json, to_json
from salver.kernel.engine.admission import BoundRequest
from salver.words.errors import InvalidInput, ModelFailed
from salver.words.messages import InferResponse, Parameter, Signature
from salver.words.tensor import DataType, Tensor


def why_not(signature: Signature) -> str:
    """Return why a model cannot be streamed in this form; empty = it can."""
    for spec in (*signature.inputs, *signature.outputs):
        if spec.datatype in (DataType.FP16, DataType.BF16):
            return f"'{spec.name}' is {spec.datatype.name}, which generate_stream cannot carry"
    for spec in signature.outputs:
        if spec.shape.count(-1) > 1:
            return f"generate_stream does not tell the shape of '{spec.name}', which has several free extents"
    return ""


def generate_body(bound: BoundRequest, parameters: Mapping[str, Parameter]) -> bytes:
    """Return the body of a request.

    Raises:
        Unsupported: an input has bytes that are not UTF-8.
    """
    root: dict[str, Any] = {"parameters": parameters}
    if bound.request.id:
        root["id"] = bound.request.id
    for tensor in bound.request.inputs:
        nested = np.asarray(to_json(tensor), object).reshape(tensor.array.shape)
        root[tensor.name] = nested.tolist()
    return orjson.dumps(root, option=orjson.OPT_SERIALIZE_NUMPY)


def piece(data: bytes, bound: BoundRequest, signature: Signature, version: str) -> InferResponse:
    """Return the piece of an answer that an event holds.

    Raises:
        ModelFailed: it is no answer of this model.
    """
    request = bound.request
    try:
        root = orjson.loads(data)
        if "error" in root:
            failed = ModelFailed(str(root["error"]))
            return InferResponse(request.model, version, (), request.id, error=failed)
        outputs = []
        for spec in signature.outputs:
            if spec.name in bound.outputs:
                value = root[spec.name]
                values = value if isinstance(value, list) else [value]
                array = from_json(values, spec.datatype, spec.name).reshape(spec.shape)
                outputs.append(Tensor(spec.name, spec.datatype, array))
    except (ValueError, KeyError, TypeError, InvalidInput) as error:
        raise ModelFailed(f"an instance of model '{request.model}' gave a wrong piece: {error!r}") from error
    return InferResponse(request.model, version, tuple(outputs), request.id)
