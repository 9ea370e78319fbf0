"""Which versions are brought onto this machine, tried again, waited for and forgotten?"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from registries import ANN, Clock, Distant, found, open_registry

from salver.features.registry.fetching import VersionFetcher
from salver.features.registry.records import NewVersion
from salver.features.registry.registry import ModelRegistry


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[ModelRegistry]:
    opened = await open_registry("sqlite", tmp_path / "registry")
    for _ in range(3):
        await opened.push(NewVersion("fraud"), found(tmp_path / "new"), ANN)
    opened.artifacts = Distant(tmp_path / "registry")
    yield opened
    await opened.ledger.close()


ONE, TWO = ("fraud", 1), ("fraud", 2)


async def test_what_is_wanted_is_brought_once(registry: ModelRegistry) -> None:
    bringing = VersionFetcher(registry, Clock())
    assert await bringing.want({ONE}, set(), waits=True) == set()
    assert await bringing.want({ONE, TWO}, set(), waits=True) == set()
    assert registry.artifacts.asked == ["bring fraud/1 1", "bring fraud/2 1"]  # type: ignore[attr-defined]


async def test_what_takes_long_keeps_nothing_waiting(registry: ModelRegistry) -> None:
    bringing, artifacts = VersionFetcher(registry, Clock()), registry.artifacts
    assert isinstance(artifacts, Distant)
    artifacts.may_come.clear()
    assert await bringing.want({ONE}, set()) == {ONE}
    assert await bringing.want({ONE}, set()) == {ONE}
    artifacts.may_come.set()
    assert await bringing.want({ONE}, set(), waits=True) == set()
    assert artifacts.asked == ["bring fraud/1 1"]


async def test_what_cannot_be_had_is_tried_again_after_a_while(
    registry: ModelRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    bringing, artifacts = VersionFetcher(registry, clock), registry.artifacts
    assert isinstance(artifacts, Distant)
    artifacts.is_away = True
    for _ in range(3):
        assert await bringing.want({ONE, ("gone", 1)}, set(), waits=True) == {ONE, ("gone", 1)}
    assert artifacts.asked == ["bring fraud/1 1"]
    assert "fraud/1 cannot be fetched and will be retried: nobody answers" in caplog.text
    artifacts.is_away = False
    clock.now += 31
    assert await bringing.want({ONE, ("gone", 1)}, set(), waits=True) == {("gone", 1)}


async def test_what_nobody_wants_goes_after_a_while_and_not_while_it_is_served(
    registry: ModelRegistry,
) -> None:
    clock = Clock()
    bringing, artifacts = VersionFetcher(registry, clock), registry.artifacts
    assert isinstance(artifacts, Distant)
    await bringing.want({ONE}, set(), waits=True)
    await bringing.want({TWO}, {ONE}, waits=True)
    clock.now += 10_000
    await bringing.want({TWO}, {ONE})
    await bringing.want({TWO}, {TWO})
    clock.now += 599
    await bringing.want({TWO}, {TWO})
    assert artifacts.asked == ["bring fraud/1 1", "bring fraud/2 1"]
    clock.now += 1
    await bringing.want({TWO}, {TWO})
    assert artifacts.asked[2:] == ["forget fraud/1"]
    await bringing.want({ONE, TWO}, {TWO}, waits=True)
    assert artifacts.asked[3:] == ["bring fraud/1 1"]


async def test_what_the_last_server_left_is_looked_at_or_goes(registry: ModelRegistry) -> None:
    clock = Clock()
    bringing, artifacts = VersionFetcher(registry, clock), registry.artifacts
    assert isinstance(artifacts, Distant)
    artifacts.left = frozenset({ONE, TWO})
    await bringing.want({ONE}, set(), waits=True)
    clock.now += 600
    await bringing.want({ONE}, {ONE})
    await bringing.want({ONE}, {ONE})
    assert artifacts.asked == ["bring fraud/1 1", "forget fraud/2"]


async def test_at_the_end_nothing_is_brought_any_more(registry: ModelRegistry) -> None:
    bringing, artifacts = VersionFetcher(registry, Clock()), registry.artifacts
    assert isinstance(artifacts, Distant)
    artifacts.may_come.clear()
    await bringing.want({ONE, TWO, ("fraud", 3)}, set())
    await asyncio.sleep(0)
    await bringing.stop()
    artifacts.may_come.set()
    assert len(artifacts.asked) <= 2


async def test_files_that_lie_here_are_here(tmp_path: Path) -> None:
    registry = await open_registry("sqlite", tmp_path / "near")
    assert await VersionFetcher(registry, Clock()).want({ONE}, set()) == set()
    await registry.ledger.close()
