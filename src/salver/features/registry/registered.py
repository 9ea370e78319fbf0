"""What of a registry is served, and how does the server follow it?

Of each model the versions that aliases mean, and those of a release under way; where there is no alias, the
newest. A look at the ledger every second takes the whole list and hands it to the control plane, so that a
change that was missed costs a second. Webhooks are told from here, too. It loads nothing, and decides nothing
of releases.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence, Set
from typing import Any, Final, Protocol

import msgspec
from sqlalchemy import Connection, func, select

from salver.features.ledger.schema import ALIAS, MODEL, RELEASE, VERSION
from salver.features.registry.deliveries import Deliverer
from salver.features.registry.fetching import Bringing
from salver.features.registry.names import CHAMPION, LATEST
from salver.features.registry.registry import ModelRegistry
from salver.features.registry.rows import in_force
from salver.kernel.repository import NamedModel
from salver.words.artifacts import Versions
from salver.words.errors import SalverError
from salver.words.releases import ReleaseState

_LOG: Final = logging.getLogger("salver.registered")
OWNER: Final = "registry"
_STAYS: Final = "the registry's models stay as they are"
_WAITS: Final = "webhooks are told later"


class Replacing(Protocol):
    """Serves a list (the control plane)."""

    async def replace(self, places: Sequence[NamedModel], owner: str = "") -> None:
        """From now on these models by name, and no others of this owner."""
        ...


class Registered:
    """A registry that is served.

    Args:
        seconds: Between two looks.
        sleep: Waits that many seconds.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        plane: Replacing,
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
        self._bringing = Bringing(registry, clock)
        self._places: Mapping[str, NamedModel] | None = None
        self._late: Set[str] = frozenset()
        self._tasks: list[asyncio.Task[None]] = []

    def __repr__(self) -> str:
        return f"<Registered {self.registry!r}, {len(self._places or ())} models>"

    async def start(self) -> None:
        """The first look, when what it wants has been brought here; the others follow. Loads go on then.

        Raises:
            SalverError: the registry cannot be read, or a model of it has the name of another list's.
        """
        await self.look(waits=True)
        self.follow()

    def follow(self) -> None:
        """Look again and again, and tell webhooks."""
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._again(self.look, _STAYS), name="follow registry"),
            loop.create_task(self._again(self._deliverer.once, _WAITS), name="tell webhooks"),
        ]

    async def stop(self) -> None:
        """It is followed no more."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks = []
        await self._bringing.stop()

    async def look(self, *, waits: bool = False) -> None:
        """Serve what the registry means now; of a model whose files are not here yet, what it meant before.

        Args:
            waits: For the files; a model whose files cannot be had is shown as failed then, so that nobody is
                ready without it. Later ones are not shown before they are here.

        Raises:
            SalverError: it cannot be read, or not be served; all stays as it is.
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
        if (places, late) != (self._places, self._late):  # what came late is looked at when it is here
            await self._plane.replace(tuple(places.values()), OWNER)
            self._places, self._late = places, late

    def _place(self, wanted: "Wanted") -> NamedModel:
        return NamedModel(
            wanted.name,
            str(self.registry.artifacts.models / wanted.name),
            Versions(specific=tuple(map(str, sorted(wanted.numbers)))),
            {label: str(number) for label, number in wanted.labels.items()},
            wanted.default_label,
            is_exact=True,
        )

    async def _again(self, work: Callable[[], Coroutine[Any, Any, object]], so: str) -> None:
        told = ""
        while True:
            await self._sleep(self._seconds)
            try:
                await work()
                told = ""
            except SalverError as error:
                if str(error) != told:
                    _LOG.error("%s: %s", so, error)
                told = str(error)
            except Exception:
                _LOG.exception("%s, since that failed", so)


class Wanted:
    """Of one model: which versions are to be loaded, and what names them."""

    def __init__(self, name: str, default_alias: str) -> None:
        self.name = name
        self.numbers: set[int] = set()
        self.labels: dict[str, int] = {}
        self._default = default_alias or CHAMPION

    def __repr__(self) -> str:
        return f"<Wanted {self.name} {sorted(self.numbers)}>"

    @property
    def default_label(self) -> str:
        """The alias that requests without a version mean; empty = the newest version."""
        return self._default if self._default in self.labels else ""


def wanted_of(connection: Connection) -> Iterable[Wanted]:
    """What a registry means to have served, by name; models of which nothing is left are not there."""
    models = {
        row.name: Wanted(row.name, row.default_alias)
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
    """Models with the versions that releases need: of those under way both; of the last one of an alias the
    stable one, too, as long as it holds units back; of the last one without an alias the one that it left.
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
    """It is not said that this is over."""
    said = msgspec.json.decode(progress)
    return not isinstance(said, dict) or said.get("watched_until", 0.0) is not None


def _holds_back(policy: str) -> bool:
    said = msgspec.json.decode(policy)
    traffic = said.get("traffic") if isinstance(said, dict) else None
    return isinstance(traffic, dict) and bool(traffic.get("holdback"))
