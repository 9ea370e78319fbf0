"""Webhooks: subscriptions to changes.

Deliveries are created with the change itself; ``deliveries.py`` sends them.
"""

import base64
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Final, get_args

import msgspec
from sqlalchemy import Connection, delete, insert, select

from salver.features.ledger.ledger import Ledger
from salver.features.ledger.schema import DELIVERY, WEBHOOK
from salver.features.registry.audit import Change, record
from salver.features.registry.delivery_rows import PREFIX, again, deliveries, host_of
from salver.features.registry.names import check_model
from salver.features.registry.records import Action, Actor, Delivery, DeliveryState, Webhook
from salver.words.errors import InvalidInput, NotFound

_SECRET_BYTES: Final = 32
#: Bytes of secrets that receivers make.
_SIZES: Final = range(24, 65)


class Webhooks:
    """Webhooks of a registry.

    Args:
        clock: Unix seconds.
        new_id: Returns a unique id.
        random: Returns that many secure random bytes.
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
        self, url: str, model: str, events: Sequence[str], actor: Actor, why: str = "", secret: str = ""
    ) -> tuple[Webhook, str]:
        """Add a webhook; return its secret, which is not shown again.

        Args:
            model: Model name; empty = all.
            events: Actions of the audit log; empty = all.
            secret: Signing secret that its receiver has already; empty = a new one. It is not returned.

        Raises:
            InvalidInput: the URL is not an HTTP URL, there is no such event, or the secret is malformed.
        """
        _check(url, model, events)
        told = "" if secret else PREFIX + base64.b64encode(self._random(_SECRET_BYTES)).decode()
        secret = _checked(secret) if secret else told
        webhook = Webhook(self._new_id(), url, model, tuple(events), self._clock(), actor.name)
        change = Change(actor, webhook.created, why)

        def work(connection: Connection) -> None:
            row = msgspec.structs.asdict(webhook)
            row |= {"events": msgspec.json.encode(webhook.events).decode(), "secret": secret}
            connection.execute(insert(WEBHOOK), row)
            record(connection, change, "webhook.added", model, webhook.id, "", host_of(url))

        await self._ledger.write(work)
        return webhook, told

    async def list(self) -> tuple[Webhook, ...]:
        """Return all webhooks, the oldest first, without their secrets."""
        columns = [column for column in WEBHOOK.columns if column is not WEBHOOK.c.secret]
        query = select(*columns).order_by(WEBHOOK.c.created, WEBHOOK.c.id)

        def work(connection: Connection) -> tuple[Webhook, ...]:
            return tuple(
                Webhook(**{**row, "events": tuple(msgspec.json.decode(row["events"]))})
                for row in connection.execute(query).mappings()
            )

        return await self._ledger.read(work)

    async def remove(self, id: str, actor: Actor, why: str = "") -> None:
        """Remove a webhook with its pending deliveries. Raises NotFound."""
        change = Change(actor, self._clock(), why)

        def work(connection: Connection) -> None:
            url = connection.scalar(select(WEBHOOK.c.url).where(WEBHOOK.c.id == id))
            if url is None:
                raise NotFound(f"there is no webhook {id!r}", fix="List: salver registry webhook list.")
            connection.execute(delete(DELIVERY).where(DELIVERY.c.webhook == id, DELIVERY.c.done.is_(None)))
            connection.execute(delete(WEBHOOK).where(WEBHOOK.c.id == id))
            record(connection, change, "webhook.removed", "", id, host_of(url))

        await self._ledger.write(work)

    async def deliveries(
        self, webhook: str = "", state: DeliveryState | None = None, before: int = 0, most: int = 100
    ) -> Sequence[Delivery]:
        """Return deliveries of the last 30 days, the newest first.

        Args:
            webhook: Id; empty = all.
            state: State; None = any.
            before: Only lower numbers; 0 = from the newest.
        """
        return await self._ledger.read(lambda c: deliveries(c, webhook, state, before, most))

    async def redeliver(self, id: int) -> Delivery:
        """Repeat a delivery as soon as possible, with the usual retries.

        Raises:
            NotFound: there is no such delivery, or its webhook has been removed.
        """
        now = self._clock()
        return await self._ledger.write(lambda c: again(c, id, now))


def _checked(secret: str) -> str:
    """Return a secret as Standard Webhooks has it: ``whsec_`` and 24 to 64 bytes in base64."""
    try:
        size = len(base64.b64decode(secret.removeprefix(PREFIX), validate=True))
    except ValueError:
        size = 0
    if not secret.startswith(PREFIX) or size not in _SIZES:
        raise InvalidInput(
            f"a signing secret is {PREFIX} and 24 to 64 bytes in base64",
            field="secret",
            fix=f'Make one: echo "{PREFIX}$(openssl rand -base64 32)"',
        )
    return secret


def _check(url: str, model: str, events: Sequence[str]) -> None:
    try:
        parts = urllib.parse.urlsplit(url)
        is_fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # invalid port or brackets
        is_fine = False
    if not is_fine or not url.isprintable() or len(url) > 2048:
        raise InvalidInput(
            "a webhook needs an HTTP URL", field="url", fix="Use a URL such as https://host/path."
        )
    if model:
        check_model(model)
    known = get_args(Action)
    for event in events:
        if event not in known:
            raise InvalidInput(f"there is no event {event!r}", fix=f"There are: {', '.join(known)}.")
