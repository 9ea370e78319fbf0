"""What does a request cost at the door while a release runs, by itself?

In one process, with a model that costs nothing: all that the release adds, from the look at the headers to
the rows of a real ledger (SQLite, in a file), as CPU time of the process, its threads included. Rounds with a
release and without one take turns; what is told is the difference of their medians.
"""

import asyncio
import contextlib
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from salver.features.ledger.ledger import Ledger
from salver.features.registry.records import Actor
from salver.features.releases.experiments.collector import Collector
from salver.features.releases.experiments.outputs import OutputCheck
from salver.features.releases.experiments.pending import Pending
from salver.features.releases.experiments.router import Router
from salver.features.releases.judge.policy import Policy
from salver.features.releases.judge.record import proposed
from salver.features.releases.release_store import ReleaseStore
from salver.features.releases.splitting import Splitting
from salver.features.releases.window_exchange import ExchangeProgress
from salver.kernel.serving.bus import Bus
from salver.kernel.serving.capabilities import Capabilities
from salver.kernel.serving.dataplane import DataPlane
from salver.kernel.serving.exchange import RequestPath
from salver.machine import tune_interpreter
from salver.transport.calls import take_traits
from salver.words.messages import Call, InferRequest, InferResponse, ModelId, Signature
from salver.words.releases import Split
from salver.words.tensor import tensor

USERS = 1000
REQUESTS = 20_000  # of a round: ten seconds of a busy server, which are one bucket
FLUSHED = 100  # requests whose events are handed over together
#: Every so-manieth request comes from a unit that was never seen before; the others from one of ``USERS``.
KINDS = {"known": 0, "one in five new": 5, "new": 1}


class Nothing:
    """Lease, model and codec of a version; and lessor of both."""

    signature, protocol, capabilities = Signature((), ()), "none", Capabilities()
    request = InferRequest("tiny", ())

    def __init__(self, version: str = "1") -> None:
        self.id = ModelId("tiny", version)
        self.response = InferResponse("tiny", version, (tensor("y", [[0.25] * 4]),))
        self._canary = self if version == "2" else Nothing("2")

    @property
    def servable(self) -> Any:
        return self

    def acquire(self, name: str, version: str = "") -> Any:
        return self._canary if version == "2" else self

    def other(self, *_: Any) -> None:
        return None

    def release(self) -> None:
        pass

    async def infer(self, *_: Any) -> Any:
        return self.response

    def decode(self, *_: Any) -> Any:
        return self.request

    def encode(self, *_: Any) -> Any:
        return b""

    def takes_long(self, *_: Any) -> bool:
        return False

    def fault(self, error: Exception) -> Any:
        raise error


class Kept:
    """A ledger with one release that is under way, ``r0``, of which all is written down."""

    def __init__(self, ledger: Ledger, file: Path) -> None:
        self._file = file
        self._store = ReleaseStore(ledger)
        self._release = proposed("r0", "tiny", ("1", "2"), Policy(), time.time())
        self._told = ExchangeProgress()
        self.pending = Pending()

    @property
    def bytes(self) -> int:
        """Of its file."""
        return self._file.stat().st_size

    async def met(self) -> npt.NDArray[np.int64]:
        """Numbers of the units that are in it."""
        crowd, _ = await self._store.known_units("r0")
        return crowd.units

    async def begin(self) -> None:
        await self._store.propose(self._release, Actor("bench"))
        await self._store.attend("r0", "bench", time.time())

    async def keep(self, collector: Collector) -> None:
        """What the collector has seen, as the shell does it."""
        if seen := self.pending.of("r0"):
            crowd = await self._store.hand_in("bench", "r0", self._told, seen)
            self._told = ExchangeProgress(self._told.parts + len(seen), crowd.last)
            collector.know("r0", crowd.by_stage, crowd.last)
            self.pending.kept("r0", len(seen))


@contextlib.asynccontextmanager
async def kept() -> AsyncIterator[Kept]:
    """One in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="salver-bench-") as folder:
        file = Path(folder) / "salver.db"
        async with await Ledger.open(f"sqlite:///{file}") as ledger:
            found = Kept(ledger, file)
            await found.begin()
            yield found


class Door:
    """A door, perhaps with a release behind it.

    Args:
        splits: One of the release ``r0``, or none.
        is_judged: As by the default policy: answers are looked at, and late ones are told.
    """

    def __init__(self, splits: Sequence[Split], ledger: Kept, is_judged: bool) -> None:
        self._ledger = ledger
        self._is_judged = bool(splits) and is_judged
        self._collector = Collector(ledger.pending, time.time)
        if splits:
            self._collector.follow("r0")
            if self._is_judged:
                self._collector.watch("r0", (OutputCheck("invalid", "bounds"),), keeps_requests=False)
                self._collector.slow_from("r0", {"latency_p99": 1.0})
        self._model, self._router = Nothing(), Router()
        self._router.replace(splits)
        self._bus = Bus([self._collector])
        splitting = Splitting(self._router, None, self._collector.answers.append)
        path = RequestPath(self._model, self._bus.emit, time.monotonic, lambda: "0" * 16, stage=splitting)
        self._plane: Any = DataPlane(path)

    async def timed(self, names: Sequence[bytes]) -> float:
        """CPU microseconds of each request, of units of these names."""
        model, plane, bus, router = self._model, self._plane, self._bus, self._router
        began = time.process_time()
        for number, name in enumerate(names):
            call, headers = Call("none", time.monotonic(), request_id="q"), {b"x-user-id": name}
            if wanted := router.headers:
                take_traits(call, headers, wanted)
            await plane.infer(model, b"", "tiny", "", call)
            if number % FLUSHED == FLUSHED - 1:
                bus.flush()
        self._collector.flush()
        if self._is_judged:
            self._collector.thresholds("r0", {"latency_p99": 0.99})
        await self._ledger.keep(self._collector)
        return (time.process_time() - began) / len(names) * 1e6


def namer(every: int) -> Callable[[], list[bytes]]:
    """Makes the names of a round's units, of which one in ``every`` comes for the first time."""
    chance, made = random.Random(1), 0

    def names() -> list[bytes]:
        nonlocal made
        found = []
        for number in range(REQUESTS):
            if every and number % every == 0:
                made += 1
                found.append(b"guest-%d" % made)
            else:
                found.append(b"user-%d" % chance.randrange(USERS))
        return found

    return names


def quarter(is_judged: bool) -> Split:
    """A release whose canary meets a quarter of the units, so that each is counted."""
    return Split("r0", "tiny", "1", "2", 0.25, "bench", is_watched=is_judged)


async def _measured(rounds: int, is_judged: bool, every: int) -> float:
    async with kept() as ledger:
        without, with_it = (Door(some, ledger, is_judged) for some in ((), (quarter(is_judged),)))
        names, taken = namer(every), []
        for _ in range(rounds + 1):
            some = names()
            taken.append((await without.timed(some), await with_it.timed(some)))
    bare, full = zip(*taken[1:], strict=True)  # the first one warms up
    return statistics.median(full) - statistics.median(bare)


def steps(rounds: int = 15) -> dict[str, dict[str, float]]:
    """CPU microseconds that a release adds to a request, by its unit: with its split and log alone, and with
    a judge's eyes, too.
    """
    tune_interpreter()
    return {
        kind: {
            name: round(asyncio.run(_measured(rounds, is_judged, every)), 2)
            for name, is_judged in (("split", False), ("judged", True))
        }
        for kind, every in KINDS.items()
    }
