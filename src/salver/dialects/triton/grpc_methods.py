"""gRPC methods of Triton's extensions, in the service of the Open Inference Protocol."""

import asyncio
from collections.abc import Callable
from typing import Final

from salver.dialects.oip.faults import grpc_status
from salver.dialects.oip.grpc_methods import SERVICE
from salver.dialects.oip.regions import RegionRegistry
from salver.dialects.triton.shared_memory_operations import SharedMemoryOperations
from salver.dialects.triton.statistics import check_counted
from salver.lazy import lazy_imports
from salver.transport.effects import changes, changes_if, reads
from salver.transport.grpc_table import GrpcTable, Reply
from salver.transport.ports import Control, InferDoor
from salver.words.messages import Call

with lazy_imports():
    from salver.dialects.oip.grpc_codec import decode_model_request
    from salver.dialects.triton import grpc_codec as wire
    from salver.dialects.triton.grpc_schema import build_all
    from salver.dialects.triton.ports import TritonMonitor


_PREFIX: Final = f"/{SERVICE}/"
#: Fields that name the model.
_NAMES: Final = {
    **{"ModelConfig": 1, "ModelStatistics": 1, "TraceSetting": 2},
    **{"RepositoryModelLoad": 2, "RepositoryModelUnload": 2},
}


class TritonMethods:
    """Methods of one server.

    Args:
        model_config: Returns a version's ModelConfig, serialised; raises NotFound or NotReady.
        regions: Memory that callers share with the server.
    """

    def __init__(
        self,
        door: InferDoor,
        control: Control,
        monitor: TritonMonitor,
        model_config: Callable[[str, str], bytes],
        regions: RegionRegistry,
    ) -> None:
        self._door = door
        self._control = control
        self._model_config = model_config
        self._monitor = monitor
        self._regions = regions

    def table(self) -> GrpcTable:
        """Return the methods."""
        methods = {
            "ModelConfig": self._config,
            "ModelStatistics": self._statistics,
            "TraceSetting": self._trace_setting,
            "LogSettings": self._log_settings,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
            **SharedMemoryOperations(self._regions).grpc(),
        }
        paths = {_PREFIX + name: method for name, method in methods.items()}
        names: dict[str, tuple[int, ...]] = {_PREFIX + name: (field,) for name, field in _NAMES.items()}
        names[f"{_PREFIX}RepositoryIndex"] = ()
        return GrpcTable("oip-grpc", grpc_status, paths, names=names, messages=build_all)

    @reads
    async def _config(self, message: bytes, call: Call) -> Reply:
        name, version = decode_model_request(message)
        return wire.encode_model_config(self._model_config(name, version))

    @reads
    async def _statistics(self, message: bytes, call: Call) -> Reply:
        name, version = decode_model_request(message)
        if name:
            check_counted(self._door, name, version)
        return wire.encode_statistics(self._monitor.statistics(name, name and version))

    @changes_if(lambda message: bool(wire.decode_trace_request(message)[1]))
    async def _trace_setting(self, message: bytes, call: Call) -> Reply:
        name, change = wire.decode_trace_request(message)
        return wire.encode_trace(self._monitor.trace_setting(name, change))

    @changes_if(lambda message: bool(wire.decode_log_request(message)))
    async def _log_settings(self, message: bytes, call: Call) -> Reply:
        change = wire.decode_log_request(message)
        return wire.encode_log(self._monitor.log_settings(change))

    @reads
    async def _index(self, message: bytes, call: Call) -> Reply:
        only_ready = wire.decode_index_request(message)
        statuses = [status for status in self._control.statuses() if call.may_see(status.id.name)]
        return wire.encode_index(statuses, only_ready)

    @changes
    async def _load(self, message: bytes, call: Call) -> Reply:
        name, order = await asyncio.to_thread(wire.decode_load_request, message)
        await self._control.load(name, order)
        return b""

    @changes
    async def _unload(self, message: bytes, call: Call) -> Reply:
        name, dependents = wire.decode_unload_request(message)
        await self._control.unload(name, dependents=dependents)
        return b""
