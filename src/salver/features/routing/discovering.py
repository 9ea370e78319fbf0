"""Discovery of a model's instances: addresses of a name, such as a headless Kubernetes service."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from salver.client.http import Http
from salver.features.routing.checking import HealthChecks
from salver.features.routing.engine import CONNECT_S, RoutedModel
from salver.features.routing.instances import Instance

_LOG = logging.getLogger("salver.routing")
#: Returns the addresses of a host name. Raises OSError.
Resolve = Callable[[str], Awaitable[list[str]]]


async def resolve(host: str) -> list[str]:
    """Return the addresses of a host name, each once.

    Raises:
        OSError: there are none, or the resolver does not answer.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return sorted({str(address[0]) for *_, address in found})


async def addresses(url: str, resolve: Resolve) -> list[str]:
    """Return the URLs of the servers behind a URL whose host is a name. Raises OSError."""
    parts = urlsplit(url)
    hosts = await resolve(parts.hostname or "")
    port = parts.port or 80
    return [f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}" for host in hosts]


class Discovery:
    """Instances of one model that follow the addresses of a name.

    Args:
        url: URL whose host is the name.
        health: Checks a new instance before it gets requests.
    """

    def __init__(self, url: str, engine: RoutedModel, health: HealthChecks, resolve: Resolve) -> None:
        self._url = url
        self._engine = engine
        self._health = health
        self._resolve = resolve
        self._leaving: list[tuple[Instance, Http]] = []

    def __repr__(self) -> str:
        return f"<Discovery of {self._url}, {len(self._engine.router.instances)} instances>"

    async def update(self) -> None:
        """Add new instances and remove those that are gone; without an answer, all stay."""
        try:
            wanted = await addresses(self._url, self._resolve)
        except OSError as error:
            _LOG.warning("%s is not resolved, and its instances stay: %s", self._url, error)
            return
        router, clients = self._engine.router, self._engine.clients
        known = {each.url: each for each in router.instances}
        for url in wanted:
            if url not in known:
                instance = Instance(url, slow_start_s=self._engine.document.slow_start_s)
                instance.is_down = True  # until it has been checked
                clients[url] = Http(url, CONNECT_S)
                router.instances.append(instance)
                self._health.add(instance)
        for url, instance in known.items():
            if url not in wanted:
                router.instances.remove(instance)
                self._leaving.append((instance, clients.pop(url)))
                await self._health.remove(instance)
        for _, client in self._leaving:
            await client.close()
        self._leaving = [pair for pair in self._leaving if pair[0].load.pending]
