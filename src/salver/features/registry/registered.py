"""Serving of a registry's models.

For each model the versions with aliases, and those of an active release; without aliases, the newest. Every
second the whole list is read from the ledger and passed to the control plane, so that a missed change costs a
second. Webhooks are also notified from here. It loads nothing, and decides nothing about releases.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from typing import Final, Protocol

from salver.features.registry.deliveries import Deliverer
from salver.features.registry.fetching import VersionFetcher
from salver.features.registry.registry import ModelRegistry
from salver.features.registry.wanted import WantedVersions, wanted_of
from salver.kernel.repository import NamedModel
from salver.kernel.supervise import Faults, Supervisor, every
from salver.words.artifacts import Versions

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
