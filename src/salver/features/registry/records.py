"""What is known of models, versions and changes? Records only, as they are stored, shown and sent."""

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

_NOTHING: Final[Mapping[str, Any]] = {}

#: What the audit calls changes; webhooks are told of them by these names.
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
]


class Actor(msgspec.Struct, frozen=True):
    """Who changes something, and for whom they may speak.

    Attributes:
        name: A person, or a program.
        roles: That a token gave them; protected aliases ask for one.
    """

    name: str
    roles: frozenset[str] = frozenset()


class FileEntry(msgspec.Struct, frozen=True, order=True):
    """A file of a version; ``path`` is relative, with ``/``."""

    path: str
    size: int
    sha256: str


class Parent(msgspec.Struct, frozen=True, order=True):
    """What a version was made from: another version (``name/7``), data, or a run of training."""

    kind: Literal["version", "data", "run"]
    reference: str


class Description(msgspec.Struct, frozen=True):
    """What a look at the files tells; each mapping can be written as JSON.

    Attributes:
        framework: Name of the backend that runs it; empty = none knows it.
        format: As the backend calls it.
        signature: ``inputs``, ``outputs`` and ``batched``; empty = it was not loaded.
        resources: What it takes, as far as that is known without traffic.
        performance: What was measured of it on this machine.
        notices: What could not be found out, and why.
    """

    framework: str = ""
    format: str = ""
    signature: Mapping[str, Any] = _NOTHING
    resources: Mapping[str, Any] = _NOTHING
    performance: Mapping[str, Any] = _NOTHING
    notices: tuple[str, ...] = ()


class NewVersion(msgspec.Struct, frozen=True):
    """What somebody says of a version that they push.

    Attributes:
        alias: To mean it, once it is there; empty = none.
        card: A README in Markdown, with YAML front matter or without.
        source: Where its files came from.
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
        removed: When its files were removed, in Unix seconds; None = they are there.
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
    """A model.

    Attributes:
        latest: Its newest version; None = all were removed.
        versions: How many there are.
        aliases: The version that each means.
        protected: Roles of which one is needed to move an alias.
        default_alias: Which requests without a version go to; empty = ``champion``, where that is set.
        policy: What the move of an alias sets off: ``immediate``, or a rollout policy.
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
    """What became of the wish that an alias means a version.

    Attributes:
        before: What it meant; None = nothing.
        release: Id of the release that it is proposed to; empty = it has moved.
    """

    model: str
    alias: str
    number: int
    before: int | None = None
    release: str = ""


class Entry(msgspec.Struct, frozen=True):
    """One line of the audit, which nobody can change.

    Attributes:
        subject: Which alias, version, tag or webhook.
        before, after: What it meant.
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
    """One point in which two versions differ; None = it is not there.

    Attributes:
        part: ``description``, ``signature``, ``resources``, ``metrics``, ``tags``, ``files``, ``parents`` or
            ``card``.
    """

    part: str
    what: str
    before: str | None
    after: str | None


#: What may be wrong with a file, or a folder.
Problem = Literal["missing", "changed", "unreadable", "unknown", "no such version"]


class Fault(msgspec.Struct, frozen=True):
    """A file that is not as it was pushed."""

    model: str
    number: int
    path: str
    problem: Problem


class Webhook(msgspec.Struct, frozen=True):
    """Who is told of changes. Its secret is shown once, when it is made.

    Attributes:
        model: Empty = of every model.
        events: Actions; none = all.
    """

    id: str
    url: str
    model: str = ""
    events: tuple[str, ...] = ()
    created: float = 0.0
    by: str = ""


#: ``waiting`` for its first try, ``failing`` and to be tried again, ``told``, or ``given_up``.
DeliveryState = Literal["waiting", "failing", "told", "given_up"]


class Delivery(msgspec.Struct, frozen=True):
    """A change that a webhook is to be told of, or was.

    Attributes:
        webhook: Its id.
        seq: Number of the change in the audit, of which ``action``, ``model`` and ``subject`` tell.
        created, ended: When it changed, and when that was told or given up, in Unix seconds.
        next: When it is tried (again); None = no more.
        error: Of the last try; empty = none failed.
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
    """What proves who somebody is. The token itself is shown once, and its hash is kept."""

    id: str
    name: str
    roles: tuple[str, ...] = ()
    created: float = 0.0
    by: str = ""
