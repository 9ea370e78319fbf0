"""Versions of a registry that a server should load, with their labels.

Those of aliases and of releases, and the newest of a model that has neither.
"""

from collections.abc import Iterable

import msgspec
from sqlalchemy import Connection, func, select

from salver.encoding.lenient import mapping
from salver.features.ledger.schema import ALIAS, MODEL, RELEASE, VERSION
from salver.features.registry.names import CHAMPION, LATEST
from salver.features.registry.rows import in_force
from salver.words.releases import ReleaseState


class WantedVersions:
    """Versions of one model to load, with their labels."""

    def __init__(self, name: str, default_alias: str) -> None:
        self.name = name
        self.numbers: set[int] = set()
        self.labels: dict[str, int] = {}
        self._default = default_alias or CHAMPION

    def __repr__(self) -> str:
        return f"<Wanted {self.name} {sorted(self.numbers)}>"

    @property
    def default_label(self) -> str:
        """Return the alias of requests without a version; empty = the newest version."""
        if self._default in self.labels:
            return self._default
        return ""


def wanted_of(connection: Connection) -> Iterable[WantedVersions]:
    """Return what a registry wants to have served, by name; models without versions are left out."""
    models = {
        row.name: WantedVersions(row.name, row.default_alias)
        for row in connection.execute(select(MODEL).order_by(MODEL.c.name))
    }
    for row in connection.execute(select(ALIAS).order_by(ALIAS.c.name)):
        models[row.model].numbers.add(row.number)
        models[row.model].labels[row.name] = row.number
    released = {(model, int(number)) for model, numbers in _released(connection) for number in numbers}
    mine = select(VERSION.c.model, VERSION.c.number).where(VERSION.c.removed.is_(None))
    mine = mine.where(VERSION.c.model.in_({model for model, _ in released}))
    for model, number in released & {(row.model, row.number) for row in connection.execute(mine)}:
        models[model].numbers.add(number)
    # A model without alias and release is served in its newest version.
    newest = select(VERSION.c.model, func.max(VERSION.c.number)).where(VERSION.c.removed.is_(None))
    for model, number in connection.execute(newest.group_by(VERSION.c.model)):
        found = models[model]
        found.numbers = found.numbers or {number}
        if number in found.numbers:
            found.labels[LATEST] = number
    return [found for found in models.values() if found.numbers]


def _released(connection: Connection) -> Iterable[tuple[str, tuple[str, ...]]]:
    """Return the versions that releases need, by model.

    Both versions of active releases; of the last one of an alias the stable version while it holds units
    back; of the last one without an alias the current version.
    """
    names = ("model", "alias", "stable", "canary", "state", "ended", "policy", "progress")
    rows = list(connection.execute(in_force(RELEASE.c[name] for name in names)))
    last = {(row.model, row.alias): row for row in rows if row.state != ReleaseState.PROPOSED}
    for row in rows:
        if row.ended is None:
            yield row.model, (row.stable, row.canary)
    for (model, alias), row in last.items():
        is_promoted = row.state == ReleaseState.PROMOTED
        if is_promoted and _holds_back(row.policy) and _is_watched(row.progress):
            yield model, (row.stable, row.canary)
        elif not alias:
            yield model, (row.canary if is_promoted else row.stable,)


def _is_watched(progress: str) -> bool:
    """Return whether a promoted release may still be watched."""
    said = msgspec.json.decode(progress)
    return not isinstance(said, dict) or said.get("watched_until", 0.0) is not None


def _holds_back(policy: str) -> bool:
    said = msgspec.json.decode(policy)
    traffic = mapping(said).get("traffic")
    return bool(mapping(traffic).get("holdback"))
