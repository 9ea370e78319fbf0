"""gRPC methods of the Open Inference Protocol, ``inference.GRPCInferenceService``.

``grpc_codec.py`` reads and writes their messages.
"""

import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from salver import __version__
from salver.dialects.oip.faults import grpc_status
from salver.dialects.oip.regions import NO_REGIONS, OipRules
from salver.encoding.forms import NO_FORMS, Forms
from salver.encoding.values import is_long
from salver.kernel.serving.decoding import Decoders
from salver.kernel.serving.ports import Codec
from salver.lazy import lazy_imports
from salver.transport.calls import RequestContext
from salver.transport.effects import reads
from salver.transport.grpc_stream import InferStream, StreamLimits
from salver.transport.grpc_table import GrpcTable, Reply
from salver.transport.ports import Control, InferDoor
from salver.words.errors import SalverError
from salver.words.handlers import is_form
from salver.words.messages import Call, InferRequest, InferResponse, Signature

with lazy_imports():
    from salver.dialects.oip import grpc_codec as wire
    from salver.dialects.oip import metadata
    from salver.dialects.oip.classification import with_classes
    from salver.dialects.oip.grpc_schema import build
    from salver.dialects.oip.keywords import with_keywords
    from salver.dialects.oip.lenience import fitted
    from salver.dialects.oip.stream_codec import StreamedInfer


SERVICE: Final = "inference.GRPCInferenceService"
_PREFIX: Final = f"/{SERVICE}/"
_INFER: Final = f"{_PREFIX}ModelInfer"
_STREAM_INFER: Final = f"{_PREFIX}ModelStreamInfer"


class OpenInferenceGrpc(Codec[InferRequest, Reply]):
    """Codec of ModelInfer, for messages that were already parsed to get the model's name.

    Args:
        forms: Converts requests for models that take forms.
    """

    protocol = "oip-grpc"

    def __init__(self, rules: OipRules, forms: Forms = NO_FORMS) -> None:
        messages = wire.InferMessages(rules.regions, ignores_surplus=rules.ignores_surplus)
        self.read = messages.read
        self.is_slow = messages.is_slow
        self.read_known = messages.read_known
        self.lead = messages.lead
        self.names = messages.names
        self._write = messages.write
        self._forms = forms

    def decode(self, body: InferRequest, signature: Signature) -> InferRequest:
        """Complete the request with classes from the signature; convert it for a model that takes forms."""
        if signature.converts:
            if signature.takes_forms:
                return self._forms.from_tensors(body)
            body = with_keywords(body, signature)
        if body.outputs:
            return with_classes(body, signature)
        return body

    def takes_long(self, response: InferResponse) -> bool:
        """Return whether ``encode`` would block the event loop."""
        return is_long(response.outputs)

    def encode(self, request: InferRequest, response: InferResponse) -> Reply:
        """Return a ModelInferResponse."""
        if is_form(request):
            response = self._forms.to_tensors(response)
        return self._write(request, response)

    def fault(self, error: SalverError) -> Reply:
        """Return the status of the call."""
        return grpc_status(error)


class LenientGrpc(OpenInferenceGrpc):
    """Codec of ModelInfer that fits requests to the model."""

    def decode(self, body: InferRequest, signature: Signature) -> InferRequest:
        """Complete the request as :class:`OpenInferenceGrpc` does, with the model's names and types."""
        return super().decode(fitted(body, signature), signature)


class OpenInferenceMethods:
    """The methods of one server."""

    def __init__(self, door: InferDoor, control: Control, context: RequestContext, rules: OipRules) -> None:
        self._door = door
        self._control = control
        self._clock = context.clock
        self._name = context.server_name
        self._decoders = context.decoders
        self._forms = context.forms
        self._rules = rules
        self._more = metadata.SHARED_MEMORY if rules.regions.is_allowed else ()
        self._stream = InferStream(
            door,
            context,
            self._streamed,
            StreamLimits(context.max_message),
            grpc_status,
            read_large=self._streamed_large,
        )

    @functools.cached_property
    def _codec(self) -> OpenInferenceGrpc:
        if self._rules.is_lenient:
            return LenientGrpc(self._rules, self._forms)
        return OpenInferenceGrpc(self._rules, self._forms)

    def table(self) -> GrpcTable:
        """Return the methods."""
        methods = {
            _INFER: self._infer,
            f"{_PREFIX}ServerLive": self._live,
            f"{_PREFIX}ServerReady": self._ready,
            f"{_PREFIX}ModelReady": self._model_ready,
            f"{_PREFIX}ServerMetadata": self._server_metadata,
            f"{_PREFIX}ModelMetadata": self._model_metadata,
        }
        many = frozenset((_STREAM_INFER,))
        return GrpcTable(
            "oip-grpc",
            grpc_status,
            methods,
            {_STREAM_INFER: self._stream},
            posts={_INFER: self._post},
            targets={_INFER: wire.target},
            leads={_INFER: self._lead},
            foresees={_INFER: self._foresee},
            names={f"{_PREFIX}ModelReady": (1,), f"{_PREFIX}ModelMetadata": (1,)},
            inferring=frozenset((_INFER,)),
            services=(SERVICE,),
            messages=build,
            types={_STREAM_INFER: ("ModelInferRequest", "ModelStreamInferResponse")},
            many_requests=many,
            many_responses=many,
        )

    async def _streamed_large(self, message: bytes, headers: Mapping[bytes, bytes]) -> StreamedInfer:
        if self._decoders is None or not wire.is_dense(message):
            return self._streamed(message, headers)
        request = await self._decoders.call(
            wire.decode_infer, message, NO_REGIONS, self._rules.ignores_surplus
        )
        return self._streamed(request, headers)

    @reads
    def _streamed(self, message: bytes | InferRequest, headers: Mapping[bytes, bytes]) -> StreamedInfer:
        request = StreamedInfer(
            message,
            self._rules.regions,
            headers.get(b"triton_grpc_error") == b"true",
            ignores_surplus=self._rules.ignores_surplus,
            forms=self._forms,
        )
        request.is_decoupled = self._door.is_decoupled(request.model, request.version)
        return request

    @reads
    def _infer(self, message: bytes, call: Call) -> Awaitable[Reply]:
        if call.is_large and self._decoders is not None and self._codec.is_slow(message):
            return self._infer_large(self._decoders, message, call)
        call.is_large = False
        request = self._codec.read(message)
        return self._door.infer(self._codec, request, request.model, request.version, call)

    def _post(
        self, message: bytes | memoryview, call: Call, tell: Callable[[Reply | None, Any], None]
    ) -> Callable[[], None] | None:
        if isinstance(message, bytes):
            request = self._codec.read(message)
        elif (recalled := self._codec.read_known(message)) is not None:
            request = recalled
        else:
            return None
        return self._door.post(self._codec, request, request.model, request.version, call, tell)

    def _lead(self, size: int, begun: bytes) -> int:
        return self._codec.lead(size, begun)

    def _foresee(self, size: int, begun: bytes, call: Call) -> None:
        if (names := self._codec.names(size, begun)) is not None:
            self._door.foresee(self._codec, *names, call)

    async def _infer_large(self, decoders: Decoders, message: bytes, call: Call) -> Reply:
        """Infer from a large message, which is read in another process."""
        seconds = None
        if call.deadline is not None:
            seconds = call.deadline - self._clock()
        request = await decoders.call(
            wire.decode_infer, message, NO_REGIONS, self._rules.ignores_surplus, seconds=seconds
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
        versions = metadata.ready_versions(self._control.statuses(), id, version)
        return wire.encode_model_metadata(id, versions, signature)
