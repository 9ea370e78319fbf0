"""Discovery of a model's instances: addresses or SRV records of a name, or the ledger's list of servers."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

from salver.client.http import Http
from salver.features.routing.checking import HealthChecks
from salver.features.routing.document import LEDGER, SRV, Document, InstanceTable
from salver.features.routing.engine import CONNECT_S, RoutedModel
from salver.features.routing.instances import Instance
from salver.features.routing.levels import level_of
from salver.parts import ServerList
from salver.words.errors import LoadFailed, MissingExtra, SalverError, Unsupported

_LOG = logging.getLogger("salver.routing")
#: Returns the addresses of a host name. Raises OSError.
Resolve = Callable[[str], Awaitable[list[str]]]
#: Returns the instances that are there now, at least one. Raises OSError or SalverError.
Look = Callable[[], Awaitable[Sequence[InstanceTable]]]


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


async def service_records(name: str) -> list[InstanceTable]:
    """Return the servers that the SRV records of a name list (RFC 2782).

    Raises:
        MissingExtra: dnspython is not installed.
        OSError: there are none, or no name server answers.
    """
    try:
        from dns.asyncresolver import resolve as query  # an extra
        from dns.exception import DNSException
    except ImportError as error:
        raise MissingExtra("instances", "dns", "dnspython") from error
    try:
        found = [record for record in await query(name, "SRV", search=True) if str(record.target) != "."]
    except DNSException as error:
        raise OSError(str(error)) from error
    if not found:
        raise OSError("it says that there is no such service")
    # Policies take weights relative to others, and a consistent hash has points for each.
    heaviest = max(1, *(record.weight for record in found))
    ranks = sorted({record.priority for record in found})
    return [
        InstanceTable(
            f"http://{record.target.to_text(omit_final_dot=True)}:{record.port}",
            max(1, record.weight) / heaviest,
            ranks.index(record.priority),
        )
        for record in found
    ]


def look_of(document: Document, model: str, resolve: Resolve, servers: ServerList | None) -> Look:
    """Return what finds the instances of a document with ``discover``.

    Args:
        model: Name of the model there.
        servers: Servers of this server's ledger; None = it has no ledger.

    Raises:
        Unsupported: the servers of a ledger are wanted, and there is none.
    """
    source = document.discover
    if source.startswith(SRV):
        return lambda: service_records(source.removeprefix(SRV))
    if source == LEDGER:
        if servers is None:
            raise Unsupported("this server has no ledger", field="discover", fix="Give it one: --registry.")
        return lambda: _listed(servers, model)

    async def by_name() -> list[InstanceTable]:
        return [InstanceTable(url) for url in await addresses(source, resolve)]

    return by_name


async def _listed(servers: ServerList, model: str) -> list[InstanceTable]:
    found = await servers.serving(model)
    if not found:
        raise LoadFailed(f"no server of the ledger has announced model '{model}'", field="discover")
    return [InstanceTable(each.url, zone=each.zone) for each in found]


def instance_of(table: InstanceTable, document: Document) -> Instance:
    """Return a new instance as its table describes it."""
    level = level_of(table.priority, table.zone, document.zone)
    return Instance(table.url.rstrip("/"), table.weight, level, document.slow_start_s, table.group)


class Discovery:
    """Instances of one model that follow what is found.

    Args:
        health: Checks a new instance before it gets requests.
    """

    def __init__(self, look: Look, engine: RoutedModel, health: HealthChecks) -> None:
        self._look = look
        self._engine = engine
        self._health = health
        self._leaving: list[tuple[Instance, Http]] = []

    def __repr__(self) -> str:
        found = len(self._engine.router.instances)
        return f"<Discovery by {self._engine.document.discover}, {found} instances>"

    async def update(self) -> None:
        """Add new instances and remove those that are gone; without an answer, all stay."""
        router, clients, document = self._engine.router, self._engine.clients, self._engine.document
        try:
            tables = await self._look()
        except (OSError, SalverError) as error:
            _LOG.warning("%s finds nothing, and its instances stay: %s", document.discover, error)
            return
        wanted = {each.url: each for each in (instance_of(table, document) for table in tables)}
        known = {each.url: each for each in router.instances}
        for url, instance in wanted.items():
            if url in known:
                known[url].weight, known[url].level = instance.weight, instance.level
                continue
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
