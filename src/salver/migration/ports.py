"""Protocol of a dialect for migrating deployments of its server."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from salver.migration.deployment import Deployment, ReadText, Sighting
from salver.migration.models import Installation
from salver.migration.report import Service
from salver.words.artifacts import Manifest


class ServerMigration(Protocol):
    """Migration from one kind of server.

    Attributes:
        name: Name, as in ``Service.server``.
        title: Name for people.
    """

    name: str
    title: str

    def recognise(self, path: Path, is_folder: bool, read: ReadText) -> Iterable[Sighting]:
        """Return the meaning of a deployment's file or folder for this server."""
        ...

    def services(self, deployment: Deployment, installed: Installation) -> list[Service]:
        """Return this kind's servers in a deployment, and how Salver replaces each."""
        ...

    def is_same(self, service: Service, words: Sequence[str]) -> bool:
        """Return whether a command line, after ``salver``, is equivalent to the service's.

        Raises:
            SalverError: the command line is invalid.
        """
        ...

    def manifests(self, service: Service, installed: Installation) -> tuple[Manifest, ...]:
        """Return the versions that are to be written as a repository of Salver's own; empty = none."""
        ...
