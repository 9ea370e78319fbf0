"""Versions on this machine, for a registry whose files are stored elsewhere.

Wanted versions are fetched in the background, two at a time; failures are retried. Versions no longer wanted
are deleted after a while, so that the folder holds little else than what is served.
"""

import asyncio
import logging
from collections.abc import Callable, Set
from typing import Final

from salver.features.registry.names import Reference
from salver.features.registry.registry import ModelRegistry
from salver.kernel.supervise import Supervisor
from salver.words.errors import SalverError

_LOG: Final = logging.getLogger("salver.registered")
_AT_A_TIME: Final = 2
_AGAIN_SECONDS: Final = 30.0
#: Seconds for which an unwanted version is kept, because it may still answer or be wanted again.
_SPARED_SECONDS: Final = 600.0

_Version = tuple[str, int]


class VersionFetcher:
    """Fetcher and remover of local copies of versions.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, registry: ModelRegistry, clock: Callable[[], float]) -> None:
        self._registry = registry
        self._clock = clock
        self._here: set[_Version] = set()
        self._left: Set[_Version] | None = None  # from the previous server, not verified yet
        self._under_way: dict[_Version, asyncio.Task[None]] = {}
        self._tasks = Supervisor(_LOG, "a version was not brought here")
        self._not_before: dict[_Version, float] = {}
        self._unwanted: dict[_Version, float] = {}
        self._turns = asyncio.Semaphore(_AT_A_TIME)

    def __repr__(self) -> str:
        return f"<Bringing {len(self._here)} versions, {len(self._under_way)} under way>"

    async def want(
        self, wanted: Set[_Version], served: Set[_Version], *, waits: bool = False
    ) -> Set[_Version]:
        """Set the wanted versions and return those that are not here.

        Args:
            served: Versions that are also still needed.
            waits: Wait until each is here or has failed.
        """
        if not self._registry.artifacts.is_distant:
            return frozenset()
        now = self._clock()
        if self._left is None:
            self._left = await asyncio.to_thread(self._registry.artifacts.brought)
        for version in wanted - self._here - self._under_way.keys():
            if self._not_before.get(version, now) <= now:
                self._under_way[version] = self._tasks.start("bring version", self._bring(version))
        if waits and self._under_way:
            await asyncio.wait(self._under_way.values())
        await self._spare(wanted | served, now)
        return wanted - self._here

    async def stop(self) -> None:
        """Stop fetching."""
        await self._tasks.close()

    async def _bring(self, version: _Version) -> None:
        model, number = version
        try:
            async with self._turns:
                files = (await self._registry.version(Reference(model, number))).files
                await asyncio.to_thread(self._registry.artifacts.bring, model, number, files)
            self._here.add(version)
            self._not_before.pop(version, None)
            _LOG.info("%s/%d has been fetched", model, number)
        except Exception as error:
            self._not_before[version] = self._clock() + _AGAIN_SECONDS
            if not isinstance(error, SalverError):
                raise
            _LOG.error("%s/%d cannot be fetched and will be retried: %s", model, number, error)
        finally:
            del self._under_way[version]

    async def _spare(self, wanted: Set[_Version], now: float) -> None:
        """Delete versions that have been unwanted for a while."""
        self._left = (self._left or set()) - wanted
        unwanted = (self._here | self._left) - wanted
        self._unwanted = {version: self._unwanted.get(version, now) for version in unwanted}
        for version, since in self._unwanted.items():
            if now - since >= _SPARED_SECONDS:
                await asyncio.to_thread(self._registry.artifacts.forget, *version)
                self._here.discard(version)
                self._left -= {version}
