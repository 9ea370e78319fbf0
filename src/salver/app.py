"""Composition of a server from the kernel and its features.

:class:`Server` builds the kernel, then the features that the configuration uses, and starts and stops them.
Nothing starts in a constructor. ``running.py`` runs a server until a signal.
"""

import asyncio
import logging
import os
import time
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec

from salver import __version__
from salver.backends.discovery import backends as find_backends
from salver.backends.discovery import recogniser, touches_machine
from salver.backends.protocol import Backend
from salver.configuration import ServeConfig
from salver.feature import discover
from salver.kernel.engine.turns import ResourcePool
from salver.kernel.lifecycle.manager import Manager
from salver.kernel.logs import LogConfig, reopen
from salver.kernel.repository import Repository
from salver.kernel.serving.bus import Bus
from salver.kernel.serving.control import ServerControl
from salver.kernel.serving.controlplane import ControlMode, ControlPlane
from salver.kernel.serving.dataplane import DataPlane
from salver.kernel.serving.decoding import Decoders
from salver.kernel.serving.exchange import RequestPath
from salver.kernel.serving.fetching import Fetching
from salver.kernel.serving.loader import Loader
from salver.kernel.serving.loading import Terms
from salver.kernel.serving.ports import OwnNumbers
from salver.kernel.serving.readiness import Readiness
from salver.kernel.serving.servable import Servable
from salver.kernel.serving.state import ServerState
from salver.kernel.supervise import Faults, Supervisor, every
from salver.lazy import is_made, lazily, lazy_imports
from salver.parts import Kernel, MetricsPage, Parts, build, formats
from salver.port_apps import PortApps
from salver.stores import Copies, open_store
from salver.transport.budget import Budget
from salver.transport.calls import RequestContext, id_maker
from salver.transport.hangup import HangUps
from salver.transport.listeners import Listeners
from salver.transport.parting import Parting
from salver.transport.restrict import GRPC_PREFIX
from salver.words.artifacts import Instances
from salver.words.errors import SalverError

with lazy_imports():
    from salver.kernel.serving.inner import Inner
    from salver.kernel.serving.model_callbacks import ModelCallbacks


_LOG = logging.getLogger("salver")


class Server:
    """A whole server inside this process's event loop.

    Example::

        async with Server(ServeConfig(paths=("model.onnx",))) as server:
            print(server.url)

    Attributes:
        kernel: What the features are built into; there from ``start`` on.
        listeners: Its ports.
    """

    kernel: Kernel
    ports: PortApps
    control: ServerControl
    door: DataPlane[Any, Any]

    def __init__(self, config: ServeConfig, backends: Mapping[str, Backend] | None = None) -> None:
        self.config = config
        self._backends = backends
        self._log = config.table("log", LogConfig)
        self._hangups = HangUps()
        self._parting = Parting()
        self.began = time.monotonic()
        self._ticking = Supervisor(_LOG, "a tick failed")
        self._is_up = False  # everybody who loads is there
        fronts = (config.front, *config.more) if config.opens_ports else ()
        as_json = self._log.is_json()
        self.listeners = Listeners(
            [msgspec.structs.replace(front, logs_json=as_json) for front in fronts],
            config.connections,
            self._parting,
            self._hangups,
        )

    def __repr__(self) -> str:
        return f"<Server {self.url}>" if self.listeners.is_open else "<Server not started>"

    @property
    def port(self) -> int:
        """Port that it listens on; the chosen one if the configuration says 0."""
        return self.listeners.port

    @property
    def url(self) -> str:
        """Base of every HTTP route."""
        assert self.listeners.is_open, "not started"
        return self.listeners.urls()[0]

    async def start(self) -> None:
        """Open the ports, then begin to load; ports open at once and readiness tells the truth.

        Where the configuration says so, ports open when the models have loaded.

        Raises:
            SalverError: the port, a path or a setting is wrong.
        """
        self.began = time.monotonic()
        self._assemble()
        kernel = self.kernel
        await build(discover(), kernel)
        self._attach(kernel.parts)
        self.ports = PortApps(kernel)
        apps = [self.ports.app(config) for config in self.listeners.configs]
        if self.config.waits_for_models:
            await self._load()
            await kernel.models.tried({status.id.name for status in kernel.models.statuses()})
            await self._open(apps)
        else:
            await self._open(apps)
            await self._load()
        self._is_up = True

    def _assemble(self) -> None:
        """Make the kernel, which serves models of backends without any feature."""
        config, clock, new_id = self.config, time.monotonic, id_maker()
        backends = find_backends() if self._backends is None else self._backends
        bus = Bus()
        inner = lazily(Inner, lambda: self.door)
        callbacks = lazily(lambda: self._model_callbacks(inner))
        terms = Terms(
            len(os.sched_getaffinity(0)),
            config.trust_pickle,
            Instances(config.instances, config.threads),
            callbacks,
            None if config.resources is None else ResourcePool(config.resources),
        )
        self._loader = Loader(backends, bus, clock, terms)
        self._copies = lazily(Copies)
        self._fetching = Fetching(self._loader, self._copies)
        models: Manager[Servable] = Manager(self._fetching, clock, bus.emit, config.whole_lifecycle)
        repository = Repository(
            config.paths,
            formats(recogniser(backends), touches_machine(backends)),
            msgspec.structs.replace(config.repository, name=config.name, trusts_code=config.trust_pickle),
            lambda path: open_store(path, self._copies),
            config.named_defaults,
        )
        mode = ControlMode(
            config.control, config.poll_seconds, config.load, spares_missing=config.exits_on_error is False
        )
        plane = ControlPlane(repository, models, mode, clock)
        self.readiness = Readiness(config.readiness, models, plane)
        self.control = control = ServerControl(plane, models, self.readiness)
        self._decoders = Decoders()
        path = RequestPath(
            models,
            bus.emit,
            clock,
            new_id,
            keeps_timeouts=config.keeps_timeouts,
            decoders=self._decoders,
            tritons_words=config.tritons_words,
        )
        self.door = door = DataPlane[Any, Any](path)
        context = RequestContext(
            clock,
            new_id,
            config.tenant_header.lower().encode(),
            config.server_name,
            config.http.rules(),
            config.grpc.rules(GRPC_PREFIX, is_grpc=True),
            config.max_message_mb << 20,
            config.grpc_compression,
            decoders=self._decoders,
            budget=Budget(int(config.max_bodies_mb * (1 << 20))),
            tritons_words=config.tritons_words,
            hangups=self._hangups,
            parting=self._parting,
        )
        state = ServerState(models, control, bus)
        self.kernel = Kernel(
            config, clock, new_id, __version__, bus, terms, callbacks, models, plane, control, state,
            inner, door, context, token=config.api.digest(),
        )  # fmt: skip

    def _model_callbacks(self, inner: Inner) -> ModelCallbacks:
        kernel = self.kernel
        numbers = kernel.services.find(OwnNumbers)
        return ModelCallbacks(inner, lambda: self.control, kernel.clock, kernel.new_id, numbers)

    def _attach(self, parts: Sequence[Parts]) -> None:
        """Give the kernel what the features add to it."""
        kernel = self.kernel
        page = kernel.services.find(MetricsPage)
        for part in parts:
            for observer in part.observers:
                kernel.bus.join(observer)
            if page is not None:
                for collector in part.collectors:
                    page.join(collector)
            if part.additions is not None:
                self._loader.add(part.additions)
            if part.wrap_loader is not None:
                self._fetching.loader = part.wrap_loader(self._fetching.loader)
            if part.changes is not None:
                kernel.plane.changes = part.changes
            if part.stage is not None:
                kernel.door.path = msgspec.structs.replace(kernel.door.path, stage=part.stage)
        self._fetching.checks = tuple(chain.from_iterable(part.checks for part in parts))

    async def _open(self, apps: Sequence[Any]) -> None:
        most = max([self.config.max_body, *(port.max_request for port in self.kernel.ports)])
        await self.listeners.open(apps, self.ports.exact(), most)

    async def _load(self) -> None:
        for part in self.kernel.parts:
            await part.prepare()
        await self.kernel.plane.start()
        for part in self.kernel.parts:
            await part.start()
            for tick in part.ticks:
                faults = Faults(_LOG, f"the tick {tick.name} failed")
                self._ticking.start(tick.name, every(tick.seconds, tick.run, faults))

    async def reload(self) -> None:
        """Look again at models, their configurations and the log file; the log says what that was."""
        reopen(self._log)
        if not self._is_up:
            _LOG.info("starting: there is nothing to look at again")
            return
        _LOG.info("looking again at the models, their files and configurations, and at the log file")
        for look in (self.kernel.plane.look, *(part.look for part in self.kernel.parts)):
            try:
                await look()
            except SalverError as error:
                _LOG.error("the models stay as they are: %s", error)
        _LOG.info("looked again; flags, environment, ports, certificates and tokens need a restart")

    def hurry(self) -> None:
        """End the drain delay of a ``stop`` that is under way."""
        self._parting.hurry.set()

    async def stop(self, delay_s: float = 0.0) -> None:
        """Fail readiness at once, end what is in flight, then unload the models.

        Args:
            delay_s: Seconds in which it goes on taking connections, so that those who send callers here can
                see that it is not ready any more.
        """
        grace, kernel = self.config.front.grace_seconds, self.kernel
        self.readiness.is_ending = self._parting.is_told = True
        for part in kernel.parts:
            await part.leave()
        await self.listeners.leave(delay_s)
        loop = asyncio.get_running_loop()
        end = loop.time() + grace
        if self.listeners.is_open:
            self.ports.stop()
            await self.listeners.closed(grace + 5)
        kernel.bus.flush()
        await self._ticking.close()
        for part in reversed(kernel.parts):
            await part.stop()
        await kernel.plane.stop()
        await kernel.models.drain(max(0.0, end - loop.time()))
        await kernel.plane.close()
        if is_made(self._copies):
            await asyncio.to_thread(self._copies.close)
        kernel.bus.flush()
        self._decoders.close()
        for part in reversed(kernel.parts):
            await part.close()

    async def __aenter__(self) -> "Server":
        await self.start()
        await self.settled()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def settled(self) -> bool:
        """Wait until every load under way has ended; return whether all ended well."""
        await self.kernel.models.settled()
        self.readiness.has_settled = True
        return self.kernel.models.ready() and all(part.is_well() for part in self.kernel.parts)

    def has_nothing(self) -> bool:
        """Return whether models are wanted and none of them is there."""
        kernel = self.kernel
        return bool(kernel.models.wanted() or kernel.plane.missing) and not kernel.models.servables()

    async def ended(self) -> None:
        """Wait until a listener has ended, whatever the reason."""
        await self.listeners.ended()


__all__ = ["ServeConfig", "Server"]
