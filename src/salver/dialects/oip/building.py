"""Parts of the Open Inference Protocol."""

from salver.dialects.oip.foreign_service import OpenInferenceMessages
from salver.dialects.oip.grpc_methods import OpenInferenceMethods
from salver.dialects.oip.http_operations import OpenInferenceOperations
from salver.dialects.oip.loading import WarmupFiles
from salver.dialects.oip.regions import NO_REGIONS, RegionRegistry
from salver.dialects.oip.rules import OipRules
from salver.dialects.oip.shared_memory import SharedMemory
from salver.encoding.tensor_messages import TensorMessages
from salver.kernel.serving.loading import Additions
from salver.parts import Kernel, Parts
from salver.transport.routes import Operation
from salver.transport.server_operations import OPERATIONS


async def build(kernel: Kernel, config: None) -> Parts:
    """Return the operations and methods of the protocol."""
    settings, door, control, context = kernel.config, kernel.door, kernel.control, kernel.context
    regions: RegionRegistry = SharedMemory() if settings.allow_client_shm else NO_REGIONS
    kernel.services.offer(RegionRegistry, regions)
    kernel.services.offer(TensorMessages, OpenInferenceMessages())
    rules = OipRules(regions, settings.max_body, settings.ignores_surplus)
    exposition = kernel.exposition

    def operations() -> list[Operation]:
        brought = [one for part in kernel.parts for table in part.http for one in table.operations]
        return [*brought, *OPERATIONS]

    async def close() -> None:
        if regions.is_allowed:
            regions.unregister()

    http = OpenInferenceOperations(door, control, exposition, context, rules, operations)
    methods = OpenInferenceMethods(door, control, context, rules)
    files = Additions(attachments=[WarmupFiles()])
    return Parts(http=[http.table()], grpc=[methods.table()], additions=files, close=close)
