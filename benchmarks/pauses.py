"""Claim: what an overloaded front loses beyond the cost of its refusals is what the machine takes from it.

    python benchmarks/pauses.py

``front_overload.py`` in a simulation, with the product's own rule (``transport/terms.py``): Poisson arrivals
at an event loop that needs 41 us for an answer and 7.7 us for a refusal. Other programs, or the host of a
virtual machine, keep it from running now and then. Deterministic: the same table on every machine.
"""

import bisect

import numpy as np
from rich.console import Console
from rich.table import Table

from salver.transport.exchange import Exchange
from salver.transport.http1_head import Heads
from salver.transport.terms import Pulse
from salver.words.messages import NO_PLACE_S

ANSWER_S, REFUSAL_S, POLL_S, IN_TIME_S, SECONDS = 41e-6, 7.7e-6, 5e-6, 0.05, 4.0
LOADS = (0.8, 1.2, 2.0)
#: Mean seconds of a pause, and between the beginnings of two.
PAUSES = ((0.0, 1.0), (0.005, 0.1), (0.005, 0.05), (0.03, 0.5))


class Loop:
    """Event loop with the clocks and the callbacks that a pulse asks for."""

    def __init__(self, pause_s: float, every_s: float) -> None:
        self.now, self.worked = 1.0, 0.0
        self.ends: list[object] = []
        self.pulse = Pulse(self.ends.append, lambda: self.now, lambda: self.worked)
        self._rng = np.random.default_rng(7)
        self._pause_s, self._every_s = pause_s, every_s
        self._next = self.now + self._rng.exponential(every_s)

    def work(self, seconds: float) -> None:
        """Use the processor, and lose it if a pause is due."""
        self.worked += seconds
        self.now += seconds
        if self.now >= self._next:
            self.now += self._pause_s * self._rng.uniform(0.5, 1.5)
            self._next += self._rng.exponential(self._every_s)

    def end_turn(self) -> None:
        """Poll, and call what waits for the end of the turn."""
        self.work(POLL_S)
        ends, self.ends[:] = list(self.ends), []
        for end in ends:
            end()  # type: ignore[operator]


def simulate(load: float, pause_s: float, every_s: float) -> tuple[float, float]:
    """Return the answers in time as a share of the capacity, and refusals as a share of the requests."""
    count = round(load / ANSWER_S * SECONDS)
    came = (1.0 + np.cumsum(np.random.default_rng(0).exponential(ANSWER_S / load, count))).tolist()
    loop, head = Loop(pause_s, every_s), Heads().parse(b"POST /infer HTTP/1.1\r\nHost: h")
    assert head is not None
    at = in_time = refused = 0
    while at < count:
        if not loop.ends:  # nothing to do but wait
            loop.now = max(loop.now, came[at])
        end, answered = bisect.bisect(came, loop.now), []
        for each in came[at:end]:
            exchange = Exchange(head, None)
            loop.pulse.read(exchange, loop.now)
            if exchange.lag < NO_PLACE_S:
                loop.work(ANSWER_S)
                answered.append(each)
            else:
                loop.work(REFUSAL_S)
                refused += 1
        loop.end_turn()
        in_time += sum(loop.now - each <= IN_TIME_S for each in answered)
        at = end
    return in_time / count * load, refused / count


def main() -> None:
    """Print the table."""
    table = Table("pauses", *(f"{load:g} x: in time / refused" for load in LOADS))
    for pause_s, every_s in PAUSES:
        cells = (simulate(load, pause_s, every_s) for load in LOADS)
        name = f"{pause_s * 1e3:g} ms each {every_s * 1e3:g} ms" if pause_s else "none"
        table.add_row(name, *(f"{in_time:.1%} / {refused:.1%}" for in_time, refused in cells))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
