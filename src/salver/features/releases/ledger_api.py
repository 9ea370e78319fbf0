"""Management operations of a server with a registry.

Imported only if a registry is opened, because it needs a database's libraries.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from salver.features.registry.audit_operations import audit_operations
from salver.features.registry.records import Actor
from salver.features.registry.registry import ModelRegistry
from salver.features.registry.registry_operations import model_operations
from salver.features.registry.tokens import Tokens
from salver.features.registry.webhooks import Webhooks
from salver.features.releases.judge.record import Release
from salver.features.releases.outcomes import OutcomeStore
from salver.features.releases.proposals import Proposal, proposal
from salver.features.releases.release_operations import (
    Ledger,
    outcome_operations,
    planning_operations,
    plug_operations,
    policy_operation,
    release_operations,
)
from salver.features.releases.release_store import ReleaseStore
from salver.features.releases.shadow import Shadowing
from salver.transport.access_check import Caller
from salver.transport.operations import Operation


class ReleaseStores(NamedTuple):
    """Stores of releases."""

    releases: ReleaseStore
    outcomes: OutcomeStore
    shadows: Shadowing


class LedgerApi(msgspec.Struct, frozen=True):
    """Everything that a server with a registry stores."""

    registry: ModelRegistry
    webhooks: Webhooks
    tokens: Tokens
    stores: ReleaseStores
    new_id: Callable[[], str]

    def operations(self) -> list[Operation]:
        """Return all operations."""
        releases, outcomes, shadows = self.stores
        return [
            *model_operations(self.registry),
            policy_operation(self.registry),
            *release_operations(Ledger(releases, self.propose, shadows)),
            *plug_operations(releases),
            *outcome_operations(outcomes),
            *planning_operations(),
            *audit_operations(self.registry, self.webhooks),
        ]

    async def propose(self, said: Proposal, actor: Actor, why: str) -> Release:
        """Store a new release. Raises NotFound, InvalidInput, Forbidden or Conflict."""
        release = await proposal(self.registry, said, self.new_id(), time.time())
        release = msgspec.structs.replace(release, by=actor.name, why=why)
        await self.stores.releases.propose(release, actor)
        return release

    async def caller(self, token: str) -> Caller:
        """Return the owner of a token. Raises Unauthenticated."""
        actor = await self.tokens.actor(token)
        return Caller(actor.name, actor.roles)
