"""Which handlers are there, who may change that, and how many workers do they have (TS-M1 to TS-M6)?

Registers archives while the server runs, and tells of those that the repository found as well. It writes down
what is wanted, has the control plane apply it, and waits where the caller does; the lifecycle loads. It knows
no protocol and starts no process.
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
from salver.dialects.torchserve.archive_store import FoundArchive, Shelf
from salver.dialects.torchserve.engine.engine import HandlerEngine
from salver.dialects.torchserve.model_settings import ModelSetting, snapshot
from salver.dialects.torchserve.registering import (
    AtStart,
    HandlerStoreConfig,
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
    on_machine,
)
from salver.words.messages import ModelId

_LOG = logging.getLogger("salver.handlers")
_ALL: Final = "all"
_NOTHING: Final = ModelSetting()


class Plane(Protocol):
    """Tells the lifecycle what is wanted (the control plane)."""

    def refresh(self) -> None:
        """There are changes."""
        ...

    def check_unowned(self, name: str) -> None:
        """Raises Forbidden where others say what is served of that model, as the registry does."""
        ...


class Lives(Protocol):
    """Knows what became of versions (the lifecycle's manager)."""

    async def outcome(self, id: ModelId) -> str:
        """Wait until it is ready, or has failed: empty, or the reason."""
        ...

    async def ended(self, id: ModelId) -> None:
        """Wait until nothing of it is left."""
        ...

    async def settled(self, name: str = "") -> None:
        """Wait until nothing of that model is on its way."""
        ...

    def servable(self, id: ModelId) -> Servable | None:
        """What answers for it now."""
        ...


class _Entry(msgspec.Struct, frozen=True, eq=False):
    """A registration that is in force.

    Attributes:
        handler: That it names in place of the archive's.
        url: As it was registered; empty = a function of a workflow.
        is_part: Of a workflow, and no model of its own.
    """

    manifest: Manifest
    handler: str
    url: str
    found: FoundArchive
    is_at_start: bool
    is_part: bool = False


class HandlerStore:
    """Implements :class:`~salver.transport.ports.Handlers`.

    Args:
        clock: Monotonic seconds.

    Attributes:
        changed: Called when requests have changed what is served.
        has_failed: One that was to be there from the start is not.
        is_ending: The server parts from its callers, and is not healthy any more.
    """

    def __init__(
        self,
        config: HandlerStoreConfig,
        registrations: Registrations,
        plane: Plane,
        lives: Lives,
        clock: Callable[[], float],
    ) -> None:
        self.config = config
        self._registrations = registrations
        self._plane = plane
        self._lives = lives
        self._clock = clock
        self._gpus = config.gpus_used
        self._shelf = Shelf(config.shelf)
        self._entries: dict[ModelId, _Entry] = {}
        self._changes = Supervisor(_LOG, "a request to change models failed")
        self.changed: Callable[[], None] = lambda: None
        self.has_failed = False
        self.is_ending = False

    def __repr__(self) -> str:
        return f"<HandlerStore, {len(self._entries)} registered>"

    # -- changes -------------------------------------------------------------------------------

    async def start(self) -> None:
        """Register what is to be there from the start; workers come up together when it has returned.

        One that cannot be registered is told in the log, and keeps no other from being so; but a snapshot is
        all there or the server does not start.

        Raises:
            InvalidInput: everything in the store is wanted, and it cannot be read.
            NotFound: there is no archive of a model in the snapshot.
        """
        models = list(self.config.at_start)
        if self.config.loads_all:
            names = await asyncio.to_thread(self._shelf.everything)
            models += [AtStart(name, default_name=name_of(name)) for name in names]
        for model in models:
            setting = model.setting or _NOTHING
            url = await asyncio.to_thread(self._place_of, model)
            order = Registration(url, model.name, setting.handler, setting.runtime, waits=False)
            try:
                id = (await self._take(order, model)).manifest.id
            except (NoModel, NoDownload) as error:
                if model.setting is not None:
                    raise _no_archive(model) from error
                _LOG.warning("Failed to load model: %s: %s", model.url, error)
                continue
            except SalverError as error:
                _LOG.warning("Failed to load model: %s: %s", model.url, error)
                self.has_failed = True
                continue
            if setting.is_default:
                self.set_default(id.name, id.version)

    async def register(self, order: Registration) -> RegistrationResult:
        """Fetch, unpack and load it; it goes on if the caller leaves.

        Raises:
            Forbidden: requests may not.
            InvalidInput: a value cannot be.
            NoModel, NoDownload, BadArchive, MissingExtra, Conflict: it cannot be had, or is there already.
            WorkersFailed: it was taken out again, since its workers do not start.
        """
        if not self.config.is_open:
            raise Forbidden("Model API disabled", fix="Start the server with --enable-model-api.")
        return await self._changes.finish("handlers", self._register(order))

    async def _register(self, order: Registration) -> RegistrationResult:
        return await self._come(order, await self._take(order))

    async def register_part(self, order: Registration, folder: Path | None = None) -> RegistrationResult:
        """Register a node of a workflow, whether or not requests may.

        Args:
            folder: Where it lies; None = as its URL says.
        """
        return await self._come(order, await self._take(order, folder=folder, is_part=True))

    async def unregister_part(self, model: str) -> None:
        """Take it out. Raises NoModel, and DeadlineExceeded as :meth:`unregister`."""
        await self._remove(self._one(model, "").id)

    async def _come(self, order: Registration, entry: _Entry) -> RegistrationResult:
        """Wait for its workers, where the caller does."""
        self.changed()
        id, workers = entry.manifest.id, entry.manifest.config.workers or Workers()
        if not workers.least or not order.waits:
            return RegistrationResult(id.name, id.version, workers.least, is_done=not workers.least)
        why = await self._lives.outcome(id)
        ready = 0 if why else await self._ready(id)
        if ready < workers.least:
            if self._entries.get(id) is entry:  # and nobody has taken it out meanwhile
                _LOG.error("%s is taken out again, since %s", id, why or "its workers do not start")
                await self._remove(id)
                self.changed()
            raise WorkersFailed(f"Failed to start workers for model {id.name} version: {id.version}")
        return RegistrationResult(id.name, id.version, workers.least, is_done=True)

    async def unregister(self, model: str, version: str = "") -> None:
        """Take a version out, or the default one where that is the only one; as :meth:`register`.

        Raises:
            Forbidden: requests may not, or it is the default version, and there are others.
            NoModel, NoModelVersion: there is none.
            DeadlineExceeded: it still answers, and will be gone when it has.
        """
        if not self.config.is_open:
            raise Forbidden("Model API disabled", fix="Start the server with --enable-model-api.")
        await self._changes.finish("handlers", self._unregister(model, version))

    async def _unregister(self, model: str, version: str) -> None:
        self._plane.check_unowned(model)
        id = self._one(model, version).id
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
        """Have so many workers from now on; how it went, and how many there are.

        Nothing is waited for before it is so: a caller who leaves gives up the waiting alone.

        Args:
            most: None = as ``least``.

        Raises:
            NoModel, NoModelVersion: there is none.
            InvalidInput: ``most`` is below ``least``, or they cannot be.
        """
        self._plane.check_unowned(model)
        manifest = self._one(model, version)
        most = least if most is None else most
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
        await self._lives.settled(model)
        ready = await self._ready(manifest.id)
        return ("done" if ready >= least else "partly"), ready

    def set_default(self, model: str, version: str) -> None:
        """Requests without a version go there, of a model of any kind (X-12).

        Raises:
            Forbidden: it is the registry's.
            NoModel, NoModelVersion: there is none.
        """
        self._plane.check_unowned(model)
        versions = self._registrations.versions(model).keys() | self._registrations.others(model)
        if not versions:
            raise _no_model(model)
        if version not in versions:
            raise NoModelVersion(
                f"Model version {version} does not exist for model {model}", field="model_version"
            )
        self._registrations.set_default(model, version)
        self.changed()

    # -- what there is -------------------------------------------------------------------------

    def models(self) -> tuple[ModelListing, ...]:
        """Each model but functions of workflows, sorted by name; no worker is looked at."""
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
        """The default version, or that one; all with ``all``.

        Raises:
            NoModel, NoModelVersion: there is none.
        """
        versions = self._registrations.versions(model)
        if not versions:
            raise _no_model(model)
        if version == _ALL and version not in versions:
            return tuple(self._status(versions[each]) for each in sorted(versions, key=order_of))
        return (self._status(self._one(model, version)),)

    async def metadata(self, model: str, version: str) -> Metadata:
        """What the handler tells of itself.

        Raises:
            NoModel, NoModelVersion: there is none.
            NotReady: no worker is there.
        """
        engine = self._engine(self._one(model, version).id)
        with contextlib.suppress(NotReady):
            if engine is not None:
                return await engine.metadata()
        raise NotReady(
            f'Model "{model}" has no worker to serve describe request. Please use scale workers API to add '
            "workers.",
            field="model",
        )

    def is_healthy(self) -> bool:
        """Has no model been short of workers for longer than it may, and goes the server on?"""
        if self.is_ending:
            return False
        engines = (self._engine(manifest.id) for manifest in self._registrations.handlers())
        now = self._clock()
        return all(engine.is_healthy(now) for engine in engines if engine is not None)

    def snapshot(self) -> dict[str, Any]:
        """The ``models`` of TorchServe's snapshot, as it is now."""
        orders = {str(id): entry.handler for id, entry in self._entries.items()}
        parts = self._parts
        return snapshot([status for status in self._statuses() if status.name not in parts], orders)

    # -- inside --------------------------------------------------------------------------------

    @property
    def _parts(self) -> frozenset[str]:
        """Nodes of workflows."""
        return frozenset(id.name for id, entry in self._entries.items() if entry.is_part)

    async def _take(
        self,
        order: Registration,
        start: AtStart | None = None,
        *,
        folder: Path | None = None,
        is_part: bool = False,
    ) -> _Entry:
        """It is wanted from now on."""
        check(order)
        found = await self._find(order) if folder is None else FoundArchive(folder)
        try:
            said = await self._describe(found, start)
            # from here on nothing waits, so that of two that come together one finds the other
            manifest = manifest_of(order, found, said, self.config, start)
            self._check_free(manifest.id)
        except BaseException:
            await asyncio.to_thread(self._shelf.discard, found)
            raise
        for notice in said.yaml.notices if said.yaml else ():
            _LOG.warning("%s: %s", manifest.id, notice)
        is_at_start = start is not None and start.setting is None
        entry = self._entries[manifest.id] = _Entry(
            manifest, order.handler, order.url, found, is_at_start, is_part
        )
        self._registrations.put(manifest)
        self._plane.refresh()
        return entry

    async def _describe(self, found: FoundArchive, start: AtStart | None) -> ArchiveDescription:
        """What the archive says. Junk in a snapshot's place is listed all the same, with no workers."""
        try:
            return await asyncio.to_thread(describe, found.path)
        except BadArchive as error:
            if start is None or start.setting is None:
                raise
            _LOG.warning("Failed to load model: %s: %s", start.url, error)
            return ArchiveDescription()

    async def _find(self, order: Registration) -> FoundArchive:
        work = asyncio.to_thread(self._shelf.find, order.url, is_encrypted=order.is_encrypted)
        finding = asyncio.create_task(work)
        try:
            return await asyncio.shield(finding)
        except asyncio.CancelledError:
            finding.add_done_callback(self._forget)
            raise

    def _forget(self, finding: "asyncio.Task[FoundArchive]") -> None:
        """Nobody waits any more for what was downloaded."""
        if not finding.cancelled() and finding.exception() is None:
            self._shelf.discard(finding.result())

    def _place_of(self, model: AtStart) -> str:
        """A snapshot says where an archive came from, and by which name the store may have it."""
        setting = model.setting
        if setting is not None and setting.file and setting.url:
            in_store = msgspec.structs.replace(self.config.shelf, allowed_urls=())
            with contextlib.suppress(SalverError):
                Shelf(in_store).find(setting.file)
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
                f"A model of another kind is called {id.name}", field="model_name", fix="Say model_name."
            )

    async def _remove(self, id: ModelId) -> None:
        entry = self._entries.pop(id, None)
        self._registrations.take_out(id)
        self._plane.refresh()
        try:
            async with asyncio.timeout(self.config.unregister_timeout_s):
                await self._lives.ended(id)
        except TimeoutError as error:
            raise DeadlineExceeded(f"Timed out while cleaning resources: {id.name}") from error
        finally:
            if entry is not None:
                await asyncio.to_thread(self._shelf.discard, entry.found)

    async def _ready(self, id: ModelId) -> int:
        """Wait until its workers have come, and others have gone; how many there are."""
        engine = self._engine(id)
        if engine is None:
            return 0
        ready = await engine.settled()
        await engine.gone()
        return ready

    def _engine(self, id: ModelId) -> HandlerEngine | None:
        servable = self._lives.servable(id)
        engine = servable.engine if servable is not None else None
        return engine if isinstance(engine, HandlerEngine) else None

    def _one(self, model: str, version: str) -> Manifest:
        versions = self._registrations.versions(model)
        if not versions:
            raise _no_model(model)
        manifest = versions.get(version or self._registrations.default(model))
        if manifest is None:
            raise NoModelVersion(
                f"Model version: {version} does not exist for model: {model}", field="model_version"
            )
        return manifest

    def _statuses(self) -> list[HandlerStatus]:
        return [self._status(manifest) for manifest in self._registrations.handlers()]

    def _status(self, manifest: Manifest) -> HandlerStatus:
        id, options = manifest.id, manifest.config.options
        engine = self._engine(id)
        return HandlerStatus(
            id.name,
            id.version,
            _url_of(manifest),
            on_machine(manifest.config.workers or Workers(), self._gpus),
            engine.workers() if engine is not None else (),
            engine.queued if engine is not None else 0,
            options.get("runtime") or RUNTIMES[0],
            is_default=id.version == self._registrations.default(id.name),
            is_loaded_at_startup=self._was_there(id),
        )

    def _was_there(self, id: ModelId) -> bool:
        """No request has registered it."""
        entry = self._entries.get(id)
        return entry is None or entry.is_at_start


def _url_of(manifest: Manifest) -> str:
    return manifest.config.options.get("url") or manifest.path.name


def _no_archive(model: AtStart) -> NotFound:
    text = f"Model archive file for model {model.name}, version {model.version} not found in model store"
    return NotFound(text, fix=f"Put {model.url} back, or start with --ncs, without the snapshot.")


def _no_model(model: str) -> NoModel:
    return NoModel(f"Model not found: {model}", field="model")
