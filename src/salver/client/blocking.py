"""Synchronous client: the asynchronous one, on an event loop of its own in a thread."""

import asyncio
import threading
from collections.abc import Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from salver.client.client import Client
from salver.words.errors import NotReady
from salver.words.messages import Parameter
from salver.words.releases import Outcome, Receipt
from salver.words.tensor import Array, Tensor

T = TypeVar("T")


class SyncClient:
    """Client of one server whose methods wait for the answer.

    Thread-safe, and usable where an event loop is already running, as in a notebook. Arguments, answers and
    errors are those of :class:`Client`.

    Example::

        with SyncClient("http://127.0.0.1:8000") as client:
            answer = client.infer("iris", {"X": [[5.1, 3.5, 1.4, 0.2]]})
    """

    def __init__(self, url: str = "http://127.0.0.1:8000", *, timeout: float = 60.0, token: str = "") -> None:
        self._client = Client(url, timeout=timeout, token=token)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = threading.Lock()
        self._is_closed = False

    def __repr__(self) -> str:
        """Return the server's address."""
        return repr(self._client).replace("Client", "SyncClient", 1)

    def __enter__(self) -> Self:
        """Return the client; connections are opened by calls."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections and end the thread. No call may follow."""
        with self._starting:
            self._is_closed, loop, self._loop = True, self._loop, None
        if loop is not None:
            asyncio.run_coroutine_threadsafe(self._client.close(), loop).result()
            loop.call_soon_threadsafe(loop.stop)

    def live(self) -> bool:
        """Return whether the server is alive."""
        return self._wait(self._client.live())

    def ready(self, model: str = "", version: str = "") -> bool:
        """Return whether the server, or one model, is ready."""
        return self._wait(self._client.ready(model, version))

    def metadata(self, model: str = "", version: str = "") -> dict[str, Any]:
        """Return the metadata of the server, or of one model."""
        return self._wait(self._client.metadata(model, version))

    def config(self, model: str, version: str = "") -> dict[str, Any]:
        """Return a model's configuration, as Triton tells it."""
        return self._wait(self._client.config(model, version))

    def infer(
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
        """Send a request to a model; see :meth:`Client.infer`."""
        ask = self._client.infer(
            model, inputs, version=version, outputs=outputs, id=id, parameters=parameters, headers=headers
        )
        return self._wait(ask)

    def infer_json(self, model: str, body: bytes, *, version: str = "") -> tuple[Tensor, ...]:
        """Send an Open Inference request that is JSON already; return the outputs."""
        return self._wait(self._client.infer_json(model, body, version=version))

    def ask_raw(
        self, model: str, body: bytes, content_type: str = "application/json", *, version: str = ""
    ) -> Any:
        """Send raw inputs to a model that takes them; return the answer's JSON."""
        return self._wait(self._client.ask_raw(model, body, content_type, version=version))

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
        """Return the bytes that :meth:`infer` would send, for :meth:`post`."""
        return self._client.infer_request(
            model, inputs, version=version, outputs=outputs, id=id, parameters=parameters, headers=headers
        )

    def post(self, request: bytes) -> None:
        """Send a prepared request and drop the answer."""
        self._wait(self._client.post(request))

    def outcome(
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
        """Post an outcome of a request or a unit; see :meth:`Client.outcome`."""
        told = self._client.outcome(
            name, value, request=request, unit=unit, time=time, id=id, supersedes=supersedes
        )
        return self._wait(told)

    def outcomes(self, outcomes: Sequence[Outcome]) -> Receipt:
        """Post many outcomes; the receipt names those that were rejected."""
        return self._wait(self._client.outcomes(outcomes))

    def index(self) -> list[dict[str, Any]]:
        """Return every version that the server knows: ``name``, ``version``, ``state``, ``reason``."""
        return self._wait(self._client.index())

    def load(self, model: str) -> None:
        """Load or reload a model."""
        self._wait(self._client.load(model))

    def unload(self, model: str) -> None:
        """Unload a model; requests in flight are still answered."""
        self._wait(self._client.unload(model))

    def statistics(self, model: str = "", version: str = "") -> dict[str, Any]:
        """Return counts and durations of one model, or of all."""
        return self._wait(self._client.statistics(model, version))

    def explain(self, model: str, version: str = "", *, request: str = "") -> dict[str, Any]:
        """Return the latency breakdown of a model's requests; see :meth:`Client.explain`."""
        return self._wait(self._client.explain(model, version, request=request))

    def api(self, verb: str, path: str, body: object = None) -> bytes:
        """Ask the management interface; return the answer's JSON; see :meth:`Client.api`."""
        return self._wait(self._client.api(verb, path, body))

    def usage(self, query: Mapping[str, str]) -> dict[str, Any]:
        """Return a page of what keys have used; see :meth:`Client.usage`."""
        return self._wait(self._client.usage(query))

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of a call; Ctrl-C cancels it."""
        try:
            loop = self._running()
        except NotReady:
            work.close()
            raise
        future = asyncio.run_coroutine_threadsafe(work, loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._is_closed:
                raise NotReady(f"{self!r} is closed", fix="Make another one.")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=_live, args=(self._loop,), name="salver client", daemon=True).start()
            return self._loop


def _live(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()
