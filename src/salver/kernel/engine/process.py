"""Runner on host processes, for models that may crash, hold the interpreter lock or need a memory limit.

:class:`ProcessRunner` keeps one host process per slot, gives each batch to an idle one, and restarts a host
that died after a back-off. Batches on a host that dies fail immediately
(:class:`~salver.words.errors.HostDied`); other hosts are not affected. While no host is alive, runs fail
immediately with the time of the next attempt.
"""

import asyncio
import functools
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import msgspec

from salver.backends.protocol import Answer, LoadOptions
from salver.kernel.engine.child import Done, HostProcess, Work, is_small
from salver.kernel.engine.pieces import ResponseStream
from salver.kernel.engine.ports import CallbackProvider, Gave
from salver.kernel.engine.run_limit import RunLimit
from salver.kernel.engine.spawn import HostPlan, Interpreter, Starter
from salver.kernel.supervise import Backoff, Supervisor
from salver.words.artifacts import Manifest
from salver.words.errors import LoadFailed, NotReady, SalverError
from salver.words.messages import InferRequest, Signature
from salver.words.tensor import Array

_log = logging.getLogger(__name__)
_Result = tuple[Mapping[str, Array], float]
_T = TypeVar("_T")


class Recovery(msgspec.Struct, frozen=True):
    """Restart policy of dead hosts, with its clock and random numbers."""

    backoff: Backoff = Backoff()
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    chance: Callable[[], float] = random.random


_RECOVERY = Recovery()


class _HostSlot:
    """One slot with its host and the history of its deaths."""

    def __init__(self, host: HostProcess, since: float) -> None:
        self.host = host
        self.since = since  # when this host became ready
        self.deaths = 0  # consecutive deaths
        self.next_try = 0.0
        self.keeper: asyncio.Task[None] | None = None

    @property
    def is_alive(self) -> bool:
        return not self.host.dead.done()


class ProcessRunner:
    """Runner of one model version on host processes, created by :meth:`start`.

    Args:
        hosts: One loaded host per slot.

    Attributes:
        deaths: Number of hosts that have died.
        reruns: See :class:`~salver.kernel.engine.ports.RestartingRunner`.
        has_opinion, wants_trace: As of :class:`~salver.kernel.engine.control.LoadResult`.
    """

    def __init__(self, plan: HostPlan, hosts: list[HostProcess], recovery: Recovery) -> None:
        self.slots = len(hosts)
        self.deaths = 0
        self.reruns = False
        loaded = hosts[0].loaded
        self.has_opinion = loaded.has_opinion
        self.wants_trace = loaded.wants_trace
        self.signature: Signature = loaded.signature
        self._plan = plan
        self._recovery = recovery
        self._seats: list[_HostSlot] = []
        self._idle: deque[HostProcess] = deque(hosts)
        self._waiters: deque[asyncio.Future[HostProcess]] = deque()
        self._came = asyncio.Event()  # set when a host is back, or none will be
        self._is_closed = False
        self._keepers = Supervisor(_log, "a host process is not restarted any more")
        for host in hosts:
            self._seat(host)

    @classmethod
    async def start(
        cls,
        backend: str,
        manifest: Manifest,
        options: LoadOptions,
        *,
        slots: int = 1,
        memory_limit_mb: int = 0,
        run_timeout_s: float = 0.0,
        recovery: Recovery = _RECOVERY,
        server: CallbackProvider | None = None,
        interpreter: Interpreter | None = None,
        starter: Starter | None = None,
    ) -> "ProcessRunner":
        """Start all hosts concurrently and wait until each has loaded the model.

        Args:
            backend: ``module:attribute`` of a backend, or of a class of one.
            memory_limit_mb: Limit of each host's address space; 0 = none.
            run_timeout_s: A run that takes longer counts as hanging, and its host is killed; 0 = learned
                (:mod:`salver.kernel.engine.run_limit`), inf = never.
            server: Server that the model may call while it runs; None = none.
            interpreter: Interpreter of the hosts; None = that of this process. Released by the runner.
            starter: See :class:`~salver.kernel.engine.spawn.HostPlan`.

        Raises:
            LoadFailed: a host failed; the others have been stopped.
        """
        limit = RunLimit(run_timeout_s)
        plan = HostPlan(
            backend, manifest, options, memory_limit_mb, limit, server, interpreter, starter=starter
        )
        starting = [
            asyncio.ensure_future(HostProcess.launch(_of_instance(plan, instance)))
            for instance in range(slots)
        ]
        try:
            hosts = await asyncio.gather(*starting)
        # Also when it is cancelled: a host that is still loading must not stay behind.
        except BaseException:
            for task in starting:
                task.cancel()
            done = await asyncio.gather(*starting, return_exceptions=True)
            await asyncio.gather(*(host.close() for host in done if isinstance(host, HostProcess)))
            await _let_go(plan)
            raise
        kinds = {"batch": cls, "requests": RequestProcessRunner, "stream": StreamProcessRunner}
        kind: type[ProcessRunner] = kinds[hosts[0].loaded.asks]
        return kind(plan, hosts, recovery)

    def __repr__(self) -> str:
        alive = sum(seat.is_alive for seat in self._seats)
        return f"<ProcessRunner {self._plan.manifest.id}, {alive} of {self.slots} hosts alive>"

    @property
    def is_lost(self) -> bool:
        """Return whether no host is alive but one will be restarted."""
        return not any(seat.is_alive for seat in self._seats)

    @property
    def pids(self) -> list[int]:
        """Return the process ids of live hosts."""
        return [seat.host.pid for seat in self._seats if seat.is_alive]

    async def is_ready(self) -> bool:
        """Return whether all live instances report that they are ready."""
        said = await asyncio.gather(*(seat.host.is_ready() for seat in self._seats if seat.is_alive))
        return all(said)

    async def run(self, inputs: Mapping[str, Array]) -> _Result:
        """See :class:`~salver.kernel.engine.ports.Runner`.

        Raises:
            NotReady: every host is dead; the error has the time of the next start.
        """
        host = await self._acquire()
        # A cancelled caller must not free a host that is still working.
        return await asyncio.shield(self._on(host, host.run(inputs)))

    async def back(self, seconds: float) -> None:
        """See :class:`~salver.kernel.engine.ports.RestartingRunner`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.is_lost and not self._is_closed:
                    self._came.clear()
                    await self._came.wait()

    def post(self, work: Work, done: Done, is_lone: bool) -> bool:
        """See :class:`~salver.kernel.engine.ports.PostRunner`."""
        if not is_small(work):
            return False
        # A host may have died while it was idle; its keeper learns of that in a later turn of the loop.
        while self._idle:
            host = self._idle.popleft()
            if not host.dead.done():
                try:
                    host.post(work, functools.partial(self._ended, host, done), is_lone)
                except SalverError:
                    self._release(host)
                    return False
                return True
        return False

    def _ended(self, host: HostProcess, done: Done, result: Gave | SalverError) -> None:
        self._release(host)
        done(result)

    def run_inline(self, inputs: Mapping[str, Array]) -> _Result | None:
        """Return None: the model is in another process."""
        return None

    async def run_each(self, inputs: Mapping[str, Array]) -> Sequence[Mapping[str, Array]]:
        """See :class:`~salver.kernel.engine.ports.Runner`. All hosts are idle, so each takes one run."""
        runs = await asyncio.gather(*(self.run(inputs) for _ in range(self.slots)))
        return [outputs for outputs, _ in runs]

    async def resize(self, slots: int) -> None:
        """See :class:`~salver.kernel.engine.ports.Resizable`."""
        if slots > self.slots:
            await self._add(slots - self.slots)
            return
        fewer, self.slots = self.slots - slots, slots
        # Taken like a run takes one, so that a host finishes its run first and gets no other.
        for _ in range(fewer):
            host = await self._acquire()
            seat = next(seat for seat in self._seats if seat.host is host)
            if seat.keeper is not None:  # else it would start the host again
                seat.keeper.cancel()
            self._seats.remove(seat)
            await host.close()

    def _seat(self, host: HostProcess) -> None:
        seat = _HostSlot(host, self._recovery.clock())
        seat.keeper = self._keepers.start("keep host", self._keep(seat))
        self._seats.append(seat)

    async def _add(self, more: int) -> None:
        # A model may use the number of its instance, so numbers that are free come before new ones.
        taken = {seat.host.plan.options.instance - self._plan.options.instance for seat in self._seats}
        free = [n for n in range(len(taken) + more) if n not in taken][:more]
        starting = [HostProcess.launch(_of_instance(self._plan, instance)) for instance in free]
        found = await asyncio.gather(*starting, return_exceptions=True)
        hosts = [host for host in found if isinstance(host, HostProcess)]
        failed = [error for error in found if isinstance(error, BaseException)]
        if failed:
            # All or none: a number of instances that nobody has asked for helps nobody.
            await asyncio.gather(*(host.close() for host in hosts))
            raise failed[0]
        self.slots += more
        for host in hosts:
            self._seat(host)
            self._release(host)

    async def close(self) -> None:
        """Stop every host, first by request, then by force. Active batches get that much time."""
        self._is_closed = True
        self._came.set()
        await self._keepers.close()
        await asyncio.gather(*(seat.host.close() for seat in self._seats))
        self._refuse_waiters(f"model '{self._plan.manifest.id.name}' was unloaded")
        await _let_go(self._plan)

    async def _on(self, host: HostProcess, work: Coroutine[Any, Any, _T]) -> _T:
        try:
            return await work
        finally:
            self._release(host)

    async def _acquire(self) -> HostProcess:
        while self._idle:
            host = self._idle.popleft()
            if not host.dead.done():
                return host
        if not any(seat.is_alive for seat in self._seats):
            raise NotReady(self._restarting())
        waiter: asyncio.Future[HostProcess] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and not waiter.exception():  # in the same turn
                self._release(waiter.result())
            raise

    def _release(self, host: HostProcess) -> None:
        if host.dead.done():
            return
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(host)
                return
        self._idle.append(host)

    async def _keep(self, seat: _HostSlot) -> None:
        """Restart the host of a slot with back-off for as long as the runner lives."""
        model = self._plan.manifest.id
        backoff, clock = self._recovery.backoff, self._recovery.clock
        while True:
            # Shielded: the future belongs to the host, and others wait for it, too.
            how = await asyncio.shield(seat.host.dead)
            self.deaths += 1
            seat.deaths = backoff.count(seat.deaths, clock() - seat.since)
            if seat.host in self._idle:
                self._idle.remove(seat.host)
            while True:
                delay = backoff.delay(seat.deaths, self._recovery.chance())
                seat.next_try = clock() + delay
                _log.warning("[%s] a host process died (%s); next start in %.1f s", model, how, delay)
                # Those that wait for this host alone would wait for the whole back-off.
                if not any(other.is_alive for other in self._seats):
                    self._refuse_waiters(self._restarting())
                await self._recovery.sleep(delay)
                try:
                    seat.host = await HostProcess.launch(seat.host.plan)
                    break
                except LoadFailed as error:
                    how = str(error)
                    seat.deaths += 1
            seat.since = clock()
            _log.info("[%s] a host process is back", model)
            self._came.set()
            self._release(seat.host)

    def _restarting(self) -> str:
        wait = max(0.0, min(seat.next_try for seat in self._seats) - self._recovery.clock())
        return (
            f"the host process of model '{self._plan.manifest.id.name}' died and is restarting "
            f"(next attempt in {wait:.1f} s)"
        )

    def _refuse_waiters(self, text: str) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(NotReady(text))


class RequestProcessRunner(ProcessRunner):
    """Runner for a model that takes the requests of a run one by one."""

    async def answer(self, requests: Sequence[InferRequest]) -> tuple[Sequence[Answer | SalverError], float]:
        """See :class:`~salver.kernel.engine.ports.RequestRunner`."""
        host = await self._acquire()
        return await asyncio.shield(self._on(host, host.answer(requests)))


class StreamProcessRunner(ProcessRunner):
    """Runner for a model that answers a request in pieces."""

    def __init__(self, plan: HostPlan, hosts: list[HostProcess], recovery: Recovery) -> None:
        super().__init__(plan, hosts, recovery)
        self._begun: set[asyncio.Task[None]] = set()

    async def stream(
        self, requests: Sequence[InferRequest], free: Callable[[], None]
    ) -> list[ResponseStream]:
        """See :class:`~salver.kernel.engine.ports.StreamRunner`."""
        host = await self._acquire()
        found = host.open(len(requests))
        # A task of its own: a cancelled caller must not free a host that is still working.
        task = asyncio.get_running_loop().create_task(self._on(host, host.stream(requests, found)))
        self._begun.add(task)
        task.add_done_callback(self._begun.discard)
        task.add_done_callback(lambda _: free())
        return found


async def _let_go(plan: HostPlan) -> None:
    """Release what the plan holds, as no host will be started from it any more."""
    if plan.server is not None:
        plan.server.leave()
    if plan.interpreter is not None:
        await plan.interpreter.release()


def _of_instance(plan: HostPlan, instance: int) -> HostPlan:
    """Return the plan of one host, which may need the index of its instance."""
    number = plan.options.instance + instance
    gpu, gpus = plan.options.gpu, plan.manifest.config.instances.gpus
    if gpus:
        gpu = gpus[number % len(gpus)]
    options = msgspec.structs.replace(plan.options, instance=number, gpu=gpu)
    return msgspec.structs.replace(plan, options=options)
