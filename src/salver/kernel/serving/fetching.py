"""Loading of versions from an object store.

A local copy of the version (:mod:`salver.stores.copies`) is held from loading to closing. Versions on local
disk need no copy. The files are checked before they are loaded.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from salver.kernel.serving.servable import Servable
from salver.lazy import is_made, lazy_imports
from salver.words.artifacts import Manifest, Warmup
from salver.words.errors import LoadFailed

with lazy_imports():
    from salver.stores.copies import Copies
    from salver.stores.distant import ObjectStore
    from salver.stores.shared_folders import SharedFolder


class Loads(Protocol):
    """Loader of versions from local disk."""

    async def load(self, manifest: Manifest) -> Servable:
        """Load one version and make it ready to run."""
        ...


class Fetching:
    """Loader of versions from local disk or an object store.

    Args:
        loader: Loads versions from local disk.
        checks: Called off the event loop before a version is loaded; they raise LoadFailed.
    """

    def __init__(
        self, loader: Loads, copies: Copies, checks: Sequence[Callable[[Manifest], None]] = ()
    ) -> None:
        self.loader = loader
        self._copies = copies
        self.checks = checks

    def __repr__(self) -> str:
        return f"<Fetching {self._copies!r}>"

    async def load(self, manifest: Manifest) -> Servable:
        """Load a version, after copying it if necessary.

        Raises:
            LoadFailed: the reason, in words for the owner.
        """
        store = None
        if is_made(self._copies):
            store = self._copies.store_of(manifest.path)
        if store is None:
            return await self._load(manifest)
        held, path = await self._hold(store, manifest)
        home = held.root / store.path_of(manifest.home)

        async def let_go() -> None:
            await asyncio.to_thread(self._copies.release, held)

        try:
            servable = await self._load(msgspec.structs.replace(manifest, path=path, home=home))
        except LoadFailed as error:
            await let_go()
            told = (text.replace(str(held.root), store.address.url) for text in (error.message, error.fix))
            raise LoadFailed(next(told), field=error.field, fix=next(told)) from error
        except BaseException:
            await let_go()
            raise
        servable.at_end(let_go)
        servable.warmer.moved = _moved(manifest.config.warmup, store, held)
        return servable

    async def _load(self, manifest: Manifest) -> Servable:
        for check in self.checks:
            await asyncio.to_thread(check, manifest)
        return await self.loader.load(manifest)

    async def _hold(self, store: ObjectStore, manifest: Manifest) -> tuple[SharedFolder, Path]:
        stop = threading.Event()
        copying = asyncio.create_task(
            asyncio.to_thread(self._copies.hold, store, manifest.path, manifest.home, stop)
        )
        try:
            return await asyncio.shield(copying)
        except asyncio.CancelledError:
            stop.set()
            with contextlib.suppress(LoadFailed):
                held, _ = await copying
                await asyncio.to_thread(self._copies.release, held)
            raise


def _moved(warmup: Warmup, store: ObjectStore, held: SharedFolder) -> Warmup:
    """Return the warm-up with the sample files' paths in the copy."""

    def moved(file: str) -> str:
        if file:
            return str(held.root / store.path_of(Path(file)))
        return ""

    replace = msgspec.structs.replace
    samples = (
        replace(sample, inputs={n: replace(told, file=moved(told.file)) for n, told in sample.inputs.items()})
        for sample in warmup.samples
    )
    return replace(warmup, samples=tuple(samples))
