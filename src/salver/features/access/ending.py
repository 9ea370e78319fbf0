"""End of an answer in pieces whose caller's key ends."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from salver.words.errors import Cancelled, SalverError

ReplyT = TypeVar("ReplyT")
Write = Callable[[ReplyT], Awaitable[None]]
#: Seconds between two looks at a key.
_LOOK_S: Final = 0.4


async def while_valid(
    run: Callable[[Write[ReplyT]], Awaitable[ReplyT | None]],
    write: Write[ReplyT],
    why: Callable[[], SalverError | None],
    fault: Callable[[SalverError], ReplyT],
) -> ReplyT | None:
    """Answer in pieces until the caller's key ends; return a reply in place of pieces.

    Args:
        run: Answers through the function that it gets, or returns a reply; it is cancelled when the key ends.
        why: Returns why the key is not valid any more; None = it is.
        fault: Makes the last piece, or the whole reply, of an answer that was broken off.
    """
    loop = asyncio.get_running_loop()
    ended: SalverError | None = None
    has_begun = False
    timer: asyncio.TimerHandle

    async def pass_on(piece: ReplyT) -> None:
        nonlocal has_begun
        has_begun = True
        await write(piece)

    def look() -> None:
        nonlocal ended, timer
        ended = why()
        if ended is None:
            timer = loop.call_later(_LOOK_S, look)
        else:
            limit.reschedule(loop.time())

    timer = loop.call_later(_LOOK_S, look)
    try:
        async with asyncio.timeout(None) as limit:
            return await run(pass_on)
    except TimeoutError:
        if ended is None:
            raise
    finally:
        timer.cancel()
    reply = fault(ended)
    if not has_begun:
        return reply
    with contextlib.suppress(Cancelled):
        await write(reply)
    return None
