"""TorchServe's interfaces, and which routes and methods each port shows.

REST and gRPC share keys and rules.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec

from salver.dialects.torchserve.backing import Backing
from salver.dialects.torchserve.paths import CHANGING, SURFACES, may_be_own
from salver.encoding.tensor_messages import TensorMessages
from salver.lazy import lazily, lazy_imports, load_names
from salver.transport.access_check import Access
from salver.transport.budget import Budget
from salver.transport.doors import App, Kind, Receive, Scope, Send
from salver.transport.exchange import Prompt, PromptFinder
from salver.transport.http1_head import Head
from salver.transport.ports import StatusView
from salver.transport.server import ExactPorts

with lazy_imports():
    from salver.dialects.torchserve import faults
    from salver.dialects.torchserve.front import TorchServe
    from salver.dialects.torchserve.grpc_methods import TorchServeMethods
    from salver.dialects.torchserve.operations import Method
    from salver.dialects.torchserve.tokens import TokenKeys


_EVERYTHING: Final = "all"


class TorchServePorts:
    """Interfaces of one server.

    Args:
        backing: Services of the routes, without keys.
        control: Lists the models.
        messages: Messages of its Open Inference service; None = it has no such service.
        more: Returns further operations, by name.

    Raises:
        InvalidInput: the key file cannot be written.
    """

    def __init__(
        self,
        backing: Backing,
        control: StatusView,
        messages: TensorMessages | None,
        more: Callable[[], Mapping[str, Method]],
    ) -> None:
        rules = backing.rules
        if rules.tokens is not None:
            keys = TokenKeys(rules.tokens, time.time)
            keys.write()
            backing = msgspec.structs.replace(backing, keys=keys)
        self._backing = backing
        self._more = more
        self.methods = lazily(TorchServeMethods, self._backing, control, messages)

    def closed(self, kind: Kind) -> frozenset[str]:
        """Return the paths of gRPC methods that change models and are disabled at a port.

        They are enabled where management was asked for: at TorchServe's management ports, and at the port for
        everything if requests may change models.
        """
        is_open = kind == "torchserve-all" or "management" in kind
        if is_open or (kind == _EVERYTHING and self._backing.rules.may_change):
            return frozenset()
        return CHANGING

    def shown(self, app: App, kind: Kind, access: Access) -> App:
        """Return the application with TorchServe's routes, if the port has any."""
        surfaces = SURFACES.get(kind)
        if surfaces is None and kind != _EVERYTHING:
            return app

        def routes() -> App:
            backing = msgspec.structs.replace(self._backing, more=self._more())
            return TorchServe(app, backing, surfaces, access)

        if surfaces is not None:
            return routes()
        return _Common(app, routes)


class _Common:
    """TorchServe's routes at a port for everything, which are made at the first request for one of them."""

    def __init__(self, app: App, make: Callable[[], App]) -> None:
        self._app = app
        self._make = make
        self._routes: App | None = None
        self._find_inner: PromptFinder | None = getattr(app, "find_prompt", None)

    def find_prompt(self, head: Head) -> Prompt | None:
        """See :data:`~salver.transport.exchange.PromptFinder`."""
        if self._routes is not None:
            found: Prompt | None = self._routes.find_prompt(head)  # type: ignore[attr-defined]
            return found
        if self._find_inner is None or may_be_own(head.method, head.path, head.query):
            return None
        return self._find_inner(head)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Handle an ASGI request."""
        if self._routes is not None:
            return self._routes(scope, receive, send)
        if scope["type"] != "http":
            return self._app(scope, receive, send)
        path = scope.get("raw_path") or scope["path"].encode()
        if not may_be_own(scope["method"], path, scope["query_string"]):
            return self._app(scope, receive, send)
        return self._first(scope, receive, send)

    async def _first(self, scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.to_thread(load_names, __name__)
        self._routes = self._routes or self._make()
        await self._routes(scope, receive, send)


def exact_ports(most_body: int, budget: Budget | None = None) -> ExactPorts:
    """Return the ports of the REST interface, which use a server of their own.

    Args:
        most_body: Maximum bytes of a body.
        budget: Memory for all bodies; None = the default.
    """
    kinds = {kind: "inference" in surfaces for kind, surfaces in SURFACES.items()}
    return ExactPorts(kinds, faults.NO_MESSAGE, most_body, budget)
