"""Loading of TorchServe's handlers from archives.

An archive is unpacked when it is loaded, not when it is found, and released when the model is closed. Workers
start in the background.
"""

import asyncio
import contextlib
import itertools
import logging
import threading
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from salver.backends.protocol import LoadOptions
from salver.dialects.torchserve.archive import describe, with_archive
from salver.dialects.torchserve.engine.engine import HandlerEngine, HandlerTerms, MetricLines
from salver.dialects.torchserve.engine.gpus import Gpus
from salver.dialects.torchserve.engine.worker_pool import FIRST_ID, WorkerFactory
from salver.dialects.torchserve.requirements import install
from salver.dialects.torchserve.unpacked_archives import UnpackedArchives
from salver.kernel.engine.placement import Placement
from salver.kernel.engine.spawn import HostPlan
from salver.kernel.serving.loading import Terms, refuse_cache
from salver.kernel.serving.servable import Servable
from salver.lazy import lazy_imports
from salver.words.artifacts import Manifest
from salver.words.errors import BadArchive, LoadFailed, SalverError
from salver.words.events import BatchRan, WorkerReady
from salver.words.handlers import FORMAT, Workers

with lazy_imports():
    from salver.stores.shared_folders import SharedFolder


_LOG = logging.getLogger("salver.handlers")
_BACKEND: Final = "salver.dialects.torchserve.backend:TorchServeBackend"


class HandlerRules(msgspec.Struct, frozen=True):
    """Settings for the workers of all handlers.

    Attributes:
        metrics: Receives lines of handlers' metrics; None = they are dropped.
        first_worker: Number of the first worker.
        gpus: Number of GPUs that workers share.
        hides: Environment variables that handlers do not see (:class:`~salver.kernel.engine.spawn.HostPlan`).
    """

    metrics: MetricLines | None = None
    first_worker: int = FIRST_ID
    gpus: int = 0
    hides: str = ""


class HandlerLoader:
    """Loads handlers.

    Args:
        emit: Receives the engines' events.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        terms: Terms,
        emit: Callable[[BatchRan | WorkerReady], None],
        clock: Callable[[], float],
        rules: HandlerRules,
    ) -> None:
        self._terms = terms
        self._hides = rules.hides
        # One for all handlers, so that numbers of workers are unique and GPUs are shared evenly.
        factory = WorkerFactory(itertools.count(rules.first_worker), Gpus(rules.gpus))
        self._shared = HandlerTerms(clock, emit, rules.metrics, factory)

    async def load(self, manifest: Manifest) -> Servable:
        """See :class:`~salver.kernel.serving.loading.VersionLoader`."""
        refuse_cache(manifest, "that is a handler")
        config, terms = manifest.config, self._terms
        workers = config.workers or Workers()
        threads = terms.wish_of(manifest).threads or max(1, terms.cores // max(1, workers.least))
        plan = HostPlan(
            _BACKEND,
            manifest,
            LoadOptions(threads, terms.trust_pickle),
            config.instances.memory_limit_mb,
            forks=config.options.get("share_weights", "true") != "false",
            hides=self._hides,
        )
        engine = HandlerEngine(plan, workers, self._shared)
        # Workers start in the background; the version is ready once one of them is.
        servable = Servable(manifest, engine, Placement("process", workers.least, threads))
        servable.is_ready = servable.is_staffed = engine.is_ready

        def rescale(manifest: Manifest) -> bool:
            """Start or stop workers in the background; only their number can be changed."""
            before = servable.manifest.config.workers or Workers()
            workers = manifest.config.workers or Workers()
            if msgspec.structs.replace(before, least=workers.least, most=workers.most) != workers:
                return False
            engine.scale(workers.least, workers.most)
            servable.manifest = msgspec.structs.replace(manifest, path=servable.manifest.path)
            return True

        servable.adjustment.rescale = rescale
        return servable


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

        async def release() -> None:
            await asyncio.to_thread(self._archives.release, held)

        try:
            servable = await self._loader.load(msgspec.structs.replace(manifest, path=held.root))
        except BaseException as error:
            await release()
            if not isinstance(error, LoadFailed):
                raise
            # The owner knows the archive, not the folder that it was unpacked into.
            message, fix = (
                text.replace(str(held.root), str(manifest.path)) for text in (error.message, error.fix)
            )
            raise LoadFailed(message, field=error.field, fix=fix) from error
        servable.at_end(release)
        return servable

    async def _required(self, manifest: Manifest) -> str:
        """Return the file of requirements to install; empty if there is none, or it is not allowed."""
        try:
            file = (await asyncio.to_thread(describe, manifest.path)).archive.requirements_file
        except SalverError as error:
            raise LoadFailed(error.message, field=error.field, fix=error.fix) from error
        if file and not self._installs:
            _LOG.warning(
                "%s: the requirements in '%s' are not installed; set install_py_dep_per_model=true",
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
        # A thread cannot be cancelled: wait for its end, and release what it holds.
        try:
            return await asyncio.shield(unpacking)
        except asyncio.CancelledError:
            stop.set()
            with contextlib.suppress(SalverError):
                await asyncio.to_thread(self._archives.release, await unpacking)
            raise
        except BadArchive as error:
            raise LoadFailed(error.message, field=error.field, fix=error.fix) from error
