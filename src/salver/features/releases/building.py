"""Parts of the registry and of releases, which a server without a ledger does not import."""

import logging
import time

import msgspec

from salver.features.registry import RegistryConfig
from salver.features.releases.composition import LedgerParts, home_of
from salver.features.releases.experiments.collector import Collector
from salver.features.releases.experiments.pending import Pending
from salver.features.releases.experiments.router import Router
from salver.features.releases.experiments.underway import ActiveRequests
from salver.features.releases.gauges import ReleaseGauges
from salver.features.releases.shadow import Shadowing
from salver.features.releases.splitting import Splitting
from salver.parts import Kernel, Parts
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
        prepare=ledgered.registered.start,  # first: the server is not ready without these models
        start=ledgered.start,
        stop=stop,
    )
