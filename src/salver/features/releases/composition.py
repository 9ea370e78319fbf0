"""Wiring of the registry and releases into a server.

Separate from ``app.py`` because it needs SQLAlchemy, which a server without a registry never imports. Nothing
starts in a constructor.
"""

import os
import platform
import time
from collections.abc import Callable

from salver.features.ledger.integrity import check_at_start
from salver.features.registry.deliveries import Deliverer
from salver.features.registry.opening import RegistryLocation, home_of, open_registry
from salver.features.registry.posting import post
from salver.features.registry.registered import ModelListReceiver, ServedRegistry
from salver.features.registry.registry import ModelRegistry
from salver.features.registry.tokens import Tokens
from salver.features.registry.webhooks import Webhooks
from salver.features.releases.experiments.collector import Collector
from salver.features.releases.experiments.pending import Pending
from salver.features.releases.experiments.router import Router
from salver.features.releases.fleet import Fleet, LoadedVersions
from salver.features.releases.ledger_api import LedgerApi, ReleaseStores
from salver.features.releases.outcomes import OutcomeStore
from salver.features.releases.release_store import ReleaseStore
from salver.features.releases.releases import Releases, Traffic
from salver.features.releases.shadow import Shadowing
from salver.words.errors import SalverError

__all__ = ["LedgerParts", "home_of"]

#: Seconds between two reads of requests from operators and of counts.
TICK_SECONDS = 1.0


class LedgerParts:
    """Parts of a server with a ledger. Created by :meth:`open`.

    Attributes:
        registry: Models, versions and aliases.
        registered: Registered versions to serve.
        store: Store of the releases.
        outcomes: Store of posted outcomes.
        releases: Controller of the releases.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        traffic: Traffic,
        loaded: LoadedVersions,
        plane: ModelListReceiver,
        server: str,
    ) -> None:
        self.registry = registry
        self.registered = ServedRegistry(
            registry, plane, Deliverer(registry.ledger, post, time.time), TICK_SECONDS
        )
        self.store = ReleaseStore(registry.ledger, time.time)
        self.outcomes = OutcomeStore(registry.ledger, time.time)
        self._shadows = traffic.shadows
        self.releases = Releases(self.store, traffic, Fleet(loaded), self.outcomes, time.time, server)

    def __repr__(self) -> str:
        return f"<LedgerParts {self.registry!r}>"

    @classmethod
    async def open(
        cls,
        home: RegistryLocation,
        traffic: tuple[Router, Collector, Pending, Shadowing],
        served: tuple[LoadedVersions, ModelListReceiver],
        new_id: Callable[[], str],
    ) -> "LedgerParts":
        """Open the registry, creating it if it does not exist.

        Raises:
            SalverError: it cannot be opened.
        """
        registry = await open_registry(home, time.time, new_id, makes=True)
        try:
            await check_at_start(registry.ledger)
        except SalverError:
            await registry.ledger.close()
            raise
        # unique among several servers at one place, and across restarts
        server = f"{platform.node()}-{new_id()}"
        return cls(registry, Traffic(*traffic), *served, server)

    def kept(self, new_id: Callable[[], str]) -> LedgerApi:
        """Return the operations that the management interface shows."""
        ledger = self.registry.ledger
        webhooks = Webhooks(ledger, time.time, new_id, os.urandom)
        tokens = Tokens(ledger, time.time, new_id, os.urandom)
        stores = ReleaseStores(self.store, self.outcomes, self._shadows)
        return LedgerApi(self.registry, webhooks, tokens, stores, new_id)

    async def start(self) -> None:
        """Resume releases from the ledger. Raises SalverError if it cannot be read."""
        await self.releases.start(TICK_SECONDS)

    async def stop(self) -> None:
        """Write pending counts and close the ledger."""
        await self.registered.stop()
        await self.releases.stop()
        await self.registry.ledger.close()
