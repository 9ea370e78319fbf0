"""Operations on shared memory, over HTTP and gRPC (TR-R14, TR-R15, TR-G4).

CUDA memory is not supported: none is listed, it cannot be registered, and unregistering it is no error.
"""

from collections.abc import Awaitable, Callable
from typing import NoReturn

import msgspec

from salver.dialects.oip.regions import RegionRegistry
from salver.encoding.bodies import HttpBody, HttpReply
from salver.encoding.json_text import dumps
from salver.lazy import lazy_imports
from salver.transport.effects import changes, reads
from salver.transport.routes import Endpoint, Route
from salver.words.errors import InvalidInput, NotFound
from salver.words.messages import Call

with lazy_imports():
    from salver.dialects.oip.regions import parse_register
    from salver.dialects.triton import grpc_codec as wire


_DONE = HttpReply(200, b"")


class SharedMemoryOperations:
    """Operations on one registry."""

    def __init__(self, registry: RegionRegistry) -> None:
        self._registry = registry

    def http(self) -> dict[str, Endpoint]:
        """Return the operations by the names of ``routes.py``."""
        return {
            "regions": Endpoint(self._status),
            "region_register": Endpoint(self._register),
            "region_unregister": Endpoint(self._unregister),
            "cuda_regions": Endpoint(self._cuda_status),
            "cuda_register": Endpoint(self._cuda_register),
            "cuda_unregister": Endpoint(self._cuda_unregister),
        }

    def grpc(self) -> dict[str, Callable[[bytes, Call], Awaitable[bytes]]]:
        """Return the methods by their names."""
        return {
            "SystemSharedMemoryStatus": self._grpc_status,
            "SystemSharedMemoryRegister": self._grpc_register,
            "SystemSharedMemoryUnregister": self._grpc_unregister,
            "CudaSharedMemoryStatus": self._grpc_cuda_status,
            "CudaSharedMemoryRegister": self._grpc_cuda_register,
            "CudaSharedMemoryUnregister": self._grpc_cuda_unregister,
        }

    async def _status(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        return HttpReply(200, dumps([msgspec.structs.asdict(r) for r in self._registry.listed(route.region)]))

    async def _register(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        self._registry.register(parse_register(route.region, http.body))
        return _DONE

    async def _unregister(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        self._registry.unregister(route.region)
        return _DONE

    async def _cuda_status(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        _find_cuda(route.region)
        return HttpReply(200, b"[]")

    async def _cuda_register(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        _refuse_cuda(route.region)

    async def _cuda_unregister(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        return _DONE

    @reads
    async def _grpc_status(self, message: bytes, call: Call) -> bytes:
        return wire.encode_regions(self._registry.listed(wire.decode_region_name(message)))

    @changes
    async def _grpc_register(self, message: bytes, call: Call) -> bytes:
        self._registry.register(wire.decode_region(message))
        return b""

    @changes
    async def _grpc_unregister(self, message: bytes, call: Call) -> bytes:
        self._registry.unregister(wire.decode_region_name(message))
        return b""

    @reads
    async def _grpc_cuda_status(self, message: bytes, call: Call) -> bytes:
        _find_cuda(wire.decode_region_name(message))
        return b""

    @changes
    async def _grpc_cuda_register(self, message: bytes, call: Call) -> bytes:
        _refuse_cuda(wire.decode_region_name(message))

    @changes
    async def _grpc_cuda_unregister(self, message: bytes, call: Call) -> bytes:
        wire.decode_region_name(message)
        return b""


def _find_cuda(name: str) -> None:
    if name:
        raise NotFound(f"Unable to find cuda shared memory region: '{name}'")


def _refuse_cuda(name: str) -> NoReturn:
    if not name:
        raise InvalidInput("'region name' is necessary to register cuda shared memory region")
    raise InvalidInput(
        f"failed to register CUDA shared memory region: '{name}', GPUs not supported",
        fix="Use system shared memory.",
    )
