"""Builder of TorchServe's interfaces and handlers."""

import asyncio

import msgspec

from salver.dialects.torchserve.config import TorchServeConfig
from salver.dialects.torchserve.foreign_forms import FORMS
from salver.dialects.torchserve.front import Backing
from salver.dialects.torchserve.handler_store import HandlerStore
from salver.dialects.torchserve.loading import HandlerLoader, HandlerRules, Unpacking
from salver.dialects.torchserve.operations import WorkflowOperations
from salver.dialects.torchserve.ports import TorchServePorts, exact_ports
from salver.dialects.torchserve.registrations import Registrations
from salver.dialects.torchserve.snapshots import Snapshots
from salver.dialects.torchserve.unpacked_archives import UnpackedArchives
from salver.dialects.torchserve.view import TorchServeView
from salver.dialects.torchserve.workflows import Workflows, WorkflowsConfig
from salver.encoding.tensor_messages import TensorMessages
from salver.kernel.serving.loading import Additions
from salver.parts import Kernel, Parts, PortView
from salver.transport.access import Watched
from salver.transport.access_check import Access, AccessRules, Changing
from salver.transport.doors import App, Kind
from salver.transport.server import ExactPorts, FrontConfig
from salver.words.handlers import FORMAT


class _Ports(PortView):
    """TorchServe's own ports, and its routes at the port for everything."""

    def __init__(
        self, kernel: Kernel, config: TorchServeConfig, ports: TorchServePorts, view: TorchServeView | None
    ) -> None:
        self._kernel = kernel
        self._rules = config.rules
        self._ports = ports
        self._view = view
        self.max_request = config.rules.max_request

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
        differing = AccessRules(allows, api.hosts, origins, self._ports.closed(serves))
        host, guard = config.host, kernel.context.http.guard
        if config.path:
            host = ""
        if has_keys:
            return Access(host, guard=guard, rules=differing)
        return Access(host, kernel.token, guard, kernel.caller, differing)

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
        return Watched(app, self._kernel.bus.emit)

    def changing(self, config: FrontConfig) -> Changing | None:
        """Return what protects changes at TorchServe's own ports."""
        if not config.serves.startswith("torchserve"):
            return None
        if self._rules.tokens is not None:
            return "token"
        return self._access(config, is_its_own=True).changing

    def exact(self) -> ExactPorts:
        """Return the ports of the REST interface, which use a server of their own."""
        most = self.max_request or self._kernel.config.max_body
        return exact_ports(most, self._kernel.context.budget)


async def build_forms(kernel: Kernel, config: None) -> Parts:
    """Provide handlers to dialects that are built later."""
    kernel.context = msgspec.structs.replace(kernel.context, forms=FORMS)
    return Parts()


async def build(kernel: Kernel, config: None) -> Parts:
    """Build TorchServe's interfaces, its handlers, and metrics and logs for operators."""
    settings = kernel.config.table("torchserve", TorchServeConfig)
    clock, emit = kernel.clock, kernel.bus.emit
    view = TorchServeView(settings.view) if settings.view else None
    archives = UnpackedArchives()
    registrations = Registrations(kernel.models)
    handlers = HandlerStore(settings.handlers, registrations, kernel.plane, kernel.models, clock)
    kernel.services.offer(HandlerStore, handlers)
    is_open, source = settings.handlers.is_open, settings.handlers.archive_store
    rules = msgspec.structs.replace(settings.rules, may_change=is_open)
    source = msgspec.structs.replace(source, store=settings.workflow_store or source.store)
    flows = Workflows(WorkflowsConfig(source, is_open), handlers, kernel.inner, archives, clock)
    more = WorkflowOperations(flows, kernel.context, rules.max_response).http()
    exposition = kernel.exposition
    most_body = kernel.config.max_body
    backing = Backing(kernel.door, handlers, exposition, kernel.context, rules, more=more, max_body=most_body)
    ports = TorchServePorts(backing, kernel.control, kernel.services.find(TensorMessages))
    lines = view.add_lines if view else None
    about = HandlerRules(lines, settings.first_worker, settings.handlers.gpus_used, settings.hides)
    snapshots = Snapshots(settings.snapshots, handlers.snapshot) if settings.snapshots else None

    async def prepare() -> None:
        if view is not None:
            view.start()

    async def start() -> None:
        await handlers.start()
        if snapshots is not None:
            await snapshots.write("startup")
            handlers.changed = snapshots.changed

    async def leave() -> None:
        handlers.is_ending = True
        if snapshots is not None:
            await snapshots.close()

    async def close() -> None:
        await asyncio.to_thread(archives.close)
        if view is not None:
            view.close()

    return Parts(
        view.observers if view else (),
        [view.metrics] if view and view.metrics else (),
        grpc=ports.methods.tables(),
        ports=_Ports(kernel, settings, ports, view),
        additions=Additions({FORMAT: HandlerLoader(kernel.terms, emit, clock, about)}),
        wrap_loader=lambda loader: Unpacking(
            loader, archives, installs=settings.handlers.installs_requirements
        ),
        changes=registrations,
        prepare=prepare,
        start=start,
        leave=leave,
        close=close,
        is_well=lambda: not handlers.has_failed,
    )
