"""Does every older database come to the newest schema, and stay what it was where it cannot?"""

import difflib
from pathlib import Path

import pytest
from databases import empty_ledger
from sqlalchemy import Column, Connection, Double, Index, MetaData, Table, Text, inspect, text
from sqlalchemy.dialects import postgresql, sqlite

from salver.features.ledger.databases import address_of, engine_of
from salver.features.ledger.ledger import Ledger
from salver.features.ledger.migrations import migrate, statements, version_of
from salver.features.ledger.schema import METADATA, NEWEST
from salver.words.errors import Conflict

KINDS = ("sqlite", "postgresql")
WRITTEN = Path(__file__).parent / "schema"


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return empty_ledger(request.param, tmp_path)


def shape(connection: Connection) -> dict[str, object]:
    """Tables with their columns, keys, indexes and triggers, as the database tells them."""
    seen = inspect(connection)
    found: dict[str, object] = {}
    for table in seen.get_table_names():
        found[table] = (
            {c["name"]: (str(c["type"]), c["nullable"]) for c in seen.get_columns(table)},
            seen.get_pk_constraint(table)["constrained_columns"],
            sorted(str(index["name"]) for index in seen.get_indexes(table)),
            sorted((k["constrained_columns"], k["referred_table"]) for k in seen.get_foreign_keys(table)),
        )
    catalogue = "sqlite_master WHERE type = 'trigger'" if connection.dialect.name == "sqlite" else (
        "(SELECT tgname AS name FROM pg_trigger WHERE NOT tgisinternal) AS triggers"
    )  # fmt: skip
    found["triggers"] = sorted(connection.scalars(text(f"SELECT lower(name) FROM {catalogue}")))
    return found


@pytest.mark.parametrize("since", range(NEWEST + 1))
def test_a_database_of_any_age_becomes_what_a_new_one_is(url: str, since: int, tmp_path: Path) -> None:
    fresh_folder = tmp_path / "fresh"
    fresh_folder.mkdir()
    fresh = empty_ledger("sqlite" if url.startswith("sqlite") else "postgresql", fresh_folder)
    shapes = []
    for where, versions in ((url, (since, NEWEST)), (fresh, (NEWEST,))):
        engine = engine_of(address_of(where), 5)
        for version in versions:
            with engine.begin() as connection:
                migrate(connection, version)
                if version and version < NEWEST:
                    connection.execute(text("INSERT INTO model VALUES ('m', '', '1', 3, 1.5, 'ann')"))
        with engine.begin() as connection:
            assert version_of(connection) == NEWEST
            shapes.append(shape(connection))
            if where == url and 0 < since < NEWEST:
                assert connection.execute(text("SELECT name, last_number FROM model")).all() == [("m", 3)]
        engine.dispose()
    assert shapes[0] == shapes[1]
    assert set(METADATA.tables) < set(shapes[0])


def test_versions_can_add_columns_indexes_and_steps_of_their_own(url: str) -> None:
    first = MetaData()
    Table("thing", first, Column("name", Text, primary_key=True))
    later = MetaData()
    thing = Table(
        "thing",
        later,
        Column("name", Text, primary_key=True),
        Column("weight", Double, nullable=False, server_default="1.5", info={"since": 2}),
        Column("note", Text, nullable=True, info={"since": 3}),
    )
    Index("heavy", thing.c.weight, info={"since": 2})
    steps = {3: lambda connection: connection.execute(text("UPDATE thing SET note = 'old'")) and None}
    engine = engine_of(address_of(url), 5)
    with engine.begin() as connection:
        migrate(connection, 1, first)
        connection.execute(text("INSERT INTO thing VALUES ('a')"))
    with engine.begin() as connection:
        migrate(connection, 2, later, steps)
        assert connection.execute(text("SELECT * FROM thing")).all() == [("a", 1.5)]
        assert [index["name"] for index in inspect(connection).get_indexes("thing")] == ["heavy"]
    with engine.begin() as connection:
        migrate(connection, 3, later, steps)
        assert connection.execute(text("SELECT * FROM thing")).all() == [("a", 1.5, "old")]
        migrate(connection, 3, later, steps)  # is there already
    engine.dispose()


async def test_a_newer_database_is_refused_and_left_alone(url: str) -> None:
    async with await Ledger.open(url) as ledger:
        newer = text(f"INSERT INTO salver_schema VALUES ({NEWEST + 5})")
        await ledger.write(lambda c: c.execute(newer) and None)
    with pytest.raises(
        Conflict, match=rf"has schema version {NEWEST + 5}, .* at most {NEWEST}.*Use the version of Salver"
    ):
        await Ledger.open(url)


def test_a_migration_that_fails_changes_nothing(url: str) -> None:
    def fail(_: Connection) -> None:
        raise Conflict("no")

    engine = engine_of(address_of(url), 5)
    with engine.begin() as connection:
        migrate(connection, 1)
    with pytest.raises(Conflict), engine.begin() as connection:
        migrate(connection, 2, steps={2: fail})
    with engine.begin() as connection:
        assert version_of(connection) == 1
        assert not inspect(connection).has_table("release")
    engine.dispose()


def ddl(version: int) -> str:
    """What a version says to both databases."""
    said = []
    for dialect in (sqlite.dialect(), postgresql.dialect()):
        said += [f"-- {dialect.name}", *statements(METADATA, version, dialect)]
    return "\n".join(" ".join(line.split()) for line in said) + "\n"


@pytest.mark.parametrize("version", range(1, NEWEST + 1))
def test_a_version_stays_what_it_was(version: int) -> None:
    """Somebody's database was made by it. ``python tests/features/ledger/test_migrations.py`` adds one."""
    written = (WRITTEN / f"{version}.sql").read_text()
    assert list(difflib.unified_diff(written.splitlines(), ddl(version).splitlines(), lineterm="")) == []


if __name__ == "__main__":
    for number in range(1, NEWEST + 1):
        (WRITTEN / f"{number}.sql").write_text(ddl(number))
