"""TorchServe's gRPC clients as its users have them: classes and stubs made of its own files.

In a descriptor pool of its own, so that no other package's copy of the messages is in the way.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PROTOS = Path(__file__).parent / "torchserve_protos"
INFERENCE = "org.pytorch.serve.grpc.inference"
MANAGEMENT = "org.pytorch.serve.grpc.management"
OPEN_INFERENCE = "org.pytorch.serve.grpc.openinference"
SERVICES = {
    f"{INFERENCE}.InferenceAPIsService",
    f"{MANAGEMENT}.ManagementAPIsService",
    f"{OPEN_INFERENCE}.GRPCInferenceService",
}


@cache
def pool() -> descriptor_pool.DescriptorPool:
    made = descriptor_pool.DescriptorPool()
    whole = descriptor_pb2.FileDescriptorSet.FromString((PROTOS / "torchserve.binpb").read_bytes())
    for file in whole.file:
        made.Add(file)
    return made


@cache
def message(name: str) -> Any:
    """Return the class of that full name."""
    return message_factory.GetMessageClass(pool().FindMessageTypeByName(name))


def inference(name: str, /, **fields: Any) -> Any:
    return message(f"{INFERENCE}.{name}")(**fields)


def management(name: str, /, **fields: Any) -> Any:
    return message(f"{MANAGEMENT}.{name}")(**fields)


def open_inference(name: str, /, **fields: Any) -> Any:
    return message(f"{OPEN_INFERENCE}.{name}")(**fields)


class Stub:
    """The methods of a service, by their names."""

    def __init__(self, channel: grpc.Channel, service: str) -> None:
        for method in pool().FindServiceByName(service).methods:
            client, server = method.client_streaming, method.server_streaming
            kind = f"{'stream' if client else 'unary'}_{'stream' if server else 'unary'}"
            made = getattr(channel, kind)(
                f"/{service}/{method.name}",
                request_serializer=lambda sent: sent.SerializeToString(),
                response_deserializer=message(method.output_type.full_name).FromString,
            )
            setattr(self, method.name, made)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


class Client:
    """All three services of a server, at one port or at two."""

    def __init__(
        self, inference: str, management: str = "", *, options: Iterable[tuple[str, Any]] = ()
    ) -> None:
        self._channels = [
            grpc.insecure_channel(at, list(options)) for at in (inference, management or inference)
        ]
        self.inference = Stub(self._channels[0], f"{INFERENCE}.InferenceAPIsService")
        self.open_inference = Stub(self._channels[0], f"{OPEN_INFERENCE}.GRPCInferenceService")
        self.management = Stub(self._channels[1], f"{MANAGEMENT}.ManagementAPIsService")

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        for channel in self._channels:
            channel.close()


def asked(model: str, data: bytes = b"x", *, key: str = "data", **fields: Any) -> Any:
    """Return a PredictionsRequest of one input."""
    return inference("PredictionsRequest", model_name=model, input={key: data}, **fields)


def failure(call: Any) -> tuple[str, str]:
    """Code and details with which a call ends."""
    try:
        for _ in call() if isinstance(call, Iterator) else [call()]:
            pass
    except grpc.RpcError as error:
        return error.code().name, error.details()
    raise AssertionError("the call went well")
