"""Builds the parts of the Open Inference Protocol."""

from collections.abc import Callable

from salver.dialects.oip import OipConfig
from salver.dialects.oip.http_operations import OpenInferenceOperations
from salver.dialects.oip.json_codec import OpenInferenceHttp
from salver.dialects.oip.regions import NO_REGIONS, OipRules, RegionRegistry
from salver.encoding.tensor_messages import TensorMessages
from salver.kernel.serving.loading import Additions
from salver.kernel.serving.servable import Servable
from salver.lazy import lazily, lazy_imports, load_names
from salver.parts import Kernel, Parts
from salver.transport.routes import Operation
from salver.transport.server_operations import OPERATIONS
from salver.words.artifacts import Manifest

with lazy_imports():
    from salver.dialects.oip.foreign_service import OpenInferenceMessages
    from salver.dialects.oip.grpc_methods import OpenInferenceMethods
    from salver.dialects.oip.shared_memory import SharedMemory
    from salver.transport.grpc_table import GrpcTable


class _WarmupFiles:
    """Warm-up of every model with Open Inference requests from files."""

    async def prepare(self, manifest: Manifest) -> Callable[[Servable], None]:
        """See :class:`~salver.kernel.serving.loading.Attachment`."""
        return self._attach

    def _attach(self, servable: Servable) -> None:
        servable.warmer.decode = OpenInferenceHttp().decode


async def build(kernel: Kernel, config: OipConfig) -> Parts:
    """Return the operations and methods of the protocol."""
    settings, door, control, context = kernel.config, kernel.door, kernel.control, kernel.context
    regions: RegionRegistry = NO_REGIONS
    if settings.allow_client_shm:
        regions = SharedMemory()
    kernel.services.offer(RegionRegistry, regions)
    kernel.services.offer(TensorMessages, lazily(OpenInferenceMessages))
    rules = OipRules(regions, settings.max_body, settings.ignores_surplus, config.is_lenient)
    exposition = kernel.exposition

    def operations() -> list[Operation]:
        brought = [one for part in kernel.parts for table in part.http for one in table.operations]
        return [*brought, *OPERATIONS]

    def grpc() -> GrpcTable:
        methods = OpenInferenceMethods(door, control, context, rules)
        load_names(type(methods).__module__)
        return methods.table()

    async def close() -> None:
        if regions.is_allowed:
            regions.unregister()

    http = OpenInferenceOperations(door, control, exposition, context, rules, operations)
    files = Additions(attachments=[_WarmupFiles()])
    return Parts(http=[http.table()], grpc=[lazily(grpc)], additions=files, close=close)
