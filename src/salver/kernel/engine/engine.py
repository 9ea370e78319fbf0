"""Asyncio shell around the :class:`~salver.kernel.engine.schedule.Schedule` of a model version.

It accepts requests, runs batches on a :class:`~salver.kernel.engine.ports.Runner`, and returns each caller's
rows. It makes no decisions: the schedule decides when and which, the runner how.

Requests that arrive in one turn of the event loop share a batch. A single request to a model that may run
inline is answered synchronously, without a future or a second turn of the loop.
"""

import asyncio
import functools
import logging
import math
from collections.abc import Callable, Coroutine, Hashable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from salver.backends.protocol import Answer
from salver.kernel.engine.admission import Admission, BoundRequest
from salver.kernel.engine.dispatch import (
    NO_PARAMETERS,
    Dispatch,
    Ticket,
    Told,
    abandon,
    crowd_out,
    end_after,
    fail,
    nothing,
    own,
    run,
    settle,
)
from salver.kernel.engine.padding import padded, rounded
from salver.kernel.engine.ports import Gave, PostRunner, RequestRunner, Resizable, RestartingRunner, Runner
from salver.kernel.engine.refusals import LATE, closing, unloaded
from salver.kernel.engine.schedule import NOTHING_KNOWN, PriorKnowledge, Schedule
from salver.kernel.engine.stack import Outputs, Stack
from salver.kernel.engine.turns import PoolMember, ResourcePool, ResourceTurn
from salver.kernel.engine.waiting import Batch, QueuedRequest
from salver.lazy import lazy_imports
from salver.stats.shape_laws import ShapeLaws
from salver.words.artifacts import Batching, ModelConfig, Ragged, RateLimit
from salver.words.errors import (
    DeadlineExceeded,
    HostDied,
    HostGone,
    InvalidInput,
    ModelFailed,
    NotReady,
    Overloaded,
    SalverError,
    WaitedTooLong,
)
from salver.words.events import BatchRan
from salver.words.messages import (
    ANYBODY,
    Call,
    InferRequest,
    InferResponse,
    Insight,
    ModelId,
    Parameter,
    Signature,
    Standing,
    Timing,
)
from salver.words.tensor import Array, Tensor

with lazy_imports():
    from salver.kernel.engine.ragged import RaggedBatch


_LOG = logging.getLogger("salver.engine")
_Answer = tuple[Outputs, Timing, Mapping[str, Parameter]]
_Stacked = tuple[dict[str, Array], float]


#: A request that arrives this soon after an inline run was already waiting when it began: requests can share
#: a run. (Detecting it with the loop's turns would cost a turn per request.)
_SAME_TURN_S = 50e-6
#: How long before an instance becomes idle its next batch is chosen and merged, so that it does not stay idle
#: (:meth:`Schedule.looks_ahead`): maximum as a fraction of a run, and minimum run time.
_AHEAD_S, _AHEAD_SHARE, _LONG_RUN_S = 2e-3, 0.2, 3e-3
_BACK_S, _QUEUE_BACK_S = 30.0, 10.0  # how long requests wait for a host that died of them, and the others
_LAST_RUN_S = 30.0  # how long ``close`` waits for active runs


class Engine:
    """Queue, batcher and runner of one model version.

    Args:
        id: The model version.
        runner: Executes batches; closed by the engine.
        config: Batching, objective, priorities and deadlines. Batching has no effect on a model without a
            batch dimension. A request of more than ``max_rows`` rows is split and its outputs are joined.
        clock: Monotonic seconds.
        emit: Called after every run.
        known: Prior knowledge of the model.
    """

    #: Declared because Python looks up attributes slowly in objects with more than thirty.
    __slots__ = (
        "_admission", "_ahead", "_batcher", "_clock", "_closed", "_crowded", "_each", "_emit", "_end",
        "_has_places", "_has_queue_policy", "_idle", "_idle_since", "_inline_until", "_is_timed", "_loop",
        "_max_rows", "_most_rows", "_never_inline", "_post", "_posted", "_pump_scheduled", "_returning",
        "_runner", "_schedule", "_sizes", "_stack", "_tasks", "_timeout", "_timer", "_turns", "id",
        "signature",
    )  # fmt: skip

    def __init__(
        self,
        id: ModelId,
        runner: Runner,
        config: ModelConfig,
        *,
        clock: Callable[[], float],
        emit: Callable[[BatchRan], None],
        known: PriorKnowledge = NOTHING_KNOWN,
    ) -> None:
        self.id = id
        self.signature: Signature = runner.signature
        if not self.signature.batched:
            alone = Batching(False, config.batching.policy, max_queue=config.batching.max_queue)
            config = msgspec.structs.replace(config, batching=alone)
        self._sizes = config.batching.sizes if config.batching.enabled else ()
        self._returning = runner if isinstance(runner, RestartingRunner) else None
        self._runner = runner = padded(runner, self._sizes)
        self._each = runner.answer if isinstance(runner, RequestRunner) else None
        self._post = runner.post if isinstance(runner, PostRunner) else None
        self._posted: set[Dispatch] = set()
        self._end: asyncio.Event | None = None
        self._clock = clock
        self._emit = emit
        self._schedule = Schedule(config, runner.slots, known.laws, known.rule)
        self._batcher = self._schedule.batcher
        self._is_timed = self._schedule.is_timed
        self._never_inline = self._schedule.waits or config.ragged != Ragged()
        self._has_queue_policy = config.queue is not None
        self._has_places = self._is_timed or self._has_queue_policy or config.priorities.levels > 1
        self._max_rows = config.batching.max_rows if config.batching.enabled else 0
        ragged = RaggedBatch(config.ragged, self.signature, id.name) if config.ragged != Ragged() else None
        joins = ragged if self._each is None else None
        self._stack = Stack(id.name, self.signature, joins, pads=config.batching.pad)
        self._most_rows = config.batching.max_request_rows
        unlike = range(len(self.signature.inputs)) if config.batching.pad else ()
        self._admission = Admission(id.name, self.signature, ragged.inputs if ragged else unlike)
        self._turns: PoolMember | None = None
        self._idle = runner.slots  # free instances; -1 = a batch is prepared for the next one
        self._ahead: Dispatch | None = None
        self._idle_since = clock()
        self._pump_scheduled = False
        self._inline_until = -1.0  # end of the last inline run
        self._crowded = False  # the last turn of the loop brought more than one request
        self._timeout = config.timeout_ms / 1e3
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<Engine {self.id}, {self._batcher.depth} queued, {self.running} running>"

    @property
    def queued(self) -> int:
        """Return the number of waiting requests."""
        return self._batcher.depth

    @property
    def running(self) -> int:
        """Return the number of running batches."""
        return min(self._runner.slots, self._runner.slots - self._idle)

    @property
    def answers_each(self) -> bool:
        """Return whether the model receives requests one by one, and may answer each as it likes."""
        return self._each is not None

    @property
    def laws(self) -> ShapeLaws:
        """Return the current batch laws of the model."""
        return self._schedule.laws

    def insight(self) -> Insight:
        """Return load, law and rule, for operators."""
        return self._schedule.insight(self._clock())

    def now(self) -> float:
        """Return the engine's time, in which deadlines are given."""
        return self._clock()

    async def infer(
        self,
        request: InferRequest,
        deadline: float | None = None,
        sender: Hashable = None,
        standing: Standing = ANYBODY,
    ) -> InferResponse:
        """Answer one request.

        Args:
            deadline: On the engine's clock; a request is never executed past it.
            sender: Requests of one sender (and tenant and priority) keep their order, unless the rule serves
                the newest first; None = any order.
            standing: Tenant, priority and service class.

        Raises:
            InvalidInput: it does not match the model's signature.
            Overloaded: the queue is full, or the model's objective cannot be met.
            DeadlineExceeded: the deadline has passed, or is certain to.
            ModelFailed: the model raised or its host died.
        """
        bound = self._admission.bind(request)
        if self._max_rows and bound.rows > self._max_rows:
            return await self._infer_split(request, bound, deadline, sender, standing)
        answer = self._ask(bound, deadline, sender, standing)
        if isinstance(answer, QueuedRequest):
            try:
                found: _Answer = await answer.payload[1]
            except asyncio.CancelledError:
                self._batcher.discard(answer)
                raise
            if self._is_timed:
                self._schedule.replied(answer, self._clock())
            return self._response(bound, found)
        return self._response(bound, answer)

    def post(
        self, request: InferRequest, deadline: float | None, told: Told, standing: Standing = ANYBODY
    ) -> Callable[[], None]:
        """See :class:`~salver.kernel.serving.capabilities.Post`; arguments and errors as of :meth:`infer`."""
        bound = self._admission.bind(request)
        if self._max_rows and bound.rows > self._max_rows and not self._closed:
            return run(told, self.infer(request, deadline, None, standing))
        answer = self._ask(bound, deadline, None, standing, told)
        if isinstance(answer, QueuedRequest):
            return functools.partial(abandon, self._batcher, answer)
        told(self._response(bound, answer), None)
        return nothing

    @property
    def foresee(self) -> Callable[[Call], None] | None:
        """Return what refuses a request before it is decoded, if it can only be refused; None = nothing can.

        It raises Overloaded and DeadlineExceeded as :meth:`infer` does.
        """
        return self._foresee if self._schedule.foresees else None

    def _foresee(self, call: Call) -> None:
        if call.standing is ANYBODY:  # others have places of their own
            now = self._clock()
            self._schedule.foresee(now - call.lag if call.lag else call.arrival, now, call.deadline)

    def _tell(
        self, told: Told, waiting: QueuedRequest, answer: _Answer | None, error: Exception | None
    ) -> None:
        if self._is_timed and error is None:
            self._schedule.replied(waiting, self._clock())
        told(error or self._response(waiting.payload[0], answer), None)

    def _response(self, bound: BoundRequest, answer: _Answer | None) -> InferResponse:
        assert answer is not None
        outputs, timing, parameters = answer
        request, types = bound.request, self._stack.types
        tensors = tuple([Tensor(name, types[name], outputs[name]) for name in bound.outputs])
        return InferResponse(request.model, self.id.version, tensors, request.id, parameters, timing)

    @property
    def can_resize(self) -> bool:
        """Return whether the number of instances can be changed without a new engine."""
        is_plain = self._turns is None and self._schedule.policy != "learned"
        return is_plain and isinstance(self._runner, Resizable)

    async def resize(self, slots: int) -> None:
        """Set the number of instances; removed ones finish their runs first.

        Raises:
            LoadFailed: an instance could not be added; nothing was changed.
        """
        assert isinstance(self._runner, Resizable)
        before = self._runner.slots
        if slots > before:
            await self._runner.resize(slots)
        self._schedule.resize(slots)
        self._idle += slots - before
        if slots < before:
            await self._runner.resize(slots)
        elif not self._pump_scheduled:
            self._pump()

    def share(self, pool: ResourcePool, limits: Sequence[RateLimit]) -> None:
        """Make runs wait for shared resources from now on.

        Raises:
            LoadFailed: it needs more than the pool has.
        """
        self._turns = pool.join(limits, self._runner.slots, self._pump)
        self._never_inline = True

    async def close(self) -> None:
        """Reject waiting requests, finish active runs, close the runner."""
        self._closed = True
        for waiting in list(self._batcher):
            self._batcher.discard(waiting)
            fail(waiting, unloaded(self.id))
        if self._timer is not None:
            self._timer.cancel()
        if self._tasks:  # do not wait for a hanging model; a host process is then killed
            await asyncio.wait(self._tasks, timeout=_LAST_RUN_S)
        if self._posted:
            self._end = asyncio.Event()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._end.wait(), _LAST_RUN_S)
        if self._turns is not None:
            self._turns.close()
        await self._runner.close()

    async def run_alone(self, inputs: Mapping[str, Array]) -> Sequence[Mapping[str, Array]]:
        """Run once on each instance, bypassing the queue, for warm-up; return the outputs."""
        rows = next(iter(inputs.values())).shape[0] if self.signature.batched else 0
        gave = await self._runner.run_each(self._stack.alone(inputs))
        for outputs in gave:
            self._stack.check(outputs, rows)
        return gave

    def _ask(
        self,
        bound: BoundRequest,
        deadline: float | None,
        sender: Hashable,
        standing: Standing,
        told: Told | None = None,
    ) -> _Answer | QueuedRequest:
        """Return the answer if it can be computed inline, else the queued request, whose answer is told."""
        if self._closed:
            raise closing(self.id)
        now = self._clock()
        brings_deadline = deadline is not None
        if deadline is None:
            if self._timeout:
                deadline = now + self._timeout
        elif deadline <= now:
            raise DeadlineExceeded(LATE)
        is_near = self._crowded or self._pump_scheduled or now - self._inline_until <= _SAME_TURN_S
        if self._post is None and not is_near:
            answer = self._answer_now(bound, now)
            if answer is not None:
                self._schedule.passed(bound.rows, now)
                return answer
        loop = self._loop = self._loop or asyncio.get_running_loop()
        waiting = QueuedRequest(None, bound.rows, bound.key, now, deadline, sender)
        tell = told and functools.partial(self._tell, told, waiting)
        future: asyncio.Future[_Answer] | Ticket = loop.create_future() if tell is None else Ticket(tell)
        waiting.payload = bound, future
        waiting.size = bound.size
        if self._has_places or standing is not ANYBODY:
            self._schedule.place(waiting, standing, brings_deadline, bound.request.came)
        until = math.inf
        if self._has_queue_policy:
            timeout = bound.request.parameters.get("timeout", 0)
            until = self._schedule.limit_wait(waiting, timeout / 1e6 if isinstance(timeout, int) else 0.0)
        try:
            evicted = self._schedule.admit(waiting)
        except Overloaded as error:
            error.about = bound.request.id
            raise
        if evicted is not None:
            crowd_out(evicted, self._batcher.bound)
        if not self._pump_scheduled:
            self._pump_scheduled = True
            loop.call_soon(self._pump)
        if deadline is not None:
            end_after(loop, deadline - now, self._expire, waiting)
        if until < math.inf:
            end_after(loop, until - now, self._give_up, waiting)
        return waiting

    def _answer_now(self, bound: BoundRequest, now: float) -> _Answer | None:
        """Run a single request of a tiny model inline; return None if that is not possible."""
        if self._batcher.depth or self._idle <= 0 or self._never_inline:
            return None
        try:
            result = self._runner.run_inline(self._stack.inputs([bound]))
            if result is None:
                return None
            self._inline_until = self._clock()
            outputs, seconds = result
            self._stack.check(outputs, bound.rows)
        except ModelFailed:
            self._announce(bound.rows, 1, 0.0, 0.0, 0.0, "drain", ok=False)
            raise
        self._announce(bound.rows, 1, seconds, 0.0, 0.0, "drain")
        timing = Timing(0.0, 0.0, seconds, bound.rows, 0, "drain", now, self._inline_until)
        return outputs, timing, NO_PARAMETERS

    async def _infer_split(
        self,
        request: InferRequest,
        bound: BoundRequest,
        deadline: float | None,
        sender: Hashable,
        standing: Standing,
    ) -> InferResponse:
        """Split a request larger than a batch, run the parts and join the outputs (U-10)."""
        size = self._max_rows
        if 0 < self._most_rows < bound.rows:
            raise InvalidInput(
                f"Task size {bound.rows} is larger than maximum input batch size {self._most_rows}"
            )
        asked: list[_Answer | QueuedRequest] = []
        try:
            for part in bound.split(size):
                asked.append(self._ask(part, deadline, sender, standing))
            answers = [await a.payload[1] if isinstance(a, QueuedRequest) else a for a in asked]
        finally:
            for place in asked:
                if isinstance(place, QueuedRequest):
                    self._batcher.discard(place)
                    future = place.payload[1]
                    if not future.cancel() and not future.cancelled():
                        future.exception()  # mark as retrieved: one part's error has been raised for all
        outputs = self._stack.joined([answer[0] for answer in answers], bound.outputs)
        slowest = max((answer[1] for answer in answers), key=lambda t: t.queue + t.formation + t.inference)
        return InferResponse(request.model, self.id.version, outputs, request.id, answers[-1][2], slowest)

    # -- the pump: from queue to runs ----------------------------------------------------------

    def _pump(self) -> None:
        """Start every batch that is due and has an idle instance."""
        self._pump_scheduled = False
        batcher = self._batcher
        self._crowded = batcher.depth > 1
        while self._idle > 0 and batcher.depth:
            now = self._clock()
            spare = self._idle > 1 or self._runner.slots == 1
            due = batcher.due(now, spare)
            if due is None:
                return
            if due > now:
                self._wake_at(due - now)
                return
            turn: ResourceTurn | None = None
            if self._turns is not None and (turn := self._turns.enter()) is None:
                return  # another model runs first and wakes this one
            batch = self._take(now, spare)
            if batch.members:
                self._start(Dispatch(batch, now, self._idle_since, turn))
                continue
            if self._turns is not None and turn is not None:
                self._turns.leave(turn)
            if not (batch.expired or batch.given_up):
                return  # the rule waits for more requests

    def _take(self, now: float, spare: bool) -> Batch:
        """Take the next batch and notify requests that expired."""
        batch = self._batcher.take(now, spare)
        for waiting in batch.expired:
            fail(waiting, (WaitedTooLong if waiting.is_policed else DeadlineExceeded)(LATE))
        for waiting in batch.given_up:
            fail(waiting, self._schedule.refusal(waiting))
        return batch

    def _look_ahead(self, expected: float) -> None:
        """Prepare the next batch for the instance that is about to become idle."""
        now = max(self._clock(), expected)
        if self._idle or self._ahead or not self._batcher.depth or not self._schedule.looks_ahead(now):
            return
        batch = self._take(now, spare=False)
        if batch.members:
            self._ahead = Dispatch(batch, now, now)
            self._start(self._ahead)

    def _wake_at(self, delay: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(delay, self._pump)

    def _start(self, dispatch: Dispatch) -> None:
        batch, now = dispatch.batch, dispatch.at
        self._schedule.started(batch, now)
        stacked: _Stacked | None = None
        try:
            if self._each is None:
                stacked = self._merge(batch)
            may_inline = stacked and not (self._ahead or self._stack.is_ragged or self._turns)
            result = self._runner.run_inline(stacked[0]) if stacked and may_inline else None
            if result is not None:
                self._stack.check(result[0], batch.rows)
                self._schedule.ended(batch.rows, now, self._clock(), size=batch.members[0].size)
                self._deliver(dispatch, result, stacked[1] if stacked else 0.0)
                return
        except Exception:
            pass  # the following code runs it again, alone and in halves, and reports
        self._idle -= 1
        if self._ahead is None:
            self._plan_ahead(dispatch)
        if self._post is not None and (stacked or self._each):
            work = stacked[0] if stacked else self._requests(batch)
            done = functools.partial(self._posted_ended, dispatch, stacked[1] if stacked else 0.0)
            if self._post(work, done, len(batch.members) == 1):
                self._posted.add(dispatch)
                return
        self._spawn(self._run(dispatch, self._run_or_halve(dispatch, stacked, is_whole=True)))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _posted_ended(self, dispatch: Dispatch, merge: float, result: Gave | SalverError) -> None:
        try:
            if isinstance(result, SalverError):
                raise result
            self._stack.check_batch(result[0], dispatch.batch)
        except SalverError as error:
            self._spawn(self._run(dispatch, self._halve(dispatch, error, merge)))
        else:
            self._release(dispatch, ok=True)
            self._deliver(dispatch, result, merge)
        self._posted.discard(dispatch)
        if self._end is not None and not self._posted:
            self._end.set()

    async def _run(self, dispatch: Dispatch, work: Coroutine[Any, Any, bool]) -> None:
        is_free = False
        try:
            is_free = await work
        except Exception as error:  # a bug must not leave callers waiting
            for waiting in dispatch.batch.members:
                fail(waiting, error)
        finally:
            if not is_free:
                self._release(dispatch, ok=False)

    def _release(self, dispatch: Dispatch, ok: bool) -> None:
        """Mark the instance as idle and give it the next batch."""
        ended = self._clock()
        batch = dispatch.batch
        self._schedule.ended(batch.rows, dispatch.at, ended, ok, batch.members[0].size)
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead is not dispatch:
            self._schedule.began(ahead.at, ended)
            ahead.at = ahead.idle_since = ended
            self._plan_ahead(ahead)
        elif not self._idle:
            self._idle_since = ended
        self._idle += 1
        if self._turns is not None and dispatch.turn is not None:
            self._turns.leave(dispatch.turn, wants_more=self._batcher.depth > 0)
        if not self._pump_scheduled:
            self._pump()

    def _plan_ahead(self, dispatch: Dispatch) -> None:
        seconds = self._schedule.seconds(dispatch.batch)
        if seconds > _LONG_RUN_S and self._turns is None:
            early = min(_AHEAD_S, _AHEAD_SHARE * seconds)
            delay = dispatch.at + seconds - early - self._clock()
            asyncio.get_running_loop().call_later(delay, self._look_ahead, dispatch.at + seconds)

    async def _run_or_halve(
        self, dispatch: Dispatch, stacked: _Stacked | None = None, is_whole: bool = False
    ) -> bool:
        """Run a batch; if the model raises, run halves, so that only the faulty request fails.

        The instance is released as soon as it is idle, before the replies, because encoding them must not
        delay it. Returns whether that was done.
        """
        batch = dispatch.batch
        merge = 0.0
        result: Gave
        try:
            if self._each is not None:
                requests = self._requests(batch)
                answers, seconds = await self._each(requests)
                result = list(answers), seconds
            else:
                inputs, merge = stacked or self._merge(batch)
                result = await self._runner.run(inputs)
                self._stack.check_batch(result[0], batch)
        except Exception as error:
            return await self._halve(dispatch, error, merge)
        if is_whole:
            self._release(dispatch, ok=True)
        self._deliver(dispatch, result, merge)
        return is_whole

    async def _halve(self, dispatch: Dispatch, error: Exception, merge: float) -> bool:
        """Run the halves of a failed batch, or report the error if it has one request."""
        batch = dispatch.batch
        alive = [w for w in batch.members if not w.payload[1].done()]
        middle = len(alive) // 2
        returning = self._returning if not dispatch.is_again else None
        if isinstance(error, HostGone):
            middle = 0  # the model has seen none of them: they go to its next host unchanged
            if returning is not None:
                await self._run_again(returning, dispatch, [alive], error)
                return False
        else:
            self._announce(batch.rows, len(batch.members), 0.0, merge, 0.0, batch.reason, ok=False)
            if isinstance(error, HostDied) and returning is not None and returning.reruns:
                _LOG.warning(
                    "[%s] %s; running %d requests once more, alone", self.id, error.message, len(alive)
                )
                await self._run_again(returning, dispatch, [[waiting] for waiting in alive], error)
                return False
            if len(alive) < 2 or isinstance(error, HostDied | NotReady):
                for waiting in alive:
                    fail(waiting, own(error, self.id))
                if isinstance(error, HostDied) and self._returning is not None:
                    await self._returning.back(_QUEUE_BACK_S)  # who waits is not refused for the culprit
                return False
        for half in (alive[:middle], alive[middle:]):
            here = [w for w in half if not w.payload[1].done()]  # some may have been cancelled meanwhile
            if here:
                part = Batch(here, sum(w.rows for w in here), batch.reason, [])
                again = Dispatch(part, dispatch.at, dispatch.idle_since, is_again=dispatch.is_again)
                await self._run_or_halve(again)
        return False

    async def _run_again(
        self,
        runner: RestartingRunner,
        dispatch: Dispatch,
        groups: list[list[QueuedRequest]],
        error: Exception,
    ) -> None:
        """Run requests whose host died once more, group by group, when a host is back.

        Requests whose deadline passes meanwhile have been answered and are not run.
        """
        for group in groups:
            await runner.back(_BACK_S)
            here = [waiting for waiting in group if not waiting.payload[1].done()]
            if self._closed:
                for waiting in here:
                    fail(waiting, own(error, self.id))
            elif here:
                part = Batch(here, sum(w.rows for w in here), dispatch.batch.reason, [])
                await self._run_or_halve(Dispatch(part, self._clock(), dispatch.idle_since, is_again=True))

    def _requests(self, batch: Batch) -> list[InferRequest]:
        """Return the requests of a batch, for a model that takes them one by one."""
        asked = self._admission.asked
        return [asked(w.payload[0], self.id, w.deadline, w.payload[1].done) for w in batch.members]

    def _merge(self, batch: Batch) -> _Stacked:
        """Return the inputs of a batch, and the seconds it took to stack them."""
        began = self._clock()
        inputs = self._stack.inputs([w.payload[0] for w in batch.members])
        return inputs, self._clock() - began

    def _deliver(self, dispatch: Dispatch, result: Gave, merge: float) -> None:
        """Split the outputs and complete the requests."""
        outputs, seconds = result
        batch = dispatch.batch
        began = self._clock()
        # A prepared batch starts as soon as an instance is idle; the loop learns of it a little later.
        dispatch.at = min(dispatch.at, began - seconds)
        members = batch.members
        if isinstance(outputs, list):
            ended, split = began, 0.0
            for waiting, said in zip(members, outputs, strict=True):
                if isinstance(said, Answer):
                    settle(waiting, said.outputs, dispatch, (seconds, ended, split), said.parameters)
                else:
                    fail(waiting, said)
        else:
            parts = self._stack.parts(outputs, members)
            ended = self._clock()
            split = ended - began
            for waiting, part in zip(members, parts, strict=True):
                settle(waiting, part, dispatch, (seconds, ended, split))
        self._announce(batch.rows, len(members), seconds, merge, split, batch.reason)

    def _announce(
        self,
        rows: int,
        requests: int,
        seconds: float,
        merge: float,
        split: float,
        reason: str,
        ok: bool = True,
    ) -> None:
        id = self.id
        more = rounded(rows, self._sizes) - rows
        self._emit(BatchRan(id.name, id.version, rows, requests, seconds, merge, split, reason, ok, more))

    def _give_up(self, waiting: QueuedRequest) -> None:
        """Give up a request whose time to wait is over; an active run continues."""
        if self._batcher.discard(waiting):
            fail(waiting, WaitedTooLong(LATE))

    def _expire(self, waiting: QueuedRequest) -> None:
        error = DeadlineExceeded(LATE)
        if not self._batcher.discard(waiting):
            error.why = ""  # not a refusal: it is running
        fail(waiting, error)
