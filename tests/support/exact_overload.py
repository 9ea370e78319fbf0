"""The queue of the overload tables, for tests to be measured against.

One server, a run of b rows takes b + 4 ms, at most 32 of them: at best 888.9 requests a second.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from salver.features.tuning.simulator import SimulationResult, Traffic, simulate
from salver.kernel.engine.rules import Choice, DropThenDrain, HalfFloor, NewestFeasible, QueueView, Rule
from salver.stats.batch_law import BatchLaw
from salver.words.artifacts import Batching

Floats = npt.NDArray[np.float64]
LARGEST = 32
LAW = BatchLaw(0.001, 0.004)
CAPACITY = LAW.rate(LARGEST)


def law() -> BatchLaw:
    return LAW


def service(rows: int) -> float:
    return LAW.seconds(rows)


def fluid_ceiling(rate: float, within: float) -> float:
    """Goodput that no rule can pass: a batch can only hold requests younger than S - tau(b)."""
    batch = min(float(LARGEST), rate * (within - LAW.t0) / (1 + rate * LAW.a))
    return min(rate, LAW.rate(batch))


def poisson_at(rate: float, count: int, seed: int) -> Floats:
    """Poisson arrivals given their number: the same law, less noise in the mean."""
    return np.sort(np.random.default_rng(seed).uniform(0, count / rate, count))


def bursts_at(rate: float, count: int, seed: int) -> Floats:
    """Gamma gaps with a squared coefficient of variation of 16, likewise at exactly that rate."""
    times: Floats = np.cumsum(np.random.default_rng(seed).gamma(1 / 16, 16 / rate, count))
    times *= count / rate / times[-1]
    return times


class Shrink(HalfFloor):
    """The trap: always the largest batch with which the head still finishes."""

    __slots__ = ()

    def choose(self, line: QueueView, now: float) -> Choice:
        while (head := line.head()) is not None:
            fits = LAW.rows_within(head.target - now)
            if fits >= 1:
                return Choice(min(line.rows, LARGEST, fits), "deadline")
            line.give_up(head)
        return Choice(0, "deadline")


RULES: dict[str, Callable[[], Rule | None]] = {
    "alone": lambda: None,
    "drain": lambda: None,
    "window 5": lambda: None,
    "window 20": lambda: None,
    "shrink": lambda: Shrink(law, LARGEST),
    "half-floor": lambda: HalfFloor(law, LARGEST),
    "newest-feasible": lambda: NewestFeasible(law, LARGEST),
    "drop-then-drain": lambda: DropThenDrain(law, LARGEST),
}


def serve(rule: str, arrivals: Floats, within: float) -> SimulationResult:
    delay = float(rule.split()[1]) if rule.startswith("window") else 0.0
    batching = Batching(rule != "alone", max_rows=LARGEST, max_delay_ms=delay, max_queue=1 << 30)
    return simulate(
        batching, arrivals.tolist(), service, rule=RULES[rule](), traffic=Traffic(objective=within)
    )


def settled(done: SimulationResult) -> Floats:
    """Latencies of all but the first twentieth; NaN = not answered."""
    return done.by_request[len(done.by_request) // 20 :]


def in_time(latencies: Floats, within: float) -> float:
    """Share of all requests; one that is not answered is late."""
    return float(np.mean(latencies <= within + 1e-9))
