"""Engine of a handler: hands its requests to workers.

The asyncio shell around a :class:`~salver.dialects.torchserve.engine.job_queue.JobQueue`, which decides
which worker runs what, and a :class:`~salver.dialects.torchserve.engine.worker_pool.WorkerPool`, which
keeps the workers alive. A run is one message to a worker and one back, without a task or a timer of its
own; the next run begins before the answers of the last one are delivered. Whatever happens to a worker,
each request gets one answer.
"""

import asyncio
import functools
import math
import time
from collections.abc import AsyncGenerator, Callable, Hashable, Sequence
from typing import Protocol

import msgspec

from salver.backends.protocol import Answer
from salver.dialects.torchserve.engine.calls import HandlerCall, fail_all
from salver.dialects.torchserve.engine.flow import HandlerFlow
from salver.dialects.torchserve.engine.job_queue import Batch, JobQueue, PlainQueue
from salver.dialects.torchserve.engine.run import HandlerRun, died, told
from salver.dialects.torchserve.engine.sequence_queue import SequenceQueue
from salver.dialects.torchserve.engine.worker_pool import Worker, WorkerFactory, WorkerPool
from salver.kernel.engine.refusals import LATE, closing, unloaded
from salver.kernel.engine.run_limit import RunLimit
from salver.kernel.engine.spawn import HostPlan
from salver.kernel.serving.capabilities import Capabilities, Told
from salver.words.errors import (
    DeadlineExceeded,
    HandlerFailed,
    HostGone,
    NotReady,
    SalverError,
    WaitedTooLong,
)
from salver.words.events import BatchRan, WorkerReady
from salver.words.handlers import SEQUENCE, SIGNATURE, Form, Metadata, Workers, WorkerStatus, as_request
from salver.words.messages import ANYBODY, InferRequest, InferResponse, Insight, ModelId, Standing

_LAST_RUN_S = 30.0  # how long a worker that is to go may go on with its last run
_LAST_SEQUENCE_S = 60.0  # and with its sequences


class Heard(Protocol):
    """Takes the lines that a handler's metrics have written."""

    def __call__(self, id: ModelId, worker: int, lines: Sequence[str]) -> None:
        """They come from that worker."""
        ...


class HandlerTerms(msgspec.Struct, frozen=True):
    """What the handlers of one server share.

    Attributes:
        clock: Monotonic seconds.
        emit: Told of every run, and of workers that have come up.
        heard: Told of what their metrics write; None = nobody wants it.
        factory: Brings workers up.
    """

    clock: Callable[[], float]
    emit: Callable[[BatchRan | WorkerReady], None]
    heard: Heard | None = None
    factory: WorkerFactory = msgspec.field(default_factory=WorkerFactory)


class HandlerEngine:
    """Queue and workers of one version of a handler.

    Its workers come up in the background.

    Args:
        plan: Of each host process; its time for a run and its number of threads are the engine's to say.
        workers: How many there shall be, and by which rules they are given work.
    """

    def __init__(self, plan: HostPlan, workers: Workers, terms: HandlerTerms) -> None:
        self.id: ModelId = plan.manifest.id
        self.signature = SIGNATURE
        self._workers = workers
        self._clock = terms.clock
        self._emit = terms.emit
        self._heard = terms.heard
        self._queue = _queue_of(workers)
        self._patience = workers.client_timeout_ms / 1e3 or math.inf
        self._there: dict[int, Worker] = {}  # that can be given work
        self._idle_since: dict[int, float] = {}
        self._runs: dict[int, HandlerRun] = {}  # by worker
        self._flows: dict[int, HandlerFlow] = {}  # of a handler that answers when it likes
        self._on_end: dict[int, asyncio.Event] = {}  # of workers that are to go
        self._timer: asyncio.Handle | None = None
        self._wakes_at = 0.0  # by the engine's clock
        self._is_closed = False
        plan = msgspec.structs.replace(plan, limit=RunLimit(max(0, workers.response_timeout_s) or math.inf))
        self._pool = WorkerPool(plan, self, workers, terms.factory)
        self._pool.scale(workers.least)

    def __repr__(self) -> str:
        return f"<HandlerEngine {self.id}, {self.queued} queued, {self.running} running, {self._pool!r}>"

    # What callers ask.

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Batches that run."""
        return len(self._runs) + sum([flow.open for flow in list(self._flows.values())])

    @property
    def capabilities(self) -> Capabilities:
        """It streams one answer and calls back; with a queue of sequences, a worker has the state of each."""
        has_sequences = isinstance(self._queue, SequenceQueue)
        return Capabilities(
            stream=self.stream,
            gives_parts=True,
            takes_forms=True,
            post=self.post,
            sequences=self if has_sequences else None,
        )

    def knows(self, request: InferRequest) -> bool:
        """Does the request go on with a sequence that is under way here?"""
        queue, id = self._queue, request.parameters.get(SEQUENCE[0])
        return isinstance(queue, SequenceQueue) and id is not None and queue.knows(str(id))

    def now(self) -> float:
        """The engine's clock, in which deadlines are given."""
        return self._clock()

    def insight(self) -> Insight:
        """For operators."""
        queue = self._queue
        sequences = queue.sequences if isinstance(queue, SequenceQueue) else -1
        return Insight(limit=self._workers.queue, sequences=sequences)

    async def infer(
        self,
        request: InferRequest,
        deadline: float | None = None,
        sender: Hashable = None,
        standing: Standing = ANYBODY,
    ) -> InferResponse:
        """Answer one request; the pieces of an answer are joined.

        Args:
            deadline: On the engine's clock; a request is never begun past it.
            sender, standing: Without effect: the oldest request goes first.

        Raises:
            NotReady: there is no worker, and none will be.
            Overloaded: the queue is full.
            DeadlineExceeded: the deadline, or the time that its owner lets a caller wait, passed first.
            HandlerFailed: the handler failed, or its worker died.
        """
        call = self._enter(request, deadline, wants_pieces=False)
        try:
            return await call.whole()
        except asyncio.CancelledError:
            self._leave(call)
            raise

    async def stream(
        self, request: InferRequest, deadline: float | None = None, standing: Standing = ANYBODY
    ) -> AsyncGenerator[InferResponse, None]:
        """The same, each piece when it is there; there is at least one, and the last one says so.

        Closing the iterator early gives the request up.
        """
        call = self._enter(request, deadline)
        try:
            async for piece in call.each():
                yield piece
        finally:
            self._leave(call)

    def post(self, request: InferRequest, deadline: float | None, told: Told) -> Callable[[], None]:
        """The same, for who is called and does not wait; what is returned gives the request up.

        Args:
            told: Called once, perhaps before this returns, with the answer, its first piece and those that
                follow, or the error.
        """

        def tell(call: HandlerCall) -> None:
            try:
                piece = call.take()
            except SalverError as error:
                told(error, None)
            else:
                told(piece, None if piece.is_last else call.each())

        call = self._enter(request, deadline, told=tell)
        return functools.partial(self._leave, call)

    async def metadata(self) -> Metadata:
        """What the handler tells of itself; None = nothing.

        Raises:
            NotReady: no worker is there.
        """
        if not self._there:
            raise self._no_worker()
        try:
            response = await self.infer(as_request(self.id.name, Form((), {"describe": "True"})))
            told = msgspec.json.decode(response.outputs[0].array.tobytes())
        except (HandlerFailed, msgspec.DecodeError):
            return None
        return told if isinstance(told, dict) else None

    # What operators ask.

    async def is_ready(self) -> bool:
        """A worker is there, or none is wanted."""
        return bool(self._there) or not self._pool.wanted

    def is_healthy(self, now: float) -> bool:
        """It has not been short of workers for longer than it may."""
        return self._pool.is_healthy(now)

    def workers(self) -> tuple[WorkerStatus, ...]:
        """Those that are wanted, and those that have not gone yet."""
        return self._pool.statuses()

    def scale(self, least: int, most: int) -> None:
        """So many workers from now on: more are started, and those that go end their runs first."""
        self._workers = msgspec.structs.replace(self._workers, least=least, most=most)
        self._pool.scale(least)
        if not least:
            self.is_lost()

    async def settled(self) -> int:
        """Wait until each worker that is wanted is there or has failed once; how many are there."""
        return await self._pool.settled()

    async def gone(self) -> None:
        """Wait until workers that are not wanted any more have gone."""
        await self._pool.gone()

    async def close(self) -> None:
        """Refuse what waits, end the runs under way, let the workers go."""
        self._is_closed = True
        fail_all(self._queue.clear(), lambda: unloaded(self.id))
        if self._timer is not None:
            self._timer.cancel()
        await self._pool.close()

    # What the pool says.

    def came(self, worker: Worker) -> None:
        """See :class:`~salver.dialects.torchserve.engine.worker_pool.PoolOwner`."""
        self._there[worker.id] = worker
        if worker.host is not None and worker.host.asks == "stream":
            most, patience = max(1, self._workers.batch_size), float(max(0, self._workers.response_timeout_s))
            self._flows[worker.id] = HandlerFlow(worker, most, patience, self._freed, self._flowed)
        self._rest(worker.id, self._clock())
        self._emit(WorkerReady(self.id, worker.id, max(0.0, time.time() - worker.started)))
        self._pump()

    def went(self, worker: Worker) -> None:
        """See :class:`~salver.dialects.torchserve.engine.worker_pool.PoolOwner`.

        What the worker ran has been answered already.
        """
        self._there.pop(worker.id, None)
        self._flows.pop(worker.id, None)
        fail_all(self._queue.leave(worker.id), died)
        self._pump()

    async def released(self, worker: Worker) -> None:
        """See :class:`~salver.dialects.torchserve.engine.worker_pool.PoolOwner`."""
        queue, id = self._queue, worker.id
        queue.retire(id)
        self._pump()
        end = self._on_end[id] = asyncio.Event()
        limit = _LAST_SEQUENCE_S if isinstance(queue, SequenceQueue) and not self._is_closed else _LAST_RUN_S
        try:
            async with asyncio.timeout(limit):
                while self._is_busy(id) or (
                    isinstance(queue, SequenceQueue) and queue.holds(id) and not self._is_closed
                ):
                    end.clear()
                    await end.wait()
        except TimeoutError:
            pass
        finally:
            del self._on_end[id]
            self._there.pop(id, None)
            self._flows.pop(id, None)
            self._idle_since.pop(id, None)
            fail_all(queue.leave(id), died)
            if not self._is_closed:
                self._pump()

    def _is_busy(self, id: int) -> bool:
        return id in self._runs or (id in self._flows and self._flows[id].open > 0)

    def is_lost(self) -> None:
        """See :class:`~salver.dialects.torchserve.engine.worker_pool.PoolOwner`."""
        if not self._there or not self._pool.wanted:
            fail_all(self._queue.clear(), self._no_worker)

    # From the queue to runs.

    def _no_worker(self) -> SalverError:
        why = self._pool.why
        return NotReady(
            f"model '{self.id.name}' has no worker" + (f": {why}" if why else ""),
            fix="Scale its workers up.",
        )

    def _enter(
        self,
        request: InferRequest,
        deadline: float | None,
        *,
        wants_pieces: bool = True,
        told: Callable[[HandlerCall], None] | None = None,
    ) -> HandlerCall:
        if self._is_closed:
            raise closing(self.id)
        if not self._there and self._pool.is_lost:
            raise self._no_worker()
        now = self._clock()
        until = math.inf if deadline is None else deadline
        if until <= now:
            raise DeadlineExceeded(LATE)
        end = min(until, now + self._patience)
        call = HandlerCall(request, self.id.version, now, end, wants_pieces, len(self._queue))
        call.told = told
        self._queue.offer(call, now)
        if end < math.inf:
            call.timer = asyncio.get_running_loop().call_later(end - now, self._expire, call, end < until)
        self._pump()
        return call

    def _leave(self, call: HandlerCall) -> None:
        if not call.is_over:
            call.leave()
            self._queue.discard(call)

    def _expire(self, call: HandlerCall, is_impatient: bool) -> None:
        """Its time is over, whether or not it is being run."""
        self._queue.discard(call)
        call.fail((WaitedTooLong if is_impatient else DeadlineExceeded)(LATE))

    def _pump(self) -> None:
        """Begin all that can."""
        queue, now = self._queue, self._clock()
        while (batch := queue.take(now)) is not None:
            self._begin(batch, now)
        if queue.late:
            late = queue.late[:]
            queue.late.clear()
            fail_all(late, lambda: WaitedTooLong(LATE))
        if (due := queue.due(now)) < math.inf:
            self._wake_at(due, now)
        for id, end in self._on_end.items():
            if not self._is_busy(id):
                end.set()

    def _wake_at(self, due: float, now: float) -> None:
        if self._timer is not None:
            if self._wakes_at <= due:
                return
            self._timer.cancel()
        self._timer, self._wakes_at = asyncio.get_running_loop().call_later(due - now, self._wake), due

    def _wake(self) -> None:
        self._timer = None
        self._pump()

    def _begin(self, batch: Batch[InferRequest], now: float) -> None:
        if (flow := self._flows.get(batch.worker)) is not None:
            for call in batch.jobs:
                if isinstance(call, HandlerCall):
                    flow.begin(call, now)
            return
        run = HandlerRun(self._there[batch.worker], batch, self._workers.is_continuous, self._ended)
        self._runs[batch.worker] = run
        is_lone = len(self._runs) == len(batch.jobs) == 1 and not len(self._queue)
        run.begin(now, self._idle_since.get(batch.worker, now), is_lone)

    def _ended(self, run: HandlerRun, said: Sequence[Answer] | SalverError, seconds: float) -> None:
        """Its worker is given the next one first, then callers are told."""
        now, id = self._clock(), run.worker.id
        calls = self._go_back(run.calls) if isinstance(said, HostGone) and run.is_first else run.calls
        again: list[HandlerCall] = []
        if not isinstance(said, SalverError) and self._workers.is_continuous:
            again = [call for call, one in zip(calls, said, strict=True) if one.again and not call.is_over]
        self._queue.ended([call for call in calls if call not in again] if again else calls, now)
        timings = [run.timing(call, seconds, now) for call in calls]
        if again:
            self._step(run, again, now)
        else:
            del self._runs[id]
            if not run.is_dead:
                self._rest(id, now)
            self._pump()
        if isinstance(said, SalverError):
            fail_all(calls, lambda: told(said))
        else:
            for call, one, timing in zip(calls, said, timings, strict=True):
                call.put(one, timing, is_last=not one.again)
                if call.written:
                    self._pass_on(id, call)
        if calls:
            self._announce(len(calls), seconds, run.reason, not isinstance(said, SalverError))

    def _go_back(self, calls: list[HandlerCall]) -> list[HandlerCall]:
        """Their worker was gone before it saw them; those that no other one runs."""
        moved = [call for call in calls if not call.is_over and call.moves < self._pool.wanted]
        for call in moved:
            call.moves += 1
        stay = self._queue.back(moved)
        return [call for call in calls if call in stay or call not in moved]

    def _freed(self, flow: HandlerFlow) -> None:
        if flow.worker.id in self._flows:
            self._rest(flow.worker.id, self._clock())
            self._pump()

    def _flowed(self, flow: HandlerFlow, call: HandlerCall, seconds: float, ok: bool) -> None:
        self._queue.ended([call], self._clock())
        self._pass_on(flow.worker.id, call)
        self._announce(1, seconds, "drain", ok)
        self._pump()

    def _step(self, run: HandlerRun, going_on: list[HandlerCall], now: float) -> None:
        """The next step of a continuous batch, with those that have come meanwhile."""
        room = max(1, self._workers.batch_size) - len(going_on)
        more = self._queue.refill(run.worker.id, room, now)
        run.go_on(going_on, [call for call in more if isinstance(call, HandlerCall)], now)

    def _rest(self, id: int, now: float) -> None:
        self._idle_since[id] = now
        if id not in self._on_end or isinstance(self._queue, SequenceQueue):
            self._queue.rest(id)

    def _pass_on(self, worker: int, call: HandlerCall) -> None:
        lines, call.written = call.written, ()
        if self._heard is not None and lines:
            self._heard(self.id, worker, lines)

    def _announce(self, requests: int, seconds: float, reason: str, ok: bool) -> None:
        id = self.id
        self._emit(BatchRan(id.name, id.version, requests, requests, seconds, 0.0, 0.0, reason, ok))


def _queue_of(workers: Workers) -> JobQueue[InferRequest]:
    if workers.is_stateful:
        return SequenceQueue(workers)
    if workers.is_async:  # its batch size says how many a worker may have open, and each is begun by itself
        workers = msgspec.structs.replace(workers, batch_size=1)
    return PlainQueue(workers)
