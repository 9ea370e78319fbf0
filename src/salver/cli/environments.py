"""``salver environments``: list and remove the Python environments that models have had made."""

from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from salver.terminal.options import Json
from salver.terminal.output import listed, moment

if TYPE_CHECKING:
    from salver.kernel.environments.cache import Entry, EnvironmentCache

environments = App(
    name="environments",
    help="List and remove the Python environments that models have had made.",
    default_parameter=Parameter(negative=()),
)


@environments.command(name="list")
def list_(*, json: Json = False) -> None:
    """List the environments of this user, that which was not used for the longest time first."""
    _show(_cache().entries(), json=json)


@environments.command
def prune(
    *,
    keep_gb: Annotated[float, Parameter(help="GiB to keep, of those that were used last.")] = 0.0,
    json: Json = False,
) -> None:
    """Remove environments that no running server uses, and list them."""
    _show(_cache().prune(int(keep_gb * (1 << 30))), json=json)


def _cache() -> "EnvironmentCache":
    from salver.kernel.environments.cache import EnvironmentCache
    from salver.kernel.environments.service import cache_folder

    return EnvironmentCache(cache_folder())


def _show(entries: "list[Entry]", *, json: bool) -> None:
    def row(entry: "Entry") -> list[str]:
        state = "in use" if entry.is_used else moment(entry.used)
        return [entry.digest, entry.origin, entry.python, f"{entry.bytes / (1 << 20):,.0f}", state]

    listed(entries, ("environment", "made of", "python", "MiB", "used"), row, json=json, none="none")
