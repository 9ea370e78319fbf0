"""Parts of the management interface."""

import asyncio
from collections.abc import Awaitable, Callable

from salver.kernel.serving.ports import ModelStatistics
from salver.lazy import lazily, lazy_imports, load_names
from salver.parts import Kernel, Parts, PortView
from salver.transport.access_check import Access
from salver.transport.doors import App, Receive, Scope, Send
from salver.transport.server import FrontConfig

with lazy_imports():
    from salver.features.management.door import Management
    from salver.features.management.placement import placement_operation
    from salver.features.management.serving_operations import serving_operations
    from salver.transport.operations import Api, Operation
    from salver.transport.pages import Sites


class _Ports(PortView):
    """The management interface and pages at the ports that serve everything."""

    def __init__(self, kernel: Kernel, own: Callable[[], list[Operation]]) -> None:
        self._kernel = kernel
        self._own = own
        self._api = lazily(self._operations)

    def _operations(self) -> Api:
        kernel = self._kernel
        others = [operation for part in kernel.parts for operation in part.operations]
        return Api([*self._own(), *others], kernel.context.decoders)

    def enclosed(self, app: App, config: FrontConfig, access: Access) -> App:
        """Put the interface in front of what a port serves."""
        if config.serves != "all":
            return app
        kernel = self._kernel
        pages = [site for part in kernel.parts for site in part.pages]

        def make() -> App:
            return Management(app, self._api, access, Sites(*pages), kernel.new_id, kernel.version)

        return _Entry(app, tuple(site.root for site in pages), make)


class _Entry:
    """Application that makes the interface at the first request for one of its paths."""

    def __init__(self, app: App, roots: tuple[str, ...], make: Callable[[], App]) -> None:
        self._app = app
        self._roots = ("/api/", *roots)
        self._make = make
        self._management: App | None = None
        self.find_prompt = getattr(app, "find_prompt", None)  # of inference, which is at other paths

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Handle an ASGI request."""
        if scope["type"] == "http" and scope["path"].startswith(self._roots):
            return self._answer(scope, receive, send)
        return self._app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._management is None:
            await asyncio.to_thread(load_names, __name__)
            self._management = self._management or self._make()
        await self._management(scope, receive, send)


async def build(kernel: Kernel, config: None) -> Parts:
    """Return the ports that have the interface."""

    def own() -> list[Operation]:
        known = (kernel.config.server_name, kernel.version)
        statistics = kernel.services.find(ModelStatistics)
        has_registry = kernel.caller is not None
        placement = placement_operation(kernel.control, kernel.models.servables, statistics)
        return [
            *serving_operations(kernel.control, kernel.state, known, statistics, has_registry=has_registry),
            placement,
        ]

    return Parts(ports=_Ports(kernel, own))
