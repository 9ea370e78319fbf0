"""Pool of worker processes of a handler.

A :class:`WorkerPool` starts host processes, restarts them when they die, as
:mod:`salver.dialects.torchserve.engine.worker_life` decides, and stops surplus ones. Requests are not known
here: its owner learns which workers are ready, and says when a surplus worker has nothing left to do.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final, Literal, Protocol

import msgspec

from salver.dialects.torchserve.engine.fork_server import ForkServer
from salver.dialects.torchserve.engine.form_host import FormHost
from salver.dialects.torchserve.engine.gpus import Gpus
from salver.dialects.torchserve.engine.worker_life import Stage, WorkerLife
from salver.kernel.engine.spawn import HostPlan
from salver.words.errors import LoadFailed, SalverError
from salver.words.handlers import Workers, WorkerStatus

_log = logging.getLogger(__name__)
_PAGE = 4096
#: Number of the first worker, as in TorchServe.
FIRST_ID = 9000


class WorkerFactory(msgspec.Struct, frozen=True):
    """Settings of new workers: numbers, GPUs, clock and pauses."""

    ids: Iterator[int] = msgspec.field(default_factory=lambda: itertools.count(FIRST_ID))
    gpus: Gpus = msgspec.field(default_factory=Gpus)
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class Worker:
    """A worker, across its processes.

    Attributes:
        id: Number, unique on the server.
        gpu: GPU of its processes; None = none.
        host: Its process, while it is ready.
        started: Unix time of its process's start.
    """

    def __init__(self, id: int, gpu: int | None, life: WorkerLife) -> None:
        self.id = id
        self.gpu = gpu
        self.life = life
        self.host: FormHost | None = None
        self.started = time.time()
        self.keeper: asyncio.Task[None] | None = None
        self.why = ""  # reason of the last failure

    def __repr__(self) -> str:
        return f"<Worker {self.id} {self.life.stage.value}>"

    @property
    def status(self) -> WorkerStatus:
        """Return the status for operators."""
        stage = _SHOWN[self.life.stage]
        if self.host is None:
            return WorkerStatus(self.id, self.started, stage, -1, 0, self.gpu)
        pid = self.host.pid
        return WorkerStatus(self.id, self.started, stage, pid, memory_of(pid), self.gpu)


#: Stages as TorchServe shows them.
_SHOWN: Final[dict[Stage, Literal["READY", "UNLOADING", "STARTING"]]] = {
    Stage.STARTING: "STARTING",
    Stage.READY: "READY",
    Stage.UNLOADING: "UNLOADING",
    Stage.LOST: "STARTING",
}


class PoolOwner(Protocol):
    """Source of work for the pool."""

    def worker_ready(self, worker: Worker) -> None:
        """Note that a worker is ready."""
        ...

    def worker_gone(self, worker: Worker) -> None:
        """Note that a worker's process is gone."""
        ...

    async def finish_worker(self, worker: Worker) -> None:
        """Give a surplus worker no more work; return when it has none left."""
        ...

    def all_lost(self) -> None:
        """Note that no worker is ready or will be restarted."""
        ...


class WorkerPool:
    """Workers of one version.

    Args:
        plan: Plan of each host.
        workers: Startup timeout, limit of restarts
            (:class:`~salver.dialects.torchserve.engine.worker_life.WorkerLife`), and GPUs.
    """

    def __init__(self, plan: HostPlan, owner: PoolOwner, workers: Workers, factory: WorkerFactory) -> None:
        self._plan = plan
        self._fork_server = ForkServer(plan)
        self._owner = owner
        self._startup_timeout_s = workers.startup_timeout_s
        self._max_retry_s = workers.max_retry_s
        self._factory = factory
        self._gpus = factory.gpus.turns(workers)
        self._workers: list[Worker] = []  # wanted ones
        self._leaving: dict[Worker, asyncio.Task[None]] = {}
        self._stopping = 0  # leaving ones whose processes still run
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<WorkerPool of {self.ready} workers, {len(self._workers)} wanted>"

    @property
    def wanted(self) -> int:
        """Number of wanted workers."""
        return len(self._workers)

    @property
    def ready(self) -> int:
        """Number of ready workers."""
        return sum([worker.host is not None for worker in self._workers])

    @property
    def is_lost(self) -> bool:
        """Return whether no wanted worker is ready or will be restarted."""
        return all(worker.life.stage is Stage.LOST for worker in self._workers)

    @property
    def deaths(self) -> int:
        """Number of deaths of the wanted workers since they were first ready."""
        return sum([worker.life.deaths for worker in self._workers])

    @property
    def why(self) -> str:
        """Reason why the last missing worker died; empty = none is missing."""
        return next((worker.why for worker in reversed(self._workers) if worker.why), "")

    def statuses(self) -> tuple[WorkerStatus, ...]:
        """Return the status of wanted workers, and of those that are still stopping."""
        return tuple([worker.status for worker in (*self._workers, *self._leaving)])

    def is_healthy(self, now: float) -> bool:
        """Return whether no worker has been missing for longer than allowed."""
        return all(worker.life.is_healthy(now) for worker in self._workers)

    def scale(self, count: int) -> None:
        """Set the number of workers; surplus ones finish their runs first."""
        for worker in self._workers:
            if worker.life.stage is Stage.LOST:  # the operator asks for another try
                self._start(worker)
        while len(self._workers) < count:
            id = next(self._factory.ids)
            self._workers.append(Worker(id, next(self._gpus), WorkerLife(self._max_retry_s)))
            self._start(self._workers[-1])
        while len(self._workers) > count:
            # Workers that are not ready go first, then the newest.
            worker = max(self._workers, key=lambda worker: (worker.host is None, worker.id))
            self._workers.remove(worker)
            self._stop(worker)
        self._changed.set()

    async def settled(self) -> int:
        """Wait until every wanted worker is ready or has failed once; return the number of ready ones."""
        while not all(worker.life.has_tried for worker in self._workers):
            self._changed.clear()
            await self._changed.wait()
        return self.ready

    async def gone(self) -> None:
        """Wait until all surplus workers have stopped."""
        while self._leaving:
            await asyncio.wait(list(self._leaving.values()))

    async def close(self) -> None:
        """Stop all workers."""
        self.scale(0)
        await self.gone()

    def _start(self, worker: Worker) -> None:
        worker.life = WorkerLife(self._max_retry_s)
        task = asyncio.get_running_loop().create_task(self._keep(worker), name=f"worker {worker.id}")
        worker.keeper = task

    def _stop(self, worker: Worker) -> None:
        worker.life.leave()
        self._stopping += 1
        task = asyncio.get_running_loop().create_task(self._end(worker), name=f"end worker {worker.id}")
        self._leaving[worker] = task
        task.add_done_callback(lambda _: self._leaving.pop(worker, None))

    async def _end(self, worker: Worker) -> None:
        if worker.host is not None:
            await self._owner.finish_worker(worker)
        if worker.keeper is not None:
            worker.keeper.cancel()  # kills a process that is starting
            await asyncio.wait([worker.keeper])
        host, worker.host = worker.host, None
        if host is not None:
            await host.close()
        self._stopping -= 1
        if not self._workers and not self._stopping:
            await self._fork_server.close()  # frees the model's memory

    async def _keep(self, worker: Worker) -> None:
        """Restart the worker with back-off until it is given up."""
        model, life, clock = self._plan.manifest.id, worker.life, self._factory.clock
        while True:
            worker.started = time.time()
            try:
                host = await self._launch(worker)
            except SalverError as error:
                worker.why = str(error)
            except Exception as error:  # a bug must not leave callers waiting for the worker
                _log.exception("[%s] worker %d cannot be started", model, worker.id)
                worker.why = f"{type(error).__name__}: {error}"
            else:
                worker.host, worker.why = host, ""
                life.ready(clock())
                self._changed.set()
                self._owner.worker_ready(worker)
                # Shielded, since cancelling the keeper must not cancel the host's future.
                worker.why = await asyncio.shield(host.dead)
                if life.stage is Stage.UNLOADING:
                    return
                worker.host = None
                self._owner.worker_gone(worker)
            pause = life.failed(clock())
            self._changed.set()
            if pause is None:
                _log.error("[%s] worker %d is given up: %s", model, worker.id, worker.why)
                if self.is_lost:
                    self._owner.all_lost()
                return
            _log.warning("[%s] worker %d: %s; next start in %g s", model, worker.id, worker.why, pause)
            await self._factory.sleep(pause)

    async def _launch(self, worker: Worker) -> FormHost:
        limit = self._startup_timeout_s
        try:
            if not limit:  # no process can start in time
                raise TimeoutError
            async with asyncio.timeout(limit):
                return await self._fork_server.launch(worker.gpu)
        except TimeoutError:
            raise LoadFailed(
                f"model '{self._plan.manifest.id.name}' was not loaded within {limit:g} s",
                fix="Raise startupTimeout, or check what its initialize waits for.",
            ) from None


def memory_of(pid: int) -> int:
    """Return the resident bytes of a process, including shared ones; 0 = not known."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0
