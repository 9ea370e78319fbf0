"""JSON Schema of ``salver.toml``: a model's tables, and ``[server]``."""

import re
from typing import Any, Final

import msgspec

from salver.cli.feature_tables import records
from salver.cli.serve_options import Option, serve_defaults
from salver.cli.server_file import FLAGS_ONLY
from salver.kernel.repository.config import SERVER
from salver.kernel.repository.toml_schema import describe
from salver.kernel.repository.toml_schema import schema as model_schema

_ABOUT: Final = "Options of `salver serve`, in the file beside or above the models."


def schema() -> dict[str, Any]:
    """Return the schema (draft 2020-12)."""
    made = model_schema()
    definitions: dict[str, Any] = made["$defs"]
    server = _table(_ABOUT)
    for key, option in serve_defaults().items():
        table, _, name = key.rpartition(".")
        if key not in FLAGS_ONLY:
            _below(server, table)["properties"][name] = _of_option(option, definitions)
    for table, record in sorted(records().items()):
        added = msgspec.json.schema(record)
        own = added.pop("$defs")
        for definition in own.values():
            describe(definition)
        root = own.pop(record.__name__)
        definitions |= own
        properties = _below(server, table)["properties"]
        properties |= {name: field for name, field in root["properties"].items() if name not in properties}
    made["properties"][SERVER] = server
    return made


def _table(about: str) -> dict[str, Any]:
    return {"description": about, "type": "object", "properties": {}, "additionalProperties": False}


def _below(server: dict[str, Any], table: str) -> dict[str, Any]:
    """Return the schema of a sub-table; the server's own for an empty name."""
    if not table:
        return server
    found: dict[str, Any] = server["properties"].setdefault(table, _table(f"Options of {table}."))
    return found


def _of_option(option: Option, definitions: dict[str, Any]) -> dict[str, Any]:
    made = msgspec.json.schema(option.kind)
    definitions |= made.pop("$defs", {})
    kinds = [kind for kind in made.pop("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) == 1:  # None is how an option says that it is left out
        made |= kinds[0]
    if option.default not in (None, ()):
        made["default"] = option.default
    return {"description": re.sub(r"\s+", " ", option.help), **made}
