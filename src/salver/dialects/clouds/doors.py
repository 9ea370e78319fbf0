"""Ports of Amazon SageMaker and Google Vertex AI.

Wrappers around the application: they map a platform's routes to those of Open Inference, and adapt the
answers (TR-V1, TR-V4). Models that take raw inputs answer at a path for what the platform's containers for
Hugging Face take, and for tensors in JSON. ``many_models.py`` loads the models of SageMaker's multi-model
endpoints.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal, Protocol
from urllib.parse import quote

import msgspec

from salver.encoding.bodies import HttpReply
from salver.transport.access_check import LOCAL, Access
from salver.transport.doors import App, Receive, Scope, Send, say
from salver.transport.ports import StatusView
from salver.transport.restrict import Right
from salver.words.errors import InvalidInput, NotFound, SalverError
from salver.words.messages import State

#: Triton's answer to all other routes (TR-V1, TR-V4).
_UNKNOWN: Final = HttpReply(400, b"", ((b"content-type", b"text/plain"),))
_LENGTH: Final = b"inference-header-content-length"
_BINARY: Final = "application/vnd.{}-triton.binary+json;json-header-size="
_MOST_BYTES: Final = 1 << 20  # body of a request about models
_MODELS: Final = re.compile(r"/models(?:/([^/]+?))?(/invoke)?/?")
_ONE_MODEL: Final = (
    "Expect the model repository contains only a single model if default model is not specified"
)
#: Redirects of Vertex AI by method: GET, POST, forbidden.
_READING: Final = re.compile(
    r"/metrics|/v2|/v2/health/(live|ready)|/v2/models/stats|/v2/models/[^/]+(/versions/[0-9]+)?(/(ready|config|stats))?"
    r"|/v2/(system|cuda)sharedmemory(/region/[^/]+)?/status"
)
_ASKING: Final = re.compile(r"/v2/models/[^/]+(/versions/[0-9]+)?/infer|/v2/repository(/[^/]+)?/index")
_CHANGING: Final = re.compile(
    r"/v2/repository(/[^/]+)?/models/[^/]+/(load|unload)"
    r"|/v2/(system|cuda)sharedmemory(/region/[^/]+)?/(register|unregister)"
)

Fault = Callable[[SalverError], HttpReply]
#: Returns whether a model takes raw inputs.
TakesRaw = Callable[[str], bool]


def takes_none(model: str) -> bool:
    """Return False: every model takes tensors."""
    return False


class SageMaker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Configuration of a port for SageMaker.

    Attributes:
        model: Model that answers ``/invocations``; empty = the only one there is.
        inference: Operation of ``/invocations``.
        ping: State of the server that ``/ping`` reports.
        brings_models: Whether SageMaker may load models from folders (a multi-model endpoint).
    """

    model: str = ""
    inference: Literal["infer", "generate", "generate_stream"] = "infer"
    ping: Literal["ready", "live"] = "ready"
    brings_models: bool = False


class Vertex(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Configuration of a port for Vertex AI.

    Attributes:
        model: Model that answers the predict route; empty = the only one there is.
        predict, health: Paths of the two routes.
    """

    model: str = ""
    predict: str = "/predict"
    health: str = "/health"


class EndpointModels(Protocol):
    """Models of a multi-model endpoint (``many_models.py``)."""

    def __contains__(self, name: object) -> bool:
        """Return whether SageMaker has loaded the model."""
        ...

    async def ask(self, verb: str, name: str, headers: dict[bytes, bytes], body: bytes) -> HttpReply:
        """Answer ``GET``, ``POST`` or ``DELETE`` of ``/models`` or ``/models/NAME``."""
        ...


class SageMakerDoor:
    """The application with SageMaker's routes.

    Args:
        fault: Writes an error of Open Inference.
        access: Decides who may load models.
        takes_raw: Tells models that take raw inputs.
    """

    def __init__(
        self,
        app: App,
        config: SageMaker,
        looking: StatusView,
        models: EndpointModels,
        fault: Fault,
        access: Access = LOCAL,
        takes_raw: TakesRaw = takes_none,
    ) -> None:
        self._app = app
        self._takes_raw = takes_raw
        self._fault = fault
        self._access = access
        self._config = config
        self._looking = looking
        self._models = models

    def __repr__(self) -> str:
        return f"<SageMakerDoor {self._config}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an ASGI call."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        path = scope["path"]
        of_models = _MODELS.fullmatch(path)
        try:
            if path == "/ping":
                return await self._app(_moved(scope, f"/v2/health/{self._config.ping}"), receive, send)
            if path == "/invocations":
                await self._access.admit(scope["headers"], "known", "")
                name = _default(self._config.model, self._looking)
                return await self._infer(scope, receive, send, name, self._config.inference)
            if of_models and of_models[2]:
                await self._access.admit(scope["headers"], "infer", of_models[1] or "")
                return await self._invoke(scope, receive, send, of_models[1] or "")
            if of_models and scope["method"] in ("GET", "POST", "DELETE"):
                headers = dict(scope["headers"])
                self._access.check_host(headers)
                right: Right = "read" if scope["method"] == "GET" else "models"
                await self._access.admit(scope["headers"], right, of_models[1] or "")
                if scope["method"] != "GET":
                    await self._access.permit(headers, "models")
                body = await _read(receive)
                if body is None:
                    return None
                reply = await self._models.ask(scope["method"], of_models[1] or "", headers, body)
                return await say(send, reply)
        except SalverError as error:
            error.in_tritons_words = True
            return await say(send, self._fault(error))
        return await say(send, _UNKNOWN)

    async def _invoke(self, scope: Scope, receive: Receive, send: Send, name: str) -> None:
        if scope["method"] != "POST":
            await say(send, _UNKNOWN)
        elif name not in self._models:
            await say(send, HttpReply(404, b"", _UNKNOWN.headers))
        else:
            await self._infer(scope, receive, send, name, "infer")

    async def _infer(self, scope: Scope, receive: Receive, send: Send, name: str, operation: str) -> None:
        mime = _BINARY.format("sagemaker")
        if operation == "infer" and not _is_binary(scope, mime) and self._takes_raw(name):
            return await self._app(_moved(scope, _raw(name)), receive, send)
        path = f"/v2/models/{quote(name, safe='')}/{operation}"
        moved = _moved(scope, path)
        if operation == "infer":
            moved = _sized(moved, mime)

        def answer(message: dict[str, Any]) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                # SageMaker has the length of the JSON part in the content type.
                headers = dict(message["headers"])
                if length := headers.pop(_LENGTH, None):
                    headers[b"content-type"] = mime.encode() + length
                    message = {**message, "headers": list(headers.items())}
            return send(message)

        await self._app(moved, receive, answer)


class VertexDoor:
    """The application with Vertex AI's routes.

    Args:
        fault: Writes an error of Open Inference.
        access: Asks for keys.
        takes_raw: Tells models that take raw inputs.
    """

    def __init__(
        self,
        app: App,
        config: Vertex,
        looking: StatusView,
        fault: Fault,
        access: Access = LOCAL,
        takes_raw: TakesRaw = takes_none,
    ) -> None:
        self._app = app
        self._takes_raw = takes_raw
        self._fault = fault
        self._access = access
        self._config = config
        self._looking = looking

    def __repr__(self) -> str:
        return f"<VertexDoor {self._config}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an ASGI call."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        try:
            if scope["path"] == self._config.health:
                return await self._app(_moved(scope, "/v2/health/ready"), receive, send)
            if scope["path"] == self._config.predict:
                redirect = dict(scope["headers"]).get(b"x-vertex-ai-triton-redirect")
                if redirect is not None:
                    return await self._redirect(scope, receive, send, redirect)
                await self._access.admit(scope["headers"], "known", "")
                name = _default(self._config.model, self._looking)
                mime = _BINARY.format("vertex-ai")
                if not _is_binary(scope, mime) and self._takes_raw(name):
                    return await self._app(_moved(scope, _raw(name)), receive, send)
                moved = _moved(scope, f"/v2/models/{quote(name, safe='')}/infer")
                return await self._app(_sized(moved, mime), receive, send)
        except SalverError as error:
            error.in_tritons_words = True
            return await say(send, self._fault(error))
        return await say(send, _UNKNOWN)

    async def _redirect(self, scope: Scope, receive: Receive, send: Send, redirect: bytes) -> None:
        """Answer a POST by the path that a header names, unless that would change something."""
        path = "/" + redirect.decode("latin-1")
        if scope["method"] != "POST":
            return await say(send, HttpReply(405, b'{"error":"Method Not Allowed"}'))
        if _CHANGING.fullmatch(path):
            text = b'{"error":"This API is not accessible through the Vertex AI redirect"}'
            return await say(send, HttpReply(403, text))
        if _ASKING.fullmatch(path):
            return await self._app(_sized(_moved(scope, path), _BINARY.format("vertex-ai")), receive, send)
        if _READING.fullmatch(path):
            return await self._app({**_moved(scope, path), "method": "GET"}, receive, send)
        return await say(send, _UNKNOWN)


def _moved(scope: Scope, path: str) -> dict[str, Any]:
    return {**scope, "path": path, "raw_path": path.encode("latin-1")}


def _raw(name: str) -> str:
    """Return the path at which a model takes raw inputs (features/pipelines)."""
    return f"/v1/models/{quote(name, safe='')}/invocations"


def _is_binary(scope: Scope, mime: str) -> bool:
    return mime.encode() in dict(scope["headers"]).get(b"content-type", b"")


def _sized(scope: dict[str, Any], mime: str) -> dict[str, Any]:
    """Copy the length of the JSON part from the platform's content type to the header of Open Inference.

    Raises:
        InvalidInput: The content type contains the platform's, but does not begin with it.
    """
    headers = dict(scope["headers"])
    content_type = headers.get(b"content-type", b"").decode("latin-1")
    at = content_type.find(mime)
    if at < 0:
        return scope
    if at:
        raise InvalidInput(f"expect MIME type for binary data starts with '{mime}', got: {content_type}")
    length = content_type[len(mime) :].encode("latin-1")
    return {**scope, "headers": [*scope["headers"], (_LENGTH, length)]}


def _default(name: str, looking: StatusView) -> str:
    """Return the model of requests without a name.

    Raises:
        NotFound: None is configured, and not exactly one is ready.
    """
    if name:
        return name
    ready = {status.id.name for status in looking.statuses() if status.state is State.READY}
    if len(ready) != 1:
        raise NotFound(
            _ONE_MODEL,
            fix="Set --vertex-ai-default-model, or SAGEMAKER_TRITON_DEFAULT_MODEL_NAME in the environment.",
        )
    return ready.pop()


async def _read(receive: Receive) -> bytes | None:
    """Read a small body; return None if the caller hangs up first."""
    body = bytearray()
    while (message := await receive())["type"] == "http.request":
        body += message.get("body", b"")
        if len(body) > _MOST_BYTES:
            raise InvalidInput(f"a request about models may have {_MOST_BYTES} bytes")
        if not message.get("more_body"):
            return bytes(body)
    return None
