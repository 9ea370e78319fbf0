"""Applications behind the ports of a server."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any, cast

from salver.lazy import lazy_imports
from salver.parts import Kernel
from salver.transport.access_check import Access, AccessRules, Changing
from salver.transport.asgi import Front
from salver.transport.doors import App
from salver.transport.doors import door as shown_at
from salver.transport.exchange import Prompt
from salver.transport.routes import HttpRouter
from salver.transport.server import ExactPorts, FrontConfig
from salver.transport.server_operations import ServerOperations

with lazy_imports():
    from salver.transport.cors import Cors
    from salver.transport.grpc import GrpcFront


class PortApps:
    """Maker of one server's applications, after all features are built.

    Attributes:
        changing: Who may change something at a port that other machines reach.
        refuses_inference: Nobody may run a model at such a port.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.changing: Changing = "open"
        self.refuses_inference = False
        own = ServerOperations(kernel.control, kernel.exposition, kernel.context.parting).table()
        self._router = HttpRouter([*(table for part in kernel.parts for table in part.http), own])
        tables = [table for part in kernel.parts for table in part.grpc]
        self._grpc = _LateGrpc(lambda: GrpcFront(tables, kernel.control, kernel.context))

    def __repr__(self) -> str:
        return f"<PortApps {self._router!r}>"

    def app(self, config: FrontConfig) -> App:
        """Return the application of a port: routes, origin checks, and the features' wrappers."""
        kernel, ports = self._kernel, self._kernel.ports
        access = next((own for port in ports if (own := port.access(config)) is not None), None)
        access = access or self._access(config)
        app: App = Front(
            self._router,
            cast("GrpcFront", self._grpc),
            kernel.context,
            max_body=kernel.config.max_body,
            access=access,
        )
        for port in ports:
            app = port.shown(app, config)
        if not access.is_local:
            found = [changing for port in ports if (changing := port.changing(config)) is not None]
            self.changing = found[0] if found else access.changing
            self.refuses_inference = self.refuses_inference or access.refuses_inference
        if config.cors_origins:
            app = Cors(app, config.cors_origins)
        if config.serves not in ("all", "sagemaker", "vertex-ai"):
            app = shown_at(app, config.serves)
        for port in reversed(ports):
            app = port.enclosed(app, config, access)
        return app

    def _access(self, config: FrontConfig) -> Access:
        kernel = self._kernel
        closed = frozenset(path for port in kernel.ports for path in port.closed(config.serves))
        api = kernel.config.api
        # Callers of the other ports are known: they have a certificate, or are the platform itself.
        is_open = bool(config.tls_client_ca) or config.serves in ("sagemaker", "vertex-ai")
        rules = AccessRules(api.allows_remote, api.hosts, frozenset(), closed, is_open or api.is_open)
        host = "" if config.path else config.host
        return Access(host, kernel.token, kernel.context.http.guard, kernel.caller, rules, kernel.keys)

    def exact(self) -> ExactPorts:
        """Return the ports that read whole bodies first."""
        found = (port.exact() for port in self._kernel.ports)
        return next((exact for exact in found if exact is not None), ExactPorts())

    def stop(self) -> None:
        """Accept no more gRPC calls."""
        self._grpc.stop()


class _LateGrpc:
    """gRPC methods, which are imported and created on a thread at the first call.

    Attributes:
        handle: Answers one call, as :meth:`~salver.transport.grpc.GrpcFront.handle`.
    """

    def __init__(self, make: Callable[[], GrpcFront]) -> None:
        self._make = make
        self._front: GrpcFront | None = None
        self._making = threading.Lock()
        self._is_stopping = False
        self.handle: Callable[..., Awaitable[None]] = self._first

    def front(self) -> GrpcFront:
        """Return the methods, created by the first caller."""
        with self._making:
            self._front = self._front or self._make()
        return self._front

    def find_prompt(self, *call: Any) -> Prompt | None:
        """See :meth:`~salver.transport.grpc.GrpcFront.find_prompt`; None = the methods are not loaded yet."""
        if self._front is None:
            return None
        return self._front.find_prompt(*call)

    async def _first(self, *call: Any) -> None:
        front = await asyncio.to_thread(self.front)
        self.handle = front.handle
        if self._is_stopping:
            front.stop()
        await front.handle(*call)

    def stop(self) -> None:
        """Accept no more calls."""
        self._is_stopping = True
        if self._front is not None:
            self._front.stop()
