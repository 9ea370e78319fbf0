"""OpenAPI paths of the served models, each with the schema of its tensors. Pure."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, Final
from urllib.parse import quote

import numpy as np

from salver.encoding.placeholders import TAKE_IMAGES, TAKE_SOUNDS, extents, filled, raw_inputs, zero
from salver.words.messages import PIPELINE, Column, Signature, TensorSpec
from salver.words.tensor import DataType

#: Most models that get a path of their own, and most elements of an example.
MOST_MODELS: Final = 100
_MOST_ELEMENTS: Final = 1000
_IMAGE_KINDS: Final = ("image/jpeg", "image/png", "image/webp", "application/octet-stream")
_SOUND_KINDS: Final = ("audio/wav", "audio/flac", "audio/ogg", "audio/mpeg", "application/octet-stream")
_BINARY: Final[dict[str, Any]] = {"schema": {"type": "string", "format": "binary"}}
#: Types in JSON schemas by the kind of a column.
_CELLS: Final = {
    "number": "number",
    "integer": "integer",
    "boolean": "boolean",
    "text": "string",
    "date": "string",
}


def paths_of(
    models: Mapping[str, Signature], *, takes_short: bool, takes_tables: bool = False
) -> dict[str, Any]:
    """Return the description of ``POST /v2/models/NAME/infer`` for each model, and of raw inputs for a task.

    Args:
        takes_short: Models accept inputs by name (:mod:`salver.dialects.oip.short_json`).
        takes_tables: Models with named columns accept rows by their names.
    """
    paths = {}
    for name, signature in list(models.items())[:MOST_MODELS]:
        quoted = quote(name, safe="")
        if signature.task:
            paths[f"/v1/models/{quoted}"] = {"post": _raw(name, signature)}
        elif takes_tables and signature.table is not None:
            paths[f"/v1/models/{quoted}"] = {"post": _rows(name, signature.table)}
        if signature.inputs and not signature.takes_forms:
            paths[f"/v2/models/{quoted}/infer"] = {"post": _operation(name, signature, takes_short)}
    return paths


def _raw(name: str, signature: Signature) -> dict[str, Any]:
    """Return the description of raw inputs for a task."""
    task = signature.task
    schema = _object({"inputs": {}, "parameters": {"type": "object"}}, ["inputs"])
    json = {"application/json": {"schema": schema, "example": raw_inputs(signature)}}
    return {
        "operationId": f"pipeline:{name}",
        "summary": f"Ask {name} with raw inputs ({task})",
        "requestBody": {"required": True, "content": {**json, **_alone(signature), **_form(signature)}},
        "responses": _answers("The answer as a pipeline of the task gives it", {}),
        "x-salver-raw": {"name": name, "task": task},
    }


def _alone(signature: Signature) -> dict[str, Any]:
    """Return the content types of inputs that are a whole body."""
    if signature.task in TAKE_IMAGES:
        return dict.fromkeys(_IMAGE_KINDS, _BINARY)
    if signature.task in TAKE_SOUNDS:
        return dict.fromkeys(_SOUND_KINDS, _BINARY)
    text = {"text/plain": {"schema": {"type": "string"}}}
    if signature.platform == PIPELINE:
        is_one = [spec.datatype for spec in signature.inputs] == [DataType.BYTES]
        return {**text, "application/octet-stream": _BINARY} if is_one else {}
    example = raw_inputs(signature)["inputs"]
    columns = {"inputs": example} if type(example) is str else example
    if type(columns) is not dict or not all(type(value) is str for value in columns.values()):
        return text
    rows = f"{','.join(columns)}\n{','.join(columns.values())}\n"
    return {**text, "text/csv": {"schema": {"type": "string"}, "example": rows}}


def _form(signature: Signature) -> dict[str, Any]:
    """Return the fields of a form; others are parameters."""
    fields: dict[str, Any] = {"data": {"type": "string"}}
    if signature.task in TAKE_IMAGES or signature.task in TAKE_SOUNDS:
        fields = {"data": _BINARY["schema"]}
    elif signature.platform == PIPELINE:
        is_bytes = {spec.name: spec.datatype is DataType.BYTES for spec in signature.inputs}
        fields = {name: _BINARY["schema"] if bytes_ else {} for name, bytes_ in is_bytes.items()}
    else:
        fields |= {spec.name: {"type": "string"} for spec in signature.inputs}
    parameters = {"type": "string", "description": "Parameters as a JSON object"}
    schema = {"type": "object", "properties": {**fields, "parameters": parameters}}
    return {"multipart/form-data": {"schema": schema}}


def _answers(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    fault = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        "200": {"description": description, "content": {"application/json": {"schema": schema}}},
        "default": {"description": "What is wrong and what to do", "content": fault},
    }


def _rows(name: str, table: Signature) -> dict[str, Any]:
    """Return the description of rows by the names of columns."""
    columns = {spec.name: spec.column or Column() for spec in table.inputs}
    read = {column: about for column, about in columns.items() if about.is_read}
    row = _object({column: _cell(about) for column, about in columns.items()}, [*read])
    parameters = _object({"probabilities": {"type": "boolean"}}, [])
    schema = _object(
        {"inputs": {"type": "array", "items": row, "minItems": 1}, "parameters": parameters}, ["inputs"]
    )
    example = {"inputs": [{column: _value(about) for column, about in read.items()}]}
    file = {"type": "object", "properties": {"data": _BINARY["schema"]}, "required": ["data"]}
    return {
        "operationId": f"table:{name}",
        "summary": f"Ask {name} with rows by column name",
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": schema, "example": example},
                "text/csv": {"schema": {"type": "string"}},
                "application/vnd.apache.parquet": _BINARY,
                "application/vnd.apache.arrow.stream": _BINARY,
                "multipart/form-data": {"schema": file},
            },
        },
        "responses": _answers("A prediction for each row", {"type": "object"}),
        "x-salver-raw": {"name": name, "task": "table"},
    }


def _cell(column: Column) -> dict[str, Any]:
    """Return the schema of a column's values."""
    if not column.is_read:
        return {}
    if column.categories:
        return {"enum": [*column.categories, *([None] * column.takes_null)]}
    kind = _CELLS[column.kind]
    form = {"format": "date-time"} if column.kind == "date" else {}
    return {"type": [kind, "null"] if column.takes_null else kind, **form}


def _value(column: Column) -> Any:
    """Return an example of a column's values."""
    if column.categories:
        return column.categories[0]
    return {"text": "text", "boolean": False, "date": "2026-01-31T08:00:00"}.get(column.kind, 0)


def _operation(name: str, signature: Signature, takes_short: bool) -> dict[str, Any]:
    inputs, outputs = signature.inputs, signature.outputs
    is_short = takes_short and all(spec.name != "inputs" for spec in inputs)
    whole = {"$ref": "#/components/schemas/InferRequest"}
    required = [spec.name for spec in inputs if not spec.optional]
    short = _object({spec.name: _schema(spec) for spec in inputs}, required)
    given = _object({spec.name: _schema(spec) for spec in outputs}, [spec.name for spec in outputs])
    taken: dict[str, Any] = {"schema": {"anyOf": [short, whole]} if is_short else whole}
    if sum(prod(extents(spec)) for spec in inputs) <= _MOST_ELEMENTS:
        taken["example"] = example_of(inputs) if is_short else {"inputs": [_entry(spec) for spec in inputs]}
    answer = {"$ref": "#/components/schemas/InferResponse"}
    return {
        "operationId": f"infer:{name}",
        "summary": f"Ask {name}",
        "requestBody": {"required": True, "content": {"application/json": taken}},
        "responses": {
            "200": {
                "description": "Answered in the form of the request",
                "content": {
                    "application/json": {"schema": {"anyOf": [given, answer]} if is_short else answer}
                },
            },
            "default": {
                "description": "What is wrong and what to do",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
        "x-salver-model": {
            "name": name,
            "inputs": [_told(spec) for spec in inputs],
            "outputs": [_told(spec) for spec in outputs],
        },
    }


def example_of(inputs: Sequence[TensorSpec]) -> dict[str, Any]:
    """Return example inputs of zeros, with extent 1 where it is free."""
    return {spec.name: filled(extents(spec), zero(spec)) for spec in inputs}


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _schema(spec: TensorSpec) -> dict[str, Any]:
    """Return the schema of nested lists with the tensor's shape."""
    schema = _element(spec.datatype)
    for extent in reversed(spec.shape):
        schema = {"type": "array", "items": schema}
        if extent >= 0:
            schema |= {"minItems": extent, "maxItems": extent}
    schema["description"] = f"{spec.datatype.name}{list(spec.shape)}"
    return schema


def _element(datatype: DataType) -> dict[str, Any]:
    if datatype is DataType.BYTES:
        return {"type": "string"}
    if datatype is DataType.BOOL:
        return {"type": "boolean"}
    if datatype.is_float:
        return {"type": "number"}
    limits = np.iinfo(datatype.dtype)
    return {"type": "integer", "minimum": int(limits.min), "maximum": int(limits.max)}


def _told(spec: TensorSpec) -> dict[str, Any]:
    told: dict[str, Any] = {"name": spec.name, "datatype": spec.datatype.name, "shape": list(spec.shape)}
    if spec.optional:
        return {**told, "optional": True}
    return told


def _entry(spec: TensorSpec) -> dict[str, Any]:
    shape = extents(spec)
    return {
        "name": spec.name,
        "datatype": spec.datatype.name,
        "shape": shape,
        "data": [zero(spec)] * prod(shape),
    }
