"""Migration of a database to the newest schema from any older one, or from none.

Each version adds tables and columns, marked with ``since`` in ``schema.py``, and has a step of its own in
:data:`STEPS` if that is not enough. Everything is one transaction, for which others wait.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from sqlalchemy import Connection, Dialect, MetaData, Table, inspect, text
from sqlalchemy.schema import CreateColumn, CreateIndex, CreateTable, SchemaItem

from salver.features.ledger.schema import METADATA, NEWEST
from salver.words.errors import Conflict

Step = Callable[[Connection], None]
#: Changes of existing rows by a version, after its tables and columns have been added.
STEPS: Final[Mapping[int, Step]] = {}

_HISTORY: Final = "CREATE TABLE IF NOT EXISTS salver_schema (version BIGINT NOT NULL PRIMARY KEY)"
#: Operations that a table forbids on its rows, by its ``rows`` setting.
_EVENTS: Final = {"free": (), "unchanged": ("UPDATE",), "kept": ("UPDATE", "DELETE", "TRUNCATE")}
_SQLITE_TRIGGER: Final = """CREATE TRIGGER {table}_{event} BEFORE {event} ON {table}
BEGIN SELECT RAISE(ABORT, 'rows of {table} are kept as they are'); END"""
_POSTGRES_FUNCTION: Final = """CREATE OR REPLACE FUNCTION salver_refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'rows of % are kept as they are', TG_TABLE_NAME; END $$"""
_POSTGRES_TRIGGER: Final = """CREATE TRIGGER {table}_{event} BEFORE {event} ON {table}
FOR EACH STATEMENT EXECUTE FUNCTION salver_refuse()"""


def version_of(connection: Connection) -> int:
    """Return the schema version of a database; 0 = none."""
    if not inspect(connection).has_table("salver_schema"):
        return 0
    return int(connection.execute(text("SELECT COALESCE(MAX(version), 0) FROM salver_schema")).scalar_one())


def check_age(version: int, newest: int = NEWEST) -> None:
    """Check that this Salver can read a database of that version.

    Raises:
        Conflict: a newer Salver wrote it.
    """
    if version > newest:
        raise Conflict(
            f"the ledger has schema version {version}, but this Salver supports at most {newest}",
            fix="Use the version of Salver that wrote it, or a newer one; nothing was changed.",
        )


def migrate(
    connection: Connection,
    to: int = NEWEST,
    metadata: MetaData = METADATA,
    steps: Mapping[int, Step] = STEPS,
) -> None:
    """Migrate a database to a version, within a transaction with exclusive write access.

    Raises:
        Conflict: a newer Salver wrote it.
    """
    connection.execute(text(_HISTORY))
    present = version_of(connection)
    check_age(present, to)
    for version in range(present + 1, to + 1):
        for statement in statements(metadata, version, connection.dialect):
            connection.execute(text(statement))
        if version in steps:
            steps[version](connection)
        connection.execute(text("INSERT INTO salver_schema (version) VALUES (:v)"), {"v": version})


def statements(metadata: MetaData, version: int, dialect: Dialect) -> Iterator[str]:
    """Return the statements of a version: new tables as of then, new columns of older tables, indexes."""
    then = _as_of(metadata, version)
    if dialect.name != "sqlite":
        yield _POSTGRES_FUNCTION
    for table in then.sorted_tables:
        born = _since(table, 1)
        if born == version:
            yield str(CreateTable(table).compile(dialect=dialect))
            yield from _refusals(table, dialect.name)
        for column in table.columns:
            if born < version == _since(column, born):
                added = CreateColumn(column).compile(dialect=dialect)
                yield f"ALTER TABLE {table.name} ADD COLUMN {added}"
        for index in sorted(metadata.tables[table.name].indexes, key=lambda index: str(index.name)):
            if _since(index, born) == version:
                yield str(CreateIndex(index).compile(dialect=dialect))


def _since(item: SchemaItem, default: int) -> int:
    return int(item.info.get("since", default))


def _as_of(metadata: MetaData, version: int) -> MetaData:
    """Return the tables as of a version; SQLAlchemy omits columns marked as system columns."""
    then = MetaData()
    for table in metadata.sorted_tables:
        born = _since(table, 1)
        if born <= version:
            for column in table.to_metadata(then).columns:
                column.system = _since(column, born) > version
    return then


def _refusals(table: Table, dialect: str) -> Iterator[str]:
    """Return triggers that reject changes of protected rows."""
    for event in _EVENTS[table.info.get("rows", "free")]:
        if dialect != "sqlite":
            yield _POSTGRES_TRIGGER.format(table=table.name, event=event)
        elif event != "TRUNCATE":  # SQLite has no such statement
            yield _SQLITE_TRIGGER.format(table=table.name, event=event)
