"""How does an archive of a handler come to be loaded?

It is unpacked when it is loaded, not when it is found, and let go when it is closed. What is no archive is
loaded as it lies. What an archive is, :mod:`salver.repository.mar` knows.
"""

import asyncio
import contextlib
from typing import Protocol

import msgspec

from salver.artifacts import Manifest
from salver.errors import BadArchive, LoadFailed
from salver.handlers import FORMAT
from salver.repository.unpacked import Archives, Unpacked
from salver.serving.loader import Servable


class Loads(Protocol):
    """Loads a version from a folder (the loader)."""

    async def load(self, manifest: Manifest) -> Servable:
        """Load one version and make it ready to run."""
        ...


class Unpacking:
    """Loads versions from their archives."""

    def __init__(self, loader: Loads, archives: Archives) -> None:
        self._loader = loader
        self._archives = archives

    def __repr__(self) -> str:
        return f"<Unpacking {self._archives!r}>"

    async def load(self, manifest: Manifest) -> Servable:
        """As the loader's, unpacked first where it has to be.

        Raises:
            LoadFailed: the reason, in words for the owner.
        """
        if manifest.format != FORMAT or manifest.path.is_dir():
            return await self._loader.load(manifest)
        held = await self._hold(manifest)

        async def let_go() -> None:
            await asyncio.to_thread(self._archives.release, held)

        try:
            servable = await self._loader.load(msgspec.structs.replace(manifest, path=held.root))
        except LoadFailed as error:
            await let_go()
            named = (text.replace(str(held.root), str(manifest.path)) for text in (error.message, error.fix))
            raise LoadFailed(next(named), field=error.field, fix=next(named)) from error
        except BaseException:
            await let_go()
            raise
        servable.at_end(let_go)
        return servable

    async def _hold(self, manifest: Manifest) -> Unpacked:
        unpacking = asyncio.create_task(asyncio.to_thread(self._archives.hold, manifest.path))
        try:
            return await asyncio.shield(unpacking)
        except asyncio.CancelledError:
            with contextlib.suppress(BadArchive):
                await asyncio.to_thread(self._archives.release, await unpacking)
            raise
        except BadArchive as error:
            raise LoadFailed(error.message, field=error.field, fix=error.fix) from error
