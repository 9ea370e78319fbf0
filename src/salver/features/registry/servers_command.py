"""``salver registry servers``: where the servers of a registry are, and what they run."""

from typing import TYPE_CHECKING

from salver.features.registry.command_options import USUAL, RegistryOptions, now, run
from salver.terminal.options import Json
from salver.terminal.output import listed

if TYPE_CHECKING:
    from salver.features.registry.servers import ListedServer


def servers(*, where: RegistryOptions = USUAL, json: Json = False) -> None:
    """List the servers that were started with --advertise, by region and zone, with their models."""
    from salver.features.registry.servers import listed_servers

    at = now()
    found = run(where, lambda registry, _: listed_servers(registry.ledger, at))

    def row(server: "ListedServer") -> list[str]:
        region, _, zone = server.zone.rpartition("/")
        return [region, zone, server.url, ", ".join(server.models), f"{max(0.0, at - server.time):.0f} s ago"]

    columns = ("region", "zone", "server", "models", "heard")
    listed(
        sorted(found, key=lambda each: each.zone),
        columns,
        row,
        json=json,
        none="no server has announced itself",
    )
