"""docs/reference/api.md lists the operations.

``python tests/features/management/test_api_reference.py`` rewrites it.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import schemathesis

from salver.features.access import me
from salver.features.cache import operations as cache
from salver.features.keyring.key_operations import key_operations
from salver.features.management.openapi import describe
from salver.features.management.placement import placement_operation
from salver.features.management.serving_operations import serving_operations
from salver.features.memory import operations as memory
from salver.features.releases.ledger_api import LedgerApi, ReleaseStores
from salver.features.routing.rules.operations import rule_operations
from salver.features.usage import operations as usage
from salver.transport.operations import ROOT, Operation

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "api.md"
INTRODUCTION = f"""# Management interface

Operations below `{ROOT}`, at the port that serves everything. `/api/openapi.json` describes them to
machines (OpenAPI 3.1), with every field of what they take and give. Each server tells its own: what needs
a registry is there when the server has one.

- Bodies are JSON. Unknown fields are rejected, with the names of the known ones.
- Errors are problem details (RFC 9457, `application/problem+json`): `detail` says what is wrong, `field`
  where, `fix` what to do.
- Lists are paged: `limit` is the number of items (100; up to 1000), and `next` in an answer is `after` in
  the next request. It is empty on the last page.
- Answers have an `etag`; with it as `if-none-match`, an unchanged answer is not sent again (304). A change
  that supports `if-match` is rejected (412) if its object has changed since the caller saw it; all others
  reject the header.
- Every caller that reaches the port may read. [Changes](../how-to/console.md#permissions)
  need a token, or a port that only this machine reaches, and must be `application/json`. The header
  `x-salver-actor` names the caller in the audit log.

"""


def operations() -> list[Operation]:
    """All, of a server that has everything; they are not run."""
    nobody: Any = None
    kept = LedgerApi(nobody, nobody, nobody, ReleaseStores(nobody, nobody, nobody), str)
    serving = serving_operations(nobody, nobody, ("salver", "0"), has_registry=True)
    serving.append(placement_operation(nobody, nobody, nobody))
    keys = [*key_operations(nobody, nobody), *usage.operations(nobody, nobody)]
    more = [*cache.operations(nobody), *memory.operations(nobody, nobody), *rule_operations(nobody)]
    return [*serving, *me.operations(nobody), *kept.operations(), *keys, *more]


def page() -> str:
    """The reference, from the operations' own rows."""
    text = INTRODUCTION + "| Operation | | Changes |\n|---|---|---|\n"
    text += "".join(
        f"| `{o.verb} {o.path}` | {o.summary} | {'yes' if o.changes else ''} |\n" for o in operations()
    )
    return text + "\n" + records(describe(operations(), "0")["components"]["schemas"])


def records(schemas: dict[str, Any]) -> str:
    """What is sent and told, field by field."""
    text = "## Records\n"
    for name, schema in sorted(schemas.items()):
        if "properties" in schema and "_" not in name.rpartition(".")[2] and name != "Problem":
            needed = schema.get("required", ())
            text += f"\n### {name}\n\n{first_line(schema)}| Field | Type | |\n|---|---|---|\n"
            text += "".join(row(field, kind, needed) for field, kind in schema["properties"].items())
    return text


def first_line(schema: dict[str, Any]) -> str:
    lines = schema.get("description", "").splitlines()
    return f"{lines[0]}\n\n" if lines else ""


def row(field: str, kind: dict[str, Any], needed: Sequence[str]) -> str:
    default = "" if field in needed or "default" not in kind else f"default `{kind['default']!r}`"
    return f"| `{field}` | {shown(kind)} | {default} |\n"


def shown(kind: dict[str, Any]) -> str:
    """A type in words."""
    if "$ref" in kind:
        return kind["$ref"].rpartition("/")[2]
    if "anyOf" in kind:
        return " or ".join(map(shown, kind["anyOf"]))
    if "enum" in kind:
        return ", ".join(f"`{value}`" for value in kind["enum"])
    if kind.get("type") == "array" and kind.get("items"):
        return f"list of {shown(kind['items'])}"
    if kind.get("type") == "object" and isinstance(kind.get("additionalProperties"), dict):
        return f"object of {shown(kind['additionalProperties'])}"
    return str(kind.get("type", "any"))


def test_the_reference_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), f"run: python {Path(__file__).name}"


def test_every_operation_is_in_it() -> None:
    for operation in operations():
        assert f"| `{operation.verb} {operation.path}` |" in PAGE.read_text()


def test_the_description_is_one_of_openapi() -> None:
    """Valid by the schema of OpenAPI 3.1, and every reference in it leads somewhere."""
    told = json.loads(json.dumps(describe(operations(), "0")))
    schemathesis.openapi.from_dict(told).validate()
    named = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(told)))
    assert named <= told["components"]["schemas"].keys()
    ids = [one["operationId"] for path in told["paths"].values() for one in path.values()]
    assert len(ids) == len(set(ids))


if __name__ == "__main__":
    PAGE.write_text(page())
