"""Parts of the registry and of releases, which a server without a ledger does not import."""

import logging
import time
from collections.abc import Iterator

import msgspec

from salver.features.registry import RegistryConfig
from salver.features.registry.servers import AnnouncedServers
from salver.features.releases.composition import LedgerParts, home_of
from salver.features.releases.experiments.collector import Collector
from salver.features.releases.experiments.pending import Pending
from salver.features.releases.experiments.router import Router
from salver.features.releases.experiments.underway import ActiveRequests
from salver.features.releases.gauges import ReleaseGauges
from salver.features.releases.shadow import Shadowing
from salver.features.releases.splitting import Splitting
from salver.parts import Kernel, Parts, ServerList, Tick
from salver.words.errors import SalverError


async def build(kernel: Kernel, config: RegistryConfig) -> Parts:
    """Open the ledger, and return what serves its models and judges their releases.

    Raises:
        SalverError: the ledger cannot be opened.
    """
    log = logging.getLogger("salver.experiments")
    pending, under_way = Pending(warn=log.error), ActiveRequests(kernel.clock)

    def processes(model: str, version: str) -> list[int]:
        try:
            lease = kernel.models.acquire(model, version)
        except SalverError:
            return []
        try:
            return lease.servable.processes
        finally:
            lease.release()

    collector = Collector(pending, time.time, under_way=under_way, warn=log.warning, processes=processes)
    shadows = Shadowing(kernel.models, kernel.bus.emit, kernel.clock)
    splits = Splitting(Router(), shadows, collector.answers.append, under_way)
    traffic = (splits.router, collector, pending, shadows)
    home = home_of(config.ledger, config.artifacts)
    ledgered = await LedgerParts.open(home, traffic, (kernel.models, kernel.plane), kernel.new_id)
    for service in (splits, shadows, collector, ledgered, ledgered.registry.ledger):
        kernel.services.offer(type(service), service)

    def own_models() -> Iterator[str]:
        # What this server asks others for is left out: two servers would ask each other for ever.
        servables = (each for each in kernel.models.servables() if not each.capabilities.is_remote)
        return (each.manifest.id.name for each in servables)

    servers = AnnouncedServers(ledgered.registry.ledger, config.advertise, config.zone, time.time, own_models)
    kernel.services.offer(ServerList, servers)
    kernel.context = msgspec.structs.replace(kernel.context, interest=splits.router)
    api = ledgered.kept(kernel.new_id)
    kernel.caller = api.caller

    async def stop() -> None:
        await shadows.close()
        kernel.bus.flush()
        await ledgered.stop()

    return Parts(
        [collector],
        [ReleaseGauges(ledgered.releases)],
        operations=api.operations(),
        stage=splits,
        optional={"shadows": shadows.switch},
        ticks=[Tick("announcement", 1.0, servers.announce)],
        leave=servers.withdraw,
        prepare=ledgered.registered.start,  # first: the server is not ready without these models
        start=ledgered.start,
        stop=stop,
    )
