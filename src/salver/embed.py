"""A server inside a program, called without a port.

:class:`Server` is a whole server on a thread and event loop of its own. Each call has a method that blocks
and one to await in any event loop. Arrays are passed without a copy, those of frameworks by DLPack.
"""

import asyncio
import atexit
import concurrent.futures
import functools
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal, Self, TypedDict, TypeVar, Unpack

import msgspec
import numpy as np
import orjson

from salver.app import Server as App
from salver.configuration import ServeConfig, Table
from salver.dialects.oip.metadata import model as metadata_of
from salver.dialects.triton.config_view import as_json
from salver.encoding.values import typed
from salver.kernel.serving.ports import ConfigSource, ModelStatistics
from salver.transport.ports import Exposition
from salver.words.artifacts import LoadOrder
from salver.words.errors import (
    Cancelled,
    InvalidInput,
    LoadFailed,
    NotFound,
    NotReady,
    SalverError,
    Unsupported,
)
from salver.words.messages import (
    ANYBODY,
    Call,
    InferRequest,
    InferResponse,
    Parameter,
    RequestedOutput,
    Standing,
    State,
    VersionStatus,
)
from salver.words.tensor import UNTYPED, Array, DataType, Tensor, bf16_to_fp32, tensor

_T = TypeVar("_T")
_CPUS = (1, 3)  # DLPack's kDLCPU and kDLCUDAHost
_NO_PARAMETERS: Mapping[str, Parameter] = {}
_STOPPED = "the server was stopped meanwhile"
#: Inputs by name; for a model with one input, its values alone.
Inputs = Mapping[str, object] | Sequence[object] | Array


class Options(TypedDict, total=False):
    """Fields of :class:`~salver.configuration.ServeConfig` that are keywords of :class:`Server`."""

    name: str
    control: Literal["none", "poll", "explicit"]
    load: tuple[str, ...]
    trust_pickle: bool
    allow_environments: bool
    threads: int
    instances: int
    exits_on_error: bool | None
    state_dir: str
    tables: Mapping[str, Table]


class RequestOptions(TypedDict, total=False):
    """Options of a request, besides its inputs.

    ``outputs``: outputs to return, by default all. ``parameters`` and ``id``: as in the protocol.
    ``timeout``: time limit in seconds. ``standing``: the request's tenant and priority.
    """

    outputs: Sequence[str]
    parameters: Mapping[str, Parameter]
    id: str
    timeout: float
    standing: Standing


class Output:
    """A tensor of a response. Do not write to its memory: others may see it.

    Frameworks take it by DLPack (``torch.from_dlpack(output)``), and numpy by ``np.asarray(output)``, without
    a copy where the datatype is theirs.
    """

    __slots__ = ("_tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def __repr__(self) -> str:
        return f"<Output {self.name} {self.datatype.name}{list(self.shape)}>"

    @property
    def name(self) -> str:
        """Return the name of the tensor."""
        return self._tensor.name

    @property
    def datatype(self) -> DataType:
        """Return the protocol's name of the datatype."""
        return self._tensor.datatype

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the extents, outermost first."""
        return self._tensor.shape

    def numpy(self) -> Array:
        """Return the array itself; of BYTES an object array of ``bytes``, of BF16 a copy as float32."""
        tensor = self._tensor
        if tensor.datatype is DataType.BF16:
            return bf16_to_fp32(tensor.array)
        return tensor.array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        array = self.numpy()
        if copy or (dtype is not None and array.dtype != dtype):
            return array.astype(dtype or array.dtype)
        return array

    def __dlpack_device__(self) -> tuple[int, int]:
        return (_CPUS[0], 0)

    def __dlpack__(self, **asked: Any) -> Any:
        """Return a capsule of the same memory, or of a copy if the consumer does not know read-only memory.

        Raises:
            BufferError: DLPack, or numpy's, has no such datatype.
        """
        if self.datatype in (DataType.BYTES, DataType.BF16):
            raise BufferError(f"output '{self.name}' is {self.datatype.name}; ask for .numpy()")
        array = self._tensor.array
        try:
            return array.__dlpack__(**asked)
        except TypeError:  # an older numpy, which knows one argument
            asked = {"stream": asked.get("stream")}
            return (array if array.flags.writeable else array.copy()).__dlpack__(**asked)
        except BufferError:
            return array.copy().__dlpack__(**asked)


class Response:
    """A response, or a piece of one. ``response["y"]`` is an :class:`Output`.

    Attributes:
        model, version: Who answered.
        id: The question's.
        outputs: By name.
        error: Of a piece that went wrong, and has no outputs; others may follow.
    """

    def __init__(self, response: InferResponse) -> None:
        self.model = response.model
        self.version = response.version
        self.id = response.id
        self.parameters = response.parameters
        self.error = response.error
        self.outputs: Mapping[str, Output] = {tensor.name: Output(tensor) for tensor in response.outputs}

    def __repr__(self) -> str:
        return f"<Response of {self.model}:{self.version}, {self.error or list(self.outputs.values())}>"

    def __getitem__(self, name: str) -> Output:
        """Return the output of that name.

        Raises:
            SalverError: the piece is an error.
            KeyError: there is no such output.
        """
        if self.error is not None:
            raise self.error
        return self.outputs[name]


class Model:
    """A model of a server in this process; made by :meth:`Server.model`.

    Inputs are arrays by name: numpy's, whatever has ``__dlpack__`` and lies in this machine's memory, lists,
    or a :class:`~salver.words.tensor.Tensor` where the datatype must be said. They are not copied where
    they are
    contiguous: leave them as they are until the answer is there.
    """

    def __init__(self, server: "Server", name: str, version: str) -> None:
        self.name = name
        self.version = version
        self._server = server

    def __repr__(self) -> str:
        return f"<Model {self.name}{self.version and ':' + self.version}>"

    def infer(self, inputs: Inputs, **terms: Unpack[RequestOptions]) -> Response:
        """Send a request and return the response.

        Raises:
            InvalidInput: the inputs do not fit.
            NotFound, NotReady: the model is not loaded.
            Overloaded, DeadlineExceeded: the request was refused, or took too long.
            ModelFailed: the model raised.
            Unsupported: the model sends any number of responses: see ``stream``.
        """
        request = self._request(inputs, terms)
        return Response(self._server.run(lambda app: app.kernel.inner.infer(*request.fitted(app))))

    async def async_infer(self, inputs: Inputs, **terms: Unpack[RequestOptions]) -> Response:
        """Send a request and return the response, as ``infer``; cancelling the task cancels the request."""
        request = self._request(inputs, terms)
        return Response(await self._server.wait(lambda app: app.kernel.inner.infer(*request.fitted(app))))

    def stream(self, inputs: Inputs, **terms: Unpack[RequestOptions]) -> Iterator[Response]:
        """Yield the response in pieces; works with every model.

        Each piece is computed when the one before it has been taken. Leaving the loop early cancels the rest.

        Raises:
            SalverError: as ``infer``; before the first piece.
        """
        pieces = _Pieces(self._request(inputs, terms))
        try:
            while (response := self._server.run(pieces.next)) is not None:
                yield Response(response)
        finally:
            with suppress(NotReady):  # it was stopped, and the pieces with it
                self._server.run(pieces.close)

    async def async_stream(self, inputs: Inputs, **terms: Unpack[RequestOptions]) -> AsyncIterator[Response]:
        """Yield the response in pieces, as ``stream``."""
        pieces = _Pieces(self._request(inputs, terms))
        try:
            while (response := await self._server.wait(pieces.next)) is not None:
                yield Response(response)
        finally:
            with suppress(NotReady):
                await self._server.wait(pieces.close)

    def is_ready(self) -> bool:
        """Return True if the model can answer now."""
        return self._server.run(lambda app: app.control.is_ready(self.name, self.version))

    def metadata(self) -> dict[str, Any]:
        """Return inputs and outputs, as the protocol's model metadata.

        Raises:
            NotFound, NotReady: the model is not loaded.
        """

        async def work(app: App) -> dict[str, Any]:
            id, signature = app.kernel.door.signature(self.name, self.version)
            ready = [
                s.id.version
                for s in app.control.statuses()
                if s.id.name == id.name and s.state is State.READY
            ]
            return metadata_of(id, ready, signature)

        return self._server.run(work)

    def config(self) -> dict[str, Any]:
        """Return the model's configuration in Triton's form.

        Raises:
            NotFound, NotReady: the model is not loaded.
        """

        async def work(app: App) -> bytes:
            return app.kernel.services.need(ConfigSource).of(self.name, self.version)

        return as_json(self._server.run(work))

    def statistics(self) -> list[dict[str, Any]]:
        """Return counts and durations of each loaded version, in Triton's form."""

        async def work(app: App) -> list[dict[str, Any]]:
            source = app.kernel.services.need(ModelStatistics)
            found: list[dict[str, Any]] = source.statistics(self.name, self.version)["model_stats"]
            return found

        return self._server.run(work)

    def _request(self, inputs: Inputs, terms: RequestOptions) -> "_Request":
        now = time.monotonic()
        timeout = terms.get("timeout")
        given = inputs if isinstance(inputs, Mapping) else {"": inputs}
        request = InferRequest(
            self.name,
            tuple([_tensor_of(name, value) for name, value in given.items()]),
            self.version,
            terms.get("id", ""),
            tuple(map(RequestedOutput, terms.get("outputs", ()))),
            terms.get("parameters", _NO_PARAMETERS),
        )
        deadline = None if timeout is None else now + timeout
        call = Call("embedded", now, deadline, request.id, standing=terms.get("standing", ANYBODY))
        is_untyped = any(isinstance(value, UNTYPED) for value in given.values())
        return _Request(request, call, is_untyped or given is not inputs, given)


class Server:
    """A server in this process: ``with Server("models/") as server``, or ``async with``.

    Several may run side by side. A running server is stopped when the interpreter ends. A forked process does
    not inherit it.

    Args:
        paths: Model files, folders of one, repositories of many.
        port: Also open HTTP and gRPC at this port; 0 = any free port, None = none.
        config: The whole configuration; keywords override it.
        options: See :class:`Options`. By default, models are loaded at the start, and later on request.
    """

    def __init__(
        self,
        *paths: str | os.PathLike[str],
        port: int | None = None,
        config: ServeConfig | None = None,
        **options: Unpack[Options],
    ) -> None:
        told: dict[str, Any] = {**options}
        if config is None:
            config = ServeConfig(control="explicit", load=("*",), opens_ports=False)
            if told.get("control", "explicit") != "explicit":
                told.setdefault("load", ())
        if paths:
            told["paths"] = tuple(os.fspath(path) for path in paths)
        if port is not None:
            told |= {"front": msgspec.structs.replace(config.front, port=port), "opens_ports": True}
        self.config: ServeConfig = msgspec.structs.replace(config, **told)
        self._app: App | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._pid = 0

    def __repr__(self) -> str:
        return f"<Server of {', '.join(self.config.paths)}, {'running' if self._app else 'not running'}>"

    def start(self) -> None:
        """Load the models, and return when they are ready. Does nothing if the server runs.

        Raises:
            LoadFailed: a model did not load, unless ``exits_on_error`` is False.
            SalverError: a path, the port or a setting is wrong.
        """
        if self._thread is not None and self._pid == os.getpid():
            return
        begun: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._serve, args=(begun,), name="salver", daemon=True)
        self._thread.start()
        try:
            begun.result()
        except BaseException:
            begun.cancel()  # Ctrl-C while models load: they are let go when they are there
            self._thread = None
            raise
        _RUNNING.add(self)
        _watch_the_end()

    def stop(self) -> None:
        """Finish requests in flight and unload the models. Does nothing if the server does not run."""
        thread, loop, end = self._thread, self._loop, self._end
        if thread is None or loop is None or end is None or self._pid != os.getpid():
            return
        self._refuse_own_thread()
        self._thread = self._app = None
        _RUNNING.discard(self)
        loop.call_soon_threadsafe(end.set)
        thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    @property
    def url(self) -> str:
        """Return the base of every HTTP route.

        Raises:
            NotReady: it does not run.
            Unsupported: it opens none.
        """
        if not self.config.opens_ports:
            raise Unsupported("this server opens no port", fix="Give it one: port=0 for any that is free.")
        return self._running()[0].url

    @property
    def models(self) -> dict[str, Model]:
        """Return the models that can answer now, by name."""
        ready = sorted({s.id.name for s in self.index() if s.state is State.READY})
        return {name: self.model(name) for name in ready}

    def model(self, name: str, version: str | int = "") -> Model:
        """Return a model, loaded or not; by default its newest version that is ready."""
        return Model(self, name, str(version))

    def index(self) -> tuple[VersionStatus, ...]:
        """Return every known version with its state, and the reason if it is not ready."""

        async def work(app: App) -> tuple[VersionStatus, ...]:
            return tuple(app.control.statuses())

        return self.run(work)

    def is_ready(self) -> bool:
        """Return True if every model can answer."""
        return self.run(lambda app: app.control.is_ready())

    def load(
        self,
        name: str,
        config: Mapping[str, Any] | str = "",
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        """Load a model of the repository, or its new versions.

        Args:
            config: A Triton configuration in place of the model's own.
            files: Contents by path (``1/model.onnx``) in place of its folder; of harmless formats, unless
                the server was made with ``trust_pickle=True``.

        Raises:
            LoadFailed, NotFound, InvalidInput: with the reason.
        """
        order = _order(config, files)
        self.run(lambda app: app.control.load(name, order))

    async def async_load(
        self,
        name: str,
        config: Mapping[str, Any] | str = "",
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        """Load a model, as ``load``."""
        order = _order(config, files)
        await self.wait(lambda app: app.control.load(name, order))

    def unload(self, name: str) -> None:
        """Unload a model, and return when its requests in flight are answered."""
        self.run(lambda app: app.control.unload(name, waits=True))

    async def async_unload(self, name: str) -> None:
        """Unload a model, as ``unload``."""
        await self.wait(lambda app: app.control.unload(name, waits=True))

    def metrics(self) -> str:
        """Return the metrics page, in Prometheus' text format."""

        async def work(app: App) -> str:
            return app.kernel.services.need(Exposition).metrics("")[0].decode()

        return self.run(work)

    def run(self, work: Callable[[App], Coroutine[Any, Any, _T]]) -> _T:
        """Run a coroutine on the server's thread, and wait; Ctrl-C cancels it.

        Raises:
            NotReady: the server does not run, or not in this process.
        """
        future = self._submit(work)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise Cancelled(_STOPPED) from None
        except BaseException:
            future.cancel()
            raise

    async def wait(self, work: Callable[[App], Coroutine[Any, Any, _T]]) -> _T:
        """Run a coroutine on the server's thread, awaited in the caller's event loop."""
        future = self._submit(work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and not task.cancelling():
                raise Cancelled(_STOPPED) from None
            raise

    def _submit(self, work: Callable[[App], Coroutine[Any, Any, _T]]) -> "concurrent.futures.Future[_T]":
        app, loop = self._running()
        self._refuse_own_thread()
        return asyncio.run_coroutine_threadsafe(work(app), loop)

    def _running(self) -> tuple[App, asyncio.AbstractEventLoop]:
        if self._app is None or self._loop is None:
            raise NotReady("the server does not run", fix="Use it in a with block, or call start().")
        if self._pid != os.getpid():
            raise NotReady(
                f"the server runs in process {self._pid}, of which this one is a fork",
                fix="Start one of its own here, or fork before.",
            )
        return self._app, self._loop

    def _refuse_own_thread(self) -> None:
        if threading.current_thread() is self._thread:
            raise Unsupported("the server's own thread cannot wait for it", fix="Ask from another one.")

    def _serve(self, begun: "concurrent.futures.Future[None]") -> None:
        """Run the server on its thread, from start to stop."""
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(self._live(begun))

    async def _live(self, begun: "concurrent.futures.Future[None]") -> None:
        app, end = App(self.config), asyncio.Event()
        try:
            await app.start()
            try:
                if not await app.settled() and self.config.exits_on_error is not False:
                    raise _not_loaded(app.control.statuses())
                if begun.set_running_or_notify_cancel():
                    self._app, self._loop, self._end = app, asyncio.get_running_loop(), end
                    begun.set_result(None)
                    await end.wait()
            finally:
                await app.stop(self.config.drain_delay if begun.done() else 0.0)
        except BaseException as error:
            if begun.done():
                raise
            begun.set_exception(error)


class _Request(msgspec.Struct, frozen=True):
    """A request, and whether some of its inputs came without a datatype or a name.

    Attributes:
        given: The inputs as they came.
    """

    request: InferRequest
    call: Call
    is_untyped: bool
    given: Mapping[str, object]

    def fitted(self, app: App) -> tuple[InferRequest, Call]:
        """Return the request with the model's datatypes and name of its input where the caller gave none.

        On the server's thread.

        Raises:
            InvalidInput: values do not fit these.
        """
        request = self.request
        if self.is_untyped:
            with suppress(NotFound, NotReady):  # the request itself reports that
                _, signature = app.kernel.door.signature(request.model, request.version)
                kinds = {spec.name: spec.datatype for spec in signature.inputs}
                fitting = tuple(self._fit(tensor, kinds) for tensor in request.inputs)
                request = msgspec.structs.replace(request, inputs=fitting)
        return request, self.call

    def _fit(self, given: Tensor, kinds: Mapping[str, DataType]) -> Tensor:
        name, is_untyped = given.name, isinstance(self.given[given.name], UNTYPED)
        if not name and len(kinds) == 1:
            (name,) = kinds
        if is_untyped and kinds.get(name, given.datatype) is not given.datatype:
            return typed(name, given.array, kinds[name])
        return Tensor(name, given.datatype, given.array)


class _Pieces:
    """A response in pieces, on the server's thread; at most one piece is computed ahead."""

    def __init__(self, asked: _Request) -> None:
        self._asked = asked
        self._there: asyncio.Queue[InferResponse | SalverError | None] = asyncio.Queue(1)
        self._working: asyncio.Task[None] | None = None

    async def next(self, app: App) -> InferResponse | None:
        """Return the next piece; None after the last one."""
        if self._working is None:
            self._working = asyncio.create_task(self._work(app))
        piece = await self._there.get()
        if isinstance(piece, SalverError):
            raise piece
        return piece

    async def close(self, app: App) -> None:
        """Cancel the rest."""
        if self._working is not None:
            self._working.cancel()
            await asyncio.wait([self._working])

    async def _work(self, app: App) -> None:
        try:
            await app.kernel.inner.stream(*self._asked.fitted(app), self._there.put)
        except SalverError as error:
            await self._there.put(error)
        await self._there.put(None)


def _tensor_of(name: str, value: object) -> Tensor:
    if isinstance(value, Output):
        value = value._tensor
    if isinstance(value, Tensor):
        return Tensor(name, value.datatype, value.array)
    device = getattr(value, "__dlpack_device__", None)
    if device is not None and not isinstance(value, np.ndarray):
        if int(device()[0]) not in _CPUS:
            raise InvalidInput(
                f"input '{name}' is in a device's memory", field=name, fix="Move it first, as by .cpu()."
            )
        try:
            dlpack: Any = value
            value = np.from_dlpack(dlpack)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise InvalidInput(f"input '{name}' cannot be taken by DLPack: {error}", field=name) from error
    try:
        return tensor(name, value)
    except ValueError as error:
        raise InvalidInput(f"input '{name}': {error}", field=name) from error


def _order(config: Mapping[str, Any] | str, files: Mapping[str, bytes] | None) -> LoadOrder:
    told = config if isinstance(config, str) else orjson.dumps(config).decode()
    return LoadOrder(told, dict(files or {}))


def _not_loaded(statuses: Sequence[VersionStatus]) -> LoadFailed:
    failed = [f"{s.id} is {s.state.value}: {s.reason}" for s in statuses if s.state is not State.READY]
    return LoadFailed(
        f"not every model has loaded: {'; '.join(failed)}" if failed else "there is no model to load",
        fix="exits_on_error=False serves the others.",
    )


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return the fastest event loop that is installed."""
    try:
        from uvloop import new_event_loop
    except ImportError:  # not made for Windows
        return asyncio.new_event_loop
    made: Callable[[], asyncio.AbstractEventLoop] = new_event_loop
    return made


_RUNNING: set[Server] = set()


def _stop_all() -> None:
    for server in list(_RUNNING):
        server.stop()


@functools.cache
def _watch_the_end() -> None:
    """Stop all servers at exit, before the threads of executors end: ``atexit`` would be too late."""
    getattr(threading, "_register_atexit", atexit.register)(_stop_all)
    os.register_at_fork(after_in_child=_RUNNING.clear)
