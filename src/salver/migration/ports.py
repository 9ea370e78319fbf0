"""What a dialect brings to migrate deployments of its server."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from salver.migration.deployment import Deployment, ReadText, Sighting
from salver.migration.models import Installation
from salver.migration.report import Service
from salver.words.artifacts import Manifest


class ServerMigration(Protocol):
    """One kind of server.

    Attributes:
        name: As in ``Service.server``.
        title: Name for people.
    """

    name: str
    title: str

    def recognise(self, path: Path, is_folder: bool, read: ReadText) -> Iterable[Sighting]:
        """Return what a file or folder of a deployment is to this server."""
        ...

    def services(self, deployment: Deployment, installed: Installation) -> list[Service]:
        """Return this kind's servers in a deployment, and how Salver replaces each."""
        ...

    def is_same(self, service: Service, words: Sequence[str]) -> bool:
        """Return whether a command line, behind ``salver``, means what the service means.

        Raises:
            SalverError: it means nothing.
        """
        ...

    def manifests(self, service: Service, installed: Installation) -> tuple[Manifest, ...]:
        """Return the versions that are to be written as a repository of Salver's own; empty = none."""
        ...
