"""REST operations of TensorFlow Serving, ``/v1/models/...`` (TF-R1 to TF-R7)."""

import contextlib
import re
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import unquote

from salver.dialects.tensorflow import paths as tfs_paths
from salver.dialects.tensorflow.faults import model_fault
from salver.dialects.tensorflow.routes import table_of
from salver.dialects.tensorflow.rules import TfsRules
from salver.dialects.tensorflow.versions import server_version
from salver.encoding.bodies import HttpBody, HttpReply
from salver.lazy import lazy_imports
from salver.transport.calls import RequestContext
from salver.transport.ports import Control, Exposition, InferDoor
from salver.transport.routes import Endpoint, HttpTable, Route
from salver.transport.server_operations import ServerOperations
from salver.words.errors import NotFound, NotReady, NotResident, SalverError
from salver.words.messages import Call, ModelId, Signature, VersionStatus

with lazy_imports():
    from salver.dialects.tensorflow import status as tfs_status
    from salver.dialects.tensorflow.head_json import Classify, Regress
    from salver.dialects.tensorflow.json_codec import (
        Explain,
        ModelCodec,
        Predict,
        servable_name,
        servable_not_found,
    )
    from salver.encoding.forms import no_explainer
    from salver.encoding.model_entries import openai_model


#: Characters of names that do not fit TensorFlow Serving's grammar.
_ODD: Final = re.compile("[/:]")
#: The backend of SavedModels.
_SAVEDMODELS: Final = "tensorflow"
#: Operation -> its codec, and TensorFlow Serving's name.
_CODECS: Final[dict[str, tuple[type[ModelCodec], str]]] = {
    "predict_v1": (Predict, "Predict"),
    "classify_v1": (Classify, "Classify"),
    "regress_v1": (Regress, "Regress"),
}


class TensorFlowServingOperations:
    """Operations of one server.

    Args:
        model_of: Returns the model of a name that may include a LoRA's; raises NotFound or NotReady.
        rules: Options of the operator.
    """

    def __init__(
        self,
        door: InferDoor,
        control: Control,
        model_of: Callable[[str], str],
        exposition: Exposition,
        context: RequestContext,
        rules: TfsRules,
    ) -> None:
        self._door = door
        self._control = control
        self._model_of = model_of
        self._rules = rules
        self._context = context
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
            "model_v1": Endpoint(self._describe),
            "metadata_v1": Endpoint(self._describe),
            "options_v1": Endpoint(self._options),
            "tfs_metrics": Endpoint(self._metrics),
        }
        return table_of(endpoints, self._rules)

    def _infer(self, route: Route, http: HttpBody, call: Call) -> Awaitable[HttpReply]:
        route = self._resolve(route, "POST")
        kind, call.api = _CODECS[route.operation]
        version = self._version(route)
        codec = kind(
            servable_name(route.model, route.version or version),
            checks_method=self._rules.checks_method_names,
            forms=self._context.forms,
            first_output=self._rules.first_output,
        )
        call.protocol = codec.protocol
        version = route.label or version  # a split may depend on the label
        if (http.model, http.version) != (route.model, version):
            http = HttpBody(route.model, version, http.body, http.headers)
        return self._door.infer(codec, http, http.model, version, call)

    async def _describe(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        route = self._resolve(route, "GET")
        if route.operation == "metadata_v1":
            return HttpReply(200, tfs_status.metadata(*self._find(route)))
        if route.version or route.label or self._rules.tells_no_more:
            # A label is not applied: the answer has all versions (TF-R4).
            rows = self._control.versions(route.model)
            states = tfs_status.status(route.model, route.version, rows)
            return HttpReply(200, tfs_status.printed({"model_version_status": states}))
        try:
            name, rows = self._versions(route.model)
            body = {
                "model_version_status": tfs_status.status(name, "", rows),
                "name": route.model,
                "ready": await self._control.is_ready(name),
                **openai_model(route.model, self._context.server_name, self._context.began),
            }
        except NotFound as error:
            return model_fault(error, route.model)
        return HttpReply(200, tfs_status.printed(body))

    def _versions(self, model: str) -> tuple[str, tuple[VersionStatus, ...]]:
        """Return a model's own name and versions; a LoRA has those of its model."""
        rows = self._control.versions(model)
        if not rows:
            with contextlib.suppress(SalverError):
                other = self._model_of(model)
                return other, self._control.versions(other)
        return model, rows

    async def _explain(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        """Answer by the explainer of a handler; models of TensorFlow Serving have no such path."""
        found = self._resolve(route, "POST")
        id, signature = self._find(found)
        if signature.takes_forms:
            codec = Explain(servable_name(id.name, found.version), forms=self._context.forms)
            version = self._version(found)
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

    def _find(self, route: Route) -> tuple[ModelId, Signature]:
        """Return the version that answers now, and its signature."""
        version = self._version(route)
        try:
            return self._door.signature(route.model, version)
        except NotResident:
            raise  # the transport has it loaded, and asks again
        except (NotFound, NotReady) as error:
            raise servable_not_found(servable_name(route.model, route.version or version), error) from None

    def _version(self, route: Route) -> str:
        """Return the server's name of the version; empty = newest."""
        return server_version(self._door, self._control, route.model, route.version, route.label)

    def _resolve(self, route: Route, verb: str) -> Route:
        """Return the route to the model with the longest name that fits, if names have slashes.

        Raises:
            InvalidInput: No name fits.
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
                self._model_of(name)  # it may be a LoRA's name
                return Route(route.operation, name)
        raise tfs_paths.malformed(verb, route.path)
