"""Rows of versions, their tags, metrics and parents, within a transaction of the caller's."""

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Table, delete, func, insert, or_, select, update

from salver.features.ledger.schema import ALIAS, METRIC, MODEL, PARENT, RELEASE, TAG, VERSION
from salver.features.registry.artifacts import digest_of
from salver.features.registry.audit import Change
from salver.features.registry.records import (
    FileEntry,
    InspectedModel,
    NewVersion,
    Version,
)
from salver.words.errors import Conflict


def check_name(connection: Connection, model: str) -> None:
    """Check for names that differ only in case, which share a folder on some file systems."""
    alike = select(MODEL.c.name).where(func.lower(MODEL.c.name) == func.lower(model))
    names = connection.scalars(alike.order_by(MODEL.c.name)).all()
    if names and model not in names:
        raise Conflict(
            f"the registry has a model {names[0]!r}, which differs from {model!r} only in case",
            field="model",
            fix=f"Push it as {names[0]}, or by another name.",
        )


def next_number(connection: Connection, model: str, change: Change) -> int:
    """Return the number of a model's next version; a new model is created."""
    last = connection.scalar(select(MODEL.c.last_number).where(MODEL.c.name == model))
    if last is None:
        check_name(connection, model)
        row = {"name": model, "last_number": 1, "created": change.time, "by": change.actor.name}
        connection.execute(insert(MODEL), row)
        return 1
    connection.execute(update(MODEL).where(MODEL.c.name == model).values(last_number=last + 1))
    return int(last) + 1


def write(
    connection: Connection,
    change: Change,
    order: NewVersion,
    found: InspectedModel,
    files: tuple[FileEntry, ...],
    number: int,
    keys: Mapping[str, Any],
) -> None:
    """Write the rows of a version."""

    def text(value: Any) -> str:
        return msgspec.json.encode(value).decode()

    what, mine = found.description, {"model": order.model, "number": number}
    row = {
        **mine,
        "digest": digest_of(files),
        "size": sum(file.size for file in files),
        "files": text(files),
        "framework": what.framework,
        "format": what.format,
        "signature": text(what.signature),
        "resources": text(what.resources),
        "performance": text(what.performance),
        "card": order.card,
        "front_matter": text(keys),
        "source": order.source,
        "created": change.time,
        "by": change.actor.name,
        "why": order.why,
    }
    connection.execute(insert(VERSION), row)
    for table, some in (
        (TAG, [{"key": key, "value": value} for key, value in order.tags.items()]),
        (METRIC, [{"name": name, "value": value} for name, value in order.metrics.items()]),
        (PARENT, [{"kind": p.kind, "reference": p.reference} for p in sorted(set(order.parents))]),
    ):
        if some:
            connection.execute(insert(table), [{**mine, **each} for each in some])


def replace(
    connection: Connection, version: Version, table: Table, key: Mapping[str, str], value: Mapping[str, Any]
) -> None:
    """Replace the row of a version under this key; without a value, delete it."""
    mine = of_version(table, version.model, version.number)
    connection.execute(delete(table).where(*mine, *(table.c[name] == text for name, text in key.items())))
    if None not in value.values():
        connection.execute(insert(table), {"model": version.model, "number": version.number, **key, **value})


def of_version(table: Any, model: str, number: int) -> tuple[ColumnElement[bool], ...]:
    """Return conditions: the rows of a version."""
    return table.c.model == model, table.c.number == number


def check_unused(connection: Connection, model: str, number: int) -> None:
    """Check that neither an alias nor an active release uses a version. Raises Conflict."""
    meant = select(ALIAS.c.name).where(*of_version(ALIAS, model, number)).order_by(ALIAS.c.name)
    if names := list(connection.scalars(meant)):
        raise Conflict(
            f"{model}/{number} is meant by {', '.join(f'{model}@{name}' for name in names)}",
            fix="Point each alias to another version first.",
        )
    means = or_(RELEASE.c.stable == str(number), RELEASE.c.canary == str(number))
    under_way = select(RELEASE.c.id).where(RELEASE.c.model == model, RELEASE.c.ended.is_(None), means)
    if (id := connection.scalar(under_way)) is not None:
        raise Conflict(f"{model}/{number} is in the release {id}", fix="Abort it, or let it end.")
