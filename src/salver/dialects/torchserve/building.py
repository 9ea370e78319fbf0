"""Builder of TorchServe's interfaces and handlers."""

import asyncio
import functools
from collections.abc import Mapping
from typing import Final

import msgspec

from salver.dialects.torchserve.backing import Backing
from salver.dialects.torchserve.ports import TorchServePorts, exact_ports
from salver.dialects.torchserve.registrations import Registrations
from salver.dialects.torchserve.rules import TorchServeRules
from salver.encoding.tensor_messages import TensorMessages
from salver.kernel.repository import Formats
from salver.kernel.serving.fetching import Loads
from salver.kernel.serving.loading import Additions
from salver.kernel.serving.servable import Servable
from salver.lazy import is_made, lazily, lazy_imports
from salver.parts import Kernel, Parts, PortView
from salver.transport.access_check import Access, AccessRules, Changing
from salver.transport.doors import App, Kind
from salver.transport.first_call import imported_first
from salver.transport.server import ExactPorts, FrontConfig
from salver.words.artifacts import Manifest
from salver.words.handlers import FORMAT

with lazy_imports():
    from salver.dialects.torchserve.archive import HandlerArchiveFormat
    from salver.dialects.torchserve.config import TorchServeConfig, torchserve_config
    from salver.dialects.torchserve.foreign_forms import FORMS
    from salver.dialects.torchserve.handler_store import HandlerStore
    from salver.dialects.torchserve.loading import HandlerLoader, HandlerRules, Unpacking
    from salver.dialects.torchserve.operations import Method, WorkflowOperations
    from salver.dialects.torchserve.snapshots import Snapshots
    from salver.dialects.torchserve.unpacked_archives import UnpackedArchives
    from salver.dialects.torchserve.view import TorchServeView
    from salver.dialects.torchserve.workflows import Workflows, WorkflowsConfig
    from salver.transport.access import AnnouncingApp


FORMATS: Final = Formats(archives={FORMAT: lazily(HandlerArchiveFormat)})


class _Ports(PortView):
    """TorchServe's own ports, and its routes at the port for everything."""

    def __init__(
        self, kernel: Kernel, rules: TorchServeRules, ports: TorchServePorts, view: TorchServeView | None
    ) -> None:
        self._kernel = kernel
        self._rules = rules
        self._ports = ports
        self._view = view
        self.max_request = rules.max_request

    def access(self, config: FrontConfig) -> Access | None:
        """Return the access check of TorchServe's own ports."""
        if not config.serves.startswith("torchserve"):
            return None
        return self._access(config, is_its_own=config.serves.startswith("torchserve-grpc"))

    def _access(self, config: FrontConfig, *, is_its_own: bool) -> Access:
        """Return the access check of a port.

        Args:
            is_its_own: Whether it is for TorchServe's operations, whose keys replace the token.
        """
        kernel, rules, serves = self._kernel, self._rules, config.serves
        api = kernel.config.api
        has_keys = is_its_own and rules.tokens is not None
        # TorchServe's own ports accept remote changes of TorchServe's operations only.
        allows = has_keys or (api.allows_remote and (is_its_own or not serves.startswith("torchserve")))
        origins: frozenset[str] = frozenset()
        if is_its_own and rules.cors_origin:
            origins = frozenset({rules.cors_origin.lower()})
        is_open = api.is_open or has_keys or bool(config.tls_client_ca)
        differing = AccessRules(allows, api.hosts, origins, self._ports.closed(serves), is_open, has_keys)
        host, guard = config.host, kernel.context.http.guard
        if config.path:
            host = ""
        if has_keys:
            return Access(host, guard=guard, rules=differing, keys=kernel.keys)
        return Access(host, kernel.token, guard, kernel.caller, differing, kernel.keys)

    def closed(self, kind: Kind) -> frozenset[str]:
        """Return the gRPC methods that are disabled at a port because management was not asked for."""
        return self._ports.closed(kind)

    def shown(self, app: App, config: FrontConfig) -> App:
        """Add TorchServe's routes to a port that has any."""
        return self._ports.shown(app, config.serves, self._access(config, is_its_own=True))

    def enclosed(self, app: App, config: FrontConfig, access: Access) -> App:
        """Report every answer to observers, for TorchServe's logs and metrics."""
        if self._view is None:
            return app
        return AnnouncingApp(app, self._kernel.bus.emit)

    def changing(self, config: FrontConfig) -> Changing | None:
        """Return what protects changes at TorchServe's own ports."""
        if not config.serves.startswith("torchserve"):
            return None
        if self._rules.tokens is not None:
            return "token"
        return self._access(config, is_its_own=True).changing

    def exact(self) -> ExactPorts | None:
        """Return the ports of the REST interface, which use a server of their own."""
        config = self._kernel.config
        if not any(front.serves.startswith("torchserve") for front in (config.front, *config.more)):
            return None
        most = self.max_request or self._kernel.config.max_body
        return exact_ports(most, self._kernel.context.budget)


async def build_forms(kernel: Kernel, config: None) -> Parts:
    """Provide handlers to dialects that are built later."""
    kernel.context = msgspec.structs.replace(kernel.context, forms=FORMS)
    return Parts()


async def build(kernel: Kernel, config: None) -> Parts:
    """Build TorchServe's interfaces, its handlers, and metrics and logs for operators.

    Without configuration they are made when a caller or a handler needs them.
    """
    if kernel.config.tables.get("torchserve"):
        return _Interfaces(kernel, torchserve_config(kernel.config)).parts()
    return _Interfaces(kernel, None).parts()


class _Interfaces:
    """TorchServe's parts of one server.

    Args:
        given: Configuration; None = there is none.
    """

    def __init__(self, kernel: Kernel, given: TorchServeConfig | None) -> None:
        self._kernel = kernel
        self._given = given
        self._registrations = Registrations(kernel.models)
        self._archives = lazily(UnpackedArchives)
        self._handlers = lazily(self._store)
        self._rules = TorchServeRules()
        self._view: TorchServeView | None = None
        self._snapshots: Snapshots | None = None
        if given is not None:
            self._handlers = self._store()
            self._rules = msgspec.structs.replace(given.rules, may_change=given.handlers.is_open)
            self._view = TorchServeView(given.view) if given.view else None
            if given.snapshots is not None:
                self._snapshots = Snapshots(given.snapshots, self._handlers.snapshot)
            kernel.services.offer(type(self._handlers), self._handlers)

    @property
    def _config(self) -> TorchServeConfig:
        return self._given or torchserve_config(self._kernel.config)

    def _store(self) -> HandlerStore:
        kernel = self._kernel
        return HandlerStore(
            self._config.handlers, self._registrations, kernel.plane, kernel.models, kernel.clock
        )

    def _loader(self) -> HandlerLoader:
        kernel, config = self._kernel, self._config
        lines = self._view.add_lines if self._view else None
        rules = HandlerRules(lines, config.first_worker, config.handlers.gpus_used, config.hides)
        return HandlerLoader(kernel.terms, kernel.bus.emit, kernel.clock, rules)

    def _workflows(self) -> Mapping[str, Method]:
        kernel, config = self._kernel, self._config
        source = config.handlers.archive_store
        source = msgspec.structs.replace(source, store=config.workflow_store or source.store)
        terms = WorkflowsConfig(source, config.handlers.is_open)
        flows = Workflows(terms, self._handlers, kernel.inner, self._archives, kernel.clock)
        return WorkflowOperations(flows, kernel.context, self._rules.max_response).http()

    def parts(self) -> Parts:
        """Return what is attached to the server."""
        kernel, rules, view = self._kernel, self._rules, self._view
        most = kernel.config.max_body
        backing = Backing(
            kernel.door, self._handlers, kernel.exposition, kernel.context, rules, max_body=most
        )
        messages = kernel.services.find(TensorMessages)
        # Cached: all ports share the workflows of the server.
        workflows = functools.cache(self._workflows)
        ports = TorchServePorts(backing, kernel.control, messages, workflows)
        return Parts(
            view.observers if view else (),
            [view.metrics] if view and view.metrics else (),
            grpc=[
                lazily(lambda: imported_first(ports.methods.tables()[0])),
                lazily(lambda: imported_first(ports.methods.tables()[1])),
            ],
            ports=_Ports(kernel, rules, ports, view),
            additions=Additions({FORMAT: lazily(self._loader)}),
            wrap_loader=self._with_archives,
            changes=self._registrations,
            prepare=self._prepare,
            start=self._start,
            leave=self._leave,
            close=self._close,
            is_well=lambda: not (is_made(self._handlers) and self._handlers.has_failed),
        )

    def _with_archives(self, loader: Loads) -> Loads:
        installs = self._given is not None and self._given.handlers.installs_requirements
        return _Archives(loader, lazily(Unpacking, loader, self._archives, installs=installs))

    async def _prepare(self) -> None:
        if self._view is not None:
            self._view.start()

    async def _start(self) -> None:
        if self._given is not None:
            await self._handlers.start()
        if self._snapshots is not None:
            await self._snapshots.write("startup")
            self._handlers.changed = self._snapshots.changed

    async def _leave(self) -> None:
        if is_made(self._handlers):
            self._handlers.end()
        if self._snapshots is not None:
            await self._snapshots.close()

    async def _close(self) -> None:
        if is_made(self._archives):
            await asyncio.to_thread(self._archives.close)
        if self._view is not None:
            self._view.close()


class _Archives:
    """Loader that unpacks archives of handlers first."""

    def __init__(self, loader: Loads, unpacking: Unpacking) -> None:
        self._loader = loader
        self._unpacking = unpacking

    async def load(self, manifest: Manifest) -> Servable:
        """See :class:`~salver.kernel.serving.fetching.Loads`."""
        loader = self._loader
        if manifest.format == FORMAT:
            loader = self._unpacking
        return await loader.load(manifest)
