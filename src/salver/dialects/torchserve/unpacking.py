"""Loading of handlers from archives.

An archive is unpacked when it is loaded, not when it is found, and released when the model is closed. Other
artefacts are passed on to the loader.
"""

import asyncio
import contextlib
import logging
import threading
from typing import Protocol

import msgspec

from salver.dialects.torchserve.archive import describe, with_archive
from salver.dialects.torchserve.requirements import install
from salver.dialects.torchserve.unpacked_archives import UnpackedArchives
from salver.kernel.serving.servable import Servable
from salver.stores.shared_folders import SharedFolder
from salver.words.artifacts import Manifest
from salver.words.errors import BadArchive, LoadFailed, SalverError
from salver.words.handlers import FORMAT

_LOG = logging.getLogger("salver.handlers")


class Loads(Protocol):
    """Loader of a version from a folder."""

    async def load(self, manifest: Manifest) -> Servable:
        """Load one version and make it ready to run."""
        ...


class Unpacking:
    """Loader of versions that unpacks their archives.

    Args:
        installs: Whether their requirements are installed beside them.
    """

    def __init__(self, loader: Loads, archives: UnpackedArchives, *, installs: bool = False) -> None:
        self._loader = loader
        self._archives = archives
        self._installs = installs

    def __repr__(self) -> str:
        return f"<Unpacking {self._archives!r}>"

    async def load(self, manifest: Manifest) -> Servable:
        """Load one version, unpacked first if necessary.

        Raises:
            LoadFailed: with the reason, for the owner.
        """
        if manifest.format != FORMAT:
            return await self._loader.load(manifest)
        if manifest.config.workers is None:
            manifest = await asyncio.to_thread(with_archive, manifest)
            if manifest.problem:
                raise LoadFailed(manifest.problem)
        file = await self._required(manifest)
        if not file and manifest.path.is_dir():
            return await self._loader.load(manifest)
        held = await self._hold(manifest, file)

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

    async def _required(self, manifest: Manifest) -> str:
        """Return the file of requirements to install; empty if there is none, or it is not allowed."""
        try:
            file = (await asyncio.to_thread(describe, manifest.path)).archive.requirements_file
        except SalverError as error:
            raise LoadFailed(error.message, field=error.field, fix=error.fix) from error
        if file and not self._installs:
            _LOG.warning(
                "%s: what its '%s' requires is not installed; install_py_dep_per_model=true does it",
                manifest.id,
                file,
            )
            return ""
        return file

    async def _hold(self, manifest: Manifest, file: str) -> SharedFolder:
        """Unpack an archive and install the requirements in a file."""
        stop = threading.Event()
        prepare = (lambda root: install(root, file, stop)) if file else None
        unpacking = asyncio.create_task(asyncio.to_thread(self._archives.hold, manifest.path, prepare))
        try:
            return await asyncio.shield(unpacking)
        except asyncio.CancelledError:
            stop.set()
            with contextlib.suppress(SalverError):
                await asyncio.to_thread(self._archives.release, await unpacking)
            raise
        except BadArchive as error:
            raise LoadFailed(error.message, field=error.field, fix=error.fix) from error
