"""JSON Schema of ``salver.toml``, for editors.

Pure. It is made from the records, bounds and docstrings; what depends on the machine or on several fields is
left to :func:`~salver.kernel.repository.toml.parse_toml`.
"""

import re
from typing import Any, Final

import msgspec

from salver.kernel.repository.bounds import fixed_bounds
from salver.kernel.repository.toml import LEAST
from salver.words.artifacts import ModelConfig, SequenceState

_TIME: Final = {"type": "string", "pattern": r"^\s*[0-9.]+\s*(us|ms|s|m|h)\s*$"}


def schema() -> dict[str, Any]:
    """Return the schema (draft 2020-12)."""
    made = msgspec.json.schema(ModelConfig)
    definitions = made["$defs"]
    for record in definitions.values():
        describe(record)
    del definitions[SequenceState.__name__]["properties"]["content"]  # read from a file
    times = definitions["Objective"]["properties"]
    for key in ("latency_p99", "deadline"):
        times[key] = {"anyOf": [_TIME, {"type": "number"}]} | _said(times[f"{key}_ms"])
    objective = [{"const": "throughput"}, {"$ref": "#/$defs/Objective"}]
    properties = definitions["ModelConfig"]["properties"]
    properties["objective"] = {"anyOf": objective} | _said(properties["objective"])
    for path, least in LEAST.items():
        _bound(definitions, path, "minimum", least)
    for path, most in fixed_bounds().items():
        _bound(definitions, path, "maximum", most)
    root = definitions.pop("ModelConfig")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **root,
        "title": "salver.toml",
        "$defs": definitions,
    }


def describe(record: dict[str, Any]) -> None:
    """Give each field its sentence of the docstring, and drop what TOML cannot express."""
    text = re.sub(r"\s*\n\s*(?=\S)(?!\w[\w, ]*: |Attributes:)", " ", record.get("description", ""))
    first, _, attributes = text.partition("Attributes:")
    said: dict[str, str] = {}
    for names, meaning in re.findall(r"^\s*(\w[\w, ]*): (.*)$", attributes, re.M):
        said |= dict.fromkeys(re.split(r",\s*", names), " ".join(meaning.replace("``", "`").split()))
    if "description" in record:
        record["description"] = " ".join(first.replace("``", "`").split())
    for name, field in record.get("properties", {}).items():
        kinds = [kind for kind in field.get("anyOf", ()) if kind != {"type": "null"}]
        if len(kinds) == 1 and len(field["anyOf"]) == 2:  # in records None stands for a key that is left out
            del field["anyOf"]
            field |= kinds[0]
        if field.get("default") is None or isinstance(field["default"], dict | list):
            field.pop("default", None)
        if name in said:
            field["description"] = said[name]


def _said(field: dict[str, Any]) -> dict[str, Any]:
    if "description" in field:
        return {"description": field["description"]}
    return {}


def _bound(definitions: dict[str, Any], path: str, kind: str, value: float) -> None:
    """Bound the number at a path, if the schema has one there."""
    record = definitions["ModelConfig"]
    *tables, name = path.split(".")
    for table in tables:
        reference = _content(record["properties"][table]).get("$ref", "").rpartition("/")[2]
        record = definitions.get(reference, {"properties": {}})
    field = _content(record["properties"].get(name, {}))
    if field.get("type") in ("integer", "number"):
        field[kind] = value


def _content(field: dict[str, Any]) -> dict[str, Any]:
    """Return the content of an array or table; otherwise the field itself."""
    for key in ("items", "additionalProperties"):
        if isinstance(inner := field.get(key), dict):
            return inner
    return field
