"""Engine of a handler, which passes its requests to workers.

The asyncio shell around a :class:`~salver.dialects.torchserve.engine.job_queue.JobQueue`, which decides which
worker runs what, and a :class:`~salver.dialects.torchserve.engine.worker_pool.WorkerPool`, which keeps the
workers alive. A run is one message to a worker and one back, without a task or a timer of its own; the next
run begins before the answers of the last one are delivered. Each request gets exactly one answer, even if its
worker dies.
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
from salver.dialects.torchserve.engine.job_queue import Batch, JobQueue, PlainQueue
from salver.dialects.torchserve.engine.run import HandlerFlow, HandlerRun, caller_error, worker_died
from salver.dialects.torchserve.engine.sequence_queue import SequenceQueue
from salver.dialects.torchserve.engine.worker_pool import Worker, WorkerFactory, WorkerPool
from salver.kernel.engine.delivery import ReplyCallback
from salver.kernel.engine.refusals import LATE, closing, unloaded
from salver.kernel.engine.run_limit import RunLimit
from salver.kernel.engine.spawn import HostPlan
from salver.kernel.serving.capabilities import Capabilities
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

_LAST_RUN_S = 30.0  # limit of a surplus worker's last run
_LAST_SEQUENCE_S = 60.0  # limit of its sequences


class MetricLines(Protocol):
    """Receiver of the lines that a handler's metrics have written."""

    def __call__(self, id: ModelId, worker: int, lines: Sequence[str]) -> None:
        """Take lines of a worker."""
        ...


class HandlerTerms(msgspec.Struct, frozen=True):
    """Services that all handlers of a server share.

    Attributes:
        clock: Monotonic seconds.
        emit: Receives events of runs and of workers that have started.
        metrics: Receives lines of metrics; None = they are dropped.
        factory: Settings of new workers.
    """

    clock: Callable[[], float]
    emit: Callable[[BatchRan | WorkerReady], None]
    metrics: MetricLines | None = None
    factory: WorkerFactory = msgspec.field(default_factory=WorkerFactory)


class HandlerEngine:
    """Queue and workers of one version of a handler.

    Workers start in the background.

    Args:
        plan: Plan of host processes; the engine sets its time limit and number of threads.
        workers: Number of workers, and rules of their work.
    """

    def __init__(self, plan: HostPlan, workers: Workers, terms: HandlerTerms) -> None:
        self.id: ModelId = plan.manifest.id
        self.signature = SIGNATURE
        self._workers = workers
        self._terms = terms
        self._queue = _queue_of(workers)
        self._patience = workers.client_timeout_ms / 1e3 or math.inf
        # By number of the worker:
        self._ready: dict[int, Worker] = {}
        self._idle_since: dict[int, float] = {}
        self._runs: dict[int, HandlerRun] = {}
        self._flows: dict[int, HandlerFlow] = {}  # of asynchronous handlers
        self._on_end: dict[int, asyncio.Event] = {}  # of surplus workers
        self._timer: asyncio.Handle | None = None
        self._wakes_at = 0.0  # on the engine's clock
        self._is_closed = False
        plan = msgspec.structs.replace(plan, limit=RunLimit(max(0, workers.response_timeout_s) or math.inf))
        self._pool = WorkerPool(plan, self, workers, terms.factory)
        self._pool.scale(workers.least)

    def __repr__(self) -> str:
        return f"<HandlerEngine {self.id}, {self.queued} queued, {self.running} running, {self._pool!r}>"

    # -- requests --

    @property
    def queued(self) -> int:
        """Number of waiting requests."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Number of running batches."""
        return len(self._runs) + sum([flow.open for flow in list(self._flows.values())])

    @property
    def capabilities(self) -> Capabilities:
        """Return that it streams and calls back, and with a sequence queue keeps sequences on workers."""
        sequences = self if isinstance(self._queue, SequenceQueue) else None
        return Capabilities(
            stream=self.stream, gives_parts=True, takes_forms=True, post=self.post, sequences=sequences
        )

    def knows(self, request: InferRequest) -> bool:
        """Return whether a request continues a sequence of this engine."""
        queue, id = self._queue, request.parameters.get(SEQUENCE[0])
        return isinstance(queue, SequenceQueue) and id is not None and queue.knows(str(id))

    def now(self) -> float:
        """Return the time of the engine's clock, which deadlines refer to."""
        return self._terms.clock()

    def insight(self) -> Insight:
        """Return figures for operators."""
        limit = self._workers.queue
        if isinstance(self._queue, SequenceQueue):
            return Insight(limit=limit, sequences=self._queue.sequences)
        return Insight(limit=limit)

    async def infer(
        self,
        request: InferRequest,
        deadline: float | None = None,
        sender: Hashable = None,
        standing: Standing = ANYBODY,
    ) -> InferResponse:
        """Answer one request, with the pieces of an answer joined.

        Args:
            deadline: On the engine's clock; a request never begins after it.
            sender, standing: Without effect: the oldest request is first.

        Raises:
            NotReady: there is no worker, and none will start.
            Overloaded: the queue is full.
            DeadlineExceeded: the deadline has passed, or the owner's limit for waiting (``WaitedTooLong``).
            HandlerFailed: the handler failed, or its worker died.
        """
        call = self._enter(request, deadline, wants_pieces=False)
        try:
            return await call.answer()
        except asyncio.CancelledError:
            self._leave(call)
            raise

    async def stream(
        self, request: InferRequest, deadline: float | None = None, standing: Standing = ANYBODY
    ) -> AsyncGenerator[InferResponse, None]:
        """Yield the pieces of an answer as they come; the last one is marked.

        Closing the iterator early abandons the request.
        """
        call = self._enter(request, deadline)
        try:
            async for piece in call.stream():
                yield piece
        finally:
            self._leave(call)

    def post(
        self, request: InferRequest, deadline: float | None, told: ReplyCallback, standing: Standing = ANYBODY
    ) -> Callable[[], None]:
        """Run a request and call back; return a function that abandons it.

        Args:
            told: Called once, perhaps before this returns, with the answer, with its first piece and an
                iterator of the others, or with the error.
        """

        def notify(call: HandlerCall) -> None:
            try:
                piece = call.take()
            except SalverError as error:
                told(error, None)
            else:
                told(piece, None if piece.is_last else call.stream())

        call = self._enter(request, deadline, callback=notify)
        return functools.partial(self._leave, call)

    async def metadata(self) -> Metadata:
        """Return the handler's description of itself; None = it has none.

        Raises:
            NotReady: it has no worker.
        """
        if not self._ready:
            raise self._no_worker()
        try:
            response = await self.infer(as_request(self.id.name, Form((), {"describe": "True"})))
            metadata = msgspec.json.decode(response.outputs[0].array.tobytes())
        except (HandlerFailed, msgspec.DecodeError):
            return None
        return metadata if isinstance(metadata, dict) else None

    # -- operation --

    async def is_ready(self) -> bool:
        """Return whether a worker is ready, or none is wanted."""
        return bool(self._ready) or not self._pool.wanted

    def is_healthy(self, now: float) -> bool:
        """Return whether no worker has been missing for longer than allowed."""
        return self._pool.is_healthy(now)

    def workers(self) -> tuple[WorkerStatus, ...]:
        """Return the wanted workers, and those that are still stopping."""
        return self._pool.statuses()

    def scale(self, least: int, most: int) -> None:
        """Set the number of workers; surplus ones finish their runs first."""
        self._workers = msgspec.structs.replace(self._workers, least=least, most=most)
        self._pool.scale(least)
        if not least:
            self.all_lost()

    async def settled(self) -> int:
        """Wait until every wanted worker is ready or has failed once; return the number of ready ones."""
        return await self._pool.settled()

    async def gone(self) -> None:
        """Wait until all surplus workers have stopped."""
        await self._pool.gone()

    async def close(self) -> None:
        """Refuse waiting requests, finish runs, and stop the workers."""
        self._is_closed = True
        fail_all(self._queue.clear(), lambda: unloaded(self.id))
        if self._timer is not None:
            self._timer.cancel()
        await self._pool.close()

    # -- workers --

    def worker_ready(self, worker: Worker) -> None:
        """See :class:`~salver.dialects.torchserve.engine.worker_pool.PoolOwner`."""
        self._ready[worker.id] = worker
        if worker.host is not None and worker.host.loaded.asks == "stream":
            most, patience = max(1, self._workers.batch_size), float(max(0, self._workers.response_timeout_s))
            self._flows[worker.id] = HandlerFlow(worker, most, patience, self._flow_free, self._flow_ended)
        self._set_idle(worker.id, self._terms.clock())
        self._terms.emit(WorkerReady(self.id, worker.id, max(0.0, time.time() - worker.started)))
        self._pump()

    def worker_gone(self, worker: Worker) -> None:
        """See :class:`~salver.dialects.torchserve.engine.worker_pool.PoolOwner`.

        The worker's run has been answered already.
        """
        self._ready.pop(worker.id, None)
        self._flows.pop(worker.id, None)
        fail_all(self._queue.remove_worker(worker.id), worker_died)
        self._pump()

    async def finish_worker(self, worker: Worker) -> None:
        """See :class:`~salver.dialects.torchserve.engine.worker_pool.PoolOwner`."""
        queue, id = self._queue, worker.id
        queue.retire(id)
        self._pump()
        end = self._on_end[id] = asyncio.Event()
        limit = _LAST_RUN_S
        if isinstance(queue, SequenceQueue) and not self._is_closed:
            limit = _LAST_SEQUENCE_S
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
            for table in (self._ready, self._flows, self._idle_since):
                table.pop(id, None)
            fail_all(queue.remove_worker(id), worker_died)
            if not self._is_closed:
                self._pump()

    def _is_busy(self, id: int) -> bool:
        return id in self._runs or (id in self._flows and self._flows[id].open > 0)

    def all_lost(self) -> None:
        """See :class:`~salver.dialects.torchserve.engine.worker_pool.PoolOwner`."""
        if not self._ready or not self._pool.wanted:
            fail_all(self._queue.clear(), self._no_worker)

    # -- runs --

    def _no_worker(self) -> SalverError:
        text = f"model '{self.id.name}' has no worker"
        if self._pool.why:
            text += f": {self._pool.why}"
        return NotReady(text, fix="Scale its workers up.")

    def _enter(
        self,
        request: InferRequest,
        deadline: float | None,
        *,
        wants_pieces: bool = True,
        callback: Callable[[HandlerCall], None] | None = None,
    ) -> HandlerCall:
        if self._is_closed:
            raise closing(self.id)
        if not self._ready and self._pool.is_lost:
            raise self._no_worker()
        now, until = self._terms.clock(), math.inf
        if deadline is not None:
            until = deadline
            if until <= now:
                raise DeadlineExceeded(LATE)
        end = min(until, now + self._patience)
        # The owner's limit and the caller's deadline share one timer, and differ in the error only.
        call = HandlerCall(request, self.id.version, now, end, wants_pieces, len(self._queue))
        call.callback = callback
        self._queue.offer(call, now)
        if end < math.inf:
            call.timer = asyncio.get_running_loop().call_later(end - now, self._expire, call, end < until)
        self._pump()
        return call

    def _leave(self, call: HandlerCall) -> None:
        if not call.is_done:
            call.abandon()
            self._queue.discard(call)

    def _expire(self, call: HandlerCall, is_impatient: bool) -> None:
        """Fail a call whose time has passed, whether or not it is running."""
        self._queue.discard(call)
        call.fail(WaitedTooLong(LATE) if is_impatient else DeadlineExceeded(LATE))

    def _pump(self) -> None:
        """Begin every batch that can run."""
        queue, now = self._queue, self._terms.clock()
        while (batch := queue.take(now)) is not None:
            self._begin(batch, now)
        if queue.late:
            # Copied first: failing a call may run code of its caller that adds more.
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
        # One timer for all batches: the earliest time wins, and later ones are set again by _pump().
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
        # A worker polls briefly for the next request instead of sleeping if this one is alone.
        run = HandlerRun(self._ready[batch.worker], batch, self._workers.is_continuous, self._ended)
        self._runs[batch.worker] = run
        is_lone = len(self._runs) == len(batch.jobs) == 1 and not len(self._queue)
        run.begin(now, self._idle_since.get(batch.worker, now), is_lone)

    def _ended(self, run: HandlerRun, result: Sequence[Answer] | SalverError, seconds: float) -> None:
        """Give the worker its next batch, then answer the callers."""
        now, id = self._terms.clock(), run.worker.id
        calls, over = run.calls, run.calls
        if isinstance(result, HostGone) and run.is_first:
            calls = over = self._requeue(calls)
        again: list[HandlerCall] = []
        if self._workers.is_continuous and not isinstance(result, SalverError):
            again = [call for call, one in zip(calls, result, strict=True) if one.again and not call.is_done]
            if again:
                over = [call for call in calls if call not in again]
        self._queue.finish(over, now)
        timings = [run.timing(call, seconds, now) for call in calls]
        # The worker must not wait for the delivery of answers.
        if again:
            self._step(run, again, now)
        else:
            del self._runs[id]
            if not run.is_dead:
                self._set_idle(id, now)
            self._pump()
        if isinstance(result, SalverError):
            fail_all(calls, lambda: caller_error(result))
        else:
            for call, one, timing in zip(calls, result, timings, strict=True):
                call.put(one, timing, is_last=not one.again)
                if call.metric_lines:
                    self._take_metrics(id, call)
        if calls:
            self._announce(len(calls), seconds, run.reason, not isinstance(result, SalverError))

    def _requeue(self, calls: list[HandlerCall]) -> list[HandlerCall]:
        """Requeue calls whose worker was gone before it read them; return those that cannot run elsewhere."""
        # A request that kills every worker must not go round forever.
        moved = [call for call in calls if not call.is_done and call.moves < self._pool.wanted]
        for call in moved:
            call.moves += 1
        stay = self._queue.requeue(moved)
        return [call for call in calls if call in stay or call not in moved]

    def _flow_free(self, flow: HandlerFlow) -> None:
        if flow.worker.id in self._flows:
            self._set_idle(flow.worker.id, self._terms.clock())
            self._pump()

    def _flow_ended(self, flow: HandlerFlow, call: HandlerCall, seconds: float, ok: bool) -> None:
        self._queue.finish([call], self._terms.clock())
        self._take_metrics(flow.worker.id, call)
        self._announce(1, seconds, "drain", ok)
        self._pump()

    def _step(self, run: HandlerRun, going_on: list[HandlerCall], now: float) -> None:
        """Begin the next step of a continuous batch, with calls that have come meanwhile."""
        room = max(1, self._workers.batch_size) - len(going_on)
        more = self._queue.refill(run.worker.id, room, now)
        run.go_on(going_on, [call for call in more if isinstance(call, HandlerCall)], now)

    def _set_idle(self, id: int, now: float) -> None:
        self._idle_since[id] = now
        # A surplus worker still needs its turn to finish sequences, but gets no other jobs.
        if id not in self._on_end or isinstance(self._queue, SequenceQueue):
            self._queue.add_idle(id)

    def _take_metrics(self, worker: int, call: HandlerCall) -> None:
        lines, call.metric_lines = call.metric_lines, ()
        if self._terms.metrics is not None and lines:
            self._terms.metrics(self.id, worker, lines)

    def _announce(self, requests: int, seconds: float, reason: str, ok: bool) -> None:
        id = self.id
        self._terms.emit(BatchRan(id.name, id.version, requests, requests, seconds, 0.0, 0.0, reason, ok))


def _queue_of(workers: Workers) -> JobQueue[InferRequest]:
    if workers.is_stateful:
        return SequenceQueue(workers)
    if workers.is_async:  # each request begins by itself; the batch size limits how many are open
        workers = msgspec.structs.replace(workers, batch_size=1)
    return PlainQueue(workers)
