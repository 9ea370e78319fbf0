"""Operations on shared memory, without a server (TR-R14, TR-R15, TR-G4)."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import tritonclient.grpc.service_pb2 as pb
from dialect_tables import match

from salver.dialects.oip.regions import NO_REGIONS, Region, RegionRegistry
from salver.dialects.oip.shared_memory import SharedMemory
from salver.dialects.triton.shared_memory_operations import SharedMemoryOperations
from salver.encoding.bodies import HttpBody
from salver.words.errors import InvalidInput, NotFound, Unsupported
from salver.words.messages import Call

CALL = Call("oip-http", 0.0)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[SharedMemory]:
    (tmp_path / "k").write_bytes(bytes(64))
    memory = SharedMemory(tmp_path)
    memory.register(Region("a/b", "/k", 0, 8))
    yield memory
    memory.unregister()


def http(registry: RegionRegistry, verb: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    route = match(verb, path.encode())
    method = SharedMemoryOperations(registry).http()[route.operation].run
    assert method is not None
    reply = asyncio.run(method(route, HttpBody("", "", body), CALL))  # type: ignore[arg-type]
    return reply.status, reply.body


def grpc(registry: RegionRegistry, method: str, **fields: object) -> object:
    message = getattr(pb, f"{method}Request")(**fields).SerializeToString()
    answer = asyncio.run(SharedMemoryOperations(registry).grpc()[method](message, CALL))  # type: ignore[arg-type]
    return getattr(pb, f"{method}Response").FromString(answer)


SYSTEM, CUDA = "/v2/systemsharedmemory", "/v2/cudasharedmemory"
STATUS = {"name": "a/b", "key": "/k", "offset": 0, "byte_size": 8}


def test_over_http(memory: SharedMemory) -> None:
    for path in (f"{SYSTEM}/status", f"{SYSTEM}/region/a%2Fb/status"):
        status, body = http(memory, "GET", path)
        assert (status, json.loads(body)) == (200, [STATUS])
    body = b'{"key":"/k","offset":0,"byte_size":64}'
    assert http(memory, "POST", f"{SYSTEM}/region/r/register", body) == (200, b"")
    assert http(memory, "POST", f"{SYSTEM}/region/nosuch/unregister") == (200, b"")
    assert http(memory, "POST", f"{SYSTEM}/region/a%2Fb/unregister") == (200, b"")
    assert memory.listed() == (Region("r", "/k", 0, 64),)
    assert http(memory, "POST", f"{SYSTEM}/unregister") == (200, b"")
    assert http(memory, "GET", f"{SYSTEM}/status") == (200, b"[]")
    with pytest.raises(NotFound, match="Unable to find system shared memory region: 'nosuch'"):
        http(memory, "GET", f"{SYSTEM}/region/nosuch/status")
    for path, kind in ((SYSTEM, "system"), (CUDA, "cuda")):
        with pytest.raises(InvalidInput, match=f"'region name' is necessary to register {kind} shared"):
            http(memory, "POST", f"{path}/register")


def test_over_grpc(memory: SharedMemory) -> None:
    for name in ("", "a/b"):
        found = grpc(memory, "SystemSharedMemoryStatus", name=name)
        assert found == pb.SystemSharedMemoryStatusResponse(regions={"a/b": STATUS})
    grpc(memory, "SystemSharedMemoryRegister", name="r", key="/k", byte_size=64)
    grpc(memory, "SystemSharedMemoryUnregister", name="a/b")
    assert memory.listed() == (Region("r", "/k", 0, 64),)
    grpc(memory, "SystemSharedMemoryUnregister")
    assert memory.listed() == ()
    with pytest.raises(NotFound, match="Unable to find system shared memory region: 'nosuch'"):
        grpc(memory, "SystemSharedMemoryStatus", name="nosuch")
    with pytest.raises(InvalidInput, match="'region name' is necessary"):
        grpc(memory, "SystemSharedMemoryRegister", key="/k", byte_size=64)


def test_there_is_no_cuda_memory(memory: SharedMemory) -> None:
    assert http(memory, "GET", f"{CUDA}/status") == (200, b"[]")
    assert grpc(memory, "CudaSharedMemoryStatus") == pb.CudaSharedMemoryStatusResponse()
    for unregister in (f"{CUDA}/unregister", f"{CUDA}/region/r/unregister"):
        assert http(memory, "POST", unregister) == (200, b"")
    grpc(memory, "CudaSharedMemoryUnregister", name="r")
    with pytest.raises(NotFound, match="Unable to find cuda shared memory region: 'r'"):
        http(memory, "GET", f"{CUDA}/region/r/status")
    with pytest.raises(NotFound, match="Unable to find cuda shared memory region: 'r'"):
        grpc(memory, "CudaSharedMemoryStatus", name="r")
    text = "failed to register CUDA shared memory region: 'r', GPUs not supported"
    with pytest.raises(InvalidInput, match=text):
        http(memory, "POST", f"{CUDA}/region/r/register", b"{}")
    with pytest.raises(InvalidInput, match=text):
        grpc(memory, "CudaSharedMemoryRegister", name="r", raw_handle=b"x", byte_size=8)


@pytest.mark.clause("TR-F11")
def test_where_it_is_not_allowed() -> None:
    assert http(NO_REGIONS, "GET", f"{SYSTEM}/status") == (200, b"[]")
    with pytest.raises(NotFound, match="Unable to find system shared memory region: 'r'"):
        http(NO_REGIONS, "GET", f"{SYSTEM}/region/r/status")
    for ask in (
        lambda: http(NO_REGIONS, "POST", f"{SYSTEM}/region/r/register", b'{"key":"/k","byte_size":8}'),
        lambda: http(NO_REGIONS, "POST", f"{SYSTEM}/region/r/unregister"),
        lambda: grpc(NO_REGIONS, "SystemSharedMemoryRegister", name="r", key="/k", byte_size=8),
        lambda: grpc(NO_REGIONS, "SystemSharedMemoryUnregister"),
    ):
        with pytest.raises(Unsupported, match="Start the server with '--allow-client-shm=true' to enable"):
            ask()
