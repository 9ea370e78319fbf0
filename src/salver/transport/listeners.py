"""All ports of a server, opened, watched and closed together."""

import asyncio
from collections.abc import Sequence

import msgspec

from salver.transport.doors import App
from salver.transport.parting import Parting
from salver.transport.server import ExactPorts, FrontConfig, Listener, listen
from salver.transport.terms import PeerFacts
from salver.transport.watch import UNANSWERED, ConnectionLimits, ConnectionWatch, StreamingPeers
from salver.words.errors import SalverError


class Listeners:
    """The listeners of a server, and the watch over their connections.

    Args:
        configs: One for each port; none = open nothing.
        limits: Limits of connections.
        streaming: Connections with a streamed answer, which do not count as idle.
    """

    def __init__(
        self,
        configs: Sequence[FrontConfig],
        limits: ConnectionLimits,
        parting: Parting,
        streaming: StreamingPeers,
    ) -> None:
        self.configs = tuple(configs)
        self._limits = limits
        self._parting = parting
        self._streaming = streaming
        self._listeners: list[Listener] = []
        self._running: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Listeners {' '.join(self.urls()) or 'not open'}>"

    @property
    def is_open(self) -> bool:
        """Whether at least one port listens."""
        return bool(self._listeners)

    @property
    def port(self) -> int:
        """Port of the first listener; the actual one if the configuration says 0."""
        assert self._listeners, "not started"
        return self._listeners[0].port

    def ports(self) -> list[int]:
        """Ports of the listeners, in order; 0 for a socket file."""
        return [listener.port for listener in self._listeners]

    def urls(self) -> list[str]:
        """Base URL of each listener, in order."""
        return [
            f"{'https' if config.tls_cert else 'http'}://"
            + (config.path or f"{_bracketed(config.host)}:{listener.port}")
            for config, listener in zip(self.configs, self._listeners, strict=False)
        ]

    async def open(
        self, apps: Sequence[App], exact: ExactPorts, most_body: int, peers: PeerFacts | None = None
    ) -> None:
        """Listen and answer from now on.

        Args:
            apps: One for each configuration.
            exact: Ports whose bodies are complete before the application is called.
            most_body: Bytes of the largest body that any route takes.
            peers: Tells about the other end of a connection; None = nothing is told.

        Raises:
            SalverError: a port cannot be opened.
        """
        if apps:
            self._listeners = listen(apps, self.configs, exact, self._parting, peers)
            self._watching = asyncio.create_task(self._watch(most_body).run(), name="watch")
        for listener in self._listeners:
            running = asyncio.create_task(listener.run(), name="front")
            self._running.add(running)
            started = asyncio.create_task(listener.started())
            # Whichever ends first: a listener that fails never says that it has started.
            await asyncio.wait({running, started}, return_when=asyncio.FIRST_COMPLETED)
            if running.done() or started.exception() is not None:
                started.cancel()
                try:
                    await running
                except (ValueError, OSError, RuntimeError) as error:
                    raise SalverError(f"the front does not start: {error}") from error

    def _watch(self, most_body: int) -> ConnectionWatch:
        limits = self._limits
        if not limits.most_unanswered:
            limits = msgspec.structs.replace(limits, most_unanswered=most_body + UNANSWERED)
        ports = [listener.port for listener in self._listeners if listener.port]
        listeners = self._listeners
        return ConnectionWatch(
            limits, ports, self._streaming.open, lambda: any(listener.is_connected for listener in listeners)
        )

    async def leave(self, delay_s: float) -> None:
        """Stop accepting connections after the delay; open ones go on."""
        await asyncio.gather(*(listener.leave(delay_s) for listener in self._listeners))
        for listener in self._listeners:
            listener.stop()
        if self._watching is not None:
            self._watching.cancel()
        if self._running:
            await asyncio.gather(*(listener.parted() for listener in self._listeners))

    async def closed(self, timeout_s: float) -> None:
        """Wait until every connection has ended, at most this long."""
        if self._running:
            await asyncio.wait(self._running, timeout=timeout_s)

    async def ended(self) -> None:
        """Wait until any listener has ended."""
        assert self._running, "not started"
        await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)


def _bracketed(host: str) -> str:
    if ":" in host:
        return f"[{host}]"
    return host
