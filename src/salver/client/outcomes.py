"""Posting of outcomes so that each counts once even if calls fail.

Every outcome gets an id before it is sent, so that a call with unknown result can be repeated. It knows
neither connections nor releases.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from salver.client.http import Unreachable
from salver.words.errors import DeadlineExceeded, InvalidInput, ModelFailed, NotReady, Overloaded
from salver.words.releases import Outcome, Receipt

_read_receipt: Final = msgspec.json.Decoder(Receipt).decode

#: Maximum outcomes of one call, and attempts per call.
_AT_ONCE: Final = 1000
_TRIES: Final = 6
_PAUSE_SECONDS: Final = 0.1
#: Errors after which it may have arrived, or may succeed later.
_AGAIN: Final = (Unreachable, DeadlineExceeded, NotReady, Overloaded, ModelFailed)

#: Sends a body to ``/api/v1/outcomes`` and returns the answer's; raises SalverError.
Send = Callable[[bytes], Awaitable[bytes]]


async def post_outcomes(
    send: Send, outcomes: Sequence[Outcome], sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> Receipt:
    """Post outcomes, a thousand at a time; repeat calls while the server is unreachable or busy.

    Raises:
        SalverError: the last attempt failed. Earlier calls are stored; send all again with the same ids.
    """
    receipts = []
    for start in range(0, len(outcomes), _AT_ONCE):
        body = msgspec.json.encode({"outcomes": outcomes[start : start + _AT_ONCE]})
        receipts.append(_read_receipt(await _sent(send, body, sleep)))
    return Receipt(
        sum(receipt.accepted for receipt in receipts),
        sum(receipt.duplicates for receipt in receipts),
        tuple(id for receipt in receipts for id in receipt.unmatched),
        tuple(one for receipt in receipts for one in receipt.refused),
    )


async def _sent(send: Send, body: bytes, sleep: Callable[[float], Awaitable[None]]) -> bytes:
    for number in range(_TRIES):
        try:
            return await send(body)
        except _AGAIN as error:
            if number == _TRIES - 1:
                raise
            # With jitter, so that many clients do not come back at the same moment.
            pause = _PAUSE_SECONDS * 2**number * random.uniform(0.5, 1.5)
            await sleep(max(pause, getattr(error, "retry_after", 0.0) or 0.0))
    raise AssertionError("the last try returns or raises")


def taken(receipt: Receipt) -> None:
    """Check that no outcome was rejected. Raises InvalidInput."""
    for refused in receipt.refused:
        raise InvalidInput(f"outcome '{refused.id}' is refused: {refused.why}")
