"""Servers with releases, and what is behind them."""

import msgspec

from salver.app import Server
from salver.features.releases.composition import LedgerParts
from salver.features.releases.experiments.router import Router
from salver.features.releases.experiments.underway import ActiveRequests
from salver.features.releases.shadow import Shadowing
from salver.features.releases.splitting import Splitting
from salver.parts import Parts


class SplittingServer(Server):
    """A server that splits requests although it has no registry; tests put the splits in force themselves."""

    shadows: Shadowing
    splits: Splitting

    def _assemble(self) -> None:
        super()._assemble()
        kernel = self.kernel
        self.shadows = Shadowing(kernel.models, kernel.bus.emit, kernel.clock)
        self.splits = Splitting(Router(), self.shadows, [].append, ActiveRequests(kernel.clock))
        kernel.context = msgspec.structs.replace(kernel.context, interest=self.splits.router)
        kernel.parts.append(Parts(stage=self.splits, stop=self.shadows.close))


def ledgered(server: Server) -> LedgerParts:
    """Return the registry and releases of a server that has them."""
    return server.kernel.services.need(LedgerParts)


def splits(server: Server) -> Splitting:
    """Return the splits of a server that has a registry."""
    return server.kernel.services.need(Splitting)
