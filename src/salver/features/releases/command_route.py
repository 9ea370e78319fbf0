"""Weights of a release in a cluster's gateway: applied once, or again whenever they change."""

import asyncio
from typing import TYPE_CHECKING, Any

from salver.features.releases.command_watch import exit_status
from salver.features.releases.experiments.gateway import RoutePlace, http_route
from salver.terminal.output import line, remark
from salver.words.errors import Conflict, NotReady
from salver.words.releases import ReleaseState, Split

if TYPE_CHECKING:
    from salver.features.releases.experiments.gateway_client import Cluster
    from salver.features.releases.judge.record import Release
    from salver.features.releases.release_store import ReleaseStore

_LOOK_SECONDS = 1.0


def route_of(release: "Release", place: RoutePlace) -> dict[str, Any]:
    """Return the route of a release; once it has ended, all requests go to the version that remains.

    Raises:
        Conflict: It has not started.
        InvalidInput: A gateway cannot represent it.
    """
    if release.fault or release.state is ReleaseState.PROPOSED:
        raise Conflict(
            f"release '{release.id}' is {release.state.value}, and shares no traffic out",
            fix=release.fault or release.waits_for,
        )
    ended = Split(release.id, release.model, release.stable, release.canary, release.weight, release.salt)
    return http_route(release.split or ended, place)


async def apply(
    store: "ReleaseStore", release: str, place: RoutePlace, cluster: "Cluster", *, follow: bool, force: bool
) -> int:
    """Apply the route, with ``follow`` until the release has ended.

    Returns:
        Exit status: with ``follow`` that of ``rollout watch``, else 0.
    """
    applied: dict[str, Any] | None = None
    told = ""
    while True:
        try:
            found = await store.get(release)
            if not follow or found.state is not ReleaseState.PROPOSED:
                route = route_of(found, place)
                if route != applied:
                    where = await asyncio.to_thread(cluster.apply, route, force=force)
                    line(f"HTTPRoute {where}: {found.weight:.2%} to {place.canary}, {found.state.value}")
                    applied = route
                if not follow or not found.is_live:
                    break
        except NotReady as error:  # ledger or cluster are away, which does not end a release
            if not follow:
                raise
            if str(error) != told:
                remark(told := str(error))
        await asyncio.sleep(_LOOK_SECONDS)
    return exit_status(found) if follow else 0
