"""Make a strict JSON schema of a CustomResourceDefinition: python trim.py CRD.yaml > KIND.json.

Descriptions, the status and rules in CEL are left out. Unknown fields are refused, as by
``kubectl --validate=strict``.
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

LEFT_OUT = ("description", "nullable", "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields")


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema without what only Kubernetes reads, and with its meaning."""
    found = {
        name: value for name, value in schema.items() if not name.startswith("x-") and name not in LEFT_OUT
    }
    if schema.get("x-kubernetes-int-or-string"):
        found.pop("anyOf", None)
        found["type"] = ["integer", "string"]
    if schema.get("nullable"):
        found["type"] = [found["type"], "null"]
    if "properties" in schema:
        found["properties"] = {name: strict(value) for name, value in schema["properties"].items()}
        is_open = "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
        if not is_open:
            found["additionalProperties"] = False
    for inner in ("items", "additionalProperties"):
        if isinstance(schema.get(inner), dict):
            found[inner] = strict(schema[inner])
    return found


if __name__ == "__main__":
    definition = yaml.safe_load(Path(sys.argv[1]).read_text())["spec"]
    version = next(each for each in definition["versions"] if each["storage"])
    schema = version["schema"]["openAPIV3Schema"]
    schema["properties"].pop("status", None)
    schema = strict(schema)
    schema["properties"]["apiVersion"] = {"const": f"{definition['group']}/{version['name']}"}
    schema["properties"]["kind"] = {"const": definition["names"]["kind"]}
    schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
    print(json.dumps(schema, separators=(",", ":")))
