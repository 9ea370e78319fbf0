"""Schemas of the custom resources that Salver renders (``tests/support/crds/README.md``)."""

import json
from pathlib import Path

import jsonschema_rs


def custom_resource(kind: str) -> jsonschema_rs.Validator:
    """Return the validator of a kind; fields that it does not know are refused."""
    return jsonschema_rs.validator_for(
        json.loads((Path(__file__).parent / "crds" / f"{kind}.json").read_text())
    )
