"""Records of models, versions and changes, as stored, shown and sent."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

_NOTHING: Final[Mapping[str, Any]] = {}

#: Names of changes in the audit log and in webhook events.
Action = Literal[
    "version.pushed",
    "version.removed",
    "alias.moved",
    "alias.proposed",
    "alias.deleted",
    "alias.protected",
    "alias.unprotected",
    "release.proposed",
    "release.running",
    "release.held",
    "release.paused",
    "release.resumed",
    "release.promoted",
    "release.harmful",
    "release.rolled_back",
    "tag.set",
    "tag.removed",
    "metric.set",
    "model.changed",
    "webhook.added",
    "webhook.removed",
    "token.made",
    "token.revoked",
    "key.made",
    "key.changed",
    "key.rotated",
    "key.revoked",
    "limits.changed",
]


class Actor(msgspec.Struct, frozen=True):
    """Author of a change, with roles.

    Attributes:
        name: Name of a person or program.
        roles: Roles from a token; protected aliases require one.
    """

    name: str
    roles: frozenset[str] = frozenset()


class FileEntry(msgspec.Struct, frozen=True, order=True):
    """A file of a version; ``path`` is relative, with ``/``."""

    path: str
    size: int
    sha256: str


class Parent(msgspec.Struct, frozen=True, order=True):
    """Origin of a version: another version (``name/7``), data, or a training run."""

    kind: Literal["version", "data", "run"]
    reference: str


class Description(msgspec.Struct, frozen=True):
    """Result of inspecting the files; each mapping can be written as JSON.

    Attributes:
        framework: Name of the backend that runs it; empty = unknown.
        format: Format as named by the backend.
        signature: ``inputs``, ``outputs`` and ``batched``; empty = not loaded.
        resources: Resource needs, as far as known without traffic.
        performance: Measurements on this machine.
        notices: What could not be determined, and why.
    """

    framework: str = ""
    format: str = ""
    signature: Mapping[str, Any] = _NOTHING
    resources: Mapping[str, Any] = _NOTHING
    performance: Mapping[str, Any] = _NOTHING
    notices: tuple[str, ...] = ()


class NewVersion(msgspec.Struct, frozen=True):
    """Metadata of a version that is pushed.

    Attributes:
        alias: Alias to point to it afterwards; empty = none.
        card: README in Markdown, optionally with YAML front matter.
        source: Origin of the files.
    """

    model: str
    alias: str = ""
    tags: Mapping[str, str] = _NOTHING
    metrics: Mapping[str, float] = _NOTHING
    parents: tuple[Parent, ...] = ()
    card: str = ""
    source: str = ""
    why: str = ""


class Version(msgspec.Struct, frozen=True):
    """A version of a model. Its files, digest and description never change.

    Attributes:
        digest: ``sha256:`` of the sorted paths and contents.
        size: Bytes of all files.
        removed: When its files were removed, in Unix seconds; None = they exist.
    """

    model: str
    number: int
    digest: str
    size: int
    files: tuple[FileEntry, ...]
    description: Description
    created: float
    by: str
    why: str = ""
    source: str = ""
    card: str = ""
    front_matter: Mapping[str, Any] = _NOTHING
    tags: Mapping[str, str] = _NOTHING
    metrics: Mapping[str, float] = _NOTHING
    parents: tuple[Parent, ...] = ()
    aliases: tuple[str, ...] = ()
    removed: float | None = None


class Model(msgspec.Struct, frozen=True):
    """A model and its aliases.

    Attributes:
        latest: Newest version; None = all were removed.
        versions: Number of versions.
        aliases: Version of each alias.
        protected: By alias, the roles of which one is needed to move it.
        default_alias: Alias of requests without a version; empty = ``champion``, if set.
        policy: What moving an alias does: ``immediate``, or a rollout policy.
    """

    name: str
    latest: int | None
    versions: int
    aliases: Mapping[str, int] = _NOTHING
    protected: Mapping[str, tuple[str, ...]] = _NOTHING
    default_alias: str = ""
    policy: Any = "immediate"
    created: float = 0.0
    by: str = ""


class Move(msgspec.Struct, frozen=True):
    """Result of pointing an alias to a version.

    Attributes:
        before: Previous version; None = none.
        release: Id of the proposed release; empty = the alias has moved.
    """

    model: str
    alias: str
    number: int
    before: int | None = None
    release: str = ""


class Entry(msgspec.Struct, frozen=True):
    """A permanent line of the audit log.

    Attributes:
        subject: The alias, version, tag or webhook.
        before, after: Old and new value.
    """

    seq: int
    time: float
    actor: str
    action: Action
    model: str = ""
    subject: str = ""
    before: str = ""
    after: str = ""
    why: str = ""


class Difference(msgspec.Struct, frozen=True):
    """A difference between two versions; None = absent.

    Attributes:
        part: ``description``, ``signature``, ``resources``, ``metrics``, ``tags``, ``files``, ``parents`` or
            ``card``.
    """

    part: str
    what: str
    before: str | None
    after: str | None


#: Possible faults of a file or folder.
Problem = Literal["missing", "changed", "unreadable", "unknown", "no such version"]


class Fault(msgspec.Struct, frozen=True):
    """A file that differs from what was pushed."""

    model: str
    number: int
    path: str
    problem: Problem


class Webhook(msgspec.Struct, frozen=True):
    """A webhook. Its secret is shown once, when it is created.

    Attributes:
        model: Model name; empty = all.
        events: Actions; empty = all.
    """

    id: str
    url: str
    model: str = ""
    events: tuple[str, ...] = ()
    created: float = 0.0
    by: str = ""


#: ``waiting`` for its first attempt, ``failing`` with a retry, ``told`` (delivered), or ``given_up``.
DeliveryState = Literal["waiting", "failing", "told", "given_up"]


class Delivery(msgspec.Struct, frozen=True):
    """Delivery of a change to a webhook.

    Attributes:
        webhook: Id of the webhook.
        seq: Number of the change in the audit log; ``action``, ``model`` and ``subject`` describe it.
        created, ended: Time of the change, and of delivery or giving up, in Unix seconds.
        next: Time of the next attempt; None = none.
        error: Error of the last attempt; empty = none.
    """

    id: int
    webhook: str
    seq: int
    action: Action
    model: str
    subject: str
    created: float
    state: DeliveryState
    attempts: int
    next: float | None
    ended: float | None
    error: str


class Token(msgspec.Struct, frozen=True):
    """Owner and roles of a token. The token itself is shown once, and only its hash is stored."""

    id: str
    name: str
    roles: tuple[str, ...] = ()
    created: float = 0.0
    by: str = ""


class InspectedModel(msgspec.Struct, frozen=True):
    """Content of a path that is pushed.

    Attributes:
        files: Files of the version by their path in it.
        description: Result of the inspection.
    """

    files: Mapping[str, Path]
    description: Description
