"""Operations of TorchServe's REST interface other than predictions.

Each class returns its operations by name; the names are those of ``paths.py``. Texts are in ``models.py``,
layouts in ``json_layout.py``. Predictions, whose answers may stream, are in ``front.py``.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from salver.dialects.torchserve import models as texts
from salver.dialects.torchserve.bodies import is_large, read_form
from salver.dialects.torchserve.faults import NamedFault, has_no_worker, no_model
from salver.dialects.torchserve.flags import VERSION
from salver.dialects.torchserve.json_layout import (
    JSON,
    TorchServeReply,
    check_size,
    handler_reply,
    json_reply,
    status_reply,
)
from salver.dialects.torchserve.openapi import describe_management, describe_prediction
from salver.dialects.torchserve.orders import is_true, read_number, read_registration
from salver.dialects.torchserve.paths import PathMatch
from salver.dialects.torchserve.tokens import TokenKeys
from salver.transport.calls import RequestContext, take_traits
from salver.transport.effects import changes, reads
from salver.transport.ports import Handlers, Workflows
from salver.words.errors import (
    BadArchive,
    DeadlineExceeded,
    InvalidInput,
    NotReady,
    NoWorkflow,
    WrongVerb,
)
from salver.words.handlers import Form, Metadata, WorkflowStatus
from salver.words.messages import Call

_DEFAULT_LIMIT = 100
_ACCEPTED = 202
#: Result of scaling -> HTTP status.
_SCALE_STATUS = {"done": 200, "partly": 206, "begun": _ACCEPTED}
_NO_VERSIONS = {"error": "Model versioning is not yet supported."}


def _always(model: str) -> bool:
    return True


class Request(msgspec.Struct, frozen=True, gc=False):
    """One request, read completely.

    Attributes:
        query: Fields in their order; the first of several with one name counts.
        headers: With names in lower case.
        spelled: The same as they were sent, for handlers.
        may_see: Returns whether the caller may know of a model.
    """

    match: PathMatch
    verb: str
    body: bytes
    query: tuple[tuple[str, str], ...]
    headers: Mapping[bytes, bytes]
    spelled: Sequence[tuple[bytes, bytes]] = ()
    may_see: Callable[[str], bool] = _always

    @property
    def content_type(self) -> str:
        """Content type; empty = none."""
        return self.headers.get(b"content-type", b"").decode("latin-1")

    @property
    def authorization(self) -> str:
        """Value of the Authorization header; empty = none."""
        return self.headers.get(b"authorization", b"").decode("latin-1")

    @property
    def fields(self) -> dict[str, str]:
        """Fields of the query by name."""
        return dict(reversed(self.query))

    async def form(self, headers: Mapping[str, str]) -> Form:
        """Return the form for a handler; a large one is parsed on a thread.

        Raises:
            InvalidInput, NamedFault: as :func:`salver.dialects.torchserve.bodies.read_form`.
        """
        if is_large(self.body, self.content_type):
            return await asyncio.to_thread(read_form, self.body, self.content_type, headers)
        return read_form(self.body, self.content_type, headers)


Method = Callable[[Request], Awaitable[TorchServeReply]]


class InferenceOperations:
    """Health and descriptions at the inference port (TS-R1, TS-R2, TS-R8, TS-R11)."""

    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers

    def http(self) -> Mapping[str, Method]:
        """Return the operations by name."""
        return {
            "ping": self._ping,
            "oip_server": self._oip_server,
            "oip_live": self._oip_live,
            "oip_ready": self._oip_ready,
            "oip_version": self._oip_version,
        }

    def description(self, model: str, version: str) -> TorchServeReply:
        """Return the OpenAPI description of a model's predictions. Raises NoModel or NoModelVersion."""
        self._handlers.describe(model, version)
        return json_reply(describe_prediction(model))

    async def find_model(self, request: Request) -> str:
        """Return the model of a request whose path names none: in its query or body, or the only one.

        Raises:
            InvalidInput, NoModel: none is named, and not exactly one was loaded at the start.
        """
        name = request.fields.get("model_name")
        if name:
            return name
        started = [model.name for model in self._handlers.models() if model.is_loaded_at_startup]
        if len(started) == 1:
            return started[0]
        for part in (await request.form({})).parts:
            if part.name == "model_name":
                return part.data.tobytes().decode("utf-8", "replace")
        if name is not None:
            raise no_model(name)
        raise InvalidInput("Parameter model_name is required.")

    @reads
    async def _ping(self, request: Request) -> TorchServeReply:
        if self._handlers.is_healthy():
            return status_reply("Healthy")
        return status_reply("Unhealthy", 500)

    @reads
    async def _oip_server(self, request: Request) -> TorchServeReply:
        # TorchServe misspells the key of its extensions, and clients rely on it (TS-R11).
        return json_reply({"name": "Torchserve", "version": VERSION, "extenstion": ["kserve", "kubeflow"]})

    @reads
    async def _oip_live(self, request: Request) -> TorchServeReply:
        return json_reply({"live": True})

    @reads
    async def _oip_ready(self, request: Request) -> TorchServeReply:
        if self._handlers.is_healthy():
            return json_reply({"ready": True})
        return json_reply({"ready": False}, 500)

    @reads
    async def _oip_version(self, request: Request) -> TorchServeReply:
        return json_reply(_NO_VERSIONS, 501)


class ManagementOperations:
    """Operations at the management port (TS-M1 to TS-M8).

    Args:
        keys: Keys that may be renewed; None = callers need none.
        may_change: Whether models may be registered and unregistered.
    """

    def __init__(self, handlers: Handlers, keys: TokenKeys | None, *, may_change: bool) -> None:
        self._handlers = handlers
        self._keys = keys
        self._may_change = may_change

    def http(self) -> Mapping[str, Method]:
        """Return the operations by name."""
        return {
            "list": self._list,
            "register": self._register,
            "describe": self._describe,
            "describe_managed": self._describe_managed,
            "scale": self._scale,
            "unregister": self._unregister,
            "set_default": self._set_default,
            "is_ready": self._is_ready,
            "token": self._token,
        }

    @reads
    async def _list(self, request: Request) -> TorchServeReply:
        models = [model for model in self._handlers.models() if request.may_see(model.name)]
        return json_reply(texts.list_models(models, *_page_of(request)))

    @changes
    async def _register(self, request: Request) -> TorchServeReply:
        self._check_may_change()
        order = read_registration(request.body, request.content_type, request.fields)
        result = await self._handlers.register(order)
        is_complete = result.is_done or not result.workers
        return status_reply(texts.registered_text(result), 200 if is_complete else _ACCEPTED)

    @reads
    async def _describe(self, request: Request) -> TorchServeReply:
        model, version = request.match.model, request.match.version
        statuses = self._handlers.describe(model, version)
        metadata: Metadata = None
        if version != "all" and is_true(request.fields.get("customized"), False):
            try:
                metadata = await self._handlers.metadata(model, version) or {}
            except NotReady:
                raise NotReady(has_no_worker(model, version, is_describing=True)) from None
        return json_reply(texts.describe_versions(statuses, metadata))

    @reads
    async def _describe_managed(self, request: Request) -> TorchServeReply:
        self._handlers.describe(request.match.model, request.match.version)
        return json_reply(describe_management(request.match.model))

    @changes
    async def _scale(self, request: Request) -> TorchServeReply:
        fields, model = request.fields, request.match.model
        version = request.match.version or fields.get("model_version", "")
        least = read_number(fields.get("min_worker"), 1)
        most = read_number(fields.get("max_worker"), least)
        waits = is_true(fields.get("synchronous"), False)
        how, workers = await self._handlers.scale(model, version, least, most, waits=waits)
        return status_reply(texts.scaled_text(how, workers, model, version), _SCALE_STATUS[how])

    @changes
    async def _unregister(self, request: Request) -> TorchServeReply:
        self._check_may_change()
        try:
            await self._handlers.unregister(request.match.model, request.match.version)
        except DeadlineExceeded as error:
            raise NamedFault(error.message, 408, "RequestTimeoutException") from None
        return status_reply(texts.unregistered_text(request.match.model))

    @changes
    async def _set_default(self, request: Request) -> TorchServeReply:
        model, version = request.match.model, request.match.version
        self._handlers.set_default(model, version)
        return status_reply(texts.default_text(model, version))

    @reads
    async def _is_ready(self, request: Request) -> TorchServeReply:
        model = request.match.model
        (status,) = self._handlers.describe(model)
        is_ready = any(worker.status == "READY" for worker in status.running)
        return json_reply({"name": model, "ready": is_ready})

    @changes
    async def _token(self, request: Request) -> TorchServeReply:
        # The new key is written to the key file only, as TorchServe does.
        if self._keys is not None:
            self._keys.renew(request.fields.get("type", ""), request.authorization)
        return TorchServeReply(200, b"\n", (JSON,))

    def _check_may_change(self) -> None:
        if not self._may_change:
            raise WrongVerb("requests may not change models (enable_model_api)")


class WorkflowOperations:
    """Operations on workflows (TS-R10, TS-M9).

    Args:
        most: Maximum bytes of an answer; 0 = no limit.
    """

    def __init__(self, workflows: Workflows, context: RequestContext, most: int = 0) -> None:
        self._most = most
        self._workflows = workflows
        self._context = context

    def http(self) -> Mapping[str, Method]:
        """Return the operations by name."""
        return {
            "register_workflow": self._register,
            "list_workflows": self._list,
            "describe_workflow": self._describe,
            "unregister_workflow": self._unregister,
            "predict_workflow": self._predict,
        }

    @changes
    async def _register(self, request: Request) -> TorchServeReply:
        order = read_registration(request.body, request.content_type, request.fields, name="workflow_name")
        try:
            name = await self._workflows.register(order)
        except BadArchive as error:
            raise NamedFault(str(error), 400, "InvalidWorkflowException") from None
        return status_reply(f"Workflow {name} has been registered and scaled successfully.")

    @reads
    async def _list(self, request: Request) -> TorchServeReply:
        statuses = [status for status in self._workflows.statuses() if request.may_see(status.name)]
        return json_reply(texts.list_workflows(statuses, *_page_of(request)))

    @reads
    async def _describe(self, request: Request) -> TorchServeReply:
        name = request.match.model
        for status in self._workflows.statuses():
            if status.name == name:
                return json_reply([_describe_workflow(status)])
        raise NoWorkflow(f"Workflow not found: {name}")

    @changes
    async def _unregister(self, request: Request) -> TorchServeReply:
        name = request.match.model
        await self._workflows.unregister(name)
        return status_reply(f'Workflow "{name}" unregistered')

    @reads
    async def _predict(self, request: Request) -> TorchServeReply:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.spelled}
        form = await request.form(headers)
        context = self._context
        call = Call("ts-http", context.clock(), None, context.new_id())
        if wanted := context.interest.headers:
            take_traits(call, {name.lower(): value for name, value in request.spelled}, wanted)
        reply = await self._workflows.run(request.match.model, form, call)
        return handler_reply(check_size(reply, self._most))


def _page_of(request: Request) -> tuple[int, int]:
    """Return limit and token of a request for a page of a list."""
    fields = request.fields
    return read_number(fields.get("limit"), _DEFAULT_LIMIT), read_number(fields.get("next_page_token"), 0)


def _describe_workflow(status: WorkflowStatus) -> dict[str, Any]:
    return {
        "workflowName": status.name,
        "workflowUrl": status.url,
        "minWorkers": status.least,
        "maxWorkers": status.most,
        "batchSize": status.batch_size,
        "maxBatchDelay": status.max_batch_delay_ms,
        "workflowDag": status.graph,
    }
