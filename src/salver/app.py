"""How do all the rooms become one server?

The only place that composes. :class:`Server` wires a configuration into planes, transports and
observers, starts and stops them; :func:`serve` runs one until a signal. Nothing starts in a
constructor.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import secrets
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from salver import plugins
from salver.artifacts import Instances
from salver.backends.protocol import Backend
from salver.errors import InvalidInput, SalverError, Unsupported
from salver.lifecycle.manager import Manager
from salver.lifecycle.memory import tune_interpreter
from salver.messages import ModelId, Parameter, Signature, VersionStatus
from salver.repository import Repository
from salver.serving.bus import Bus
from salver.serving.controlplane import ControlMode, ControlPlane
from salver.serving.dataplane import DataPlane
from salver.serving.loader import Loader, Servable, Terms
from salver.serving.profiles import ProfileStore
from salver.telemetry.eventlog import EventLog
from salver.telemetry.explain import Explanations
from salver.telemetry.logs import LogConfig, configure
from salver.telemetry.metrics import Metrics
from salver.telemetry.ports import Load
from salver.telemetry.statistics import Statistics
from salver.transport.asgi import Front
from salver.transport.calls import Reception
from salver.transport.grpc import GrpcMethods
from salver.transport.http import HttpOperations
from salver.transport.server import FrontConfig, Listener, listen

_LOG = logging.getLogger("salver")


class ServeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything ``salver serve`` can be told.

    Attributes:
        paths: Model files, folders of one, repositories of many.
        name: The model's name, when there is exactly one.
        control: ``poll`` follows changes on disk, ``none`` looks once, ``explicit`` loads on request.
        load: What to load at the start in explicit mode.
        trust_pickle: Allow artefacts whose loading can run code.
        threads, instances: Stand in where a model's own configuration is silent; 0 = by traits.
        max_body_mb: Most MiB of an HTTP body.
        max_message_mb: Most MiB of a gRPC message.
        state_dir: Where profiles of models with an objective are kept; empty = nowhere, so that they are
            measured at each start.
        tenant_header: HTTP header and gRPC metadata that names a request's tenant; empty = none does.
    """

    paths: tuple[str, ...] = ()
    name: str = ""
    front: FrontConfig = FrontConfig()
    control: Literal["none", "poll", "explicit"] = "poll"
    poll_seconds: float = 2.0
    load: tuple[str, ...] = ()
    trust_pickle: bool = False
    threads: int = 0
    instances: int = 0
    max_body_mb: int = 64
    max_message_mb: int = 2047
    tenant_header: str = "x-tenant"
    state_dir: str = ""
    log: LogConfig = LogConfig()


class ReadyInfo(msgspec.Struct, frozen=True):
    """What there is to tell once the first models are up (or have failed).

    Attributes:
        url: Base of every HTTP route; gRPC listens on the same host and port.
        seconds: From the start of the process's server to now.
        signatures: Of the versions that answer.
    """

    host: str
    port: int
    url: str
    seconds: float
    statuses: tuple[VersionStatus, ...]
    signatures: Mapping[ModelId, Signature]
    front: str = "h2corn"


class _Control:
    """What transports may see and change (transport.ports.Control)."""

    def __init__(self, plane: ControlPlane, manager: Manager[Servable]) -> None:
        self._plane = plane
        self._manager = manager
        self.is_stopping = False

    def statuses(self) -> tuple[VersionStatus, ...]:
        return self._plane.index()

    def is_ready(self, model: str = "", version: str = "") -> bool:
        if self.is_stopping:
            return False
        if not model:
            return self._manager.ready()
        try:
            self._manager.acquire(model, version).release()
        except SalverError:
            return False
        return True

    async def load(self, model: str, parameters: Mapping[str, Parameter]) -> None:
        unknown = sorted(set(parameters) - {"config"})
        if unknown:
            raise Unsupported(
                f"load parameter '{unknown[0]}' is not supported", field="parameters", fix="Known: config."
            )
        config = parameters.get("config", "")
        if not isinstance(config, str):
            raise InvalidInput("load parameter 'config' must be JSON text", field="parameters.config")
        await self._plane.load(model, config)

    async def unload(self, model: str, parameters: Mapping[str, Parameter]) -> None:
        await self._plane.unload(model)


class Server:
    """A whole server inside this process's event loop.

    Example::

        async with Server(ServeConfig(paths=("model.onnx",))) as server:
            print(server.url)
    """

    def __init__(self, config: ServeConfig, backends: Mapping[str, Backend] | None = None) -> None:
        self.config = config
        self._backends = backends
        self._listener: Listener | None = None
        self._running: asyncio.Task[None] | None = None
        self._began = time.monotonic()

    def __repr__(self) -> str:
        return f"<Server {self.url}>" if self._listener else "<Server not started>"

    @property
    def port(self) -> int:
        """Where it listens; the one chosen when the configuration says 0."""
        assert self._listener is not None, "not started"
        return self._listener.port

    @property
    def url(self) -> str:
        """Base of every HTTP route."""
        scheme = "https" if self.config.front.tls_cert else "http"
        host = self.config.front.host
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"

    async def start(self) -> None:
        """Open the port, then begin to load; doors open at once and readiness tells the truth.

        Raises:
            SalverError: the port, a path or a setting is wrong.
        """
        self._began = time.monotonic()
        config = self.config
        clock = time.monotonic
        new_id = _id_maker()
        backends = plugins.backends() if self._backends is None else self._backends
        self._statistics = Statistics(time.time)
        self._metrics = Metrics(self)
        self._explanations = Explanations(clock, self)
        observers = (self._metrics, self._statistics, self._explanations, EventLog(config.log.access_log))
        self._bus = Bus(observers)
        terms = Terms(
            len(os.sched_getaffinity(0)), config.trust_pickle, Instances(config.instances, config.threads)
        )
        loader = Loader(backends, self._bus, clock, terms, ProfileStore(config.state_dir))
        self._manager: Manager[Servable] = Manager(loader, clock, self._bus.emit)
        repository = Repository(
            [Path(path) for path in config.paths], plugins.recogniser(backends), config.name
        )
        mode = ControlMode(config.control, config.poll_seconds, config.load)
        self._plane = ControlPlane(repository, self._manager, mode, clock)
        self.control = _Control(self._plane, self._manager)
        door: DataPlane[Any, Any] = DataPlane(self._manager, self._bus, clock, new_id)
        reception = Reception(clock, new_id, config.tenant_header.lower().encode())
        front = Front(
            HttpOperations(door, self.control, self),
            GrpcMethods(door, self.control, self, reception, max_message=config.max_message_mb << 20),
            reception,
            max_body=config.max_body_mb << 20,
            hears_http1=config.front.server != "h2corn",
        )
        self._listener = listen(front, config.front)
        self._running = asyncio.create_task(self._listener.run(), name="front")
        started = asyncio.create_task(self._listener.started())
        await asyncio.wait({self._running, started}, return_when=asyncio.FIRST_COMPLETED)
        if self._running.done():
            started.cancel()
            await self._running
        await self._plane.start()

    async def stop(self) -> None:
        """Readiness fails at once; what is in flight ends; then models go, with their memory."""
        assert self._listener is not None and self._running is not None, "not started"
        grace = self.config.front.grace_seconds
        self.control.is_stopping = True
        self._listener.stop()
        await asyncio.wait({self._running}, timeout=grace + 5)
        await self._plane.stop()
        await self._manager.drain(grace)
        self._bus.flush()

    async def __aenter__(self) -> "Server":
        await self.start()
        await self._manager.settled()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def info(self) -> ReadyInfo:
        """What the start-up block shows."""
        return ReadyInfo(
            self.config.front.host,
            self.port,
            self.url,
            time.monotonic() - self._began,
            self.control.statuses(),
            {s.manifest.id: s.signature for s in self._manager.servables()},
            self.config.front.server,
        )

    async def settled(self) -> None:
        """Returns when every load under way has ended, well or not."""
        await self._manager.settled()

    async def ended(self) -> None:
        """Returns when the front has ended, whatever the reason."""
        assert self._running is not None, "not started"
        await asyncio.wait({self._running})

    # What observers and transports ask for (telemetry.ports.Present, transport.ports.Exposition).

    def statuses(self) -> Sequence[VersionStatus]:
        """Every version known."""
        return self.control.statuses()

    def loads(self) -> Sequence[Load]:
        """How busy each engine is."""
        return [
            Load(
                s.manifest.id,
                s.engine.queued,
                s.engine.running,
                s.placement.slots,
                s.engine.insight(),
                tuple(s.manifest.config.fairness.weights),
            )
            for s in self._manager.servables()
        ]

    def dropped_events(self) -> int:
        """Events that observers missed."""
        return self._bus.dropped

    def metrics(self, accept: str) -> tuple[bytes, str]:
        """The metrics page and its content type."""
        self._bus.flush()
        return self._metrics.render(accept)

    def statistics(self, model: str = "", version: str = "") -> dict[str, Any]:
        """Triton-shaped statistics."""
        self._bus.flush()
        return self._statistics.snapshot(model, version)

    def explain(self, model: str, version: str, request: str = "") -> dict[str, Any]:
        """Where the time of requests went, or of the one with this id."""
        self._bus.flush()
        if request:
            return self._explanations.request(model, request)
        return self._explanations.model(model, version)


async def serve(config: ServeConfig, on_ready: Callable[[ReadyInfo], None]) -> int:
    """Serve until SIGINT or SIGTERM; the exit status of the process.

    Args:
        on_ready: Told once, when every first load has ended, well or not.

    Raises:
        SalverError: it could not start.
    """
    configure(config.log)
    server = Server(config)
    await server.start()
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked.set)
    told = asyncio.create_task(_tell(server, on_ready))
    ends = asyncio.create_task(server.ended())
    stop = asyncio.create_task(asked.wait())
    await asyncio.wait({ends, stop}, return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    _LOG.info("stopping: no new requests, %g s for those in flight", config.front.grace_seconds)
    await server.stop()
    for task in (ends, stop, told):
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    return 0 if asked.is_set() else 1


async def _tell(server: Server, on_ready: Callable[[ReadyInfo], None]) -> None:
    await server.settled()
    tune_interpreter()
    try:
        on_ready(server.info())
    except Exception:  # a block that cannot be shown is no reason not to serve, nor to be silent
        _LOG.exception("the start-up report failed")


def _id_maker() -> Callable[[], str]:
    """Ids of 16 hexadecimal digits: unique in this process, unlikely to meet another's."""
    base = secrets.randbits(63)
    numbers = itertools.count(base)
    return lambda: f"{next(numbers):016x}"


__all__ = ["FrontConfig", "LogConfig", "ReadyInfo", "ServeConfig", "Server", "serve"]
