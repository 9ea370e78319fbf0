"""Schedule of an open-loop load, and its figures. ``driving.py`` sends it."""

from collections import Counter
from typing import Literal

import msgspec
import numpy as np

from salver.words.tensor import Array

Arrivals = Literal["poisson", "constant"]
#: Samples needed for a 99th percentile known to a quarter of its tail (order statistics, 99 %).
ENOUGH_FOR_P99 = 10_500


def schedule(rate: float, seconds: float, arrivals: Arrivals, seed: int) -> Array:
    """Return ascending send times in seconds from the start, below ``seconds``.

    Args:
        rate: Requests per second, above 0.
        seconds: Duration of the run.
        arrivals: ``poisson`` has exponential gaps, ``constant`` equal ones.
        seed: Seed of the gaps; the same seed gives the same load.

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
    """Results so far; the lists have one entry per sent request.

    Attributes:
        planned: Number of scheduled requests.
        latency: Seconds from the scheduled time to the answer.
        lag: Delay of the generator itself in seconds, without the wait for a free connection.
        outcome: ``ok`` or the error's code.
        finished: Time of the last answer, in seconds from the start.
    """

    planned: int
    latency: list[float] = []
    lag: list[float] = []
    outcome: list[str] = []
    finished: float = 0.0


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one run; latencies are milliseconds of successful answers, None without any.

    Attributes:
        unsent: Scheduled but never sent, because every connection was busy until the end.
        rate: Successful answers per second, until the last answer.
        p99_is_sound: Enough samples lie beyond it.
        late_ms: 99th percentile of the generator's own delay.
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
        """Return whether the generator, not the server, caused a considerable part of the latencies."""
        return self.late_ms > max(2.0, 0.5 * (self.p50_ms or 0.0))


def summarise(tally: Tally, offered: float, seconds: float) -> Summary:
    """Return the run's figures. Percentiles are of the samples themselves, without a histogram's error."""
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
