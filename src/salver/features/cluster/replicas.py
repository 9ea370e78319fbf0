"""Runner of one model version on replicas of a cluster.

Batches come from the engine as for models of this machine. Each goes to the replica that routing chooses
among those that are idle (:mod:`salver.features.routing.choosing`). A replica that dies, or that does not
answer its health checks, fails its batch at once and is replaced; the engine runs such a batch again, on
another replica, if it may be repeated.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final, Protocol

import msgspec

from salver.features.cluster.ports import Replica
from salver.features.routing.balancing.measured import MeasuredWork
from salver.features.routing.budget import RetryBudget
from salver.features.routing.choosing import Outcome, Router
from salver.features.routing.health import EjectionConfig
from salver.features.routing.instances import Instance
from salver.kernel.engine.ports import Place
from salver.kernel.supervise import Backoff, Supervisor
from salver.words.errors import HostDied, LoadFailed, NotReady
from salver.words.messages import ModelId, Signature
from salver.words.tensor import Array

_LOG = logging.getLogger("salver.cluster")
#: Health checks in a row that get no answer from a replica before it counts as dead.
_CHECKS: Final = 2


class Care(msgspec.Struct, frozen=True):
    """Terms on which replicas are watched and replaced, with a clock and random numbers.

    Attributes:
        lost: Called with the node of a replica that has died.
        check_s: Pause between health checks, and the time for an answer.
    """

    lost: Callable[[str], None]
    check_s: float = 0.5
    backoff: Backoff = Backoff()
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    chance: random.Random = msgspec.field(default_factory=random.Random)


class Starts(Protocol):
    """Way to start one more replica of a model."""

    async def __call__(self) -> Replica:
        """Choose a node and load the model there. Raises LoadFailed."""
        ...


class _Seat:
    """A replica, and its state as an instance."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.instance = Instance(replica.url)
        self.missed = 0  # health checks in a row


class ReplicaRunner:
    """Runner on replicas, created by :meth:`start`.

    Args:
        replicas: At least one.

    Attributes:
        router: Chooses among the replicas, which are its instances.
        policy: See :class:`~salver.features.routing.choosing.Routed`.
        deaths: Number of replicas that have died.
        wanted: Number of replicas that the scaler wants; 0 = the number is fixed.
        reruns: See :class:`~salver.kernel.engine.ports.RestartingRunner`.
    """

    reruns = False
    policy = "measured"
    wanted = 0

    def __init__(self, id: ModelId, start: Starts, replicas: Sequence[Replica], care: Care) -> None:
        self.id = id
        self.slots = len(replicas)
        self.deaths = 0
        self.loaded = replicas[0].loaded
        self.signature: Signature = self.loaded.signature
        draw = care.chance
        # Without retries of its own: the engine repeats a batch, and knows what may be repeated.
        self.router = Router([], MeasuredWork(draw), EjectionConfig(), RetryBudget(0, 0), draw.random, most=1)
        self._start = start
        self._care = care
        self._seats: dict[str, _Seat] = {}
        self._changed = asyncio.Condition()
        self._failures = 0  # of starts and replicas, in a row
        self._failed_at = -math.inf
        self.is_closed = False
        self._tasks = Supervisor(_LOG, f"[{id}] a replica is not replaced")
        for replica in replicas:
            self._seat(replica)
        self._tasks.start("watch", self._watch())

    @classmethod
    async def start(
        cls, id: ModelId, start: Starts, count: int, care: Care, hoped: int = 0
    ) -> "ReplicaRunner":
        """Start that many replicas, or up to as many as are hoped for. Raises LoadFailed."""
        return cls(id, start, await _started(start, max(count, hoped), count), care)

    def __repr__(self) -> str:
        return f"<ReplicaRunner {self.id}, {len(self._seats)} of {self.slots} replicas alive>"

    @property
    def nodes(self) -> list[str]:
        """Return the node of each replica."""
        return [seat.replica.node for seat in self._seats.values()]

    @property
    def places(self) -> list[Place]:
        """See :class:`~salver.kernel.engine.ports.PlacedRunner`."""
        replicas = [seat.replica for seat in self._seats.values()]
        return [msgspec.structs.replace(each.place, replica=each.url) for each in replicas]

    @property
    def lacking(self) -> str:
        """See :class:`~salver.kernel.engine.ports.PlacedRunner`."""
        return self.router.note

    @property
    def is_lost(self) -> bool:
        """Whether no replica is alive."""
        return not self._seats

    async def run(self, inputs: Mapping[str, Array]) -> tuple[Mapping[str, Array], float]:
        """See :class:`~salver.kernel.engine.ports.Runner`.

        Raises:
            NotReady: no replica is alive.
        """
        seat = await self._idle()
        # A cancelled caller must not free a replica that is still working.
        return await asyncio.shield(self._on(seat, inputs))

    def run_inline(self, inputs: Mapping[str, Array]) -> None:
        """Return None: the model is elsewhere."""

    async def run_each(self, inputs: Mapping[str, Array]) -> Sequence[Mapping[str, Array]]:
        """See :class:`~salver.kernel.engine.ports.Runner`. All replicas are idle, so each takes one run."""
        runs = await asyncio.gather(*(self.run(inputs) for _ in self._seats))
        return [outputs for outputs, _ in runs]

    async def back(self, seconds: float) -> None:
        """See :class:`~salver.kernel.engine.ports.RestartingRunner`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(lambda: self._seats or self.is_closed)

    async def resize(self, slots: int) -> None:
        """See :class:`~salver.kernel.engine.ports.Resizable`."""
        more = slots - self.slots
        if more > 0:
            replicas = await _started(self._start, more, more)
            if self.is_closed:
                await _stopped(replicas)
                return
            for replica in replicas:
                self._seat(replica)
            self.slots = slots
            await self._tell()
            return
        self.slots = slots
        # The newest go, since the oldest were spread best; but drained ones, which do nothing, go first.
        leaving = sorted(self._seats.values(), key=lambda seat: seat.instance.is_draining)[slots:]
        for seat in leaving:
            seat.instance.is_draining = True
        async with self._changed:
            await self._changed.wait_for(lambda: not any(seat.instance.load.pending for seat in leaving))
        there = [seat for seat in leaving if self._seats.get(seat.replica.url) is seat]  # others have died
        for seat in there:
            self._leave(seat)
        await _stopped([seat.replica for seat in there])

    async def close(self) -> None:
        """End all replicas."""
        self.is_closed = True
        await self._tell()
        await self._tasks.close()
        await _stopped([seat.replica for seat in self._seats.values()])
        self._seats.clear()

    def _seat(self, replica: Replica) -> None:
        seat = _Seat(replica)
        self._seats[replica.url] = seat
        self.router.instances.append(seat.instance)

    def _leave(self, seat: _Seat) -> None:
        del self._seats[seat.replica.url]
        self.router.instances.remove(seat.instance)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _idle(self) -> _Seat:
        """Wait for an idle replica, and take it. Raises NotReady."""
        router, clock = self.router, self._care.clock
        while (instance := router.choose("", (), clock())) is None:
            if not self._seats:
                raise NotReady(f"no replica of model '{self.id.name}' is alive; one is being started")
            async with self._changed:
                await self._changed.wait()
        router.begin(instance)
        return self._seats[instance.url]

    async def _on(self, seat: _Seat, inputs: Mapping[str, Array]) -> tuple[Mapping[str, Array], float]:
        clock = self._care.clock
        began = clock()
        outcome: Outcome = "refused"
        try:
            result = await seat.replica.call(inputs)
            outcome = "answered"
            return result
        except HostDied as error:
            outcome = "failed"
            self._lose(seat, error.message)
            raise
        finally:
            now = clock()
            self.router.end(seat.instance, outcome, now - began, 1, now)  # one run at a time
            await self._tell()

    def _lose(self, seat: _Seat, why: str) -> None:
        """Take a replica out that is dead, or is to be."""
        if self._seats.get(seat.replica.url) is not seat:
            return
        _LOG.warning("[%s] the replica %s died (%s)", self.id, seat.replica.url, why)
        self._leave(seat)
        self.deaths += 1
        self._fail()
        self._care.lost(seat.replica.node)
        seat.replica.abandon(why)

    def _fail(self) -> None:
        now = self._care.clock()
        self._failures = self._care.backoff.count(self._failures, now - self._failed_at)
        self._failed_at = now

    async def _watch(self) -> None:
        """Check the replicas and replace those that are missing, for as long as the runner lives."""
        care = self._care
        while True:
            await care.sleep(care.check_s)
            await asyncio.gather(*map(self._check, list(self._seats.values())))
            await self._tell()  # an operator may have restored a drained one
            delay = care.backoff.delay(self._failures, care.chance.random()) if self._failures else 0.0
            if len(self._seats) < self.slots and care.clock() - self._failed_at >= delay:
                # Beside the checks, which a model that takes long to load must not stop.
                self._tasks.start_unless_running("replace", self._replace)

    async def _check(self, seat: _Seat) -> None:
        try:
            async with asyncio.timeout(self._care.check_s):
                await seat.replica.check()
            seat.missed = 0
        except HostDied as error:
            self._lose(seat, error.message)
        except TimeoutError:
            seat.missed += 1
            if seat.missed >= _CHECKS:
                self._lose(seat, f"no answer to {_CHECKS} health checks")

    async def _replace(self) -> None:
        try:
            replica = await self._start()
        except LoadFailed:
            self._fail()
            raise
        if len(self._seats) >= self.slots:  # fewer are wanted by now
            await replica.stop()
            return
        self._seat(replica)
        _LOG.info("[%s] a replica is back: %s", self.id, replica.url)
        await self._tell()


async def _started(start: Starts, count: int, least: int) -> list[Replica]:
    """Start replicas; if fewer than the least can be, none is left. Raises LoadFailed."""
    found = await asyncio.gather(*(start() for _ in range(count)), return_exceptions=True)
    replicas = [each for each in found if not isinstance(each, BaseException)]
    failed = [each for each in found if isinstance(each, BaseException)]
    if len(replicas) < least:
        await _stopped(replicas)
        raise failed[0]
    return replicas


async def _stopped(replicas: Iterable[Replica]) -> None:
    await asyncio.gather(*(replica.stop() for replica in replicas))
