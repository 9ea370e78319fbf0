"""Asynchronous client with numpy arrays.

Each method is one call of the Open Inference Protocol or of its repository and statistics extensions. It
knows the protocol's paths and errors; bytes are handled in ``encoding`` and connections in ``http``.
"""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote, urlencode

import orjson

from salver.client.encoding import decode_reply, encode_request, specs, values_of
from salver.client.http import Http, Reply, Unreachable
from salver.client.outcomes import post_outcomes, taken
from salver.encoding.values import typed
from salver.words import errors
from salver.words.errors import SalverError
from salver.words.messages import Parameter, TensorSpec, described
from salver.words.releases import Outcome, Receipt
from salver.words.tensor import UNTYPED, Array, Tensor, tensor

if TYPE_CHECKING:
    from salver.client.events import EventStream

_BY_STATUS: Final[dict[int, type[SalverError]]] = {
    400: errors.InvalidInput,
    401: errors.Unauthenticated,
    403: errors.Forbidden,
    404: errors.NotFound,
    405: errors.WrongVerb,
    408: errors.DeadlineExceeded,
    409: errors.Conflict,
    413: errors.TooLarge,
    429: errors.Overloaded,
    499: errors.Cancelled,
    501: errors.Unsupported,
    503: errors.NotReady,
    504: errors.DeadlineExceeded,
}


class Client:
    """Asynchronous client of one server.

    Args:
        url: For example ``http://127.0.0.1:8000``; its path is prepended to every call's path.
        timeout: Maximum seconds of a call.
        token: Key of the caller, or token for changes (loads, unloads, outcomes), if the server requires one.

    Example::

        async with Client("http://127.0.0.1:8000") as client:
            answer = await client.infer("iris", {"X": np.zeros((1, 4), "float32")})
    """

    def __init__(self, url: str = "http://127.0.0.1:8000", *, timeout: float = 60.0, token: str = "") -> None:
        self._http = Http(url)
        self._timeout = timeout
        self._token = token
        self._known: dict[tuple[str, str], dict[str, TensorSpec]] = {}  # inputs of models

    def __repr__(self) -> str:
        """Return the server's address."""
        return f"<Client {self._http.url}>"

    async def __aenter__(self) -> Self:
        """Return the client; connections are opened by calls."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self.close()

    async def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        await self._http.close()

    async def live(self) -> bool:
        """Return whether the server is alive."""
        return (await self._send(self._http.request("GET", "/v2/health/live"))).status == 200

    async def ready(self, model: str = "", version: str = "") -> bool:
        """Return whether the server, or one model, is ready."""
        path = "/v2/health/ready"
        if model:
            path = f"{_model(model, version)}/ready"
        return (await self._send(self._http.request("GET", path, headers=self._key))).status == 200

    async def metadata(self, model: str = "", version: str = "") -> dict[str, Any]:
        """Return the metadata of the server, or of one model.

        Raises:
            NotFound: no such model or version.
        """
        return self._object(await self._get(_model(model, version) if model else "/v2"))

    async def config(self, model: str, version: str = "") -> dict[str, Any]:
        """Return a model's configuration, as Triton tells it.

        Raises:
            NotFound: no such model or version, or the server tells no configurations.
        """
        return self._object(await self._get(f"{_model(model, version)}/config"))

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, object] | Sequence[object] | Array,
        *,
        version: str = "",
        outputs: Sequence[str] = (),
        id: str = "",
        parameters: Mapping[str, Parameter] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Array]:
        """Send a request to a model.

        Args:
            model: Name of the model.
            inputs: By tensor name, anything that numpy understands (text for BYTES), or a
                :class:`~salver.words.tensor.Tensor` to specify the datatype. Lists and single values get the
                datatype in the model's metadata, which is requested once. A model with one input takes its
                values alone, too.
            version: Empty = chosen by the server.
            outputs: Requested outputs; empty = all.
            id: Your own id, for the server's log.
            parameters: Request parameters of the protocol.
            headers: Additional headers, such as ``x-request-id`` or one that names the user.

        Returns:
            Arrays by output name: object arrays of ``bytes`` for BYTES, float32 for BF16.

        Raises:
            InvalidInput: the server rejects the request, or an input has no datatype.
            NotFound: no such model or version.
            Overloaded: its queue is full.
            Unreachable: there is no answer.
            SalverError: other errors, by status.
        """
        if not isinstance(inputs, Mapping) or any(isinstance(v, UNTYPED) for v in inputs.values()):
            inputs = await self._typed(model, version, inputs)
        ask = self.infer_request(
            model, inputs, version=version, outputs=outputs, id=id, parameters=parameters, headers=headers
        )
        try:
            reply = _checked(await self._send(ask))
        except errors.InvalidInput:
            self._known.pop((model, version), None)  # the model may have been replaced
            raise
        return {out.name: values_of(out) for out in decode_reply(reply.headers, reply.body)}

    async def infer_json(self, model: str, body: bytes, *, version: str = "") -> tuple[Tensor, ...]:
        """Send an Open Inference request that is JSON already; return the outputs.

        Raises:
            SalverError: as :meth:`infer`.
        """
        ask = self._http.request("POST", f"{_model(model, version)}/infer", body, self._headers)
        reply = _checked(await self._send(ask))
        return decode_reply(reply.headers, reply.body)

    async def ask_raw(
        self,
        model: str,
        body: bytes,
        content_type: str = "application/json",
        *,
        version: str = "",
    ) -> Any:
        """Send raw inputs to a model that takes them; return the answer's JSON.

        Args:
            body: ``{"inputs": …, "parameters": …}`` as JSON, or a text, a file, CSV or a form.
            content_type: What the body is.
            version: Empty = chosen by the server.

        Raises:
            InvalidInput: the server rejects the request, or the model takes tensors.
            NotFound: no such model or version.
            SalverError: other errors, by status.
        """
        path = f"/v1{_model(model, version)[3:]}"
        headers = [("content-type", content_type), *self._key]
        return _json(_checked(await self._send(self._http.request("POST", path, body, headers))))

    def infer_request(
        self,
        model: str,
        inputs: Mapping[str, object],
        *,
        version: str = "",
        outputs: Sequence[str] = (),
        id: str = "",
        parameters: Mapping[str, Parameter] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """Return the bytes that :meth:`infer` would send, for repeated use with :meth:`post`.

        Raises:
            InvalidInput: an input has no datatype.
        """
        try:
            tensors = [v if isinstance(v, Tensor) else tensor(name, v) for name, v in inputs.items()]
        except ValueError as error:
            raise errors.InvalidInput(f"an input of {model!r} cannot be sent: {error}") from None
        own, body = encode_request(tensors, outputs=outputs, id=id, parameters=parameters)
        all_headers = [*own, *self._key, *(headers or {}).items()]
        return self._http.request("POST", f"{_model(model, version)}/infer", body, all_headers)

    async def post(self, request: bytes) -> None:
        """Send a prepared request and drop the answer.

        Raises:
            SalverError: the server rejects it, by its status.
        """
        _checked(await self._send(request))

    async def outcome(
        self,
        name: str,
        value: float,
        *,
        request: str = "",
        unit: str = "",
        time: float | None = None,
        id: str = "",
        supersedes: str = "",
    ) -> str:
        """Post an outcome of a request or a unit, which counts for releases that need it.

        Args:
            name: Name of the metric.
            request, unit: Either the request's ``x-request-id`` or the unit's name.
            time: Unix seconds of the event; None = now.
            id: Your own id, so that an outcome posted twice counts once; empty = a new one.
            supersedes: Id of the outcome that this one corrects.

        Returns:
            Its id, for a correction. The outcome is on the server's disk.

        Raises:
            InvalidInput: the server rejects it; the message has the reason.
            Unreachable: no answer to several attempts; post it again with your own id.
        """
        outcome = Outcome(
            id or uuid.uuid4().hex, name, request, unit, float(value), time, supersedes=supersedes
        )
        taken(await self.outcomes([outcome]))
        return outcome.id

    async def outcomes(self, outcomes: Sequence[Outcome]) -> Receipt:
        """Post many outcomes, in any order; the receipt names those that were rejected.

        Raises:
            SalverError: as :meth:`outcome`; post all of them again, with the same ids.
        """

        async def send(body: bytes) -> bytes:
            ask = self._http.request("POST", "/api/v1/outcomes", body, self._headers)
            return _checked(await self._send(ask)).body

        return await post_outcomes(send, outcomes)

    async def api(self, verb: str, path: str, body: object = None) -> bytes:
        """Ask the management interface; return the answer's JSON.

        Args:
            path: Path below ``/api/v1``, encoded, with its query.
            body: Anything that can be written as JSON; None = no body.

        Raises:
            SalverError: the server refuses it.
        """
        headers, sent = self._key, b""
        if body is not None:
            headers, sent = self._headers, orjson.dumps(body)
        return _checked(await self._send(self._http.request(verb, f"/api/v1{path}", sent, headers))).body

    async def index(self) -> list[dict[str, Any]]:
        """Return every version that the server knows: ``name``, ``version``, ``state``, ``reason``."""
        entries = _json(await self._call("/v2/repository/index"))
        if not isinstance(entries, list):
            raise errors.Unsupported("the server's repository index is not a list")
        return entries

    async def load(self, model: str) -> None:
        """Load or reload a model.

        Raises:
            NotFound: the repository has no such model.
            SalverError: it does not load; the message has the reason.
        """
        await self._call(f"/v2/repository/models/{quote(model, safe='')}/load")

    async def unload(self, model: str) -> None:
        """Unload a model; requests in flight are still answered.

        Raises:
            NotFound: no such model is loaded.
        """
        await self._call(f"/v2/repository/models/{quote(model, safe='')}/unload")

    async def statistics(self, model: str = "", version: str = "") -> dict[str, Any]:
        """Return counts and durations from the statistics extension, of one model or of all."""
        return self._object(await self._get(f"{_model(model, version) if model else '/v2/models'}/stats"))

    async def explain(self, model: str, version: str = "", *, request: str = "") -> dict[str, Any]:
        """Return the latency breakdown of a model's requests; durations in milliseconds.

        Args:
            request: Id of a recent request, for that one only.

        Raises:
            NotFound: no such model or version, or the server does not remember the request.
        """
        path = f"{_model(model, version)}/explain"
        if request:
            path = f"{_model(model, '')}/explain/{quote(request, safe='')}"
        return self._object(await self._get(path))

    async def usage(self, query: Mapping[str, str]) -> dict[str, Any]:
        """Return a page of what keys have used; ``next`` is the ``after`` of the following one.

        Args:
            query: Parameters of ``GET /api/v1/usage``.
        """
        return self._object(await self._get(f"/api/v1/usage?{urlencode(query)}"))

    async def _typed(
        self, model: str, version: str, inputs: Mapping[str, object] | Sequence[object] | Array
    ) -> dict[str, object]:
        """Return the inputs by name, with lists converted to the model's datatypes."""
        known = self._known.get((model, version))
        if known is None:
            told = await self.metadata(model, version)
            known = {}
            if told.get("inputs"):
                known = {spec.name: spec for spec in specs(told, "inputs")}
            self._known[model, version] = known
        takes = f"It takes: {described(known.values())}"
        if not isinstance(inputs, Mapping):
            if len(known) != 1:
                raise errors.InvalidInput(
                    f"the inputs of {model!r} are wanted as {{name: values}}", fix=takes
                )
            inputs = dict.fromkeys(known, inputs)
        if known and (unknown := [name for name in inputs if name not in known]):
            raise errors.InvalidInput(f"{model!r} has no input {unknown[0]!r}", fix=takes)
        return {
            name: typed(name, value, known[name].datatype)
            if isinstance(value, UNTYPED) and name in known
            else value
            for name, value in inputs.items()
        }

    async def _get(self, path: str) -> Reply:
        return _checked(await self._send(self._http.request("GET", path, headers=self._key)))

    async def _call(self, path: str) -> Reply:
        return _checked(await self._send(self._http.request("POST", path, b"{}", self._headers)))

    @property
    def _headers(self) -> list[tuple[str, str]]:
        """Return the headers of a request that may change something."""
        return [("content-type", "application/json"), *self._key]

    @property
    def _key(self) -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {self._token}")] if self._token else []

    async def _send(self, request: bytes) -> Reply:
        try:
            async with asyncio.timeout(self._timeout):
                return await self._http.send(request)
        except TimeoutError:
            raise errors.DeadlineExceeded(
                f"{self._http.url} has not answered within {self._timeout:g} s"
            ) from None

    def _object(self, reply: Reply) -> dict[str, Any]:
        found = _json(reply)
        if not isinstance(found, dict):
            raise Unreachable(f"{self._http.url} answers, but not as a model server does")
        return found


def _model(name: str, version: str) -> str:
    path = f"/v2/models/{quote(name, safe='')}"
    if not version:
        return path
    return f"{path}/versions/{quote(version, safe='')}"


def _json(reply: Reply) -> Any:
    try:
        return orjson.loads(reply.body)
    except ValueError:
        raise errors.Unsupported("the server's answer is not JSON") from None


def _checked(reply: Reply) -> Reply:
    """Return a successful reply, or raise the error of its status and body."""
    if reply.status < 400:
        return reply
    raise status_error(reply)


def status_error(reply: "Reply | EventStream") -> SalverError:
    """Return the error that a reply's status and body tell."""
    try:
        told = orjson.loads(reply.body)
        text = str(told["error"] if "error" in told else told["detail"])  # RFC 9457
    except (ValueError, KeyError, TypeError):
        text = f"the server answers {reply.status}"
    if reply.status in (429, 503) and b"retry-after" in reply.headers:
        return errors.Overloaded(text, retry_after=_seconds(reply.headers[b"retry-after"]))
    return _BY_STATUS.get(reply.status, errors.ModelFailed)(text)


def _seconds(text: bytes) -> float:
    """Parse seconds (RFC 9110, section 10.2.3); a date, the rare other form, counts as one second."""
    return float(text) if text.isdigit() else 1.0
