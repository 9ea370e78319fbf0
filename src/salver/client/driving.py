"""Open-loop load generator.

The times of all requests are fixed in advance, and the latency of each is counted from its scheduled time, so
that a slow answer does not hide the wait of those behind it ("coordinated omission", G. Tene). It knows no
protocol: ``send``, clock and sleep are arguments.
"""

import asyncio
from collections.abc import Awaitable, Callable

from salver.client.load import Tally
from salver.words.errors import SalverError
from salver.words.tensor import Array


async def drive(
    send: Callable[[], Awaitable[None]],
    due: Array,
    seconds: float,
    connections: int,
    tally: Tally,
    *,
    clock: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]],
) -> None:
    """Send at the scheduled times, with at most ``connections`` concurrent requests.

    Each worker takes the next scheduled request, waits for its time, and sends it; a delay because all were
    busy counts towards its latency. Requests not sent after ``seconds`` stay unsent.
    """
    times = iter(due.tolist())
    start = clock()

    async def work() -> None:
        free = 0.0
        for at in times:
            wait = at - (clock() - start)
            if wait > 0:
                await sleep(wait)
            sent = clock() - start
            if sent > max(seconds, at):
                return
            try:
                await send()
            except SalverError as error:
                outcome = error.code.value
            else:
                outcome = "ok"
            tally.lag.append(sent - max(at, free))
            free = tally.finished = clock() - start
            tally.latency.append(free - at)
            tally.outcome.append(outcome)

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(work())
