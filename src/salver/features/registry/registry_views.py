"""Records of the registry's management operations, and how they are made of what is stored."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Final

import msgspec

from salver.features.registry.names import LATEST, Reference, check_alias
from salver.features.registry.records import (
    Actor,
    Delivery,
    DeliveryState,
    Difference,
    Entry,
    Version,
    Webhook,
)
from salver.transport.access_check import Caller
from salver.transport.operations import MOST_NUMBER, STORABLE, ApiRequest, Why

NUMBER: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
_Name = Annotated[str, msgspec.Meta(max_length=128, pattern=STORABLE)]


class VersionLine(msgspec.Struct, frozen=True):
    """Summary of a version.

    Attributes:
        size: Bytes of all files.
    """

    number: int
    digest: str
    size: int
    framework: str
    format: str
    created: float
    by: str
    why: str
    source: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]


class AliasView(msgspec.Struct, frozen=True):
    """An alias, its version, and the roles of which one is needed to move it; empty = no restriction."""

    model: str
    alias: str
    number: int
    protected: tuple[str, ...]


class Differences(msgspec.Struct, frozen=True):
    """Differences of the second version from the first."""

    before: int
    after: int
    items: tuple[Difference, ...]


class DiffQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Two versions: numbers or aliases."""

    before: str
    after: str


class NewAlias(Why, frozen=True, forbid_unknown_fields=True):
    """Version for an alias."""

    version: Annotated[int, msgspec.Meta(ge=1, le=MOST_NUMBER)]


class Protection(Why, frozen=True, forbid_unknown_fields=True):
    """Roles of which one is needed to move the alias; empty = no restriction."""

    roles: Annotated[tuple[str, ...], msgspec.Meta(max_length=32)]


class NewDefault(Why, frozen=True, forbid_unknown_fields=True):
    """Alias of requests that name no version; empty = ``champion``, or the newest version."""

    alias: str


class NewTag(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Value of a tag."""

    value: Annotated[str, msgspec.Meta(max_length=4096)]


class NewMetrics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Numbers by name, measured after the version was pushed."""

    metrics: Annotated[Mapping[str, float], msgspec.Meta(max_length=200)]


class AuditQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Filter of the audit log.

    Attributes:
        model, action, actor: Exact values; empty = all.
        before: Only lines with a smaller number; 0 = from the newest.
    """

    model: _Name = ""
    action: _Name = ""
    actor: _Name = ""
    before: Annotated[int, msgspec.Meta(ge=0, le=MOST_NUMBER)] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100


class Audit(msgspec.Struct, frozen=True):
    """Lines of the audit log, the newest first.

    Attributes:
        next: ``before`` of the next page; 0 = this is the last one.
    """

    items: Sequence[Entry]
    next: int


class Webhooked(msgspec.Struct, frozen=True):
    """All webhooks without their secrets. Of a URL only the host is shown, because some paths are secret."""

    items: tuple[Webhook, ...]


class NewWebhook(Why, frozen=True, forbid_unknown_fields=True):
    """Request for a new webhook.

    Attributes:
        model: Model name; empty = all.
        events: Actions of the audit log; empty = all.
        secret: Signing secret that the receiver has already, ``whsec_`` and base64; empty = make one.
    """

    url: Annotated[str, msgspec.Meta(max_length=2000)]
    model: _Name = ""
    events: Annotated[tuple[str, ...], msgspec.Meta(max_length=64)] = ()
    secret: Annotated[str, msgspec.Meta(max_length=128)] = ""


class MadeWebhook(msgspec.Struct, frozen=True):
    """A new webhook. Its secret signs deliveries and is not shown again; empty = the request had it."""

    webhook: Webhook
    secret: str


class DeliveriesQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Filter of deliveries.

    Attributes:
        webhook: Id of a webhook; empty = all.
        state: State; None = any.
        before: Only deliveries with a smaller number; 0 = from the newest.
    """

    webhook: _Name = ""
    state: DeliveryState | None = None
    before: Annotated[int, msgspec.Meta(ge=0, le=MOST_NUMBER)] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100


class Deliveries(msgspec.Struct, frozen=True):
    """Deliveries to webhooks, the newest first.

    Attributes:
        next: ``before`` of the next page; 0 = this is the last one.
    """

    items: Sequence[Delivery]
    next: int


def actor(caller: Caller) -> Actor:
    """Return the caller as recorded in the registry."""
    return Actor(caller.name, caller.roles)


def reference(asked: ApiRequest) -> Reference:
    """Return the reference in the path, by number or alias."""
    return named(asked.names["model"], asked.names["version"])


def named(model: str, version: str) -> Reference:
    """Return a reference by number or alias.

    Raises:
        InvalidInput: the name is not allowed for an alias.
    """
    if NUMBER.fullmatch(version):
        return Reference(model, number=int(version))
    if version == LATEST:
        return Reference(model)
    return Reference(model, alias=check_alias(version))


def version_line(version: Version) -> VersionLine:
    """Return the summary of a version."""
    what = version.description
    kept = {name: getattr(version, name) for name in VersionLine.__struct_fields__ if name not in _DESCRIBED}
    return VersionLine(framework=what.framework, format=what.format, **kept)


_DESCRIBED = ("framework", "format")
