"""How does a server behave when requests arrive on a clock of their own?

Open-loop load: the times of all requests are fixed in advance, and the latency of each is counted
from its scheduled time, so that a slow answer does not hide the wait of those behind it
("coordinated omission", G. Tene). It knows no protocol: ``send`` is handed in, and so are clock
and sleep.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Literal

import msgspec
import numpy as np

from salver.words.errors import SalverError
from salver.words.tensor import Array

Arrivals = Literal["poisson", "constant"]
#: Samples from which a 99th percentile is known to a quarter of its tail (order statistics, 99 %).
ENOUGH_FOR_P99 = 10_500


def schedule(rate: float, seconds: float, arrivals: Arrivals, seed: int) -> Array:
    """Ascending send times in seconds from the start, below ``seconds``.

    Args:
        rate: Requests per second, above 0.
        seconds: Length of the run.
        arrivals: ``poisson`` has exponential gaps, ``constant`` equal ones.
        seed: Of the gaps; the same seed gives the same load.

    >>> schedule(4, 1, "constant", 0).tolist()
    [0.0, 0.25, 0.5, 0.75]
    """
    if arrivals == "constant":
        return np.arange(np.ceil(rate * seconds)) / rate
    expected = rate * seconds
    room = int(expected + 8 * expected**0.5 + 16)
    times = np.random.default_rng(seed).exponential(1 / rate, room).cumsum()
    return times[times < seconds]


class Tally(msgspec.Struct):
    """What has happened so far; the lists have one entry a sent request.

    Attributes:
        planned: Requests of the schedule.
        latency: Seconds from the scheduled time to the answer.
        lag: Seconds that the generator itself was late, the wait for a free connection excluded.
        outcome: ``ok`` or the error's code.
        finished: When the last answer came, in seconds from the start.
    """

    planned: int
    latency: list[float] = []
    lag: list[float] = []
    outcome: list[str] = []
    finished: float = 0.0


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
    """Send at the scheduled times, over at most ``connections`` requests at once.

    Each of so many workers takes the next scheduled request, waits for its time, and sends it; one
    that comes late because all were busy is late in its latency too. What is still unsent after
    ``seconds`` stays unsent.
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


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One run in numbers; latencies are milliseconds of the good answers, None without any.

    Attributes:
        unsent: Scheduled but never sent, because every connection was busy until the end.
        rate: Good answers per second, until the last answer.
        p99_is_sound: Enough samples lie beyond it.
        late_ms: 99th percentile of the generator's own lateness.
    """

    offered: float
    sent: int
    ok: int
    unsent: int
    errors: dict[str, int]
    rate: float
    mean_ms: float | None
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    p99_is_sound: bool
    late_ms: float

    @property
    def generator_was_late(self) -> bool:
        """The generator, not the server, made up a good part of the latencies."""
        return self.late_ms > max(2.0, 0.5 * (self.p50_ms or 0.0))


def summarise(tally: Tally, offered: float, seconds: float) -> Summary:
    """The run's numbers. Percentiles are of the samples themselves, without a histogram's error."""
    good = np.array([t for t, o in zip(tally.latency, tally.outcome, strict=True) if o == "ok"]) * 1e3
    marks = [float(x) for x in np.percentile(good, (50, 90, 99, 100))] if good.size else [None] * 4
    lag = np.array(tally.lag) * 1e3
    return Summary(
        offered=offered,
        sent=len(tally.outcome),
        ok=int(good.size),
        unsent=tally.planned - len(tally.outcome),
        errors={code: n for code, n in Counter(tally.outcome).items() if code != "ok"},
        rate=good.size / max(tally.finished, seconds),
        mean_ms=float(good.mean()) if good.size else None,
        p50_ms=marks[0],
        p90_ms=marks[1],
        p99_ms=marks[2],
        max_ms=marks[3],
        p99_is_sound=good.size >= ENOUGH_FOR_P99,
        late_ms=float(np.percentile(lag, 99)) if lag.size else 0.0,
    )
