"""Bulk insertion of rows.

Column by column with one call of the driver: SQLAlchemy's own way takes as long again as the database. Rows
whose key already exists are skipped. It knows no table.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table


def add(connection: Connection, table: Table, columns: Mapping[str, Any], *, replaces: bool = False) -> int:
    """Insert rows that do not exist yet.

    Sort them by key: SQLite is faster if they are close together.

    Args:
        columns: By name, a list with one value per row, or a value common to all rows.
        replaces: Also update the rows that exist; their keys must be distinct.

    Returns:
        Number of rows.
    """
    lists = {name: values for name, values in columns.items() if isinstance(values, list)}
    if not lists or not next(iter(lists.values())):
        return 0
    names, exists = ", ".join(columns), "DO NOTHING"
    if replaces:
        keys = table.primary_key.columns.keys()
        changes = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in keys)
        exists = f"({', '.join(keys)}) DO UPDATE SET {changes}"
    if connection.dialect.name == "sqlite":
        marks = ", ".join("?" * len(columns))
        statement = f"INSERT INTO {table.name} ({names}) VALUES ({marks}) ON CONFLICT {exists}"
        each = (values if name in lists else itertools.repeat(values) for name, values in columns.items())
        rows = list(zip(*each, strict=False))  # a common value is repeated without end
        return connection.exec_driver_sql(statement, rows).rowcount
    kinds = {name: table.c[name].type.compile(connection.dialect) for name in columns}
    taken = ", ".join(name if name in lists else f"%s::{kinds[name]}" for name in columns)
    arrays = ", ".join(f"%s::{kinds[name]}[]" for name in lists)
    statement = (
        f"INSERT INTO {table.name} ({names}) SELECT {taken} "
        f"FROM unnest({arrays}) AS rows({', '.join(lists)}) ON CONFLICT {exists}"
    )
    same: Sequence[Any] = [values for name, values in columns.items() if name not in lists]
    return connection.exec_driver_sql(statement, (*same, *lists.values())).rowcount
