"""Schemas of Kubernetes' objects, and of custom resources (``tests/support/crds/README.md``)."""

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
from charts import PLACE


def custom_resource(kind: str) -> jsonschema_rs.Validator:
    """Return the validator of a kind; fields that it does not know are refused."""
    return jsonschema_rs.validator_for(
        json.loads((Path(__file__).parent / "crds" / f"{kind}.json").read_text())
    )


class Schemas:
    """Schemas of one version of Kubernetes, those named strict, which refuse fields that they do not know."""

    def __init__(self, version: str) -> None:
        folder = PLACE / "kubernetes_validate" / "kubernetes-json-schema" / f"v{version}.0-local-strict"
        self._definitions = json.loads((folder / "_definitions.json").read_text())["$defs"]
        self._validators: dict[str, jsonschema_rs.Validator] = {}

    def errors(self, thing: dict[str, Any]) -> list[str]:
        kind = thing["kind"]
        if kind not in self._validators:
            self._validators[kind] = self._validator(thing)
        found = self._validators[kind].iter_errors(thing)
        return [f"{kind} {error.instance_path} {error.message}" for error in found]

    def _validator(self, thing: dict[str, Any]) -> jsonschema_rs.Validator:
        group, _, version = thing["apiVersion"].rpartition("/")
        kind = {"group": group, "version": version, "kind": thing["kind"]}
        for name, each in self._definitions.items():
            if kind in each.get("x-kubernetes-group-version-kind", ()):
                return jsonschema_rs.validator_for({"$defs": self._definitions, "$ref": f"#/$defs/{name}"})
        return custom_resource(thing["kind"])
