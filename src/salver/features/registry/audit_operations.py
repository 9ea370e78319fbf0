"""Management operations on the audit log, webhooks and their deliveries."""

from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec

from salver.features.registry.delivery_rows import host_of
from salver.features.registry.records import Delivery, Entry, Webhook
from salver.features.registry.registry import ModelRegistry
from salver.features.registry.registry_views import (
    Audit,
    AuditQuery,
    Deliveries,
    DeliveriesQuery,
    MadeWebhook,
    NewWebhook,
    Webhooked,
    actor,
)
from salver.features.registry.webhooks import Webhooks
from salver.transport.operations import Answer, ApiRequest, Done, NoBody, NoQuery, Operation, Why
from salver.words.errors import NotFound

_READ_AT_ONCE = 1000
#: Maximum lines that one request scans; if they hold too few matches, the answer says where to continue.
_MOST_READ = 20_000
_Run = Callable[[ApiRequest], Awaitable[Answer]]


def audit_operations(registry: ModelRegistry, webhooks: Webhooks) -> list[Operation]:
    """Return the operations."""

    async def tell_audit(asked: ApiRequest) -> Answer:
        return Answer(await _found(registry, asked.query))

    async def list_webhooks(asked: ApiRequest) -> Answer:
        return Answer(Webhooked(tuple(map(_public, await webhooks.list()))))

    async def add_webhook(asked: ApiRequest) -> Answer:
        wish = asked.body
        caller = actor(asked.caller)
        made = await webhooks.add(wish.url, wish.model, wish.events, caller, wish.reason, wish.secret)
        return Answer(MadeWebhook(*made))

    async def remove_webhook(asked: ApiRequest) -> Answer:
        await webhooks.remove(asked.names["webhook"], actor(asked.caller), asked.body.reason)
        return Answer(Done())

    async def list_deliveries(asked: ApiRequest) -> Answer:
        query = asked.query
        found = await webhooks.deliveries(query.webhook, query.state, query.before, query.limit)
        following = 0
        if len(found) == query.limit:
            following = found[-1].id
        return Answer(Deliveries(found, following))

    async def redeliver(asked: ApiRequest) -> Answer:
        return Answer(await webhooks.redeliver(_number(asked.names["delivery"])))

    audit = "Audit log"
    told = "Deliveries to webhooks, with failures"
    again = "Repeat a delivery, whatever its state"
    tell, query = "Add a webhook", DeliveriesQuery
    one, anew, hooks = "/webhooks/{webhook}", "/deliveries/{delivery}/again", "/webhooks"
    table: tuple[tuple[str, Literal["GET", "POST", "DELETE"], str, str, _Run, Any, Any, Any], ...] = (
        ("audit", "GET", "/audit", audit, tell_audit, Audit, None, AuditQuery),
        ("list_webhooks", "GET", hooks, "All webhooks", list_webhooks, Webhooked, None, NoQuery),
        ("add_webhook", "POST", hooks, tell, add_webhook, MadeWebhook, NewWebhook, NoQuery),
        ("remove_webhook", "DELETE", one, "Remove a webhook", remove_webhook, Done, Why, NoQuery),
        ("list_deliveries", "GET", "/deliveries", told, list_deliveries, Deliveries, None, query),
        ("redeliver", "POST", anew, again, redeliver, Delivery, NoBody, NoQuery),
    )
    return [Operation(*row, changes=row[1] != "GET") for row in table]


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
                    if entry is read[-1] and len(read) < _READ_AT_ONCE:
                        return Audit(found, 0)
                    return Audit(found, before)
        if len(read) < _READ_AT_ONCE:
            return Audit(found, 0)
    return Audit(found, before)
