"""How does one gRPC call become one answer?

Methods are ordinary ASGI exchanges: five-byte frames in and out, status in the trailers. What a
message means stands in ``dialects/oip/grpc_codec.py``, and for TensorFlow Serving's and TorchServe's
methods behind
``dialects/tensorflow/grpc_methods.py`` and ``dialects/torchserve/grpc_methods.py``; here is the table of
methods and the exchange.
"""

import asyncio
import logging
import struct
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from salver import __version__
from salver.dialects.oip import grpc_codec as wire
from salver.dialects.oip import metadata
from salver.dialects.oip.classification import with_classes
from salver.dialects.oip.grpc_stream import (
    HEADERS,
    START,
    STOPPING,
    Asked,
    Send,
    Streamed,
    StreamLimits,
    packed,
)
from salver.dialects.oip.regions import NO_REGIONS, Regions
from salver.dialects.oip.shared_memory_operations import SharedMemoryOperations
from salver.dialects.oip.stream_codec import StreamedInfer
from salver.dialects.tensorflow.grpc_methods import INFERRING as TFS_INFERRING
from salver.dialects.tensorflow.grpc_methods import SERVICES as TFS_SERVICES
from salver.dialects.tensorflow.grpc_methods import SHORT_NAMES as TFS_SHORT_NAMES
from salver.dialects.tensorflow.grpc_methods import TensorFlowServingMethods
from salver.dialects.torchserve.grpc_methods import INFERRING as TS_INFERRING
from salver.dialects.torchserve.grpc_methods import PREFIX as TS_PREFIX
from salver.dialects.torchserve.grpc_methods import SERVICES as TS_SERVICES
from salver.dialects.torchserve.grpc_methods import TorchServeMethods, fault_at
from salver.dialects.torchserve.tensors import as_form, as_tensors
from salver.encoding.bodies import GrpcStatus
from salver.encoding.values import has_many_strings
from salver.encoding.varints import check_fields
from salver.kernel.serving.decoding import Decoders
from salver.kernel.serving.ports import Codec
from salver.kernel.serving.standing import CLASS_HEADER, PRIORITY_HEADER, from_headers
from salver.transport.access_check import LOCAL, Access
from salver.transport.budget import COUNTED, Budget, Share, pace
from salver.transport.calls import (
    Reception,
    check_counted,
    is_shutting_down,
    join_trace,
    printable,
    ready_versions,
    take_traits,
)
from salver.transport.effects import changes, changes_if, changing, reads
from salver.transport.faults import grpc_status, tfs_status
from salver.transport.grpc_frames import FrameReader, Packed, frame, parse_timeout, trailers
from salver.transport.grpc_reflection import METHOD, PACKAGES, SERVICE, Reflection
from salver.transport.grpc_services import Talk, one_by_one, watched
from salver.transport.hangup import HangUps, Receive
from salver.transport.ports import Control, Exposition, InferDoor
from salver.words.errors import Internal, InvalidInput, NoRoute, NotFound, NotReady, SalverError
from salver.words.handlers import is_form
from salver.words.messages import Call, InferRequest, InferResponse, Signature

_LOG = logging.getLogger("salver.grpc")
_OK = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}
_prefix = struct.Struct(">xI").pack  # of a message that is not compressed
#: Headers of calls that bring a deadline, an id, a trace or a standing.
_UNUSUAL = frozenset((b"grpc-timeout", b"x-request-id", b"traceparent", CLASS_HEADER, PRIORITY_HEADER))
_INFER = "/inference.GRPCInferenceService/ModelInfer"
_STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
#: Those that keep their deadlines themselves.
_INFERRING = TFS_INFERRING | TS_INFERRING | {_INFER}
_WATCH = "/grpc.health.v1.Health/Watch"
_SERVICES = ("inference.GRPCInferenceService", "grpc.health.v1.Health")
_HEALTHY = frozenset(("", *_SERVICES, *TFS_SERVICES, *TFS_SHORT_NAMES, *TS_SERVICES))

Reply = bytes | GrpcStatus
_Method = Callable[[bytes, Call], Awaitable[Reply]]


class OpenInferenceGrpc(Codec[InferRequest, Reply]):
    """The codec that the one door calls; the message was parsed to learn the model's name."""

    protocol = "oip-grpc"

    def __init__(self, regions: Regions, *, ignores_surplus: bool = False) -> None:
        messages = wire.InferMessages(regions, ignores_surplus=ignores_surplus)
        self.read = messages.read
        self.is_slow = messages.is_slow
        self._write = messages.write

    def decode(self, body: InferRequest, signature: Signature) -> InferRequest:
        """Already done, but for what the signature tells of classes, and for handlers."""
        if signature.takes_forms:
            return as_form(body)
        return with_classes(body, signature) if body.outputs else body

    def takes_long(self, response: InferResponse) -> bool:
        """Would others wait while ``encode`` writes it?"""
        return has_many_strings(response.outputs)

    def encode(self, request: InferRequest, response: InferResponse) -> Reply:
        """A ModelInferResponse."""
        if is_form(request):
            response = as_tensors(response)
        return self._write(request, response)

    def fault(self, error: SalverError) -> Reply:
        """The status of the call."""
        return grpc_status(error)


class _Family(NamedTuple):
    """What the methods of one protocol have in common.

    Attributes:
        protocol: Label of the metrics.
        fault: How a call ends with an error.
        max_message: Most bytes of a request.
        uncounted: Most bytes of a small one, its prefix included.
    """

    protocol: str
    fault: Callable[[SalverError], GrpcStatus]
    max_message: int
    uncounted: int

    @classmethod
    def of(cls, protocol: str, fault: Callable[[SalverError], GrpcStatus], max_message: int) -> "_Family":
        """One whose small requests are as small as everywhere."""
        return cls(protocol, fault, max_message, min(COUNTED, max_message) + 5)


class GrpcMethods:
    """Every method of ``inference.GRPCInferenceService``, ``grpc.health.v1.Health`` and TensorFlow Serving.

    Args:
        reception: Clock, ids, and the metadata that names the tenant.
        max_message: Most bytes of one message.
        torchserve: TorchServe's methods; None = there are none.
    """

    def __init__(
        self,
        door: InferDoor,
        control: Control,
        exposition: Exposition,
        reception: Reception,
        *,
        max_message: int,
        torchserve: TorchServeMethods | None = None,
    ) -> None:
        self._door = door
        self._control = control
        self._exposition = exposition
        self._clock = reception.clock
        self._new_id = reception.new_id
        self._tenant_header = reception.tenant_header
        self._unusual = reception.unusual(_UNUSUAL)
        self._name = reception.server_name
        self._guard = reception.grpc.guard
        self._forwarding = reception.grpc.forwarding
        self._regions = reception.regions
        self._decoders = reception.decoders
        self._budget = reception.budget or Budget()
        self._curious = reception.curious
        self._compression = reception.compression
        self._tritons_words = reception.tritons_words
        self._is_stopping = False
        self._more = metadata.SHARED_MEMORY if self._regions.is_allowed else ()
        self._ignores_surplus = reception.ignores_surplus
        self._codec = OpenInferenceGrpc(self._regions, ignores_surplus=self._ignores_surplus)
        self._torchserve = torchserve
        limits = StreamLimits(max_message)
        streamed = Streamed(door, reception, self._streamed, limits, read_large=self._streamed_large)
        self._streams: dict[str, Streamed | Talk] = {
            _STREAM_INFER: streamed,
            _WATCH: Talk(watched(self._look)),
        }
        self._reflection: Reflection | None = None
        for package in PACKAGES:
            path = f"/{package}.{SERVICE}/{METHOD}"
            self._streams[path] = Talk(one_by_one(partial(self._reflect, package)))
        inference, health = (f"/{name}/" for name in _SERVICES)
        self._methods: dict[str, _Method] = {
            f"{inference}ModelInfer": self._infer,
            f"{inference}ServerLive": self._live,
            f"{inference}ServerReady": self._ready,
            f"{inference}ModelReady": self._model_ready,
            f"{inference}ServerMetadata": self._server_metadata,
            f"{inference}ModelMetadata": self._model_metadata,
            f"{inference}ModelConfig": self._config,
            f"{inference}ModelStatistics": self._statistics,
            f"{inference}TraceSetting": self._trace_setting,
            f"{inference}LogSettings": self._log_settings,
            f"{inference}RepositoryIndex": self._index,
            f"{inference}RepositoryModelLoad": self._load,
            f"{inference}RepositoryModelUnload": self._unload,
            f"{health}Check": self._health,
        }
        for name, method in SharedMemoryOperations(self._regions).grpc().items():
            self._methods[inference + name] = method
        tfs = TensorFlowServingMethods(door, control, exposition, reception.tfs).grpc()
        self._methods |= tfs
        self._family = _Family.of("oip-grpc", grpc_status, max_message)
        self._families = dict.fromkeys(tfs, _Family.of("tfs-grpc", tfs_status, max_message))
        if torchserve is not None:
            self._add(torchserve, reception)
        streams: dict[str, Callable[..., Any]] = {path: each.read for path, each in self._streams.items()}
        #: Those that callers need a permission for, with what tells from a message whether they do.
        self._changing = changing({**self._methods, **streams})

    def _add(self, torchserve: TorchServeMethods, reception: Reception) -> None:
        most = torchserve.max_message or self._family.max_message
        methods, streams = torchserve.grpc(), torchserve.streams()
        self._methods |= methods
        for path in (*methods, *streams):
            self._families[path] = _Family.of("ts-grpc", fault_at(path), most)
        for path, read in streams.items():
            self._streams[path] = Streamed(self._door, reception, read, StreamLimits(most), fault_at(path))

    async def handle(
        self,
        scope: Mapping[str, Any],
        headers: Mapping[bytes, bytes],
        receive: Receive,
        send: Send,
        hangups: HangUps,
        access: Access = LOCAL,
    ) -> None:
        """One call, from its first frame to its trailers; what follows is of the unary ones."""
        arrival = self._clock()
        path = scope["path"]
        family = self._families.get(path, self._family)
        call = Call(family.protocol, arrival)
        fault: Callable[[SalverError], GrpcStatus] = grpc_status
        share: Share | None = None
        try:
            if not self._unusual.isdisjoint(headers):
                self._look_closer(headers, call)
            call.request_id = call.request_id or self._new_id()
            method = self._methods.get(path)
            if method is None and path not in self._streams:
                raise NoRoute(f"Method not found: {path[1:]}")
            if self._guard is not None and (header := self._guard.lacks(path, headers)):
                # Triton's text and code (TR-R37).
                raise NotReady(f"This protocol is restricted, expecting header '{header}'")
            if self._is_stopping and path in _INFERRING:
                raise NotReady(STOPPING)
            fault = family.fault
            if self._torchserve is not None and path.startswith(TS_PREFIX):
                self._torchserve.check(path, headers)
            if access.checks_hosts and headers.get(b"host") not in access.known_hosts:
                access.check_host(headers)
            if path in self._changing:
                method = await self._permitted(path, headers, method, access)
            if self._forwarding is not None:
                call.forwarded = self._forwarding.parameters(headers)
            if wanted := self._curious.headers:
                take_traits(call, headers, wanted)
            if method is None:
                with hangups.stream(scope):
                    return await self._streams[path].handle(headers, call, receive, send)
            event = await receive()
            body = event.get("body", b"")
            # Nearly always the one message of a call comes in one piece and as it is.
            if 5 <= len(body) <= family.uncounted and body[:5] == _prefix(len(body) - 5):
                message = body[5:]
            else:
                share = Share(self._budget)
                message = await _read(event, headers, receive, family.max_message, share)
                if message is None:
                    return  # hung up before the request was there
                call.is_large = _is_large(message, path)
            task = hangups.enter(receive)
            try:
                if call.deadline is None or path in _INFERRING:
                    reply = await method(message, call)
                else:
                    async with asyncio.timeout(call.deadline - arrival):
                        reply = await method(message, call)
            finally:
                hangups.leave(task)
        except SalverError as error:
            error.in_tritons_words = self._tritons_words
            reply = fault(error)
        except TimeoutError:
            reply = GrpcStatus(4, "Deadline Exceeded")
        except asyncio.CancelledError:
            if is_shutting_down():
                raise
            return
        except Exception as error:
            reply = fault(self._incident(path, error))
        finally:
            if share is not None:
                share.free()
        if isinstance(reply, bytes):
            await self._answer(send, reply, headers, call, path in _INFERRING)
        else:  # "Trailers-Only": a client that has seen other headers does not try again (gRPC's A6)
            await _end(send, reply)

    async def _answer(
        self, send: Send, reply: bytes, headers: Mapping[bytes, bytes], call: Call, may_pack: bool
    ) -> None:
        if self._compression and may_pack:
            start, body = await packed(reply, headers, self._compression)
        else:
            start, body = START, frame(reply)
        if call.traceparent:
            named = (b"traceparent", call.traceparent.encode())
            start = {**start, "headers": [*start["headers"], named]}
        await send(start)
        await send({"type": "http.response.body", "body": body})
        await send(_OK)

    def _incident(self, path: str, error: Exception) -> Internal:
        incident = self._new_id()
        _LOG.exception("incident %s: %s", incident, path, exc_info=error)
        return Internal.incident(incident)

    async def _permitted(
        self, path: str, headers: Mapping[bytes, bytes], method: _Method | None, access: Access
    ) -> _Method | None:
        """The method, for a caller that may change something, or as far as its message changes nothing."""
        if path in access.closed:
            raise NoRoute(f"Method not found: {path[1:]}")
        is_change = self._changing[path]
        if is_change is None or method is None:
            await access.permit(headers, path)
            return method
        wanted, run = is_change, method

        async def checked(message: bytes, call: Call) -> Reply:
            if wanted(message):
                await access.permit(headers, path)
            return await run(message, call)

        return checked

    def _look_closer(self, headers: Mapping[bytes, bytes], call: Call) -> None:
        """Deadline, id, trace and standing of a call that brings some."""
        timeout = headers.get(b"grpc-timeout")
        if timeout is not None:
            call.deadline = call.arrival + parse_timeout(timeout.decode("latin-1"))
        call.request_id = printable(headers.get(b"x-request-id", b""))
        if b"traceparent" in headers:
            join_trace(call, headers[b"traceparent"], self._new_id)
        call.standing = from_headers(headers, self._tenant_header)

    def stop(self) -> None:
        """No new inference; streams end when what is under way has its replies."""
        self._is_stopping = True
        for streams in self._streams.values():
            streams.stop()

    async def _streamed_large(self, message: bytes, headers: Mapping[bytes, bytes]) -> Asked:
        if self._decoders is None or not wire.is_dense(message):
            return self._streamed(message, headers)
        request = await self._decoders.call(wire.decode_infer, message, NO_REGIONS, self._ignores_surplus)
        return self._streamed(request, headers)

    @reads
    def _streamed(self, message: bytes | InferRequest, headers: Mapping[bytes, bytes]) -> Asked:
        asked = StreamedInfer(
            message,
            self._regions,
            headers.get(b"triton_grpc_error") == b"true",
            ignores_surplus=self._ignores_surplus,
        )
        asked.is_decoupled = self._door.is_decoupled(asked.model, asked.version)
        return asked

    # The methods.

    @reads
    def _infer(self, message: bytes, call: Call) -> Awaitable[Reply]:
        if call.is_large and self._decoders is not None and self._codec.is_slow(message):
            return self._infer_large(self._decoders, message, call)
        call.is_large = False
        request = self._codec.read(message)
        return self._door.infer(self._codec, request, request.model, request.version, call)

    async def _infer_large(self, decoders: Decoders, message: bytes, call: Call) -> Reply:
        """The same; others have their turns while the message is read."""
        seconds = None if call.deadline is None else call.deadline - self._clock()
        request = await decoders.call(
            wire.decode_infer, message, NO_REGIONS, self._ignores_surplus, seconds=seconds
        )
        call.is_large = False
        reply: Reply = await self._door.infer(self._codec, request, request.model, request.version, call)
        return reply

    @reads
    async def _live(self, message: bytes, call: Call) -> Reply:
        return wire.encode_server_live(True)

    @reads
    async def _ready(self, message: bytes, call: Call) -> Reply:
        return wire.encode_server_ready(await self._control.is_ready())

    @reads
    async def _model_ready(self, message: bytes, call: Call) -> Reply:
        name, version = wire.decode_model_request(message)
        return wire.encode_model_ready(bool(name) and await self._control.is_ready(name, version))

    @reads
    async def _server_metadata(self, message: bytes, call: Call) -> Reply:
        return wire.encode_server_metadata(__version__, self._name, self._more)

    @reads
    async def _model_metadata(self, message: bytes, call: Call) -> Reply:
        name, version = wire.decode_model_request(message)
        id, signature = self._door.signature(name, version)
        return wire.encode_model_metadata(id, ready_versions(self._control, name, version), signature)

    @reads
    async def _config(self, message: bytes, call: Call) -> Reply:
        name, version = wire.decode_model_request(message)
        return wire.encode_model_config(self._control.model_config(name, version))

    @reads
    async def _statistics(self, message: bytes, call: Call) -> Reply:
        name, version = wire.decode_model_request(message)
        if name:
            check_counted(self._door, name, version)
        return wire.encode_statistics(self._exposition.statistics(name, version if name else ""))

    @changes_if(lambda message: bool(wire.decode_trace_request(message)[1]))
    async def _trace_setting(self, message: bytes, call: Call) -> Reply:
        name, change = wire.decode_trace_request(message)
        return wire.encode_trace(self._exposition.trace_setting(name, change))

    @changes_if(lambda message: bool(wire.decode_log_request(message)))
    async def _log_settings(self, message: bytes, call: Call) -> Reply:
        change = wire.decode_log_request(message)
        return wire.encode_log(self._exposition.log_settings(change))

    @reads
    async def _index(self, message: bytes, call: Call) -> Reply:
        only_ready = wire.decode_index_request(message)
        return wire.encode_index(self._control.statuses(), only_ready)

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

    @reads
    async def _health(self, message: bytes, call: Call) -> Reply:
        service = wire.decode_health_request(message)
        is_serving = await self._serves(service)
        if is_serving is None:
            raise NotFound(f"unknown service {service!r}")
        return wire.encode_health(is_serving)

    async def _look(self, message: bytes) -> bytes:
        return wire.encode_health(await self._serves(wire.decode_health_request(message)))

    async def _serves(self, service: str) -> bool | None:
        """Whether the server, or a model, can answer; None = there is no such service or model."""
        if service in _HEALTHY:
            return await self._control.is_ready()
        if any(status.id.name == service for status in self._control.statuses()):
            return await self._control.is_ready(service)
        return None

    def _reflect(self, package: str, message: bytes) -> bytes:
        if self._reflection is None:  # built when somebody asks: most servers never are
            self._reflection = Reflection((*self._methods, *self._streams))
        return self._reflection.answer(package, message)


async def _end(send: Send, status: GrpcStatus) -> None:
    """The whole answer to a call that ends with an error."""
    headers = [*HEADERS, *trailers(status)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _is_large(message: bytes, path: str) -> bool:
    """True if reading the message may keep others waiting; raises InvalidInput where none needs to."""
    if len(message) <= COUNTED:
        return False
    if path not in _INFERRING:
        check_fields(message)
    return True


async def _read(
    event: dict[str, Any], headers: Mapping[bytes, bytes], receive: Receive, most: int, share: Share
) -> bytes | None:
    """The one message of a unary call; None if the caller left first."""
    encoding = headers.get(b"grpc-encoding", b"identity").decode("latin-1")
    reader = FrameReader(most, encoding, inflates=False)
    messages: list[bytes] = []
    async with pace() as timer:
        while event["type"] == "http.request":
            piece = event.get("body", b"")
            share.take(len(piece))
            await timer.came(len(piece))
            if messages := reader.feed(piece):
                break
            if not event.get("more_body"):
                raise InvalidInput("the call ended before its message was complete")
            event = await receive()
    message = messages[0] if messages else None
    return await share.inflate(message, encoding, most) if isinstance(message, Packed) else message
