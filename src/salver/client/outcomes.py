"""How does a program tell a server what became of its answers, so that each counts once though calls fail?

Every outcome has an id before it is sent, so that a call of which nobody knows whether it arrived is sent
again. It knows neither connections nor what is judged.
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

#: Outcomes of one call, and calls of one batch.
_AT_ONCE: Final = 1000
_TRIES: Final = 6
_PAUSE_SECONDS: Final = 0.1
#: After these it may have arrived, or may arrive the next time.
_AGAIN: Final = (Unreachable, DeadlineExceeded, NotReady, Overloaded, ModelFailed)

#: Sends a body to ``/api/v1/outcomes``, and gives the answer's; raises SalverError.
Send = Callable[[bytes], Awaitable[bytes]]


async def post_outcomes(
    send: Send, outcomes: Sequence[Outcome], sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> Receipt:
    """Post them, a thousand at a time, each call again while the server cannot be reached or is busy.

    Raises:
        SalverError: the last try failed. What was sent before is kept; send all again, with the same ids.
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
            pause = _PAUSE_SECONDS * 2**number * random.uniform(0.5, 1.5)
            await sleep(max(pause, getattr(error, "retry_after", 0.0) or 0.0))
    raise AssertionError("the last try returns or raises")


def taken(receipt: Receipt) -> None:
    """Raises InvalidInput where an outcome was refused."""
    for refused in receipt.refused:
        raise InvalidInput(f"outcome '{refused.id}' is refused: {refused.why}")
