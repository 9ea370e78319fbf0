"""schemathesis tries to break what the description of the management interface promises."""

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from console_world import RUNNING, prepare
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    ignored_auth,
    missing_required_header,
    positive_data_acceptance,
    unsupported_method,
)
from soaking import size
from waiting import PATIENCE_S

from salver.features.management.openapi import describe
from salver.features.management.serving_operations import serving_operations
from salver.features.releases.ledger_api import LedgerApi, ReleaseStores
from salver.testing.process import ServerProcess

NOBODY: Any = None  # the operations are not run here
OPERATIONS = [
    *serving_operations(NOBODY, NOBODY, ("salver", "0")),
    *LedgerApi(NOBODY, NOBODY, NOBODY, ReleaseStores(NOBODY, NOBODY, NOBODY), str).operations(),
]
LABELS = [
    f"{verb.upper()} {path}" for path, verbs in describe(OPERATIONS, "0")["paths"].items() for verb in verbs
]
NAMES = {"model": "fraud", "version": "2", "alias": "champion", "release": RUNNING, "key": "team"}
#: An answer depends on what there is; tokens are for other ports; HEAD and OPTIONS are spoken everywhere.
NOT_HELD = [
    not_a_server_error,
    positive_data_acceptance,
    ignored_auth,
    missing_required_header,
    unsupported_method,
]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with a registry, which may be changed from here."""
    folder: Path = tmp_path_factory.mktemp("api")
    asyncio.run(prepare(folder / "registry"))
    home = folder / "registry"
    with ServerProcess([], folder / "log", ["--registry", str(home)]) as server:
        yield server.wait_ready()


@pytest.fixture(scope="module")
def operations(kept: ServerProcess) -> dict[str, APIOperation]:
    """The operations that are described, by verb and path."""
    schema = schemathesis.openapi.from_url(f"{kept.url}/api/openapi.json")
    described = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    return {operation.label: operation for operation in described}


@pytest.mark.soak
@pytest.mark.parametrize("label", LABELS)
def test_what_is_described_holds(operations: dict[str, APIOperation], label: str) -> None:
    """No defect, the declared statuses, types and schemas, nothing wrong accepted, whatever is sent."""
    examples = itertools.count()

    @given(case=operations[label].as_strategy())
    @settings(max_examples=size(15, 8), derandomize=True, suppress_health_check=list(HealthCheck))
    def holds(case: schemathesis.Case) -> None:
        if next(examples) % 2:  # of things that there are, as well as of any
            case.path_parameters |= {name: NAMES[name] for name in case.path_parameters if name in NAMES}
        if isinstance(case.body, dict) and "url" in case.body:
            case.body["url"] = "http://127.0.0.1:9/"  # to which webhooks are posted in earnest
        reply = case.call(timeout=PATIENCE_S)
        assert reply.status_code < 500 or reply.status_code in (501, 503), reply.text
        case.validate_response(reply, excluded_checks=NOT_HELD)

    holds()
