"""What do TorchServe's management routes do (TS-M1 to TS-M8)?

They ask the store of handlers, and say how it went in TorchServe's words, which are
``dialects/torchserve/models.py``'s.
"""

from collections.abc import Mapping

from salver.dialects.torchserve import models as ts_models
from salver.dialects.torchserve.faults import NamedFault, has_no_worker
from salver.dialects.torchserve.json_layout import JSON, TorchServeReply, replied, status_of
from salver.dialects.torchserve.openapi import of_managed
from salver.dialects.torchserve.operation_calls import Method, Request
from salver.dialects.torchserve.orders import is_true, number, registration
from salver.dialects.torchserve.tokens import TokenKeys
from salver.transport.effects import changes, reads
from salver.transport.ports import Handlers
from salver.words.errors import DeadlineExceeded, NotReady, WrongVerb
from salver.words.handlers import Metadata

_MOST_LISTED = 100
_ACCEPTED, _PARTLY = 202, 206


class ManagementOperations:
    """The operations, by their names.

    Args:
        handlers: The models.
        keys: Which may be renewed; None = there are none.
        may_change: Models may be registered and unregistered.
    """

    def __init__(self, handlers: Handlers, keys: TokenKeys | None, *, may_change: bool) -> None:
        self._handlers = handlers
        self._keys = keys
        self._may_change = may_change

    def http(self) -> Mapping[str, Method]:
        """Operation -> what it does."""
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
        fields = request.fields
        limit = number(fields.get("limit"), _MOST_LISTED)
        token = number(fields.get("next_page_token"), 0)
        return replied(ts_models.listed(self._handlers.models(), limit, token))

    @changes
    async def _register(self, request: Request) -> TorchServeReply:
        self._check_changes()
        order = registration(request.body, request.content_type, request.fields)
        done = await self._handlers.register(order)
        return status_of(ts_models.registered(done), 200 if done.is_done or not done.workers else _ACCEPTED)

    @reads
    async def _describe(self, request: Request) -> TorchServeReply:
        model, version = request.asked.model, request.asked.version
        statuses = self._handlers.describe(model, version)
        metadata: Metadata = None
        if version != "all" and is_true(request.fields.get("customized"), False):
            try:
                metadata = await self._handlers.metadata(model, version) or {}
            except NotReady:
                raise NotReady(has_no_worker(model, version, is_describing=True)) from None
        return replied(ts_models.description(statuses, metadata))

    @reads
    async def _describe_managed(self, request: Request) -> TorchServeReply:
        self._handlers.describe(request.asked.model, request.asked.version)
        return replied(of_managed(request.asked.model))

    @changes
    async def _scale(self, request: Request) -> TorchServeReply:
        fields, model = request.fields, request.asked.model
        version = request.asked.version or fields.get("model_version", "")
        least = number(fields.get("min_worker"), 1)
        most = number(fields.get("max_worker"), least)
        waits = is_true(fields.get("synchronous"), False)
        how, workers = await self._handlers.scale(model, version, least, most, waits=waits)
        status = {"done": 200, "partly": _PARTLY, "begun": _ACCEPTED}[how]
        return status_of(ts_models.scaled(how, workers, model, version), status)

    @changes
    async def _unregister(self, request: Request) -> TorchServeReply:
        self._check_changes()
        try:
            await self._handlers.unregister(request.asked.model, request.asked.version)
        except DeadlineExceeded as error:
            raise NamedFault(error.message, 408, "RequestTimeoutException") from None
        return status_of(ts_models.unregistered(request.asked.model))

    @changes
    async def _set_default(self, request: Request) -> TorchServeReply:
        model, version = request.asked.model, request.asked.version
        self._handlers.set_default(model, version)
        return status_of(ts_models.set_default(model, version))

    @reads
    async def _is_ready(self, request: Request) -> TorchServeReply:
        model = request.asked.model
        (status,) = self._handlers.describe(model)
        is_ready = any(worker.status == "READY" for worker in status.running)
        return replied({"name": model, "ready": is_ready})

    @changes
    async def _token(self, request: Request) -> TorchServeReply:
        """The new key stands in the file alone."""
        if self._keys is not None:
            self._keys.renew(request.fields.get("type", ""), request.authorization)
        return TorchServeReply(200, b"\n", (JSON,))

    def _check_changes(self) -> None:
        if not self._may_change:
            raise WrongVerb("models are not to be changed by requests (enable_model_api)")
