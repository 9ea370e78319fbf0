"""What does each HTTP operation do?

A table from the operations of ``routes.py`` to methods, each taking the decoded call and giving
a reply. Formats live in ``wire/``; what is loaded, counted and inferred comes through ``ports.py``.
"""

import contextlib
import time
from collections.abc import Awaitable, Callable

import msgspec

from salver import __version__
from salver.dialects.oip import metadata
from salver.dialects.oip.generate import Generate, event
from salver.dialects.oip.json_codec import OpenInferenceHttp
from salver.dialects.oip.model_openapi import MOST_MODELS
from salver.dialects.oip.openapi import describe
from salver.dialects.oip.shared_memory_operations import SharedMemoryOperations
from salver.dialects.openai.operations import GENERATING, OpenAiOperations
from salver.dialects.tensorflow.http_operations import TensorFlowServingOperations
from salver.dialects.torchserve.envelopes import Explanation
from salver.dialects.triton import config_view, load_order, settings
from salver.encoding.bodies import HttpBody, HttpReply
from salver.encoding.json_text import dumps
from salver.transport import orca
from salver.transport.calls import Reception, check_counted, ready_versions
from salver.transport.faults import http_fault
from salver.transport.ports import Control, Exposition, InferDoor
from salver.transport.routes import Route
from salver.words.errors import SalverError
from salver.words.messages import Call, Signature, State

_Method = Callable[[Route, HttpBody, Call], Awaitable[HttpReply]]


class HttpOperations:
    """Everything behind the table of routes.

    Args:
        reception: Says what the server calls itself, which memory callers share with it, and what its
            operator set of TensorFlow Serving's protocol; None = what is usual.
        max_body: Most bytes of a tensor that JSON brings; 0 = as many as one likes.
    """

    def __init__(
        self,
        door: InferDoor,
        control: Control,
        exposition: Exposition,
        reception: Reception | None = None,
        max_body: int = 0,
    ) -> None:
        reception = reception or Reception(time.monotonic, str)
        regions = reception.regions
        self._name = reception.server_name
        self._takes_short = not reception.tritons_words
        began = int(time.time())
        tfs = TensorFlowServingOperations(door, control, reception.tfs, self._name, began)
        self._decoders = reception.decoders
        self._openai = OpenAiOperations(door, control, self._name, began, reception.decoders)
        self._door = door
        self._control = control
        self._parting = reception.parting
        self._exposition = exposition
        self._more = metadata.SHARED_MEMORY if regions.is_allowed else ()
        self._open_inference = OpenInferenceHttp(regions, max_body, takes_short=self._takes_short)
        self._generating = Generate()
        self._explaining = Explanation(http_fault)
        self._methods: dict[str, _Method] = {
            "infer": self._infer,
            "explain_v2": self._explain_v2,
            "generate": self._generate,
            "live": self._live,
            "ready": self._ready,
            "ready_plain": self._ready,
            "model_ready": self._model_ready,
            "welcome": self._server_metadata,
            "server_metadata": self._server_metadata,
            "model_metadata": self._model_metadata,
            "config": self._config,
            "statistics": self._statistics,
            "explain": self._explain,
            "explain_request": self._explain_request,
            "log_settings": self._log_settings,
            "update_log_settings": self._update_log_settings,
            "trace_setting": self._trace_setting,
            "update_trace_setting": self._update_trace_setting,
            "index": self._index,
            "index_named": self._index,
            "load": self._load,
            "unload": self._unload,
            "load_named": self._named_repository,
            "unload_named": self._named_repository,
            "metrics": self._metrics,
            "tfs_metrics": self._metrics,
            "openapi": self._openapi,
            **SharedMemoryOperations(regions).http(),
            **self._openai.http(),
            **tfs.http(),
        }

    def run(self, route: Route, http: HttpBody, call: Call) -> Awaitable[HttpReply]:
        """Do it. Inference answers its own errors; other operations raise them."""
        return self._methods[route.operation](route, http, call)

    async def stream(
        self, route: Route, http: HttpBody, call: Call, write: Callable[[HttpReply], Awaitable[None]]
    ) -> HttpReply | None:
        """What may answer in pieces: each goes to ``write``, as it is to be sent; else there is one reply."""
        if route.operation in GENERATING:
            return await self._openai.generate(route, http, call, write)
        call.protocol = self._generating.protocol

        def framed(reply: HttpReply) -> Awaitable[None]:
            return write(HttpReply(reply.status, event(reply)))

        reply: HttpReply | None = await self._door.stream(
            self._generating, http, route.model, route.version, call, framed
        )
        return reply

    def load_report(self, route: Route, form: bytes) -> tuple[tuple[bytes, bytes], ...]:
        """Headers that tell how full a model is now; none of a model of which that cannot be said."""
        room = self._exposition.token_room(route.model, route.version)
        return orca.load_report(form, room) if room else ()

    # These hand on the door's own coroutine: one less for each request.

    def _infer(self, route: Route, http: HttpBody, call: Call) -> Awaitable[HttpReply]:
        return self._door.infer(self._open_inference, http, route.model, route.version, call)

    def _explain_v2(self, route: Route, http: HttpBody, call: Call) -> Awaitable[HttpReply]:
        return self._door.infer(self._explaining, http, route.model, route.version, call)

    def _generate(self, route: Route, http: HttpBody, call: Call) -> Awaitable[HttpReply]:
        call.protocol = self._generating.protocol
        return self._door.stream(self._generating, http, route.model, route.version, call)

    async def _live(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        return _json({"live": True})

    async def _ready(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        if await self._control.is_ready():
            return _json({"ready": True})
        # 400 is Triton's; load balancers know what 503 is.
        return _json({"ready": False}, 503 if self._parting.is_told else 400)

    async def _model_ready(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        ready = await self._control.is_ready(route.model, route.version)
        reply: dict[str, object] = {"name": route.model, "ready": ready}
        return _json(reply if ready else {"error": "Model version not ready", **reply}, 200 if ready else 400)

    async def _server_metadata(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        return _json(metadata.server(__version__, self._name, self._more))

    async def _model_metadata(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        id, signature = self._door.signature(route.model, route.version)
        versions = ready_versions(self._control, route.model, route.version)
        return _json(metadata.model(id, versions, signature))

    async def _config(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        return _json(config_view.as_json(self._control.model_config(route.model, route.version)))

    async def _statistics(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        if route.model:
            check_counted(self._door, route.model, route.version)
        return _json(self._exposition.statistics(route.model, route.version))

    async def _explain(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        id, _ = self._door.signature(route.model, route.version)
        return _json(self._exposition.explain(id.name, id.version))

    async def _explain_request(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        return _json(self._exposition.explain(route.model, "", route.request))

    async def _log_settings(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        return _json(msgspec.structs.asdict(self._exposition.log_settings({})))

    async def _update_log_settings(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        change = settings.parse_log(http.body)
        return _json(msgspec.structs.asdict(self._exposition.log_settings(change)))

    async def _trace_setting(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        return _json(settings.trace_json(self._exposition.trace_setting(route.model, {})))

    async def _update_trace_setting(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        change = settings.parse_trace(http.body)
        return _json(settings.trace_json(self._exposition.trace_setting(route.model, change)))

    async def _index(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        only_ready = metadata.parse_index(http.body)
        return _json(metadata.index(self._control.statuses(), only_ready))

    async def _load(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        if call.is_large and self._decoders is not None:
            order = await self._decoders.call(load_order.parse_load, http.body)
        else:
            order = load_order.parse_load(http.body)
        await self._control.load(route.model, order)
        return HttpReply(200, b"")

    async def _unload(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        dependents = load_order.parse_unload(http.body)
        await self._control.unload(route.model, dependents=dependents)
        return HttpReply(200, b"")

    async def _named_repository(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        raise metadata.no_repository()

    async def _metrics(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        accept = http.headers.get(b"accept", b"").decode("latin-1")
        body, content_type = self._exposition.metrics(accept)
        return HttpReply(200, body, ((b"content-type", content_type.encode()),))

    async def _openapi(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        names = sorted({s.id.name for s in self._control.statuses() if s.state is State.READY})
        models: dict[str, Signature] = {}
        for name in names[:MOST_MODELS]:
            with contextlib.suppress(SalverError):  # gone meanwhile
                _, models[name] = self._door.signature(name)
        return _json(describe(__version__, models, takes_short=self._takes_short))


def _json(value: object, status: int = 200) -> HttpReply:
    return HttpReply(status, dumps(value))
