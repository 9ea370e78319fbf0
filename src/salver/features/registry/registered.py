"""Serving of a registry's models.

For each model the versions with aliases, and those of an active release; without aliases, the newest. Every
second the whole list is read from the ledger and passed to the control plane, so that a missed change costs a
second. Webhooks are also notified from here. It loads nothing, and decides nothing about releases.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Set
from typing import Final, Protocol

import msgspec
from sqlalchemy import Connection, func, select

from salver.features.ledger.schema import ALIAS, MODEL, RELEASE, VERSION
from salver.features.registry.deliveries import Deliverer
from salver.features.registry.fetching import VersionFetcher
from salver.features.registry.names import CHAMPION, LATEST
from salver.features.registry.registry import ModelRegistry
from salver.features.registry.rows import in_force
from salver.kernel.repository import NamedModel
from salver.kernel.supervise import Faults, Supervisor, every
from salver.words.artifacts import Versions
from salver.words.releases import ReleaseState

_LOG: Final = logging.getLogger("salver.registered")
OWNER: Final = "registry"
_STAYS: Final = "the registry's models stay as they are"
_WAITS: Final = "webhooks are told later"


class ModelListReceiver(Protocol):
    """Receiver of the list of models (the control plane)."""

    async def replace(self, places: Sequence[NamedModel], owner: str = "") -> None:
        """Serve these models by name, and no others of this owner."""
        ...


class ServedRegistry:
    """A registry that is served.

    Args:
        seconds: Polling interval.
        sleep: Waits that many seconds.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        plane: ModelListReceiver,
        deliverer: Deliverer,
        seconds: float = 1.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.registry = registry
        self._plane = plane
        self._deliverer = deliverer
        self._seconds = seconds
        self._sleep = sleep
        self._bringing = VersionFetcher(registry, clock)
        self._places: Mapping[str, NamedModel] | None = None
        self._late: Set[str] = frozenset()
        self._tasks = Supervisor(_LOG, "the registry is not followed any more")

    def __repr__(self) -> str:
        return f"<Registered {self.registry!r}, {len(self._places or ())} models>"

    async def start(self) -> None:
        """Read the registry and fetch its versions, then poll and load models in the background.

        Raises:
            SalverError: the registry cannot be read, or a model has the name of one from another source.
        """
        await self.look(waits=True)
        self.follow()

    def follow(self) -> None:
        """Poll the registry and notify webhooks, forever."""
        for name, tick, failed in (
            ("follow registry", self.look, _STAYS),
            ("tell webhooks", self._deliverer.once, _WAITS),
        ):
            self._tasks.start(name, every(self._seconds, tick, Faults(_LOG, failed), self._sleep))

    async def stop(self) -> None:
        """Stop polling."""
        await self._tasks.close()
        await self._bringing.stop()

    async def look(self, *, waits: bool = False) -> None:
        """Serve the current list; a model whose files are not here yet keeps its earlier versions.

        Args:
            waits: Wait for the files; a model whose files cannot be fetched is then listed as failed, so that
                the server is not ready without it. Otherwise models are not listed before their files are
                here.

        Raises:
            SalverError: it cannot be read or served; nothing was changed.
        """
        wanted = await self.registry.ledger.read(wanted_of)
        versions = {(each.name, number) for each in wanted for number in each.numbers}
        before = self._places or {}
        served = {
            (place.name, int(number))
            for place in before.values()
            if place.versions
            for number in place.versions.specific
        }
        late = {model for model, _ in await self._bringing.want(versions, served, waits=waits)}
        places = {
            each.name: before[each.name] if each.name in late and each.name in before else self._place(each)
            for each in wanted
            if waits or each.name not in late or each.name in before
        }
        if (places, late) != (self._places, self._late):  # late arrivals are listed when they are here
            await self._plane.replace(tuple(places.values()), OWNER)
            self._places, self._late = places, late

    def _place(self, wanted: "WantedVersions") -> NamedModel:
        return NamedModel(
            wanted.name,
            str(self.registry.artifacts.models / wanted.name),
            Versions(specific=tuple(map(str, sorted(wanted.numbers)))),
            {label: str(number) for label, number in wanted.labels.items()},
            wanted.default_label,
            is_exact=True,
        )


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
        return self._default if self._default in self.labels else ""


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
    traffic = said.get("traffic") if isinstance(said, dict) else None
    return isinstance(traffic, dict) and bool(traffic.get("holdback"))
