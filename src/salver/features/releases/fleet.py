"""What do releases need to know of what is loaded, and whom do requests without a version mean?"""

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

_LOG: Final = logging.getLogger("salver.words.releases")


class Loaded(Protocol):
    """Knows which versions are loaded (lifecycle's manager)."""

    def statuses(self) -> Sequence[VersionStatus]:
        """One row a version."""
        ...

    def pin(self, name: str, version: str) -> None:
        """Requests without a version go to this one from now on."""
        ...

    def unpin(self, name: str) -> None:
        """They go to the newest that is ready."""
        ...

    def pinned(self, name: str) -> str:
        """The version that is pinned; empty = none is."""
        ...


class Fleet:
    """The versions that releases are about."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self._pinned: dict[str, str] = {}  # by releases

    def __repr__(self) -> str:
        return f"<Fleet, {len(self._pinned)} models pinned by releases>"

    def knows(self, model: str) -> bool:
        """Whether any version of a model is there; one ledger may have servers of other models, too."""
        return any(status.id.name == model for status in self._loaded.statuses())

    def missing(self, model: str, version: str) -> str:
        """Why a version cannot answer now, in words; empty = it can."""
        status = self._status(model, version)
        if status is None:
            return f"version {version} of '{model}' is not there"
        if status.state is State.READY:
            return ""
        return f"version {version} of '{model}' is {status.state.value}" + (
            f": {status.reason}" if status.reason else ""
        )

    def settle(self, versions: Mapping[str, str]) -> None:
        """Requests that name no version go to these, by model, as long as these versions are there.

        A version that its owner has taken away pins nothing: its model answers with the newest again. Whoever
        says meanwhile that another one is meant (TorchServe's set-default) is obeyed until a release decides.
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
        """Its alias, if it has one, means its canary; or the stable version again, once that is taken back.

        What somebody else has moved since stays where it is.
        """
        if not release.alias:
            return
        number = release.canary
        if release.state is not ReleaseState.PROMOTED:
            number = release.stable
            means = aliases.meant(connection, release.model, release.alias)
            if str(means) != release.canary:
                _LOG.warning(
                    "release %s is %s, and %s@%s stays: it means %s by now",
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
