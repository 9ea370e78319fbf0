"""How does one gRPC call become one answer?

Methods are ordinary ASGI exchanges: five-byte frames in and out, status in the trailers. What a
message means stands in ``wire/oip_grpc.py``; here is the table of methods and the exchange.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from salver import __version__
from salver.errors import Internal, InvalidInput, NoRoute, NotFound, SalverError
from salver.messages import Call, InferRequest, InferResponse, Signature
from salver.transport.hangup import HangUps, Receive
from salver.transport.ports import Control, Exposition, InferDoor
from salver.wire import oip_grpc as wire
from salver.wire import traceparent as w3c
from salver.wire.bodies import GrpcStatus
from salver.wire.faults import grpc_status
from salver.wire.grpc_frames import FrameReader, encode_message, frame, parse_timeout

_LOG = logging.getLogger("salver.grpc")
_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/grpc"), (b"grpc-accept-encoding", b"identity,deflate,gzip")],
    "trailers": True,
}
_OK = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}
_SERVICES = ("inference.GRPCInferenceService", "grpc.health.v1.Health")

Send = Callable[[dict[str, Any]], Awaitable[None]]
Reply = bytes | GrpcStatus


class OpenInferenceGrpc:
    """The codec that the one door calls; the message was parsed to learn the model's name."""

    protocol = "oip-grpc"

    def decode(self, body: InferRequest, signature: Signature) -> InferRequest:
        """Already done."""
        return body

    def encode(self, request: InferRequest, response: InferResponse) -> Reply:
        """A ModelInferResponse."""
        return wire.encode_infer(request, response)

    def fault(self, error: SalverError) -> Reply:
        """The status of the call."""
        return grpc_status(error)


class GrpcMethods:
    """Every method of ``inference.GRPCInferenceService`` and ``grpc.health.v1.Health``.

    Args:
        max_message: Most bytes of one message.
    """

    def __init__(
        self,
        door: InferDoor,
        control: Control,
        exposition: Exposition,
        *,
        clock: Callable[[], float],
        new_id: Callable[[], str],
        max_message: int,
    ) -> None:
        self._door = door
        self._control = control
        self._exposition = exposition
        self._clock = clock
        self._new_id = new_id
        self._max_message = max_message
        self._codec = OpenInferenceGrpc()
        inference, health = (f"/{name}/" for name in _SERVICES)
        self._methods: dict[str, Callable[[bytes, Call], Awaitable[Reply]]] = {
            f"{inference}ModelInfer": self._infer,
            f"{inference}ServerLive": self._live,
            f"{inference}ServerReady": self._ready,
            f"{inference}ModelReady": self._model_ready,
            f"{inference}ServerMetadata": self._server_metadata,
            f"{inference}ModelMetadata": self._model_metadata,
            f"{inference}ModelStatistics": self._statistics,
            f"{inference}RepositoryIndex": self._index,
            f"{inference}RepositoryModelLoad": self._load,
            f"{inference}RepositoryModelUnload": self._unload,
            f"{health}Check": self._health,
        }

    async def handle(
        self,
        path: str,
        headers: Mapping[bytes, bytes],
        receive: Receive,
        send: Send,
        hangups: HangUps,
    ) -> None:
        """One unary call, from its first frame to its trailers."""
        arrival = self._clock()
        deadline: float | None = None
        try:
            timeout = headers.get(b"grpc-timeout")
            if timeout is not None:
                deadline = arrival + parse_timeout(timeout.decode("latin-1"))
            method = self._methods.get(path)
            if method is None:
                raise NoRoute(f"unknown method {path}")
            message = await self._read(headers, receive)
            if message is None:
                return  # hung up before the request was there
            call = self._call(headers, arrival, deadline)
            task = hangups.enter(receive)
            try:
                if deadline is None or method == self._infer:
                    reply = await method(message, call)
                else:
                    async with asyncio.timeout(deadline - arrival):
                        reply = await method(message, call)
            finally:
                hangups.leave(task)
        except SalverError as error:
            reply = grpc_status(error)
        except TimeoutError:
            reply = GrpcStatus(4, "Deadline Exceeded")
        except asyncio.CancelledError:
            task_ = asyncio.current_task()
            if task_ is not None and task_.cancelling() > 1:
                raise
            return
        except Exception as error:
            incident = self._new_id()
            _LOG.exception("incident %s: %s", incident, path, exc_info=error)
            reply = grpc_status(Internal(f"internal error, incident {incident}; the log has the cause"))
        await _write(send, reply)

    def _call(self, headers: Mapping[bytes, bytes], arrival: float, deadline: float | None) -> Call:
        request_id = headers.get(b"x-request-id", b"")[:128].decode("ascii", "ignore")
        call = Call("oip-grpc", arrival, deadline, request_id or self._new_id())
        trace = headers.get(b"traceparent")
        if trace is not None:
            parent = w3c.parse(trace.decode("latin-1"))
            if parent is not None:
                call.traceparent = w3c.format(w3c.child(parent, self._new_id()))
        return call

    async def _read(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes | None:
        """The one message of a unary call; None if the caller left first."""
        encoding = headers.get(b"grpc-encoding", b"identity").decode("latin-1")
        reader = FrameReader(self._max_message, encoding)
        while True:
            event = await receive()
            if event["type"] != "http.request":
                return None
            messages = reader.feed(event.get("body", b""))
            if messages:
                return messages[0]
            if not event.get("more_body"):
                raise InvalidInput("the call ended before its message was complete")

    # The methods.

    async def _infer(self, message: bytes, call: Call) -> Reply:
        request = wire.decode_infer(message)
        reply: Reply = await self._door.infer(self._codec, request, request.model, request.version, call)
        return reply

    async def _live(self, message: bytes, call: Call) -> Reply:
        return wire.encode_server_live(True)

    async def _ready(self, message: bytes, call: Call) -> Reply:
        return wire.encode_server_ready(self._control.is_ready())

    async def _model_ready(self, message: bytes, call: Call) -> Reply:
        name, version = wire.decode_model_request(message)
        return wire.encode_model_ready(self._control.is_ready(name, version))

    async def _server_metadata(self, message: bytes, call: Call) -> Reply:
        return wire.encode_server_metadata(__version__)

    async def _model_metadata(self, message: bytes, call: Call) -> Reply:
        name, version = wire.decode_model_request(message)
        id, signature = self._door.signature(name, version)
        return wire.encode_model_metadata(id, _versions(self._control, name, version), signature)

    async def _statistics(self, message: bytes, call: Call) -> Reply:
        name, version = wire.decode_model_request(message)
        if name:
            self._door.signature(name, version)
        return wire.encode_statistics(self._exposition.statistics(name, version))

    async def _index(self, message: bytes, call: Call) -> Reply:
        only_ready = wire.decode_index_request(message)
        return wire.encode_index(self._control.statuses(), only_ready)

    async def _load(self, message: bytes, call: Call) -> Reply:
        name, parameters = wire.decode_load_request(message)
        await self._control.load(name, parameters)
        return b""

    async def _unload(self, message: bytes, call: Call) -> Reply:
        name, parameters = wire.decode_unload_request(message)
        await self._control.unload(name, parameters)
        return b""

    async def _health(self, message: bytes, call: Call) -> Reply:
        service = wire.decode_health_request(message)
        if service in ("", *_SERVICES):
            return wire.encode_health(self._control.is_ready())
        if any(status.id.name == service for status in self._control.statuses()):
            return wire.encode_health(self._control.is_ready(service))
        raise NotFound(f"unknown service {service!r}")


async def _write(send: Send, reply: Reply) -> None:
    await send(_START)
    if isinstance(reply, bytes):
        await send({"type": "http.response.body", "body": frame(reply)})
        await send(_OK)
        return
    await send({"type": "http.response.body", "body": b""})
    trailers = [(b"grpc-status", b"%d" % reply.code)]
    if reply.message:
        trailers.append((b"grpc-message", encode_message(reply.message)))
    await send({"type": "http.response.trailers", "headers": trailers})


def _versions(control: Control, name: str, version: str) -> list[str]:
    """The versions that could answer now."""
    if version:
        return [version]
    return [s.id.version for s in control.statuses() if s.id.name == name and s.state == "READY"]


