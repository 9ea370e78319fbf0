"""Parts of the ports of Amazon SageMaker and Google Vertex AI."""

import msgspec

from salver.lazy import lazy_imports
from salver.parts import Kernel, Parts, PortView
from salver.transport.access_check import Access
from salver.transport.doors import App
from salver.transport.faults import http_fault
from salver.transport.server import FrontConfig
from salver.words.errors import SalverError

with lazy_imports():
    from salver.dialects.clouds import doors
    from salver.dialects.clouds.many_models import ManyModels


class _Ports(PortView):
    """Ports with a platform's routes."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def enclosed(self, app: App, config: FrontConfig, access: Access) -> App:
        """Put the platform's routes in front of what a port serves."""
        control, guard = self._kernel.control, self._kernel.context.http.guard
        if config.serves == "vertex-ai":
            vertex = msgspec.convert(config.platform, doors.Vertex)
            return doors.VertexDoor(app, vertex, control, http_fault, access, self._takes_raw)
        if config.serves != "sagemaker":
            return app
        sagemaker = msgspec.convert(config.platform, doors.SageMaker)
        models = ManyModels(control, guard, http_fault, is_allowed=sagemaker.brings_models)
        return doors.SageMakerDoor(app, sagemaker, control, models, http_fault, access, self._takes_raw)

    def _takes_raw(self, model: str) -> bool:
        try:
            _, signature = self._kernel.door.signature(model)
        except SalverError:  # the call itself says why
            return False
        return signature.takes_raw


async def build(kernel: Kernel, config: None) -> Parts:
    """Return the ports of the platforms."""
    return Parts(ports=_Ports(kernel))
