"""What releases ask of the versions that are loaded."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from releasing import registered
from sqlalchemy import Connection, insert, select

from salver.features.ledger.ledger import Ledger
from salver.features.ledger.schema import ALIAS, AUDIT
from salver.features.registry import aliases
from salver.features.registry.audit import Change
from salver.features.registry.records import Actor
from salver.features.releases.fleet import Fleet
from salver.features.releases.judge.policy import Policy
from salver.features.releases.judge.procedure import promoted, rolled_back
from salver.features.releases.judge.record import proposed
from salver.words.messages import ModelId, State, VersionStatus


class Loaded:
    def __init__(self, *versions: tuple[str, State, str]) -> None:
        self.rows = [VersionStatus(ModelId("fraud", v), state, why) for v, state, why in versions]
        self.pins: dict[str, str] = {}

    def statuses(self) -> list[VersionStatus]:
        return self.rows

    def pin(self, name: str, version: str) -> None:
        self.pins[name] = version

    def unpin(self, name: str) -> None:
        del self.pins[name]

    def pinned(self, name: str) -> str:
        return self.pins.get(name, "")


def test_what_a_version_lacks_is_said() -> None:
    fleet = Fleet(
        Loaded(("1", State.READY, ""), ("2", State.FAILED, "no such file"), ("3", State.LOADING, ""))
    )
    assert fleet.missing("fraud", "1") == ""
    assert fleet.missing("fraud", "2") == "version 2 of 'fraud' is FAILED: no such file"
    assert fleet.missing("fraud", "3") == "version 3 of 'fraud' is LOADING"
    assert fleet.missing("fraud", "4") == "version 4 of 'fraud' is not there"


def test_pins_follow_and_go_with_their_version() -> None:
    loaded = Loaded(("1", State.READY, ""), ("2", State.READY, ""))
    fleet = Fleet(loaded)
    fleet.settle({"fraud": "1", "other": "7"})
    assert loaded.pins == {"fraud": "1"}
    fleet.settle({"fraud": "2"})
    assert loaded.pins == {"fraud": "2"}
    del loaded.rows[1]
    fleet.settle({"fraud": "2"})
    assert loaded.pins == {}


def test_a_pin_of_somebody_else_s_stays() -> None:
    loaded = Loaded(("1", State.READY, ""), ("2", State.READY, ""))
    fleet = Fleet(loaded)
    fleet.settle({"fraud": "1"})
    loaded.pin("fraud", "2")
    fleet.settle({})
    assert loaded.pins == {"fraud": "2"}


def test_who_names_another_version_is_obeyed_until_a_release_decides() -> None:
    loaded = Loaded(*((version, State.READY, "") for version in "123"))
    fleet = Fleet(loaded)
    fleet.settle({"fraud": "1"})
    loaded.pin("fraud", "3")
    fleet.settle({"fraud": "1"})
    assert loaded.pins == {"fraud": "3"}
    loaded.unpin("fraud")
    fleet.settle({"fraud": "1"})
    assert loaded.pins == {"fraud": "1"}
    loaded.pin("fraud", "3")
    fleet.settle({"fraud": "2"})
    assert loaded.pins == {"fraud": "2"}


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    """With three versions of a model, the first of which is the champion."""

    def fill(connection: Connection) -> None:
        registered(connection, "fraud")
        connection.execute(insert(ALIAS), {"model": "fraud", "name": "champion", "number": 1, "moved": 1.0})

    async with await Ledger.open(f"sqlite:///{tmp_path / 'salver.db'}") as opened:
        await opened.write(fill)
        yield opened


async def champion(ledger: Ledger) -> int | None:
    return await ledger.read(lambda connection: connection.scalar(select(ALIAS.c.number)))


PROMOTED = promoted(
    proposed("r", "fraud", ("1", "2"), Policy(), 1.0, alias="champion"), 2.0, "every gate is passed"
)


@pytest.mark.parametrize("is_taken_back", [False, True])
async def test_an_alias_moves_with_its_line_in_the_audit(ledger: Ledger, is_taken_back: bool) -> None:
    fleet = Fleet(Loaded())
    await ledger.write(lambda connection: fleet.move(connection, PROMOTED, 2.0))
    if is_taken_back:
        back = rolled_back(PROMOTED, 3.0, "requested by ada")
        await ledger.write(lambda connection: fleet.move(connection, back, 3.0))
    query = select(AUDIT.c.actor, AUDIT.c.before, AUDIT.c.after, AUDIT.c.why)
    lines = await ledger.read(lambda connection: connection.execute(query).all())
    assert await champion(ledger) == (1 if is_taken_back else 2)
    assert lines[0] == ("release r", "1", "2", "every gate is passed")
    assert len(lines) == 1 + is_taken_back


@pytest.mark.parametrize("means", [3, None])
async def test_an_alias_that_somebody_has_moved_since_stays(
    ledger: Ledger, means: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    fleet, change = Fleet(Loaded()), Change(Actor("ada"), 3.0)

    def meddle(connection: Connection) -> None:
        fleet.move(connection, PROMOTED, 2.0)
        if means is None:
            aliases.delete_alias(connection, change, "fraud", "champion")
        else:
            aliases.move(connection, change, "fraud", "champion", means)
        fleet.move(connection, rolled_back(PROMOTED, 4.0, "requested by ada"), 4.0)

    await ledger.write(meddle)
    assert await champion(ledger) == means
    told = "version 3" if means else "nothing"
    assert (
        f"release r is ROLLED_BACK, but fraud@champion was moved meanwhile and stays at {told}" in caplog.text
    )


def test_models_of_which_any_version_is_there_are_known() -> None:
    fleet = Fleet(Loaded(("1", State.FAILED, "no such file")))
    assert (fleet.knows("fraud"), fleet.knows("other")) == (True, False)


async def test_a_release_without_an_alias_moves_none() -> None:
    release = promoted(proposed("r", "fraud", ("1", "2"), Policy(), 1.0), 2.0, "")
    Fleet(Loaded()).move(None, release, 2.0)  # type: ignore[arg-type]
