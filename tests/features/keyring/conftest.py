"""A ledger of each kind."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from databases import migrated_ledger
from registries import KINDS

from salver.features.ledger.ledger import Ledger


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return migrated_ledger(request.param, tmp_path)


@pytest.fixture
async def ledger(url: str) -> AsyncIterator[Ledger]:
    async with await Ledger.open(url) as opened:
        yield opened
