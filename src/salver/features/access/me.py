"""Operation of the management interface that tells callers what their key may do, and what is left of it."""

import msgspec

from salver.features.access.key_table import ANY, Key, KeyTable
from salver.features.access.limit_book import LimitBook
from salver.kernel.serving.standing import ANY_TENANT
from salver.transport.operations import Answer, ApiRequest, Operation
from salver.words.errors import NotFound
from salver.words.messages import LimitState, Service


class KeyView(msgspec.Struct, frozen=True, omit_defaults=True):
    """The key of a request.

    Attributes:
        name: Name of the caller; empty = the key is the server's token.
        tenant: Tenant of its requests; empty = the common one, ``*`` = the one that each names.
        priority: Highest level of its requests; 0 = the model's default.
        service_class: Best service class of its requests.
        expires: Unix seconds; None = never.
        limits: Limits of the key, its tenant and this server, and what is left of them now.
        quotas: Quotas of the key, and what is left of them.
    """

    id: str
    name: str
    scopes: tuple[str, ...]
    tenant: str
    priority: int
    service_class: Service
    expires: float | None
    limits: tuple[LimitState, ...]
    quotas: tuple[LimitState, ...] = ()


def view(key: Key, now: int, book: LimitBook) -> KeyView:
    """Return what a caller may know of its key.

    Args:
        now: Monotonic nanoseconds.
        book: Limits of tenants, models and the server.
    """
    granted = key.granted or ANY
    limits = book.of(key.limits, granted.tenant.replace(ANY_TENANT, ""), "", now)
    return KeyView(
        key.id,
        key.name,
        key.scopes.texts,
        granted.tenant,
        granted.priority,
        granted.service,
        None if key.until == float("inf") else key.until,
        tuple(state for each in limits for state in each.states(now)),
        () if key.account is None or key.account.quotas is None else tuple(key.account.quotas.states()),
    )


def operations(keys: KeyTable) -> list[Operation]:
    """Return the operations."""

    async def tell(asked: ApiRequest) -> Answer:
        if not isinstance(asked.own, Key):
            raise NotFound("the request has no key of its own", field="authorization")
        return Answer(view(asked.own, keys.ticks(), keys.book))

    summary = "The caller's key, and what is left of its limits"
    return [Operation("me", "GET", "/me", summary, tell, KeyView, right="known")]
