"""Worker processes of a handler.

:class:`WorkerPool` starts host processes, restarts them when they die (when,
:mod:`salver.dialects.torchserve.engine.worker_life` decides), and stops them when fewer are wanted. It
knows no request: its owner learns which workers are ready, and says when a worker that is to stop has
nothing left to do.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Literal, Protocol

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
#: The first worker has TorchServe's first number.
FIRST_ID = 9000


class WorkerFactory(msgspec.Struct, frozen=True):
    """What new workers get: their numbers, GPUs, clock and pauses."""

    ids: Iterator[int] = msgspec.field(default_factory=lambda: itertools.count(FIRST_ID))
    gpus: Gpus = msgspec.field(default_factory=Gpus)
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class Worker:
    """One worker, through all its processes.

    Attributes:
        id: Its number, which no other one on the server has.
        gpu: The one that its processes use; None = none.
        host: Its process, while it can work.
        started: When its process was started, Unix time.
    """

    def __init__(self, id: int, gpu: int | None, life: WorkerLife) -> None:
        self.id = id
        self.gpu = gpu
        self.life = life
        self.host: FormHost | None = None
        self.started = time.time()
        self.keeper: asyncio.Task[None] | None = None
        self.why = ""  # it is not there

    def __repr__(self) -> str:
        return f"<Worker {self.id} {self.life.stage.value}>"

    @property
    def status(self) -> WorkerStatus:
        """For operators."""
        stage = self.life.stage
        pid = self.host.pid if self.host is not None else -1
        shown: Literal["READY", "UNLOADING", "STARTING"]
        shown = "UNLOADING" if stage is Stage.UNLOADING else "READY" if stage is Stage.READY else "STARTING"
        return WorkerStatus(self.id, self.started, shown, pid, memory_of(pid) if pid > 0 else 0, self.gpu)


class PoolOwner(Protocol):
    """Source of work for the pool."""

    def came(self, worker: Worker) -> None:
        """It can work."""
        ...

    def went(self, worker: Worker) -> None:
        """Its process is gone; if it comes back, that is said."""
        ...

    async def released(self, worker: Worker) -> None:
        """It is to go; returns when it has nothing to do, and gets nothing more."""
        ...

    def is_lost(self) -> None:
        """No worker is there, and none is tried any more."""
        ...


class WorkerPool:
    """The workers of one version.

    Args:
        plan: Of each host.
        workers: How long one may take to be ready (0 = as long as it likes), and is tried again
            (:class:`~salver.dialects.torchserve.engine.worker_life.WorkerLife`), and which GPUs they use.
    """

    def __init__(self, plan: HostPlan, owner: PoolOwner, workers: Workers, factory: WorkerFactory) -> None:
        self._plan = plan
        self._fork_server = ForkServer(plan)
        self._owner = owner
        self._startup_timeout_s = workers.startup_timeout_s
        self._max_retry_s = workers.max_retry_s
        self._factory = factory
        self._gpus = factory.gpus.turns(workers)
        self._workers: list[Worker] = []  # that are wanted
        self._leaving: dict[Worker, asyncio.Task[None]] = {}
        self._parting = 0  # of those, whose processes are still there
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<WorkerPool of {self.ready} workers, {len(self._workers)} wanted>"

    @property
    def wanted(self) -> int:
        """So many there shall be."""
        return len(self._workers)

    @property
    def ready(self) -> int:
        """So many can work."""
        return sum([worker.host is not None for worker in self._workers])

    @property
    def is_lost(self) -> bool:
        """No worker is there, and none is tried any more."""
        return all(worker.life.stage is Stage.LOST for worker in self._workers)

    @property
    def deaths(self) -> int:
        """Of those that are wanted, since they came first."""
        return sum([worker.life.deaths for worker in self._workers])

    @property
    def why(self) -> str:
        """What the last worker that is missing died of; empty = none is missing."""
        return next((worker.why for worker in reversed(self._workers) if worker.why), "")

    def statuses(self) -> tuple[WorkerStatus, ...]:
        """Those that are wanted, and those that have not gone yet."""
        return tuple([worker.status for worker in (*self._workers, *self._leaving)])

    def is_healthy(self, now: float) -> bool:
        """None has been missing for longer than it may."""
        return all(worker.life.is_healthy(now) for worker in self._workers)

    def scale(self, count: int) -> None:
        """So many from now on; those that come are started, those that go end their runs first."""
        for worker in self._workers:
            if worker.life.stage is Stage.LOST:  # an operator who asks means it anew
                self._bring_up(worker)
        while len(self._workers) < count:
            id = next(self._factory.ids)
            self._workers.append(Worker(id, next(self._gpus), WorkerLife(self._max_retry_s)))
            self._bring_up(self._workers[-1])
        while len(self._workers) > count:
            worker = max(self._workers, key=lambda worker: (worker.host is None, worker.id))
            self._workers.remove(worker)
            self._see_off(worker)
        self._changed.set()

    async def settled(self) -> int:
        """Wait until each worker that is wanted is there or has failed once; how many are there."""
        while not all(worker.life.has_tried for worker in self._workers):
            self._changed.clear()
            await self._changed.wait()
        return self.ready

    async def gone(self) -> None:
        """Wait until those that are to go have gone."""
        while self._leaving:
            await asyncio.wait(list(self._leaving.values()))

    async def close(self) -> None:
        """Let all go."""
        self.scale(0)
        await self.gone()

    def _bring_up(self, worker: Worker) -> None:
        worker.life = WorkerLife(self._max_retry_s)
        task = asyncio.get_running_loop().create_task(self._keep(worker), name=f"worker {worker.id}")
        worker.keeper = task

    def _see_off(self, worker: Worker) -> None:
        worker.life.leave()
        self._parting += 1
        task = asyncio.get_running_loop().create_task(self._let_go(worker), name=f"end worker {worker.id}")
        self._leaving[worker] = task
        task.add_done_callback(lambda _: self._leaving.pop(worker, None))

    async def _let_go(self, worker: Worker) -> None:
        if worker.host is not None:
            await self._owner.released(worker)
        if worker.keeper is not None:
            worker.keeper.cancel()  # a start under way is given up, and its process killed
            await asyncio.wait([worker.keeper])
        host, worker.host = worker.host, None
        if host is not None:
            await host.close()
        self._parting -= 1
        if not self._workers and not self._parting:
            await self._fork_server.close()  # it holds the model's memory, which nobody needs

    async def _keep(self, worker: Worker) -> None:
        """Restart the worker with back-off until it is given up."""
        model, life, clock = self._plan.manifest.id, worker.life, self._factory.clock
        while True:
            worker.started = time.time()
            try:
                host = await self._start(worker)
            except SalverError as error:
                worker.why = str(error)
            except Exception as error:  # a defect of ours must not leave those waiting who want the worker
                _log.exception("[%s] worker %d cannot be started", model, worker.id)
                worker.why = f"{type(error).__name__}: {error}"
            else:
                worker.host, worker.why = host, ""
                life.ready(clock())
                self._changed.set()
                self._owner.came(worker)
                worker.why = await asyncio.shield(host.dead)
                if life.stage is Stage.UNLOADING:
                    return
                worker.host = None
                self._owner.went(worker)
            pause = life.failed(clock())
            self._changed.set()
            if pause is None:
                _log.error("[%s] worker %d is given up: %s", model, worker.id, worker.why)
                if self.is_lost:
                    self._owner.is_lost()
                return
            _log.warning("[%s] worker %d: %s; next start in %g s", model, worker.id, worker.why, pause)
            await self._factory.sleep(pause)

    async def _start(self, worker: Worker) -> FormHost:
        limit = self._startup_timeout_s
        try:
            if not limit:  # nobody can start in no time: no process is begun
                raise TimeoutError
            async with asyncio.timeout(limit):
                return await self._fork_server.launch(worker.gpu)
        except TimeoutError:
            raise LoadFailed(
                f"model '{self._plan.manifest.id.name}' was not loaded within {limit:g} s",
                fix="Raise startupTimeout, or see what its initialize waits for.",
            ) from None


def memory_of(pid: int) -> int:
    """Bytes that a process holds, its share of what others hold as well included; 0 = not known."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0
