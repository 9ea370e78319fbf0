"""What the REST routes of TensorFlow Serving do, ``/v1/models/...`` (TF-R1 to TF-R7).

``paths.py`` reads their paths, ``json_codec.py`` their bodies.
"""

import contextlib
import re
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import unquote

from salver.dialects.tensorflow import paths as tfs_paths
from salver.dialects.tensorflow import status as tfs_status
from salver.dialects.tensorflow.faults import model_fault, tfs_fault
from salver.dialects.tensorflow.head_json import Classify, Regress
from salver.dialects.tensorflow.json_codec import Explain, ForOne, Predict, asked, servable_not_found
from salver.dialects.tensorflow.metadata import number_of_version
from salver.dialects.tensorflow.routes import OPERATIONS, find, owns_fault
from salver.dialects.tensorflow.rules import TfsRules
from salver.encoding.bodies import HttpBody, HttpReply
from salver.encoding.forms import no_explainer
from salver.encoding.model_entries import openai_model
from salver.transport.calls import RequestContext
from salver.transport.ports import Control, Exposition, InferDoor
from salver.transport.routes import Endpoint, Headers, HttpTable, Route
from salver.transport.server_operations import ServerOperations
from salver.words.errors import NotFound, NotReady, SalverError
from salver.words.messages import Call, ModelId, Signature, VersionStatus

#: In a name, it does not fit TensorFlow Serving's grammar.
_ODD: Final = re.compile("[/:]")
#: The backend that loads them, and nothing else.
_SAVEDMODELS: Final = "tensorflow"
#: Operation -> its codec, and what TensorFlow Serving calls it.
_CODECS: Final[dict[str, tuple[type[ForOne], str]]] = {
    "predict_v1": (Predict, "Predict"),
    "classify_v1": (Classify, "Classify"),
    "regress_v1": (Regress, "Regress"),
}


#: What TensorFlow Serving sends with every answer when pages of any origin may ask (TF-R24).
_ANY_ORIGIN: Final = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"POST, GET"),
    (b"access-control-allow-headers", b"Content-Type"),
)


class TensorFlowServingOperations:
    """The operations of one server.

    Args:
        model_of: Returns the model of a name that may be a LoRA's; raises NotFound or NotReady.
        rules: Options that the operator set.
        began: Unix seconds since which it serves.
    """

    def __init__(
        self,
        door: InferDoor,
        control: Control,
        model_of: Callable[[str], str],
        exposition: Exposition,
        context: RequestContext,
        rules: TfsRules,
        began: int,
    ) -> None:
        self._door = door
        self._control = control
        self._model_of = model_of
        self._rules = rules
        self._owner = context.server_name
        self._forms = context.forms
        self._began = began
        self._metrics = ServerOperations(control, exposition, context.parting).metrics

    def table(self) -> HttpTable:
        """Return the operations."""
        infer, explain = (
            Endpoint(
                run,
                is_large=True,
                is_compressible=True,
                most_inflated=tfs_paths.MOST_INFLATED,
                timeout_s=self._rules.timeout_s,  # TF-R25
            )
            for run in (self._infer, self._explain)
        )
        endpoints = {
            **dict.fromkeys(_CODECS, infer),
            "explain_v1": explain,
            "model_v1": Endpoint(self._look),
            "metadata_v1": Endpoint(self._look),
            "options_v1": Endpoint(self._options),
            "tfs_metrics": Endpoint(self._metrics),
        }
        headers = _any_origin if self._rules.allows_cors else None
        reads = frozenset(("options_v1",))
        return HttpTable(OPERATIONS, endpoints, tfs_fault, owns_fault, find, headers, reads)

    def _infer(self, route: Route, http: HttpBody, call: Call) -> Awaitable[HttpReply]:
        route = self._named(route, "POST")
        kind, call.api = _CODECS[route.operation]
        version = self._spelled(route)
        codec = kind(
            asked(route.model, route.version or version),
            checks_method=self._rules.checks_method_names,
            forms=self._forms,
        )
        call.protocol = codec.protocol
        version = route.label or version  # the door knows by a label who is split
        if (http.model, http.version) != (route.model, version):
            http = HttpBody(route.model, version, http.body, http.headers)
        return self._door.infer(codec, http, http.model, version, call)

    async def _look(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        route = self._named(route, "GET")
        if route.operation == "metadata_v1":
            return HttpReply(200, tfs_status.metadata(*self._found(route)))
        if route.version or route.label or self._rules.tells_no_more:
            # a label is not applied: the status of all versions (TF-R4)
            rows = self._control.versions(route.model)
            told = {"model_version_status": tfs_status.status(route.model, route.version, rows)}
            return HttpReply(200, tfs_status.printed(told))
        try:
            name, rows = self._versions(route.model)
            body = {
                "model_version_status": tfs_status.status(name, "", rows),
                "name": route.model,
                "ready": await self._control.is_ready(name),
                **openai_model(route.model, self._owner, self._began),
            }
        except NotFound as error:
            return model_fault(error, route.model)
        return HttpReply(200, tfs_status.printed(body))

    def _versions(self, model: str) -> tuple[str, tuple[VersionStatus, ...]]:
        """A model's versions, and its name: of a LoRA, those of what it is for."""
        rows = self._control.versions(model)
        if not rows:
            with contextlib.suppress(SalverError):
                other = self._model_of(model)
                return other, self._control.versions(other)
        return model, rows

    async def _explain(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        """Handlers have an explainer; models of TensorFlow Serving have no such path (X-2)."""
        found = self._named(route, "POST")
        id, signature = self._found(found)
        if signature.takes_forms:
            codec = Explain(asked(id.name, found.version), forms=self._forms)
            version = self._spelled(found)
            http = HttpBody(id.name, version, http.body, http.headers)
            call.protocol = codec.protocol
            reply: HttpReply = await self._door.infer(codec, http, id.name, version, call)
            return reply
        rows = self._control.versions(id.name)
        if any(row.id == id and row.backend == _SAVEDMODELS for row in rows):
            raise tfs_paths.malformed("POST", route.path)
        raise no_explainer(id.name)

    async def _options(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        origin = http.headers.get(b"origin", b"").lower()
        return HttpReply(200 if origin.startswith((b"http://", b"https://")) else 400, b"")

    def _found(self, route: Route) -> tuple[ModelId, Signature]:
        """The version that answers now, and what it expects and gives."""
        version = self._spelled(route)
        try:
            return self._door.signature(route.model, version)
        except (NotFound, NotReady) as error:
            raise servable_not_found(asked(route.model, route.version or version), error) from None

    def _spelled(self, route: Route) -> str:
        """The version as the server spells it; empty for the newest.

        Raises:
            InvalidInput: there is no such label.
        """
        if route.label:
            return self._control.version_of_label(route.model, route.label)
        if not route.version:
            return ""
        try:
            self._door.signature(route.model, route.version)
        except NotFound:  # its folder may have zeros in front
            for row in self._control.versions(route.model):
                if str(number_of_version(row.id.version)) == route.version:
                    return row.id.version
        except NotReady:
            pass
        return route.version

    def _named(self, route: Route, verb: str) -> Route:
        """With the longest name of a model that there is, if it has slashes (X-26).

        Raises:
            InvalidInput: there is none, and no other reading.
        """
        if not route.path:
            return route
        path = unquote(route.path)
        names = {status.id.name for status in self._control.statuses() if _ODD.search(status.id.name)}
        found = tfs_paths.find_slashed(path, names, verb)
        if found is not None:
            return Route(found.operation, found.model, found.version, label=found.label)
        if route.model:
            return route
        if verb == "GET":
            with contextlib.suppress(SalverError):
                name = path.removeprefix("/v1/models/")
                self._model_of(name)  # knows a LoRA's, too
                return Route(route.operation, name)
        raise tfs_paths.malformed(verb, route.path)


def _any_origin(raw_path: bytes) -> Headers:
    return _ANY_ORIGIN if tfs_paths.is_below_v1(raw_path) else ()
