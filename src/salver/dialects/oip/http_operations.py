"""HTTP operations of the Open Inference Protocol."""

import contextlib
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from salver import __version__
from salver.dialects.oip.faults import http_fault
from salver.dialects.oip.json_codec import LENGTH, OpenInferenceHttp
from salver.dialects.oip.regions import OipRules
from salver.encoding.bodies import HttpBody, HttpReply, media_type
from salver.encoding.json_text import MOST_QUICK, dumps
from salver.lazy import lazy_imports
from salver.transport.calls import RequestContext
from salver.transport.ports import Control, Exposition, InferDoor
from salver.transport.routes import Endpoint, HttpTable, Operation, Route, Tell
from salver.transport.server_operations import ServerOperations
from salver.words.errors import SalverError
from salver.words.messages import Call, Signature, State

with lazy_imports():
    from salver.dialects.oip import metadata, model_openapi
    from salver.dialects.oip.explanation import Explanation
    from salver.dialects.oip.lenience import LenientHttp
    from salver.dialects.oip.openapi import describe

#: Media types of JSON: callers often send none, and curl the last one.
_JSON_TYPES: Final = (b"", b"application/json", b"application/x-www-form-urlencoded")
_MODEL: Final = "/v2/models/{model}"
_VERSION: Final = "/v2/models/{model}/versions/{version}"
OPERATIONS: Final = (
    Operation("welcome", "GET", "/", "Name and version of the server, with links", right="known"),
    Operation("live", "GET", "/v2/health/live", "Liveness of the process", right="open"),
    Operation("ready", "GET", "/v2/health/ready", "Readiness of the server", right="known"),
    Operation("server_metadata", "GET", "/v2", "Server name, version and extensions", right="known"),
    Operation("model_metadata", "GET", _MODEL, "Inputs and outputs of a model"),
    Operation("model_metadata", "GET", _VERSION, "Inputs and outputs of a version"),
    Operation("model_ready", "GET", f"{_MODEL}/ready", "Readiness of a model"),
    Operation("model_ready", "GET", f"{_VERSION}/ready", "Readiness of a version"),
    Operation("infer", "POST", f"{_MODEL}/infer", "Infer with a model (JSON or binary tensors)"),
    Operation("infer", "POST", f"{_VERSION}/infer", "Infer with a version"),
    Operation(
        "explain_v2", "POST", f"{_MODEL}/explain", "Explain a prediction, for handlers with an explainer"
    ),
    Operation("explain_v2", "POST", f"{_VERSION}/explain", "Explain a prediction of a version"),
    Operation("explain", "GET", f"{_MODEL}/explain", "Where the requests of a model spend their time"),
    Operation("explain", "GET", f"{_VERSION}/explain", "Where the requests of a version spend their time"),
    Operation("explain_request", "GET", f"{_MODEL}/explain/{{request}}", "Where one request spent its time"),
    Operation("openapi", "GET", "/openapi.json", "This description"),
)


class OpenInferenceOperations:
    """The operations of one server.

    Args:
        operations: Returns the operations of all dialects, for the API description.
    """

    def __init__(
        self,
        door: InferDoor,
        control: Control,
        exposition: Exposition,
        context: RequestContext,
        rules: OipRules,
        operations: Callable[[], Sequence[Operation]],
    ) -> None:
        self._door = door
        self._control = control
        self._exposition = exposition
        self._name = context.server_name
        self._takes_short = not context.tritons_words
        self._operations = operations
        self._more = metadata.SHARED_MEMORY if rules.regions.is_allowed else ()
        self._ready = ServerOperations(control, exposition, context.parting).ready
        codec: type[OpenInferenceHttp] = OpenInferenceHttp
        if rules.is_lenient:
            codec = LenientHttp
        self._infer_codec = codec(
            rules.regions, rules.max_body, takes_short=self._takes_short, forms=context.forms
        )
        self._forms = context.forms

    @functools.cached_property
    def _explain_codec(self) -> Explanation:
        return Explanation(self._forms)

    def table(self) -> HttpTable:
        """Return the operations."""
        endpoints = {
            "infer": Endpoint(
                self._infer,
                is_large=True,
                is_compressible=True,
                post=self._post,
                lead=self._lead,
                foresee=self._foresee,
            ),
            "explain_v2": Endpoint(self._explain_v2, is_large=True),
            "live": Endpoint(self._live),
            "ready": Endpoint(self._ready),
            "model_ready": Endpoint(self._model_ready),
            "welcome": Endpoint(self._server_metadata),
            "server_metadata": Endpoint(self._server_metadata),
            "model_metadata": Endpoint(self._model_metadata),
            "explain": Endpoint(self._explain),
            "explain_request": Endpoint(self._explain_request),
            "openapi": Endpoint(self._openapi, is_compressible=True),
        }
        return HttpTable(OPERATIONS, endpoints, http_fault)

    # These return the data plane's coroutine unchanged, which saves one for each request.

    def _infer(self, route: Route, http: HttpBody, call: Call) -> Awaitable[HttpReply]:
        return self._door.infer(self._infer_codec, http, route.model, route.version, call)

    def _post(self, route: Route, http: HttpBody, call: Call, tell: Tell) -> Callable[[], None] | None:
        return self._door.post(self._infer_codec, http, route.model, route.version, call, tell)

    def _lead(self, route: Route, headers: Mapping[bytes, bytes]) -> int | None:
        """Return the bytes before raw tensors; 0 for JSON that may be parsed in place, None for others."""
        length = headers.get(LENGTH, b"").strip()
        if length.isdigit() and len(length) <= 8:
            return int(length)
        size = headers.get(b"content-length", b"").strip()
        is_json = LENGTH not in headers and media_type(headers) in _JSON_TYPES
        if is_json and size.isdigit() and int(size[:8]) <= MOST_QUICK:
            return 0
        return None

    def _foresee(self, route: Route, call: Call) -> None:
        self._door.foresee(self._infer_codec, route.model, route.version, call)

    def _explain_v2(self, route: Route, http: HttpBody, call: Call) -> Awaitable[HttpReply]:
        return self._door.infer(self._explain_codec, http, route.model, route.version, call)

    async def _live(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        return _json({"live": True})

    async def _model_ready(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        ready = await self._control.is_ready(route.model, route.version)
        reply: dict[str, object] = {"name": route.model, "ready": ready}
        return _json(reply if ready else {"error": "Model version not ready", **reply}, 200 if ready else 400)

    async def _server_metadata(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        return _json(metadata.server(__version__, self._name, self._more))

    async def _model_metadata(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        id, signature = self._door.signature(route.model, route.version)
        versions = metadata.ready_versions(self._control.statuses(), id, route.version)
        told = metadata.model(id, versions, signature)
        if signature.digest:
            told["parameters"] = {"digest": signature.digest}
        return _json(told)

    async def _explain(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        id, _ = self._door.signature(route.model, route.version)
        return _json(self._exposition.explain(id.name, id.version))

    async def _explain_request(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        return _json(self._exposition.explain(route.model, "", route.request))

    async def _openapi(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        names = sorted({s.id.name for s in self._control.statuses() if s.state is State.READY})
        models: dict[str, Signature] = {}
        for name in names[: model_openapi.MOST_MODELS]:
            with contextlib.suppress(SalverError):  # unloaded meanwhile
                _, models[name] = self._door.signature(name)
        return _json(describe(__version__, self._operations(), models, takes_short=self._takes_short))


def _json(value: object, status: int = 200) -> HttpReply:
    return HttpReply(status, dumps(value))
