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
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from sqlalchemy import select, update

from salver.encoding.escaping import printable
from salver.features.ledger.ledger import Ledger
from salver.features.ledger.schema import DELIVERY
from salver.features.registry.delivery_rows import (
    LEASE,
    PAUSE,
    PREFIX,
    DueDelivery,
    host_of,
    is_due,
    take,
)

_LOG: Final = logging.getLogger("salver.registry")
_MOST_TRIES: Final = 12
#: Sends a body to a URL with these headers; returns the status of the answer.
Post = Callable[[str, Mapping[str, str], bytes], Awaitable[int]]
_FEWEST_OK, _MOST_OK = 200, 299


def signature(secret: str, id: str, time: int, body: bytes) -> str:
    """Return the header ``webhook-signature``.

    Args:
        secret: ``whsec_`` and base64.
        time: Unix seconds, as in ``webhook-timestamp``.
    """
    key = base64.b64decode(secret.removeprefix(PREFIX))
    told = b".".join((id.encode(), str(time).encode(), body))
    return "v1," + base64.b64encode(hmac.new(key, told, hashlib.sha256).digest()).decode()


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
        is_any_due = select(DELIVERY.c.id).where(is_due(now)).limit(1)
        if await self._ledger.read(lambda c: c.scalar(is_any_due)) is None:
            return 0
        queues = await self._ledger.write(lambda c: take(c, now))
        return sum(await asyncio.gather(*(self._tell(queue, now) for queue in queues)))

    async def _tell(self, queue: Sequence[DueDelivery], taken: float) -> int:
        """Send to one webhook until it fails or takes too long; return the number sent."""
        told, left = 0, list(queue)
        while left and self._clock() <= taken + LEASE / 2:
            if not await self._deliver(left.pop(0)):
                break
            told += 1
        if left:  # give back what is reserved, so that nobody waits for the lease to end
            free = update(DELIVERY).where(DELIVERY.c.id.in_([due.id for due in left])).values(due=taken)
            await self._ledger.write(lambda c: c.execute(free) and None)
        return told

    async def _deliver(self, due: DueDelivery) -> bool:
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
            problem = printable(words[:300])  # it may be the receiver's
        tries = due.attempts + 1
        values = {"attempts": tries, "error": problem}
        if not problem or tries >= _MOST_TRIES:
            values["done"] = self._clock()
        else:
            values["due"] = self._clock() + PAUSE.delay(tries)
        if problem:
            _LOG.warning("webhook %s at %s: %s, attempt %d", due.webhook, host_of(due.url), problem, tries)
        told = update(DELIVERY).where(DELIVERY.c.id == due.id).values(values)
        await self._ledger.write(lambda c: c.execute(told) and None)
        return not problem
