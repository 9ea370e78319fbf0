"""Who is told of changes, and how does the receiver know that it was us?

As the specification Standard Webhooks has it (standardwebhooks.com): ``webhook-id``, ``webhook-timestamp``
and ``webhook-signature``, an HMAC with SHA-256 of ``id.timestamp.body`` under a secret that both sides know.
What is to be told is written with the change itself, and told by :class:`Deliverer`, at least once.
"""

import base64
import hashlib
import hmac
import logging
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Final, get_args

import msgspec
from sqlalchemy import Connection, delete, insert, select, update

from salver.errors import InvalidInput, NotFound
from salver.ledger import Ledger
from salver.ledger.schema import DELIVERY, WEBHOOK
from salver.registry.audit import Change, record
from salver.registry.names import check_model
from salver.registry.ports import Post
from salver.registry.records import Action, Actor, Webhook

_LOG: Final = logging.getLogger("salver.registry")
_PREFIX: Final = "whsec_"
_SECRET_BYTES: Final = 32
#: Seconds until a delivery that failed is tried again, doubled each time up to the most; then it is given up.
_FIRST_PAUSE: Final = 5.0
_MOST_PAUSE: Final = 3600.0
_MOST_TRIES: Final = 12
#: For which a delivery that is under way is nobody else's.
_LEASE: Final = 60.0
_AT_A_TIME: Final = 32
_OF_DELIVERY: Final = ("id", "webhook", "body", "attempts")
_FEWEST_OK, _MOST_OK = 200, 299


def signature(secret: str, id: str, time: int, body: bytes) -> str:
    """The header ``webhook-signature``.

    Args:
        secret: ``whsec_`` and base64.
        time: Unix seconds, as in ``webhook-timestamp``.
    """
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    told = b".".join((id.encode(), str(time).encode(), body))
    return "v1," + base64.b64encode(hmac.new(key, told, hashlib.sha256).digest()).decode()


class Webhooks:
    """Those who want to be told.

    Args:
        clock: Unix seconds.
        new_id: An id that no other call gives.
        random: So many bytes that nobody can guess.
    """

    def __init__(
        self,
        ledger: Ledger,
        clock: Callable[[], float],
        new_id: Callable[[], str],
        random: Callable[[int], bytes],
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._new_id = new_id
        self._random = random

    def __repr__(self) -> str:
        return f"<Webhooks of {self._ledger!r}>"

    async def add(
        self, url: str, model: str, events: Sequence[str], actor: Actor, why: str = ""
    ) -> tuple[Webhook, str]:
        """From now on that URL is told; the secret, which is not shown again.

        Args:
            model: Empty = of all.
            events: Actions of the audit; none = all.

        Raises:
            InvalidInput: the URL is none of HTTP, or there is no such event.
        """
        _check(url, model, events)
        secret = _PREFIX + base64.b64encode(self._random(_SECRET_BYTES)).decode()
        webhook = Webhook(self._new_id(), url, model, tuple(events), self._clock(), actor.name)
        change = Change(actor, webhook.created, why)

        def work(connection: Connection) -> None:
            row = msgspec.structs.asdict(webhook)
            row |= {"events": msgspec.json.encode(webhook.events).decode(), "secret": secret}
            connection.execute(insert(WEBHOOK), row)
            record(connection, change, "webhook.added", model, webhook.id, "", _host(url))

        await self._ledger.write(work)
        return webhook, secret

    async def list(self) -> tuple[Webhook, ...]:
        """All, the oldest first, without their secrets."""
        columns = [column for column in WEBHOOK.columns if column is not WEBHOOK.c.secret]
        query = select(*columns).order_by(WEBHOOK.c.created, WEBHOOK.c.id)

        def work(connection: Connection) -> tuple[Webhook, ...]:
            return tuple(
                Webhook(**{**row, "events": tuple(msgspec.json.decode(row["events"]))})
                for row in connection.execute(query).mappings()
            )

        return await self._ledger.read(work)

    async def remove(self, id: str, actor: Actor, why: str = "") -> None:
        """It is told no more, nor of what is still to be told. Raises NotFound."""
        change = Change(actor, self._clock(), why)

        def work(connection: Connection) -> None:
            url = connection.scalar(select(WEBHOOK.c.url).where(WEBHOOK.c.id == id))
            if url is None:
                raise NotFound(f"there is no webhook {id!r}", fix="List: salver registry webhook list.")
            connection.execute(delete(DELIVERY).where(DELIVERY.c.webhook == id, DELIVERY.c.done.is_(None)))
            connection.execute(delete(WEBHOOK).where(WEBHOOK.c.id == id))
            record(connection, change, "webhook.removed", "", id, _host(url))

        await self._ledger.write(work)


class _Due(msgspec.Struct, frozen=True):
    id: int
    webhook: str
    url: str
    secret: str
    body: str
    attempts: int


class Deliverer:
    """Tells webhooks what they are to be told.

    Several may work on one ledger: each takes what is due for a minute. A receiver may be told twice, when
    one is killed in between; ``webhook-id`` is the same then.

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
        """Tell what is due; how many were told."""
        is_any_due = select(DELIVERY.c.id).where(DELIVERY.c.done.is_(None), DELIVERY.c.due <= self._clock())
        if await self._ledger.read(lambda c: c.scalar(is_any_due.limit(1))) is None:
            return 0
        due = await self._ledger.write(self._take)
        return sum([await self._deliver(each) for each in due])

    def _take(self, connection: Connection) -> list[_Due]:
        now = self._clock()
        query = (
            select(*(DELIVERY.c[name] for name in _OF_DELIVERY), WEBHOOK.c.url, WEBHOOK.c.secret)
            .join(WEBHOOK, WEBHOOK.c.id == DELIVERY.c.webhook)
            .where(DELIVERY.c.done.is_(None), DELIVERY.c.due <= now)
            .order_by(DELIVERY.c.id)
            .limit(_AT_A_TIME)
        )
        found = [_Due(**row) for row in connection.execute(query).mappings()]
        taken = update(DELIVERY).where(DELIVERY.c.id.in_([due.id for due in found]))
        connection.execute(taken.values(due=now + _LEASE))
        return found

    async def _deliver(self, due: _Due) -> bool:
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
            problem = f"{type(error).__name__}: {error}"[:300]
        tries = due.attempts + 1
        values = {"attempts": tries, "error": problem}
        if not problem or tries >= _MOST_TRIES:
            values["done"] = self._clock()
        else:
            values["due"] = self._clock() + min(_FIRST_PAUSE * 2 ** (tries - 1), _MOST_PAUSE)
        if problem:
            _LOG.warning("the webhook %s at %s: %s, try %d", due.webhook, _host(due.url), problem, tries)
        told = update(DELIVERY).where(DELIVERY.c.id == due.id).values(values)
        await self._ledger.write(lambda c: c.execute(told) and None)
        return not problem


def _check(url: str, model: str, events: Sequence[str]) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or len(url) > 2048:
        raise InvalidInput("a webhook is told by HTTP", field="url", fix="Name an URL: https://host/path.")
    if model:
        check_model(model)
    known = get_args(Action)
    for event in events:
        if event not in known:
            raise InvalidInput(f"there is no event {event!r}", fix=f"There are: {', '.join(known)}.")


def _host(url: str) -> str:
    """What may be shown of a URL: neither its user and password, nor its query."""
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "") + parts.path
