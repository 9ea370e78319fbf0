"""schemathesis tries to break what the served OpenAPI description promises."""

import json

import pytest
import requests
import schemathesis
from dialect_tables import OPERATIONS
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import positive_data_acceptance
from soaking import size
from waiting import PATIENCE_S

from salver.dialects.oip.openapi import describe
from salver.testing.process import ServerProcess

LABELS = [
    f"{verb.upper()} {path}"
    for path, verbs in describe("0", OPERATIONS)["paths"].items()
    for verb in verbs
    if path != "/openapi.json"
]


CASES = [(label, "") for label in LABELS] + [(label, "mlp") for label in LABELS if "{model}" in label]


@pytest.fixture(scope="module")
def operations(strict: ServerProcess) -> dict[str, APIOperation]:
    """The operations that are described, by verb and path."""
    schema = schemathesis.openapi.from_url(f"{strict.url}/openapi.json")
    described = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    return {operation.label: operation for operation in described}


@pytest.mark.soak
@pytest.mark.parametrize(("label", "model"), CASES)
def test_the_served_description_holds(operations: dict[str, APIOperation], label: str, model: str) -> None:
    """No defect (500), the declared content types and schemas, nothing wrong accepted, whatever is sent.

    Not everything of the right form is accepted: that depends on the model and on the server's state.
    """

    @given(case=operations[label].as_strategy())
    @settings(max_examples=size(30, 10), derandomize=True, suppress_health_check=list(HealthCheck))
    def holds(case: schemathesis.Case) -> None:
        if model:
            case.path_parameters |= {"model": model} | ({"version": "1"} if "{version}" in label else {})
        reply = case.call(timeout=PATIENCE_S)
        assert reply.status_code < 500 or reply.status_code in (501, 503), reply.text
        case.validate_response(reply, excluded_checks=[not_a_server_error, positive_data_acceptance])

    holds()


def test_every_path_of_the_description_exists(strict: ServerProcess) -> None:
    document = json.loads(strict.get("/openapi.json")[1])
    assert len(document["paths"]) >= 15
    for path in document["paths"]:
        url = strict.url + path.replace("{model}", "mlp").replace("{version}", "1")
        wanted = {405, 400} if path.startswith("/v1/") else {405}  # TF-R7
        assert requests.request("TRACE", url, timeout=PATIENCE_S).status_code in wanted, path
