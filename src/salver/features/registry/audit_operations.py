"""Management operations on the audit log, webhooks and their deliveries."""

from collections.abc import Sequence
from typing import Annotated

import msgspec

from salver.features.registry.deliveries import host_of
from salver.features.registry.records import Delivery, DeliveryState, Entry, Webhook
from salver.features.registry.registry import ModelRegistry
from salver.features.registry.registry_operations import actor
from salver.features.registry.webhooks import Webhooks
from salver.transport.operations import (
    MOST_NUMBER,
    STORABLE,
    Answer,
    ApiRequest,
    Done,
    NoBody,
    Operation,
    Why,
)
from salver.words.errors import NotFound

_READ_AT_ONCE = 1000
#: Maximum lines that one request scans; if they hold too few matches, the answer says where to continue.
_MOST_READ = 20_000
_Name = Annotated[str, msgspec.Meta(max_length=128, pattern=STORABLE)]


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
    """

    url: Annotated[str, msgspec.Meta(max_length=2000)]
    model: _Name = ""
    events: Annotated[tuple[str, ...], msgspec.Meta(max_length=64)] = ()


class MadeWebhook(msgspec.Struct, frozen=True):
    """A new webhook. The secret, which signs its deliveries, is not shown again."""

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


def audit_operations(registry: ModelRegistry, webhooks: Webhooks) -> list[Operation]:
    """Return the operations."""

    async def tell_audit(asked: ApiRequest) -> Answer:
        return Answer(await _found(registry, asked.query))

    async def list_webhooks(asked: ApiRequest) -> Answer:
        return Answer(Webhooked(tuple(map(_public, await webhooks.list()))))

    async def add_webhook(asked: ApiRequest) -> Answer:
        wish = asked.body
        made = await webhooks.add(wish.url, wish.model, wish.events, actor(asked.caller), wish.reason)
        return Answer(MadeWebhook(*made))

    async def remove_webhook(asked: ApiRequest) -> Answer:
        await webhooks.remove(asked.names["webhook"], actor(asked.caller), asked.body.reason)
        return Answer(Done())

    async def list_deliveries(asked: ApiRequest) -> Answer:
        query = asked.query
        found = await webhooks.deliveries(query.webhook, query.state, query.before, query.limit)
        return Answer(Deliveries(found, found[-1].id if len(found) == query.limit else 0))

    async def redeliver(asked: ApiRequest) -> Answer:
        return Answer(await webhooks.redeliver(_number(asked.names["delivery"])))

    return [
        Operation(
            "audit",
            "GET",
            "/audit",
            "What has changed, when, why and by whom",
            tell_audit,
            Audit,
            query=AuditQuery,
        ),
        Operation("list_webhooks", "GET", "/webhooks", "Who is told of changes", list_webhooks, Webhooked),
        Operation(
            "add_webhook",
            "POST",
            "/webhooks",
            "Tell somebody of changes",
            add_webhook,
            MadeWebhook,
            NewWebhook,
            changes=True,
        ),
        Operation(
            "remove_webhook",
            "DELETE",
            "/webhooks/{webhook}",
            "Tell them no more",
            remove_webhook,
            Done,
            Why,
            changes=True,
        ),
        Operation(
            "list_deliveries",
            "GET",
            "/deliveries",
            "What webhooks were told, and what failed",
            list_deliveries,
            Deliveries,
            query=DeliveriesQuery,
        ),
        Operation(
            "redeliver",
            "POST",
            "/deliveries/{delivery}/again",
            "Tell it anew, whether it was told, failed or was given up",
            redeliver,
            Delivery,
            NoBody,
            changes=True,
        ),
    ]


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise NotFound(f"there is no delivery {text!r}", field="delivery")
    return int(text)


def _public(webhook: Webhook) -> Webhook:
    return msgspec.structs.replace(webhook, url=host_of(webhook.url))


async def _found(registry: ModelRegistry, query: AuditQuery) -> Audit:
    found: list[Entry] = []
    before = query.before
    for _ in range(_MOST_READ // _READ_AT_ONCE):
        read = await registry.history(query.model, before, _READ_AT_ONCE)
        for entry in read:
            before = entry.seq
            if query.action in ("", entry.action) and query.actor in ("", entry.actor):
                found.append(entry)
                if len(found) == query.limit:
                    is_last = entry is read[-1] and len(read) < _READ_AT_ONCE
                    return Audit(found, 0 if is_last else before)
        if len(read) < _READ_AT_ONCE:
            return Audit(found, 0)
    return Audit(found, before)
