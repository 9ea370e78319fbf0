"""Delivery of changes to webhooks.

At least once, and in order of the changes for each webhook, except for failed deliveries, which are retried
later and finally given up. An unresponsive receiver delays others by at most one attempt. Signed according to
the specification Standard Webhooks (standardwebhooks.com): ``webhook-id``, ``webhook-timestamp`` and
``webhook-signature``, an HMAC with SHA-256 of ``id.timestamp.body`` with a shared secret.
"""

import asyncio
import base64
import hashlib
import hmac
import logging
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
from sqlalchemy import ColumnElement, Connection, RowMapping, and_, delete, or_, select, update

from salver.features.ledger.ledger import Ledger
from salver.features.ledger.schema import AUDIT, DELIVERY, WEBHOOK
from salver.features.registry.ports import Post
from salver.features.registry.records import Delivery, DeliveryState
from salver.kernel.backoff import Backoff
from salver.words.errors import NotFound

_LOG: Final = logging.getLogger("salver.registry")
#: Prefix of secrets.
PREFIX: Final = "whsec_"
#: Seconds until the first retry, doubled up to a maximum; then the delivery is given up.
_PAUSE: Final = Backoff(first_s=5.0, most_s=3600.0)
_MOST_TRIES: Final = 12
#: Seconds for which deliveries are reserved; after half of it none is started.
_LEASE: Final = 60.0
_AT_A_TIME: Final = 32  # batch size for one webhook
_KEPT_SECONDS: Final = 30 * 86_400.0
_MOST: Final = 1000
_FEWEST_OK, _MOST_OK = 200, 299
_FAILED = DELIVERY.c.error != ""
_STATES: Final = {
    "waiting": and_(DELIVERY.c.done.is_(None), DELIVERY.c.attempts == 0),
    "failing": and_(DELIVERY.c.done.is_(None), DELIVERY.c.attempts > 0),
    "told": and_(DELIVERY.c.done.is_not(None), ~_FAILED),
    "given_up": and_(DELIVERY.c.done.is_not(None), _FAILED),
}
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
    ended, failed, tried = row["done"], row["error"], row["attempts"]
    state: DeliveryState = "failing" if tried else "waiting"
    if ended is not None:
        state = "given_up" if failed else "told"
    about = {name: row[name] for name in ("id", "webhook", "seq", "action", "model", "subject", "attempts")}
    due = row["due"] if ended is None else None
    return Delivery(**about, created=row["time"], state=state, next=due, ended=ended, error=failed)


def host_of(url: str) -> str:
    """Return the host and port of a URL, because the path is secret for some receivers."""
    parts = urllib.parse.urlsplit(url)
    hidden = "/…" if parts.path.strip("/") or parts.query else "/"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{hidden}"


def signature(secret: str, id: str, time: int, body: bytes) -> str:
    """Return the header ``webhook-signature``.

    Args:
        secret: ``whsec_`` and base64.
        time: Unix seconds, as in ``webhook-timestamp``.
    """
    key = base64.b64decode(secret.removeprefix(PREFIX))
    told = b".".join((id.encode(), str(time).encode(), body))
    return "v1," + base64.b64encode(hmac.new(key, told, hashlib.sha256).digest()).decode()


class _DueDelivery(msgspec.Struct, frozen=True):
    """A delivery that is due."""

    id: int
    webhook: str
    url: str
    secret: str
    body: str
    attempts: int


class Deliverer:
    """Sender of deliveries.

    Several may work on one ledger: each reserves due deliveries for a minute. If one is killed, a delivery
    may be sent twice with the same ``webhook-id``.

    Args:
        clock: Unix seconds.
    """

    def __init__(self, ledger: Ledger, post: Post, clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._post = post
        self._clock = clock

    def __repr__(self) -> str:
        return f"<Deliverer of {self._ledger!r}>"

    async def once(self) -> int:
        """Send what is due, to all webhooks concurrently; return the number of successful deliveries."""
        now = self._clock()
        is_any_due = select(DELIVERY.c.id).where(_due(now)).limit(1)
        if await self._ledger.read(lambda c: c.scalar(is_any_due)) is None:
            return 0
        queues = await self._ledger.write(lambda c: _take(c, now))
        return sum(await asyncio.gather(*(self._tell(queue, now) for queue in queues)))

    async def _tell(self, queue: Sequence[_DueDelivery], taken: float) -> int:
        """Send to one webhook until it fails or takes too long; return the number sent."""
        told, left = 0, list(queue)
        while left and self._clock() <= taken + _LEASE / 2:
            if not await self._deliver(left.pop(0)):
                break
            told += 1
        if left:
            free = update(DELIVERY).where(DELIVERY.c.id.in_([due.id for due in left])).values(due=taken)
            await self._ledger.write(lambda c: c.execute(free) and None)
        return told

    async def _deliver(self, due: _DueDelivery) -> bool:
        now, body = int(self._clock()), due.body.encode()
        id = f"msg_{due.id}"
        headers: Mapping[str, str] = {
            "content-type": "application/json",
            "user-agent": "salver",
            "webhook-id": id,
            "webhook-timestamp": str(now),
            "webhook-signature": signature(due.secret, id, now, body),
        }
        problem = ""
        try:
            status = await self._post(due.url, headers, body)
            if not _FEWEST_OK <= status <= _MOST_OK:
                problem = f"status {status}"
        except (OSError, ValueError) as error:
            words = getattr(error, "strerror", None) or str(error) or type(error).__name__
            problem = "".join(c if c.isprintable() else "?" for c in words[:300])  # it may be the receiver's
        tries = due.attempts + 1
        values = {"attempts": tries, "error": problem}
        if not problem or tries >= _MOST_TRIES:
            values["done"] = self._clock()
        else:
            values["due"] = self._clock() + _PAUSE.delay(tries)
        if problem:
            _LOG.warning("webhook %s at %s: %s, attempt %d", due.webhook, host_of(due.url), problem, tries)
        told = update(DELIVERY).where(DELIVERY.c.id == due.id).values(values)
        await self._ledger.write(lambda c: c.execute(told) and None)
        return not problem


def _due(now: float) -> ColumnElement[bool]:
    """Return a condition for due deliveries, also if the clock was set back."""
    is_time = or_(DELIVERY.c.due <= now, DELIVERY.c.due > now + _PAUSE.most_s + _LEASE)
    return and_(DELIVERY.c.done.is_(None), is_time)


def _take(connection: Connection, now: float) -> list[list[_DueDelivery]]:
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
    for webhook in connection.scalars(select(DELIVERY.c.webhook).where(_due(now)).distinct()).all():
        mine = query.where(_due(now), DELIVERY.c.webhook == webhook)
        queues.append([_DueDelivery(**row) for row in connection.execute(mine).mappings()])
    ids = [due.id for queue in queues for due in queue]
    taken = update(DELIVERY).where(DELIVERY.c.id.in_(ids))
    connection.execute(taken.values(due=now + _LEASE))
    return queues
