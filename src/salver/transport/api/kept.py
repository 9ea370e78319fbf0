"""What does a server with a registry tell and change over HTTP, all in all?

Imported where a registry is opened, and nowhere else, since it brings a database's libraries.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from salver.registry import ModelRegistry
from salver.registry.records import Actor
from salver.registry.tokens import Tokens
from salver.registry.webhooks import Webhooks
from salver.rollout.record import Release
from salver.serving.proposing import Proposal, proposal
from salver.serving.release_store import ReleaseStore
from salver.transport.access_check import Caller
from salver.transport.api.audit import audit_operations
from salver.transport.api.outcomes import OutcomeTaker, outcome_operations
from salver.transport.api.planning import planning_operations
from salver.transport.api.plugs import plug_operations
from salver.transport.api.registry import model_operations
from salver.transport.api.releases import Ledger, ShadowSource, release_operations
from salver.transport.api.table import Operation


class Stores(NamedTuple):
    """What it knows of releases."""

    releases: ReleaseStore
    outcomes: OutcomeTaker
    shadows: ShadowSource


class Kept(msgspec.Struct, frozen=True):
    """What it keeps."""

    registry: ModelRegistry
    webhooks: Webhooks
    tokens: Tokens
    stores: Stores
    new_id: Callable[[], str]

    def operations(self) -> list[Operation]:
        """Over all of it."""
        releases, outcomes, shadows = self.stores
        return [
            *model_operations(self.registry),
            *release_operations(Ledger(releases, releases, self.propose, shadows)),
            *plug_operations(releases),
            *outcome_operations(outcomes),
            *planning_operations(),
            *audit_operations(self.registry, self.webhooks),
        ]

    async def propose(self, said: Proposal, actor: Actor, why: str) -> Release:
        """Write a new release down. Raises NotFound, InvalidInput, Forbidden or Conflict."""
        release = await proposal(self.registry, said, self.new_id(), time.time())
        release = msgspec.structs.replace(release, by=actor.name, why=why)
        await self.stores.releases.propose(release, actor)
        return release

    async def caller(self, token: str) -> Caller:
        """Whose token it is. Raises Unauthenticated."""
        actor = await self.tokens.actor(token)
        return Caller(actor.name, actor.roles)
