"""A registry on each kind of ledger."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from registries import KINDS, Clock, open_registry

from salver.features.registry.registry import ModelRegistry


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=KINDS)
async def registry(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock
) -> AsyncIterator[ModelRegistry]:
    opened = await open_registry(request.param, tmp_path / "registry", clock)
    yield opened
    await opened.ledger.close()
