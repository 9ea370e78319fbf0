"""OpenAPI 3.1 description of the management API.

Generated from the operations and their records. Pure.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from salver.transport.operations import ROOT, STORABLE, Operation

_REF: Final = "#/components/schemas/{name}"
_PROBLEM: Final = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "description": "urn:salver:problem: and the kind of failure"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What is wrong, and what to do"},
        "field": {"type": "string", "description": "What of the request is wrong"},
        "fix": {"type": "string", "description": "What to do about it"},
    },
}

_IF_MATCH: Final = {
    "name": "if-match",
    "in": "header",
    "required": False,
    "description": "Tags of the states of which alone it is changed; of any other one it is refused with 412",
    "schema": {"type": "string"},
}


def describe(operations: Sequence[Operation], version: str) -> dict[str, Any]:
    """Return the description for a server version."""
    kinds = [kind for o in operations for kind in (o.gives, o.takes) if kind is not None]
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    of = dict(zip(map(str, kinds), schemas, strict=True))
    paths: dict[str, Any] = {}
    for operation in operations:
        paths.setdefault(ROOT + operation.path, {})[operation.verb.lower()] = _described(operation, of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Salver: management",
            "version": version,
            "description": "Models, releases and outcomes. What it changes are wishes, which the server "
            "carries out on its next tick. Changes come as application/json, with a bearer token where the "
            "server has one. Errors are problem details (RFC 9457).",
        },
        "paths": paths,
        "components": {
            "schemas": {**components, "Problem": _PROBLEM},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _described(operation: Operation, of: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": [*_of_path(operation.path), *_of_query(operation.query)],
        "responses": {
            str(operation.status): {
                "description": "Done",
                "content": {"application/json": {"schema": of[str(operation.gives)]}},
            },
            "default": {
                "description": "What is wrong and what to do",
                "content": {"application/problem+json": {"schema": {"$ref": _REF.format(name="Problem")}}},
            },
        },
    }
    if operation.takes is not None:
        content = {"application/json": {"schema": of[str(operation.takes)]}}
        out["requestBody"] = {"required": True, "content": content}
    if operation.is_conditional:
        out["parameters"].append(_IF_MATCH)
    if operation.changes:
        out["security"] = [{}, {"token": []}]
    else:
        out["responses"]["304"] = {"description": "As if-none-match says"}
    return out


def _of_path(path: str) -> list[dict[str, Any]]:
    schema = {"type": "string", "minLength": 1, "pattern": STORABLE}
    return [
        {"name": n, "in": "path", "required": True, "schema": schema} for n in re.findall(r"{(\w+)}", path)
    ]


def _of_query(kind: Any) -> list[dict[str, Any]]:
    (schema,), components = msgspec.json.schema_components([kind], ref_template=_REF)
    whole = schema
    if "$ref" in schema:
        whole = components[kind.__name__]
    required = whole.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": one}
        for name, one in whole["properties"].items()
    ]
