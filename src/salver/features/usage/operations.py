"""Operation of the management interface that tells what keys have used."""

from typing import Annotated, Any, Final, Literal

import msgspec

from salver.features.usage.accounts import KeyAccounts
from salver.features.usage.store import Query, UsageStore
from salver.transport.operations import Answer, ApiRequest, Operation, Page, PageQuery, paged
from salver.words.errors import InvalidInput

_GROUPS: Final = ("key", "model", "hour")
_MICROS: Final = 1e6


class UsageQuery(PageQuery, frozen=True, forbid_unknown_fields=True):
    """Selection of usage.

    Attributes:
        key, model: Only of this one; empty = of all.
        since, until: Unix seconds: hours that begin from the one on and before the other; 0 = no bound.
        by: What the rows tell apart, with commas: ``key``, ``model``, ``hour``; empty = one row for all.
    """

    key: str = ""
    model: str = ""
    since: Annotated[float, msgspec.Meta(ge=0, le=1e11)] = 0.0
    until: Annotated[float, msgspec.Meta(ge=0, le=1e11)] = 0.0
    by: str = "key,model"


class UsageRow(msgspec.Struct, frozen=True):
    """Use of all servers of the ledger; that of others may be ten seconds late.

    Attributes:
        key: Id of the key; None = of all that were asked for.
        model: Empty = no model that is served; None = of all that were asked for.
        hour: Unix seconds of its beginning; None = of all that were asked for.
        requests: Runs of models, whether they succeeded or not.
        rows: Their rows.
        bytes_in, bytes_out: Bytes of bodies and answers, before and without compression.
        compute_seconds: Time in the model; of a batch, the request's share by rows.
        refusals: Requests refused for the key's scope, limits or quotas.
    """

    key: str | None
    model: str | None
    hour: int | None
    requests: int
    rows: int
    prompt_tokens: int
    answer_tokens: int
    bytes_in: int
    bytes_out: int
    compute_seconds: float
    refusals: int


def operations(accounts: KeyAccounts, store: UsageStore) -> list[Operation]:
    """Return the operations."""

    async def tell(asked: ApiRequest) -> Answer:
        query = asked.query
        await accounts.write()
        groups = _groups(query.by)
        until = query.until or float("inf")
        found = await store.find(Query(query.key, query.model, query.since, until, groups))
        return Answer(paged([_row(each) for each in found], query, _name))

    summary = "What keys have used, by model and hour"
    verb: Literal["GET"] = "GET"
    return [Operation("usage", verb, "/usage", summary, tell, Page[UsageRow], query=UsageQuery, right="read")]


def _groups(text: str) -> tuple[str, ...]:
    groups = tuple(filter(None, text.split(",")))
    if not set(groups) <= set(_GROUPS):
        raise InvalidInput(
            f"usage is told by {', '.join(_GROUPS)}, not by {text!r}",
            field="query.by",
            fix="For example by=key,hour.",
        )
    return tuple(group for group in _GROUPS if group in groups)


def _row(found: dict[str, Any]) -> UsageRow:
    seconds = found.pop("compute_us") / _MICROS
    groups = {name: found.pop(name, None) for name in _GROUPS}
    return UsageRow(**groups, **found, compute_seconds=seconds)


def _name(row: UsageRow) -> str:
    return "\n".join(str(part) for part in (row.key, row.model, row.hour))
