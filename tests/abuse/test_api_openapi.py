"""schemathesis tries to break what the description of the management interface promises."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import positive_data_acceptance

from salver.testing.process import ServerProcess
from salver.transport.api.openapi import describe
from salver.transport.api.serving import serving_operations

OPERATIONS = serving_operations(None, None, ("salver", "0"))  # type: ignore[arg-type]  # they are not run
LABELS = [
    f"{verb.upper()} {path}" for path, verbs in describe(OPERATIONS, "0")["paths"].items() for verb in verbs
]


@pytest.mark.parametrize("label", LABELS)
def test_what_is_described_holds(strict: ServerProcess, label: str) -> None:
    """No defect, the declared statuses, types and schemas, nothing wrong accepted, whatever is sent."""
    schema = schemathesis.openapi.from_url(f"{strict.url}/api/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    (operation,) = [operation for operation in operations if operation.label == label]

    @given(case=operation.as_strategy())
    @settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def holds(case: schemathesis.Case) -> None:
        reply = case.call(timeout=20)
        assert reply.status_code < 500 or reply.status_code in (501, 503), reply.text
        case.validate_response(reply, excluded_checks=[not_a_server_error, positive_data_acceptance])

    holds()
