"""Serialised ``tensorflow.Example`` messages from maps of features in JSON.

The token decides the kind: a number with a fraction or an exponent is a float, another number or a boolean an
int64, text or ``{"b64"}`` bytes (TF-R17). Error texts are TensorFlow Serving's (TF-R32). Pure.
"""

from typing import Any, Final

import numpy as np

from salver.dialects.tensorflow.json_tensors import base64_of, is_base64, json_type, rounded
from salver.dialects.tensorflow.tf_schema import build
from salver.words.errors import InvalidInput
from salver.words.tensor import DataType

_MOST: Final = (1 << 63) - 1
_MOST_FLOAT: Final = float(np.finfo(np.float32).max)
#: Features that become a message at a time: other threads wait meanwhile.
_AT_ONCE: Final = 1000
_KINDS: Final = {"float_list": "float", "int64_list": "int64", "bytes_list": "bytes"}


def example_of(features: Any) -> bytes:
    """Return a serialised Example.

    Raises:
        InvalidInput: The features are no object, or one of them has values of no kind or of several.
    """
    if type(features) is not dict:
        raise InvalidInput(f"Example must be JSON object but got JSON {json_type(features)}")
    example = build()["Example"]()
    feature = example.features.feature
    parts = []  # serialised messages that follow each other are merged when they are parsed
    for name, content in features.items():
        if len(feature) == _AT_ONCE:
            parts.append(example.SerializeToString(deterministic=True))
            example = build()["Example"]()
            feature = example.features.feature
        name = name.encode("utf-8", "replace").decode()
        values = content if type(content) is list else [content]
        if not values:
            feature[name].SetInParent()
            continue
        kind, converted = _convert(name, values)
        getattr(feature[name], kind).value.extend(converted)
    parts.append(example.SerializeToString(deterministic=True))
    return b"".join(parts)


def _convert(name: str, values: list[Any]) -> tuple[str, list[Any]]:
    """Return the field of a Feature for values, and the values in its type."""
    kinds = set(map(type, values))
    if kinds == {float}:
        if len(values) == 1 and abs(values[0]) <= _MOST_FLOAT:
            return "float_list", values
        return "float_list", rounded(np.array(values), DataType.FP32).tolist()
    if kinds <= {int, bool} and min(values) >= -_MOST - 1 and max(values) <= _MOST:
        return "int64_list", [*map(int, values)] if bool in kinds else values
    kind = _kind(name, values[0])
    converted = []
    for value in values:
        if _kind(name, value) != kind:
            raise InvalidInput(f"Unexpected element type in feature: {name} expecting type: {_KINDS[kind]}")
        converted.append(_value(name, value, kind))
    return kind, converted


def _kind(name: str, value: Any) -> str:
    if value is None or type(value) is list or (type(value) is dict and not is_base64(value)):
        raise InvalidInput(f"Feature: {name} has element with unexpected JSON type: {json_type(value)}")
    if type(value) in (str, dict):
        return "bytes_list"
    if type(value) is float or not -_MOST - 1 <= value <= 2 * _MOST + 1:
        return "float_list"
    return "int64_list"


def _value(name: str, value: Any, kind: str) -> Any:
    if kind == "bytes_list":
        if type(value) is dict:
            return base64_of(value)
        return value.encode("utf-8", "surrogateescape")
    if kind == "float_list":
        return float(value)
    if value > _MOST:
        raise InvalidInput(f"Feature: {name} has uint64_t element. Only int64_t is supported.")
    return int(value)
