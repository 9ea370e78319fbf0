"""What does a server with a registry tell and change over HTTP, all in all?

Imported where a registry is opened, and nowhere else, since it brings a database's libraries.
"""

import msgspec

from salver.registry import ModelRegistry
from salver.registry.tokens import Tokens
from salver.registry.webhooks import Webhooks
from salver.transport.api.access import Caller
from salver.transport.api.audit import audit_operations
from salver.transport.api.planning import planning_operations
from salver.transport.api.registry import model_operations
from salver.transport.api.table import Operation


class Kept(msgspec.Struct, frozen=True):
    """What it keeps."""

    registry: ModelRegistry
    webhooks: Webhooks
    tokens: Tokens

    def operations(self) -> list[Operation]:
        """Over all of it."""
        return [
            *model_operations(self.registry),
            *planning_operations(),
            *audit_operations(self.registry, self.webhooks),
        ]

    async def caller(self, token: str) -> Caller:
        """Whose token it is. Raises Unauthenticated."""
        actor = await self.tokens.actor(token)
        return Caller(actor.name, actor.roles)
