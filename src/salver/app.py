"""Composition of a server from the kernel and its features.

:class:`Server` builds the kernel, then the features that the configuration uses, and starts and stops them.
Nothing starts in a constructor. ``running.py`` runs a server until a signal.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from salver.assembly import Assembly
from salver.backends.protocol import Backend
from salver.configuration import ServeConfig
from salver.feature import Feature, discover
from salver.kernel.logs import LogConfig, reopen
from salver.kernel.serving.control import ServerControl
from salver.kernel.serving.readiness import Readiness
from salver.kernel.supervise import Faults, Supervisor, every
from salver.lazy import is_made
from salver.parts import Kernel, build
from salver.port_apps import PortApps
from salver.transport.listeners import Listeners
from salver.transport.parting import Parting
from salver.transport.watch import StreamingPeers
from salver.words.errors import SalverError

_LOG = logging.getLogger("salver")


class Server:
    """Server inside this process's event loop.

    Args:
        backends: Backends by name; None = all installed ones.
        features: Features that may be built; None = all installed ones.

    Example::

        async with Server(ServeConfig(paths=("model.onnx",))) as server:
            print(server.url)

    Attributes:
        kernel: Kernel that the features are built into; set by ``start``.
        listeners: Its ports.
    """

    kernel: Kernel
    ports: PortApps
    control: ServerControl
    readiness: Readiness

    def __init__(
        self,
        config: ServeConfig,
        backends: Mapping[str, Backend] | None = None,
        features: Sequence[Feature] | None = None,
    ) -> None:
        self.config = config
        self._backends = backends
        self._features = features
        self._log = config.table("log", LogConfig)
        self._streaming = StreamingPeers()
        self._parting = Parting()
        self.began = time.monotonic()
        self._ticking = Supervisor(_LOG, "a tick failed")
        self._is_up = False  # everything that loads models has started
        fronts = (config.front, *config.more) if config.opens_ports else ()
        self.listeners = Listeners(
            fronts,
            config.connections,
            self._parting,
            self._streaming,
        )

    def __repr__(self) -> str:
        if self.listeners.is_open:
            return f"<Server {self.url}>"
        return "<Server not started>"

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
        """Open the ports, then start loading; readiness reports the progress.

        If configured so, the ports open only after the models have loaded.

        Raises:
            SalverError: the port, a path or a setting is wrong.
        """
        self.began = time.monotonic()
        self._assemble()
        kernel = self.kernel
        await build(discover() if self._features is None else self._features, kernel)
        self._made.attach()
        self.ports = PortApps(kernel)
        apps: Sequence[Any] = [self.ports.app(config) for config in self.listeners.configs]
        for part in kernel.parts:
            apps = part.enclose(apps)
        if self.config.waits_for_models:
            await self._load()
            await kernel.models.tried({status.id.name for status in kernel.models.statuses()})
            await self._open(apps)
        else:
            await self._open(apps)
            await self._load()
        self._is_up = self.readiness.is_up = True

    def _assemble(self) -> None:
        self._made = made = Assembly(self.config, self._backends, self._streaming, self._parting)
        self.kernel, self.readiness, self.control = made.kernel, made.readiness, made.kernel.control

    async def _open(self, apps: Sequence[Any]) -> None:
        most = max([self.config.max_body, *(port.max_request for port in self.kernel.ports)])
        await self.listeners.open(apps, self.ports.exact(), most, self.kernel.peers)
        for part in self.kernel.parts:
            await part.opened(self.listeners.ports())

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
        """Reload models, their configurations and the log file; changes are logged."""
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
        """End the drain delay of a running ``stop``."""
        self._parting.hurry.set()

    async def stop(self, delay_s: float = 0.0) -> None:
        """Fail readiness at once, finish requests in flight, then unload the models.

        Args:
            delay_s: Seconds in which it still accepts connections, so that load balancers can notice that it
                is not ready.
        """
        grace, kernel = self.config.front.grace_seconds, self.kernel
        self.readiness.is_ending = self._parting.is_told = True
        for part in kernel.parts:
            await part.leave()
        await self.listeners.leave(delay_s)
        for part in kernel.parts:
            await part.parted()
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
        if is_made(self._made.copies):
            await asyncio.to_thread(self._made.copies.close)
        if is_made(self._made.forks):
            await self._made.forks.close()
        kernel.bus.flush()
        self._made.decoders.close()
        for part in reversed(kernel.parts):
            await part.close()

    async def __aenter__(self) -> "Server":
        await self.start()
        await self.settled()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def settled(self) -> bool:
        """Wait until all active loads have ended; return whether all succeeded."""
        await self.kernel.models.settled()
        self.readiness.has_settled = True
        return self.kernel.models.ready() and all(part.is_well() for part in self.kernel.parts)

    def has_nothing(self) -> bool:
        """Return whether models are wanted and none is loaded."""
        kernel = self.kernel
        return bool(kernel.models.wanted() or kernel.plane.missing) and not kernel.models.servables()

    async def ended(self) -> None:
        """Wait until any listener has ended."""
        await self.listeners.ended()


__all__ = ["ServeConfig", "Server"]
