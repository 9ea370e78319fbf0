"""Rows of deliveries to webhooks, within a transaction of the caller's."""

import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from sqlalchemy import ColumnElement, Connection, RowMapping, and_, delete, or_, select, update

from salver.features.ledger.schema import AUDIT, DELIVERY, WEBHOOK
from salver.features.registry.records import Delivery, DeliveryState
from salver.kernel.supervise import Backoff
from salver.words.errors import NotFound

#: Prefix of secrets.
PREFIX: Final = "whsec_"


#: Seconds until the first retry, doubled up to a maximum; then the delivery is given up.
PAUSE: Final = Backoff(first_s=5.0, most_s=3600.0)


#: Seconds for which deliveries are reserved; after half of it none is started.
LEASE: Final = 60.0


_AT_A_TIME: Final = 32  # batch size for one webhook


_KEPT_SECONDS: Final = 30 * 86_400.0


_MOST: Final = 1000


_FAILED = DELIVERY.c.error != ""


_STATES: Final = {
    "waiting": and_(DELIVERY.c.done.is_(None), DELIVERY.c.attempts == 0),
    "failing": and_(DELIVERY.c.done.is_(None), DELIVERY.c.attempts > 0),
    "told": and_(DELIVERY.c.done.is_not(None), ~_FAILED),
    "given_up": and_(DELIVERY.c.done.is_not(None), _FAILED),
}


_OPEN: Final[Mapping[bool, DeliveryState]] = {False: "waiting", True: "failing"}  # by: has it been tried


_ENDED: Final[Mapping[bool, DeliveryState]] = {False: "told", True: "given_up"}  # by: has it an error


_TOLD: Final = (
    *(DELIVERY.c[name] for name in ("id", "webhook", "attempts", "due", "done", "error")),
    *(AUDIT.c[name] for name in ("seq", "time", "action", "model", "subject")),
)


def deliveries(
    connection: Connection, webhook: str, state: DeliveryState | None, before: int, most: int
) -> Sequence[Delivery]:
    """Return the newest deliveries of a webhook (empty = all) in a state, before a number (0 = any)."""
    query = select(*_TOLD).join(AUDIT, AUDIT.c.seq == DELIVERY.c.audit)
    query = query.order_by(DELIVERY.c.id.desc()).limit(min(max(most, 1), _MOST))
    if webhook:
        query = query.where(DELIVERY.c.webhook == webhook)
    if state is not None:
        query = query.where(_STATES[state])
    if before:
        query = query.where(DELIVERY.c.id < before)
    return [_record(row) for row in connection.execute(query).mappings()]


def again(connection: Connection, id: int, now: float) -> Delivery:
    """Make a delivery due now, as if it had not been tried.

    Raises:
        NotFound: there is none, or its webhook has been removed.
    """
    query = select(*_TOLD).join(AUDIT, AUDIT.c.seq == DELIVERY.c.audit)
    query = query.join(WEBHOOK, WEBHOOK.c.id == DELIVERY.c.webhook).where(DELIVERY.c.id == id)
    if connection.execute(query).first() is None:
        raise NotFound(
            f"there is no delivery {id}, or its webhook has been removed",
            fix="List: salver registry webhook deliveries.",
        )
    values = {"attempts": 0, "due": now, "done": None, "error": ""}
    connection.execute(update(DELIVERY).where(DELIVERY.c.id == id).values(values))
    return _record(connection.execute(query).mappings().one())


def _record(row: RowMapping) -> Delivery:
    ended, failed, due = row["done"], row["error"], None
    if ended is None:
        due, state = row["due"], _OPEN[row["attempts"] > 0]
    else:
        state = _ENDED[bool(failed)]
    about = {name: row[name] for name in ("id", "webhook", "seq", "action", "model", "subject", "attempts")}
    return Delivery(**about, created=row["time"], state=state, next=due, ended=ended, error=failed)


def host_of(url: str) -> str:
    """Return the host and port of a URL, because the path is secret for some receivers."""
    parts = urllib.parse.urlsplit(url)
    hidden = "/"
    if parts.path.strip("/") or parts.query:
        hidden = "/…"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{hidden}"


class DueDelivery(msgspec.Struct, frozen=True):
    """A delivery that is due."""

    id: int
    webhook: str
    url: str
    secret: str
    body: str
    attempts: int


def is_due(now: float) -> ColumnElement[bool]:
    """Return a condition for due deliveries, also if the clock was set back."""
    is_time = or_(DELIVERY.c.due <= now, DELIVERY.c.due > now + PAUSE.most_s + LEASE)
    return and_(DELIVERY.c.done.is_(None), is_time)


def take(connection: Connection, now: float) -> list[list[DueDelivery]]:
    """Reserve due deliveries by webhook, and delete those without one."""
    connection.execute(delete(DELIVERY).where(DELIVERY.c.done < now - _KEPT_SECONDS))
    query = (
        select(DELIVERY.c.id, DELIVERY.c.webhook, WEBHOOK.c.url, WEBHOOK.c.secret)
        .add_columns(DELIVERY.c.body, DELIVERY.c.attempts)
        .join(WEBHOOK, WEBHOOK.c.id == DELIVERY.c.webhook)
        .order_by(DELIVERY.c.id)
        .limit(_AT_A_TIME)
    )
    queues = []
    for webhook in connection.scalars(select(DELIVERY.c.webhook).where(is_due(now)).distinct()).all():
        mine = query.where(is_due(now), DELIVERY.c.webhook == webhook)
        queues.append([DueDelivery(**row) for row in connection.execute(mine).mappings()])
    ids = [due.id for queue in queues for due in queue]
    taken = update(DELIVERY).where(DELIVERY.c.id.in_(ids))
    connection.execute(taken.values(due=now + LEASE))
    return queues
