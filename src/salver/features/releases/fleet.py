"""Loaded versions that releases refer to, and the default version of requests."""

import logging
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from sqlalchemy import Connection

from salver.features.registry import aliases
from salver.features.registry.audit import Change
from salver.features.registry.records import Actor
from salver.features.releases.judge.record import Release
from salver.words.messages import State, VersionStatus
from salver.words.releases import ReleaseState

_LOG: Final = logging.getLogger("salver.releases")


class LoadedVersions(Protocol):
    """Source of loaded versions (the lifecycle manager)."""

    def statuses(self) -> Sequence[VersionStatus]:
        """Return one status per version."""
        ...

    def pin(self, name: str, version: str) -> None:
        """Send requests without a version to this one."""
        ...

    def unpin(self, name: str) -> None:
        """Send them to the newest that is ready."""
        ...

    def pinned(self, name: str) -> str:
        """Return the pinned version; empty = none."""
        ...


class Fleet:
    """Versions that releases refer to."""

    def __init__(self, loaded: LoadedVersions) -> None:
        self._loaded = loaded
        self._pinned: dict[str, str] = {}  # pinned by releases

    def __repr__(self) -> str:
        return f"<Fleet, {len(self._pinned)} models pinned by releases>"

    def knows(self, model: str) -> bool:
        """Return whether any version of a model is known; servers of other models may share a ledger."""
        return any(status.id.name == model for status in self._loaded.statuses())

    def missing(self, model: str, version: str) -> str:
        """Return why a version cannot answer now, as text; empty = it can."""
        status = self._status(model, version)
        if status is None:
            return f"version {version} of '{model}' is not there"
        if status.state is State.READY:
            return ""
        return f"version {version} of '{model}' is {status.state.value}" + (
            status.reason and f": {status.reason}"
        )

    def settle(self, versions: Mapping[str, str]) -> None:
        """Pin these versions, by model, for requests that name none, while they exist.

        A version that was removed pins nothing: its model answers with the newest again. A default set by
        other means (TorchServe's set-default) holds until a release decides.
        """
        wanted = {name: version for name, version in versions.items() if self._status(name, version)}
        for name in self._pinned.keys() - wanted.keys():
            if self._loaded.pinned(name) == self._pinned[name]:
                self._loaded.unpin(name)
        for name, version in wanted.items():
            pinned = self._loaded.pinned(name)
            if pinned != version and (not pinned or self._pinned.get(name) != version):
                self._loaded.pin(name, version)
        self._pinned = wanted

    def move(self, connection: Connection, release: Release, now: float) -> None:
        """Point a release's alias, if any, to its canary, or back to the stable version after a rollback.

        An alias that was moved meanwhile is left alone.
        """
        if not release.alias:
            return
        number = release.canary
        if release.state is not ReleaseState.PROMOTED:
            number = release.stable
            means = aliases.meant(connection, release.model, release.alias)
            if str(means) != release.canary:
                _LOG.warning(
                    "release %s is %s, but %s@%s was moved meanwhile and stays at %s",
                    release.id,
                    release.state.value,
                    release.model,
                    release.alias,
                    "nothing" if means is None else f"version {means}",
                )
                return
        change = Change(Actor(f"release {release.id}"), now, release.reason)
        aliases.move(connection, change, release.model, release.alias, int(number))

    def _status(self, model: str, version: str) -> VersionStatus | None:
        return next(
            (s for s in self._loaded.statuses() if s.id.name == model and s.id.version == version), None
        )
