"""Conversion of the ledger's rows to records of models and versions."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, RowMapping, Select, Table, func, or_, select

from salver.features.ledger.schema import ALIAS, METRIC, MODEL, PARENT, PROTECTION, RELEASE, TAG, VERSION
from salver.features.registry.names import LATEST, Reference
from salver.features.registry.records import Description, FileEntry, Model, Parent, Version
from salver.words.errors import NotFound
from salver.words.releases import ReleaseState

_FILES = msgspec.json.Decoder(tuple[FileEntry, ...])


def in_force(columns: Iterable[ColumnElement[Any]]) -> Select[Any]:
    """Return the releases in force, oldest first: active ones, and the last of each model and alias.

    These are few even among thousands of releases, and only they are read every second.
    """
    other = RELEASE.alias()
    began_last = (
        select(func.max(other.c.created))
        .where(
            other.c.model == RELEASE.c.model,
            other.c.alias == RELEASE.c.alias,
            other.c.state != ReleaseState.PROPOSED.value,
        )
        .scalar_subquery()
    )
    goes_on = or_(RELEASE.c.ended.is_(None), RELEASE.c.created == began_last)
    return select(*columns).where(goes_on).order_by(RELEASE.c.created, RELEASE.c.id)


def models(connection: Connection, name: str = "") -> tuple[Model, ...]:
    """Return all models by name, or the one of that name, without models whose first push has not ended."""
    is_pushed = select(VERSION.c.number).where(VERSION.c.model == MODEL.c.name).exists()
    query = select(MODEL).where(is_pushed).order_by(MODEL.c.name)
    there = (
        select(VERSION.c.model, func.max(VERSION.c.number), func.count())
        .where(VERSION.c.removed.is_(None))
        .group_by(VERSION.c.model)
    )
    aliases, protections = select(ALIAS), select(PROTECTION)
    if name:
        query = query.where(MODEL.c.name == name)
        there = there.where(VERSION.c.model == name)
        aliases = aliases.where(ALIAS.c.model == name)
        protections = protections.where(PROTECTION.c.model == name)
    counts = {model: (latest, count) for model, latest, count in connection.execute(there)}
    meant: dict[str, dict[str, int]] = {}
    for row in connection.execute(aliases.order_by(ALIAS.c.name)):
        meant.setdefault(row.model, {})[row.name] = row.number
    guarded: dict[str, dict[str, tuple[str, ...]]] = {}
    for row in connection.execute(protections.order_by(PROTECTION.c.alias)):
        guarded.setdefault(row.model, {})[row.alias] = tuple(msgspec.json.decode(row.roles))
    return tuple(
        Model(
            row.name,
            *counts.get(row.name, (None, 0)),
            meant.get(row.name, {}),
            guarded.get(row.name, {}),
            row.default_alias,
            msgspec.json.decode(row.policy),
            row.created,
            row.by,
        )
        for row in connection.execute(query)
    )


def model(connection: Connection, name: str) -> Model:
    """Return a model.

    Raises:
        NotFound: there is none of that name.
    """
    if found := models(connection, name):
        return found[0]
    raise NotFound(f"the registry has no model {name!r}", field="model", fix="List: salver registry list.")


def number_of(connection: Connection, reference: Reference) -> int:
    """Return the number of the version of a reference, which must have files.

    Raises:
        NotFound: no such model, version or alias.
    """
    if reference.number is not None:
        number: int | None = reference.number
    elif reference.alias:
        mine = (ALIAS.c.model == reference.model, ALIAS.c.name == reference.alias)
        number = connection.scalar(select(ALIAS.c.number).where(*mine))
    else:
        number = _newest(connection, reference.model)
    there = (VERSION.c.model == reference.model, VERSION.c.number == number, VERSION.c.removed.is_(None))
    if number is None or connection.scalar(select(VERSION.c.number).where(*there)) is None:
        model(connection, reference.model)
        raise NotFound(
            f"the registry has no version {reference}",
            field="version",
            fix=f"List: salver registry list {reference.model}.",
        )
    return int(number)


def version(connection: Connection, name: str, number: int) -> Version:
    """Return a version, with or without files.

    Raises:
        NotFound: the number was never used.
    """
    found = versions(connection, name, Page(number, 1))
    if found and found[0].number == number:
        return found[0]
    raise NotFound(f"the registry has no version {name}/{number}", field="version")


class Page(msgspec.Struct, frozen=True):
    """Range of a model's versions: numbers up to ``highest``, at most that many; None = all."""

    highest: int | None = None
    most: int | None = None
    are_removed_there: bool = True


def versions(connection: Connection, name: str, page: Page) -> Sequence[Version]:
    """Return versions of a model, the newest first."""
    query = select(VERSION).where(VERSION.c.model == name).order_by(VERSION.c.number.desc()).limit(page.most)
    if page.highest is not None:
        query = query.where(VERSION.c.number <= page.highest)
    if not page.are_removed_there:
        query = query.where(VERSION.c.removed.is_(None))
    rows = connection.execute(query).mappings().all()
    if not rows:
        return []

    def mine(table: Table) -> list[ColumnElement[bool]]:
        of_page = table.c.number.between(rows[-1]["number"], rows[0]["number"])
        return [table.c.model == name, of_page]

    tags: dict[int, dict[str, str]] = {}
    for row in connection.execute(select(TAG).where(*mine(TAG)).order_by(TAG.c.key)):
        tags.setdefault(row.number, {})[row.key] = row.value
    metrics: dict[int, dict[str, float]] = {}
    for row in connection.execute(select(METRIC).where(*mine(METRIC)).order_by(METRIC.c.name)):
        metrics.setdefault(row.number, {})[row.name] = row.value
    parents: dict[int, list[Parent]] = {}
    for row in connection.execute(select(PARENT).where(*mine(PARENT))):
        parents.setdefault(row.number, []).append(Parent(row.kind, row.reference))
    aliases: dict[int, list[str]] = {}
    for row in connection.execute(select(ALIAS).where(*mine(ALIAS)).order_by(ALIAS.c.name)):
        aliases.setdefault(row.number, []).append(row.name)
    newest = _newest(connection, name)
    if newest is not None:
        aliases.setdefault(newest, []).append(LATEST)
    return [
        _record(
            row,
            tags.get(row["number"], {}),
            metrics.get(row["number"], {}),
            tuple(sorted(parents.get(row["number"], ()))),
            tuple(aliases.get(row["number"], ())),
        )
        for row in rows
    ]


def files(connection: Connection, name: str = "") -> dict[tuple[str, int], tuple[FileEntry, ...]]:
    """Return the existing files of the versions of a model, or of all."""
    query = select(VERSION.c.model, VERSION.c.number, VERSION.c.files).where(VERSION.c.removed.is_(None))
    if name:
        query = query.where(VERSION.c.model == name)
    rows = connection.execute(query.order_by(VERSION.c.model, VERSION.c.number))
    return {(row.model, row.number): _FILES.decode(row.files) for row in rows}


def _newest(connection: Connection, name: str) -> int | None:
    there = (VERSION.c.model == name, VERSION.c.removed.is_(None))
    number: int | None = connection.scalar(select(func.max(VERSION.c.number)).where(*there))
    return number


def _record(
    row: RowMapping,
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
    parents: tuple[Parent, ...],
    aliases: tuple[str, ...],
) -> Version:
    def read(column: str) -> Any:
        return msgspec.json.decode(row[column])

    return Version(
        row["model"],
        row["number"],
        row["digest"],
        row["size"],
        _FILES.decode(row["files"]),
        Description(
            row["framework"], row["format"], read("signature"), read("resources"), read("performance")
        ),
        row["created"],
        row["by"],
        row["why"],
        row["source"],
        row["card"],
        read("front_matter"),
        tags,
        metrics,
        parents,
        aliases,
        row["removed"],
    )
