"""Does a server serve what a registry means, and follow it without a gap?"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec
import pytest
from registries import ANN, KINDS, Clock, Distant, found, open_registry
from sqlalchemy import insert, text, update
from waiting import auntil

from salver.features.ledger.schema import RELEASE
from salver.features.registry.deliveries import Deliverer
from salver.features.registry.records import NewVersion
from salver.features.registry.registered import OWNER, ServedRegistry
from salver.features.registry.registry import ModelRegistry
from salver.kernel.repository import NamedModel
from salver.words.artifacts import Versions
from salver.words.errors import Conflict


class Plane:
    """Notes what it is to serve."""

    def __init__(self) -> None:
        self.lists: list[tuple[NamedModel, ...]] = []
        self.problem: Exception | None = None
        self.refused = 0

    async def replace(self, places: Sequence[NamedModel], owner: str = "") -> None:
        assert owner == OWNER
        if self.problem is not None:
            self.refused += 1
            raise self.problem
        self.lists.append(tuple(places))

    @property
    def last(self) -> dict[str, tuple[tuple[str, ...], dict[str, str], str]]:
        return {
            place.name: (place.versions.specific, place.labels, place.default_label)
            for place in self.lists[-1]
            if isinstance(place.versions, Versions)
        }


async def no_post(*_: object) -> int:
    raise AssertionError("nobody is to be told")


def followed(
    registry: ModelRegistry, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> tuple[ServedRegistry, Plane]:
    plane = Plane()
    return ServedRegistry(registry, plane, Deliverer(registry.ledger, no_post, Clock()), 1.0, sleep), plane


@pytest.fixture(params=KINDS)
async def registry(request: pytest.FixtureRequest, tmp_path: Path):  # type: ignore[no-untyped-def]
    opened = await open_registry(request.param, tmp_path / "registry")
    yield opened
    await opened.ledger.close()


async def push(registry: ModelRegistry, folder: Path, model: str = "fraud", alias: str = "") -> None:
    await registry.push(NewVersion(model, alias=alias), found(folder / "new"), ANN)


async def test_aliases_say_which_versions_are_served_and_which_is_the_default(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    served, plane = followed(registry)
    await served.look()
    assert plane.last == {}
    for _ in range(3):
        await push(registry, tmp_path)
    await served.look()
    assert plane.last == {"fraud": (("3",), {"latest": "3"}, "")}  # no alias: the newest
    assert plane.lists[-1][0].path == str(tmp_path / "registry" / "models" / "fraud")
    await registry.set_alias("fraud", "champion", 1, ANN)
    await served.look()
    assert plane.last == {"fraud": (("1",), {"champion": "1"}, "champion")}
    await registry.set_alias("fraud", "candidate", 3, ANN)
    await registry.set_default("fraud", "candidate", ANN)
    await served.look()
    names = {"champion": "1", "candidate": "3", "latest": "3"}
    assert plane.last == {"fraud": (("1", "3"), names, "candidate")}
    seen = len(plane.lists)
    await served.look()
    assert len(plane.lists) == seen  # nothing is new


async def test_a_model_means_what_it_meant_until_its_files_have_been_brought(tmp_path: Path) -> None:
    registry = await open_registry("sqlite", tmp_path / "registry")
    await push(registry, tmp_path, "fraud", "champion")
    await push(registry, tmp_path)
    artifacts = Distant(tmp_path / "registry")
    registry.artifacts = artifacts
    served, plane = followed(registry)
    await served.look(waits=True)
    first = (("1",), {"champion": "1"}, "champion")
    assert plane.last == {"fraud": first}
    artifacts.may_come.clear()
    await registry.set_alias("fraud", "champion", 2, ANN)
    await registry.push(NewVersion("other"), found(tmp_path / "new"), ANN)
    await served.look()
    assert plane.last == {"fraud": first}
    artifacts.may_come.set()
    await served.look(waits=True)
    await served.look()
    assert plane.last["fraud"] == (("2",), {"champion": "2", "latest": "2"}, "champion")
    assert set(plane.last) == {"fraud", "other"}
    await served.stop()
    await registry.ledger.close()


async def test_at_the_start_a_model_whose_files_cannot_be_had_is_shown_until_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the server would be ready without it."""
    registry = await open_registry("sqlite", tmp_path / "registry")
    await push(registry, tmp_path)
    registry.artifacts = artifacts = Distant(tmp_path / "registry")
    monkeypatch.setattr("salver.features.registry.fetching._AGAIN_SECONDS", 0.0)
    served, plane = followed(registry)
    artifacts.is_away = True
    for waits in (True, False, False):
        await served.look(waits=waits)
        await asyncio.sleep(0.05)
    assert [set(plane.last), len(plane.lists)] == [{"fraud"}, 1]
    artifacts.is_away = False
    while not len(plane.lists) > 1:
        await served.look()
        await asyncio.sleep(0.01)
    assert plane.lists[1] == plane.lists[0]  # it is looked at again
    await served.stop()
    await registry.ledger.close()


async def test_both_versions_of_a_release_are_served_until_it_ends(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    served, plane = followed(registry)
    for _ in range(2):
        await push(registry, tmp_path)
    await registry.set_alias("fraud", "champion", 1, ANN)
    await registry.set_policy("fraud", {"stages": [0.1]}, ANN)
    await registry.set_alias("fraud", "champion", 2, ANN)
    await served.look()
    assert plane.last == {"fraud": (("1", "2"), {"champion": "1", "latest": "2"}, "champion")}
    await registry.ledger.write(lambda c: c.execute(update(RELEASE).values(ended=2.0)) and None)
    await served.look()
    assert plane.last == {"fraud": (("1",), {"champion": "1"}, "champion")}


@pytest.mark.parametrize(
    ("alias", "state", "holdback", "served"),
    [
        ("champion", "PROMOTED", 0.0, ("2",)),
        ("champion", "PROMOTED", 0.05, ("1", "2")),
        ("champion", "ROLLED_BACK", 0.05, ("2",)),
        ("", "PROMOTED", 0.0, ("2",)),
        ("", "ROLLED_BACK", 0.0, ("1", "2")),
    ],
)
async def test_a_release_that_is_over_keeps_what_it_still_needs(
    tmp_path: Path, alias: str, state: str, holdback: float, served: tuple[str, ...]
) -> None:
    registry = await open_registry("sqlite", tmp_path / "registry")
    for name in ("", "champion"):
        await push(registry, tmp_path, alias=name)
    policy = msgspec.json.encode({"traffic": {"holdback": holdback}}).decode()
    row = {
        "id": "r", "model": "fraud", "stable": "1", "canary": "2", "alias": alias, "salt": "s",
        "state": state, "created": 1.0, "by": "ann", "changed": 1.0, "ended": 2.0, "policy": policy,
    }  # fmt: skip
    await registry.ledger.write(lambda c: c.execute(insert(RELEASE), row) and None)
    follower, plane = followed(registry)
    await follower.look()
    assert plane.last["fraud"][0] == served
    await registry.ledger.close()


async def test_a_model_whose_versions_are_all_removed_is_served_no_more(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    served, plane = followed(registry)
    await push(registry, tmp_path)
    await push(registry, tmp_path, "other")
    await registry.remove("fraud", 1, ANN)
    await served.look()
    assert set(plane.last) == {"other"}


async def test_what_cannot_be_read_or_served_changes_nothing_and_is_told_once(
    registry: ModelRegistry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    turns = 0

    async def sleep(seconds: float) -> None:
        nonlocal turns
        assert seconds == 1.0
        turns += 1
        await (asyncio.Event().wait() if plane.refused >= 3 else asyncio.sleep(0))

    served, plane = followed(registry, sleep)
    await push(registry, tmp_path)
    await served.look()
    plane.problem = Conflict("two lists name the model fraud")
    await push(registry, tmp_path)
    served.follow()
    with caplog.at_level(logging.ERROR, "salver.registered"):
        await auntil(lambda: plane.refused >= 3)
    assert [r.message for r in caplog.records if r.name == "salver.registered"] == [
        "the registry's models stay as they are: two lists name the model fraud"
    ]
    assert plane.last == {"fraud": (("1",), {"latest": "1"}, "")}
    plane.problem = None
    await served.look()
    assert plane.last == {"fraud": (("2",), {"latest": "2"}, "")}
    await served.stop()
    served_no_more = turns
    await asyncio.sleep(0)
    assert turns == served_no_more


async def test_a_release_of_a_model_that_is_gone_harms_nobody(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    served, plane = followed(registry)
    await push(registry, tmp_path)
    row = {
        "id": "r", "model": "gone", "stable": "1", "canary": "2", "alias": "a", "salt": "s",
        "state": "RUNNING", "created": 1.0, "by": "ann", "changed": 1.0,
    }  # fmt: skip
    await registry.ledger.write(lambda c: c.execute(insert(RELEASE), row) and None)
    await served.look()
    assert set(plane.last) == {"fraud"}
    assert await registry.ledger.read(lambda c: c.scalar(text("SELECT count(*) FROM release"))) == 1
