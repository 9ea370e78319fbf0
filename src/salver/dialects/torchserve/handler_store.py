"""Store of handlers: which are registered, with how many workers, and who may change that (TS-M1 to TS-M6).

Archives are registered while the server runs; handlers that the repository found are listed as well. The
store records what is wanted, has the control plane apply it, and waits if the caller does; the lifecycle
loads. No protocol is known here, and no process is started.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from salver.dialects.torchserve.archive import ArchiveDescription, describe
from salver.dialects.torchserve.archive_files import RUNTIMES
from salver.dialects.torchserve.archive_store import ArchiveStore, FoundArchive
from salver.dialects.torchserve.engine.engine import HandlerEngine
from salver.dialects.torchserve.faults import has_no_worker, no_model, no_version
from salver.dialects.torchserve.model_settings import ModelSetting, snapshot
from salver.dialects.torchserve.registering import (
    HandlerStoreConfig,
    StartupModel,
    check,
    check_number,
    manifest_of,
    name_of,
)
from salver.dialects.torchserve.registrations import Registrations, order_of
from salver.kernel.repository.bounds import machine, most_workers
from salver.kernel.serving.servable import Servable
from salver.kernel.supervise import Supervisor
from salver.words.artifacts import Manifest
from salver.words.errors import (
    BadArchive,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    InvalidInput,
    NoDownload,
    NoModel,
    NoModelVersion,
    NotFound,
    NotReady,
    SalverError,
    StillDefault,
    WorkersFailed,
)
from salver.words.handlers import (
    HandlerStatus,
    Metadata,
    ModelListing,
    Registration,
    RegistrationResult,
    Scaled,
    Workers,
    WorkerStatus,
    on_machine,
)
from salver.words.messages import ModelId

_LOG = logging.getLogger("salver.handlers")
_ALL: Final = "all"
_NOTHING: Final = ModelSetting()


class ControlPlane(Protocol):
    """Control plane, which passes the wanted list on to the lifecycle."""

    def refresh(self) -> None:
        """Apply changes of the wanted list."""
        ...

    def check_unowned(self, name: str) -> None:
        """Check that requests may change a model. Raises Forbidden if, say, the registry owns it."""
        ...


class Lifecycle(Protocol):
    """Lifecycle of versions (its manager)."""

    async def outcome(self, id: ModelId) -> str:
        """Wait until a version is ready or has failed; return the reason, empty if ready."""
        ...

    async def ended(self, id: ModelId) -> None:
        """Wait until nothing of a version is left."""
        ...

    async def settled(self, name: str = "") -> None:
        """Wait until no version of a model is changing."""
        ...

    def servable(self, id: ModelId) -> Servable | None:
        """Return the servable of a version, if it is loaded."""
        ...


class _Entry(msgspec.Struct, frozen=True, eq=False):
    """Registration in force.

    Attributes:
        handler: Handler in place of the archive's; empty = the archive's.
        url: URL as registered; empty = a function of a workflow.
        is_part: Whether it is a node of a workflow, and no model of its own.
    """

    manifest: Manifest
    handler: str
    url: str
    found: FoundArchive
    is_at_start: bool
    is_part: bool = False


class HandlerStore:
    """Implementation of :class:`~salver.transport.ports.Handlers`.

    Args:
        clock: Monotonic seconds.

    Attributes:
        changed: Called when requests have changed what is served.
        has_failed: Whether a model of the start is missing.
        is_ending: Whether the server is shutting down, and so not healthy.
    """

    def __init__(
        self,
        config: HandlerStoreConfig,
        registrations: Registrations,
        plane: ControlPlane,
        lifecycle: Lifecycle,
        clock: Callable[[], float],
    ) -> None:
        self.config = config
        self._registrations = registrations
        self._plane = plane
        self._lifecycle = lifecycle
        self._clock = clock
        self._gpus = config.gpus_used
        self._archives = ArchiveStore(config.archive_store)
        self._entries: dict[ModelId, _Entry] = {}
        self._changes = Supervisor(_LOG, "a request to change models failed")
        self.changed: Callable[[], None] = lambda: None
        self.has_failed = False
        self.is_ending = False

    def __repr__(self) -> str:
        return f"<HandlerStore, {len(self._entries)} registered>"

    # -- changes -------------------------------------------------------------------------------

    def end(self) -> None:
        """Report that the handlers are not healthy any more, because the server parts from its callers."""
        self.is_ending = True

    async def start(self) -> None:
        """Register the models of the start; their workers start together afterwards.

        A model that cannot be registered is logged and does not affect others, but a snapshot must be
        complete.

        Raises:
            InvalidInput: the whole store is wanted, and it cannot be read.
            NotFound: the archive of a model in the snapshot is missing.
        """
        models = list(self.config.at_start)
        if self.config.loads_all:
            names = await asyncio.to_thread(self._archives.everything)
            models += [StartupModel(name, default_name=name_of(name)) for name in names]
        for model in models:
            setting = model.setting or _NOTHING
            url = await asyncio.to_thread(self._locate, model)
            order = Registration(url, model.name, setting.handler, setting.runtime, waits=False)
            try:
                id = (await self._add(order, model)).manifest.id
            except SalverError as error:
                # A missing archive is no failure of the server, except in a snapshot.
                is_missing = isinstance(error, NoModel | NoDownload)
                if is_missing and model.setting is not None:
                    raise _no_archive(model) from error
                _LOG.warning("Failed to load model: %s: %s", model.url, error)
                self.has_failed |= not is_missing
                continue
            if setting.is_default:
                self.set_default(id.name, id.version)

    async def register(self, order: Registration) -> RegistrationResult:
        """Fetch, unpack and load a model; this goes on if the caller leaves.

        Raises:
            Forbidden: requests may not register models.
            InvalidInput: a value is out of range.
            NoModel, NoDownload, BadArchive, MissingExtra: the archive is missing or cannot be used.
            Conflict: the version is registered already.
            WorkersFailed: its workers do not start; it has been removed.
        """
        if not self.config.is_open:
            raise Forbidden("Model API disabled", fix="Start the server with --enable-model-api.")
        return await self._changes.finish("handlers", self._register(order))

    async def _register(self, order: Registration) -> RegistrationResult:
        return await self._wait_for_workers(order, await self._add(order))

    async def register_part(self, order: Registration, folder: Path | None = None) -> RegistrationResult:
        """Register a node of a workflow, whether or not requests may register models.

        Args:
            folder: Folder of the handler; None = its URL names an archive.
        """
        return await self._wait_for_workers(order, await self._add(order, folder=folder, is_part=True))

    async def unregister_part(self, model: str) -> None:
        """Remove a node of a workflow. Raises NoModel, and DeadlineExceeded as :meth:`unregister`."""
        await self._remove(self._manifest(model, "").id)

    async def _wait_for_workers(self, order: Registration, entry: _Entry) -> RegistrationResult:
        """Wait for the workers of a registration, if its caller waits."""
        self.changed()
        id, workers = entry.manifest.id, entry.manifest.config.workers or Workers()
        if not workers.least or not order.waits:
            return RegistrationResult(id.name, id.version, workers.least, is_done=not workers.least)
        why = await self._lifecycle.outcome(id)
        if why or await self._ready(id) < workers.least:
            if self._entries.get(id) is entry:  # not removed by another request meanwhile
                _LOG.error("%s is removed, since %s", id, why or "its workers do not start")
                await self._remove(id)
                self.changed()
            raise WorkersFailed(f"Failed to start workers for model {id.name} version: {id.version}")
        return RegistrationResult(id.name, id.version, workers.least, is_done=True)

    async def unregister(self, model: str, version: str = "") -> None:
        """Remove a version; without one, the only version. As :meth:`register`, this goes on without its
        caller.

        Raises:
            Forbidden: requests may not remove models, or it is the default of several versions.
            NoModel, NoModelVersion: it does not exist.
            DeadlineExceeded: it is still answering, and will be removed afterwards.
        """
        if not self.config.is_open:
            raise Forbidden("Model API disabled", fix="Start the server with --enable-model-api.")
        await self._changes.finish("handlers", self._unregister(model, version))

    async def _unregister(self, model: str, version: str) -> None:
        self._plane.check_unowned(model)
        id = self._manifest(model, version).id
        # TorchServe refuses to leave a model with versions and no default one (TS-M5).
        is_default = id.version == self._registrations.default(model)
        if is_default and len(self._registrations.versions(model)) > 1:
            raise StillDefault(
                f"Cannot remove default version for model {model}",
                field="model_version",
                fix="Make another version the default one first.",
            )
        try:
            await self._remove(id)
        finally:
            self.changed()

    async def scale(
        self, model: str, version: str, least: int, most: int | None, *, waits: bool
    ) -> tuple[Scaled, int]:
        """Change the number of workers; return the result and the number that is ready.

        The change is recorded before anything is awaited, so that a caller who leaves gives up only the
        waiting.

        Args:
            most: None = as ``least``.

        Raises:
            NoModel, NoModelVersion: it does not exist.
            InvalidInput: ``most`` is below ``least``, or a number is out of range.
        """
        self._plane.check_unowned(model)
        manifest = self._manifest(model, version)
        if most is None:
            most = least
        check_number("min_worker", least, most_workers(machine()))
        if most < least:
            raise InvalidInput("max_worker cannot be less than min_worker.", field="max_worker")
        check_number("max_worker", most)
        workers = msgspec.structs.replace(manifest.config.workers or Workers(), least=least, most=most)
        self._registrations.rescale(manifest.id, workers)
        self._plane.refresh()
        self.changed()
        if not waits:
            return "begun", least
        await self._lifecycle.settled(model)
        ready = await self._ready(manifest.id)
        if ready < least:
            return "partly", ready
        return "done", ready

    def set_default(self, model: str, version: str) -> None:
        """Send requests without a version to this one; models of any kind.

        Raises:
            Forbidden: the registry owns the model.
            NoModel, NoModelVersion: it does not exist.
        """
        self._plane.check_unowned(model)
        versions = self._registrations.versions(model).keys() | self._registrations.others(model)
        if not versions:
            raise no_model(model)
        if version not in versions:
            raise NoModelVersion(
                f"Model version {version} does not exist for model {model}", field="model_version"
            )
        self._registrations.set_default(model, version)
        self.changed()

    # -- what there is -------------------------------------------------------------------------

    def models(self) -> tuple[ModelListing, ...]:
        """Return all models but functions of workflows, sorted by name. No worker is queried."""
        functions = {id.name for id, entry in self._entries.items() if entry.is_part and not entry.url}
        urls, started = {}, set()
        for manifest in self._registrations.handlers():
            id = manifest.id
            if id.name not in functions:
                if id.version == self._registrations.default(id.name):
                    urls[id.name] = _url_of(manifest)
                if self._was_there(id):
                    started.add(id.name)
        return tuple(ModelListing(name, urls[name], name in started) for name in sorted(urls))

    def describe(self, model: str, version: str = "") -> tuple[HandlerStatus, ...]:
        """Return the status of the default version, of a version, or of all with ``all``.

        Raises:
            NoModel, NoModelVersion: it does not exist.
        """
        versions = self._registrations.versions(model)
        if version == _ALL and versions and version not in versions:
            return tuple(self._status(versions[each]) for each in sorted(versions, key=order_of))
        return (self._status(self._manifest(model, version)),)

    async def metadata(self, model: str, version: str) -> Metadata:
        """Return the handler's description of itself.

        Raises:
            NoModel, NoModelVersion: it does not exist.
            NotReady: it has no worker.
        """
        engine = self._engine(self._manifest(model, version).id)
        with contextlib.suppress(NotReady):
            if engine is not None:
                return await engine.metadata()
        raise NotReady(has_no_worker(model, is_describing=True), field="model")

    def is_healthy(self) -> bool:
        """Return whether every model has its workers, or has missed some only for a while, and the server
        goes on.
        """
        if self.is_ending:
            return False
        engines = (self._engine(manifest.id) for manifest in self._registrations.handlers())
        now = self._clock()
        return all(engine.is_healthy(now) for engine in engines if engine is not None)

    def snapshot(self) -> dict[str, Any]:
        """Return the ``models`` of a snapshot, as of now."""
        orders = {str(id): entry.handler for id, entry in self._entries.items()}
        parts = self._parts
        statuses = [self._status(manifest) for manifest in self._registrations.handlers()]
        return snapshot([status for status in statuses if status.name not in parts], orders)

    # -- inside --------------------------------------------------------------------------------

    @property
    def _parts(self) -> frozenset[str]:
        """Return the names of nodes of workflows."""
        return frozenset(id.name for id, entry in self._entries.items() if entry.is_part)

    async def _add(
        self,
        order: Registration,
        start: StartupModel | None = None,
        *,
        folder: Path | None = None,
        is_part: bool = False,
    ) -> _Entry:
        """Add a registration to the wanted list."""
        check(order)
        found = await self._find(order) if folder is None else FoundArchive(folder)
        try:
            description = await self._describe(found, start)
            # Nothing is awaited from here on, so that one of two simultaneous registrations sees the other.
            manifest = manifest_of(order, found, description, self.config, start)
            self._check_free(manifest.id)
        except BaseException:
            await asyncio.to_thread(self._archives.discard, found)
            raise
        for notice in description.notices:
            _LOG.warning("%s: %s", manifest.id, notice)
        is_at_start = start is not None and start.setting is None
        entry = self._entries[manifest.id] = _Entry(
            manifest, order.handler, order.url, found, is_at_start, is_part
        )
        self._registrations.put(manifest)
        self._plane.refresh()
        return entry

    async def _describe(self, found: FoundArchive, start: StartupModel | None) -> ArchiveDescription:
        """Describe an archive. A broken one is listed without workers if it is in the store at the start."""
        try:
            return await asyncio.to_thread(describe, found.path)
        except BadArchive as error:
            if start is None or start.setting is None:
                raise
            _LOG.warning("Failed to load model: %s: %s", start.url, error)
            return ArchiveDescription()

    async def _find(self, order: Registration) -> FoundArchive:
        work = asyncio.to_thread(self._archives.find, order.url, is_encrypted=order.is_encrypted)
        finding = asyncio.create_task(work)
        # A thread cannot be cancelled: the download ends by itself, and is deleted then.
        try:
            return await asyncio.shield(finding)
        except asyncio.CancelledError:
            finding.add_done_callback(self._forget)
            raise

    def _forget(self, finding: "asyncio.Task[FoundArchive]") -> None:
        """Delete a download whose caller has left."""
        if not finding.cancelled() and finding.exception() is None:
            self._archives.discard(finding.result())

    def _locate(self, model: StartupModel) -> str:
        """Return the URL of a model at the start; of a snapshot's, its file if the store has it, else its
        origin.
        """
        setting = model.setting
        if setting is not None and setting.file and setting.url:
            # Without allowed URLs only the store is searched, and nothing is downloaded.
            in_store = msgspec.structs.replace(self.config.archive_store, allowed_urls=())
            with contextlib.suppress(SalverError):
                ArchiveStore(in_store).find(setting.file)
                return setting.file
            return setting.url
        return model.url

    def _check_free(self, id: ModelId) -> None:
        self._plane.check_unowned(id.name)
        if id.version in self._registrations.versions(id.name):
            raise Conflict(
                f"Model version {id.version} is already registered for model {id.name}", field="model_name"
            )
        if self._registrations.others(id.name):
            raise Conflict(
                f"A model of another kind is called {id.name}", field="model_name", fix="Set model_name."
            )

    async def _remove(self, id: ModelId) -> None:
        entry = self._entries.pop(id, None)
        self._registrations.take_out(id)
        self._plane.refresh()
        try:
            async with asyncio.timeout(self.config.unregister_timeout_s):
                await self._lifecycle.ended(id)
        except TimeoutError as error:
            raise DeadlineExceeded(f"Timed out while cleaning resources: {id.name}") from error
        finally:
            if entry is not None:
                await asyncio.to_thread(self._archives.discard, entry.found)

    async def _ready(self, id: ModelId) -> int:
        """Wait until missing workers have started and surplus ones have stopped; return the number of ready
        ones.
        """
        engine = self._engine(id)
        if engine is None:
            return 0
        ready = await engine.settled()
        await engine.gone()
        return ready

    def _engine(self, id: ModelId) -> HandlerEngine | None:
        servable = self._lifecycle.servable(id)
        if servable is not None and isinstance(servable.engine, HandlerEngine):
            return servable.engine
        return None

    def _manifest(self, model: str, version: str) -> Manifest:
        versions = self._registrations.versions(model)
        if not versions:
            raise no_model(model)
        manifest = versions.get(version or self._registrations.default(model))
        if manifest is None:
            raise no_version(model, version)
        return manifest

    def _status(self, manifest: Manifest) -> HandlerStatus:
        id = manifest.id
        running: tuple[WorkerStatus, ...] = ()
        queued = 0
        if (engine := self._engine(id)) is not None:
            running, queued = engine.workers(), engine.queued
        return HandlerStatus(
            id.name,
            id.version,
            _url_of(manifest),
            on_machine(manifest.config.workers or Workers(), self._gpus),
            running,
            queued,
            manifest.config.options.get("runtime") or RUNTIMES[0],
            is_default=id.version == self._registrations.default(id.name),
            is_loaded_at_startup=self._was_there(id),
        )

    def _was_there(self, id: ModelId) -> bool:
        """Return whether a model was registered at the start or by the repository, not by a request."""
        entry = self._entries.get(id)
        return entry is None or entry.is_at_start


def _url_of(manifest: Manifest) -> str:
    return manifest.config.options.get("url") or manifest.path.name


def _no_archive(model: StartupModel) -> NotFound:
    text = f"Model archive file for model {model.name}, version {model.version} not found in model store"
    return NotFound(text, fix=f"Put {model.url} back, or start with --ncs, without the snapshot.")
