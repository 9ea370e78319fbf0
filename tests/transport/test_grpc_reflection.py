"""Reflection and watching health, as a client of gRPC sees them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from waiting import PATIENCE_S
from zoo import write_mlp

from salver.app import Server
from salver.configuration import ServeConfig
from salver.encoding import protobuf_tables as protobuf
from salver.transport.grpc_reflection import _MESSAGES, PACKAGES
from salver.transport.server import FrontConfig
from salver.words.artifacts import LoadOrder

HEALTH = "/grpc.health.v1.Health/Watch"


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    write_mlp(tmp_path / "mlp", 1)
    async with Server(
        ServeConfig(paths=(str(tmp_path),), front=FrontConfig(port=0), control="explicit")
    ) as server:
        yield server


def channel(server: Server) -> Any:
    return grpc.aio.insecure_channel(f"127.0.0.1:{server.port}")


@pytest.mark.parametrize("package", PACKAGES)
async def test_a_client_that_knows_nothing_asks_a_model(server: Server, package: str) -> None:
    own = protobuf.build(protobuf.Table(package, _MESSAGES))
    request, response = own["ServerReflectionRequest"], own["ServerReflectionResponse"]
    async with channel(server) as there:
        ask = there.stream_stream(
            f"/{package}.ServerReflection/ServerReflectionInfo",
            request.SerializeToString,
            response.FromString,
        )
        call = ask()
        await call.write(request(list_services="*"))
        services = [each.name for each in (await call.read()).list_services_response.service]
        assert services == sorted(services)
        assert {
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
            "inference.GRPCInferenceService",
            "tensorflow.serving.PredictionService",
        } <= set(services)
        pool = descriptor_pool.DescriptorPool()
        added: dict[str, bytes] = {}
        for service in services:
            await call.write(request(file_containing_symbol=service))
            files = (await call.read()).file_descriptor_response.file_descriptor_proto
            for data in reversed(files):
                file = descriptor_pb2.FileDescriptorProto.FromString(data)
                if file.name not in added:
                    pool.AddSerializedFile(data)
                assert added.setdefault(file.name, data) == data
                await call.write(request(file_by_filename=file.name))
                assert (await call.read()).file_descriptor_response.file_descriptor_proto[0] == data
            assert pool.FindServiceByName(service).methods
        for text in ("file_containing_symbol", "file_by_filename"):
            await call.write(request(**{text: "none"}))
            assert (await call.read()).error_response.error_code == 5
        await call.write(request())
        assert (await call.read()).error_response.error_code == 12
        await call.done_writing()
        assert await call.read() == grpc.aio.EOF
        assert await call.code() == grpc.StatusCode.OK

        method = pool.FindServiceByName("inference.GRPCInferenceService").methods_by_name["ServerLive"]
        takes, gives = map(message_factory.GetMessageClass, (method.input_type, method.output_type))
        live = there.unary_unary(
            "/inference.GRPCInferenceService/ServerLive", takes.SerializeToString, gives.FromString
        )
        assert (await live(takes())).live


async def test_what_is_no_request_ends_the_call(server: Server) -> None:
    async with channel(server) as there:
        ask = there.stream_stream(f"/{PACKAGES[0]}.ServerReflection/ServerReflectionInfo")
        call = ask()
        await call.write(b"\xff\xff\xff")
        with pytest.raises(grpc.aio.AioRpcError) as info:
            await call.read()
        assert info.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def health(service: str) -> bytes:
    return b"\x0a" + bytes([len(service)]) + service.encode()


async def test_health_is_watched_and_told_when_it_changes(server: Server) -> None:
    async with channel(server) as there, asyncio.timeout(PATIENCE_S):
        watch = there.unary_stream(HEALTH)
        whole, model, none = (watch(health(name)) for name in ("", "mlp", "none"))
        assert await whole.read() == b"\x08\x01"
        assert await none.read() == b"\x08\x03"
        assert await model.read() in (b"\x08\x02", b"\x08\x03")
        await server.control.load("mlp", LoadOrder())
        assert await model.read() == b"\x08\x01"
        await server.control.unload("mlp")
        assert await model.read() in (b"\x08\x02", b"\x08\x03")
        none.cancel()
        stopping = asyncio.create_task(server.stop())
        with pytest.raises(grpc.aio.AioRpcError) as info:
            while await whole.read() != grpc.aio.EOF:
                pass
        assert info.value.code() == grpc.StatusCode.UNAVAILABLE
        await stopping
