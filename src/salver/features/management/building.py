"""Parts of the management interface."""

from collections.abc import Callable

from salver.features.management.door import Management
from salver.features.management.serving_operations import serving_operations
from salver.kernel.serving.ports import ModelStatistics
from salver.parts import Kernel, Parts, PortView
from salver.transport.access_check import Access
from salver.transport.doors import App
from salver.transport.operations import Api, Operation
from salver.transport.pages import Sites
from salver.transport.server import FrontConfig


class _Ports(PortView):
    """The management interface and pages at the ports that serve everything."""

    def __init__(self, kernel: Kernel, own: Callable[[], list[Operation]]) -> None:
        self._kernel = kernel
        self._own = own
        self._built: tuple[Api, Sites] | None = None

    def enclosed(self, app: App, config: FrontConfig, access: Access) -> App:
        """Put the interface in front of what a port serves."""
        if config.serves != "all":
            return app
        kernel = self._kernel
        if self._built is None:  # when all features are there
            others = [operation for part in kernel.parts for operation in part.operations]
            pages = [site for part in kernel.parts for site in part.pages]
            self._built = Api([*self._own(), *others], kernel.context.decoders), Sites(*pages)
        api, sites = self._built
        return Management(app, api, access, sites, kernel.new_id, kernel.version)


async def build(kernel: Kernel, config: None) -> Parts:
    """Return the ports that have the interface."""

    def own() -> list[Operation]:
        known = (kernel.config.server_name, kernel.version)
        statistics = kernel.services.find(ModelStatistics)
        has_registry = kernel.caller is not None
        return serving_operations(kernel.control, kernel.state, known, statistics, has_registry=has_registry)

    return Parts(ports=_Ports(kernel, own))
