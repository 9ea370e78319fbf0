"""Asyncio shell around the :class:`~salver.kernel.engine.schedule.Schedule` of a model version.

It accepts requests and returns each caller's rows. The schedule decides which requests run when, the
dispatcher gives batches to idle instances, the executor runs them.

Requests that arrive in one turn of the event loop share a batch. A single request to a model that may run
inline is answered synchronously, without a future or a second turn of the loop.
"""

import asyncio
import functools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from salver.kernel.engine.admission import BoundRequest
from salver.kernel.engine.delivery import (
    ReplyCallback,
    Ticket,
    abandon,
    crowd_out,
    end_after,
    fail,
    nothing,
    run,
)
from salver.kernel.engine.dispatcher import Dispatcher
from salver.kernel.engine.execution import Executor, RunAnswer
from salver.kernel.engine.ports import Resizable, Runner
from salver.kernel.engine.refusals import LATE, closing, unloaded
from salver.kernel.engine.schedule import NOTHING_KNOWN, PriorKnowledge, Schedule
from salver.kernel.engine.waiting import QueuedRequest
from salver.stats.shape_laws import ShapeLaws
from salver.words.artifacts import Batching, ModelConfig, RateLimit
from salver.words.errors import DeadlineExceeded, InvalidInput, Overloaded, WaitedTooLong
from salver.words.events import BatchRan
from salver.words.messages import (
    ANYBODY,
    Call,
    InferRequest,
    InferResponse,
    Insight,
    ModelId,
    Signature,
    Standing,
)
from salver.words.tensor import Array, Tensor

if TYPE_CHECKING:
    from salver.kernel.engine.turns import ResourcePool


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
        self._clock = clock
        self._executor = Executor(id, runner, config, clock=clock, emit=emit)
        self._admission = self._executor.admission
        self._types = self._executor.stack.types
        self._schedule = Schedule(config, runner.slots, known.laws, known.rule)
        self._batcher = self._schedule.batcher
        self._dispatcher = Dispatcher(self._schedule, self._executor, clock)
        self._has_queue_policy = config.queue is not None
        self._has_places = self._schedule.is_timed or self._has_queue_policy or config.priorities.levels > 1
        self._max_rows = config.batching.max_rows if config.batching.enabled else 0
        self._most_rows = config.batching.max_request_rows
        self._timeout = config.timeout_ms / 1e3
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"<Engine {self.id}, {self._batcher.depth} queued, {self.running} running>"

    @property
    def queued(self) -> int:
        """Return the number of waiting requests."""
        return self._batcher.depth

    @property
    def running(self) -> int:
        """Return the number of running batches."""
        return self._dispatcher.running

    @property
    def most_rows(self) -> int:
        """Return the maximum rows of a batch now."""
        return self._batcher.most_rows

    @property
    def answers_each(self) -> bool:
        """Return whether the model receives requests one by one, and may answer each as it likes."""
        return self._executor.answers_each

    @property
    def laws(self) -> ShapeLaws:
        """Return the current batch laws of the model."""
        return self._schedule.load.laws

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
                found: RunAnswer = await answer.payload[1]
            except asyncio.CancelledError:
                self._batcher.discard(answer)
                raise
            if self._schedule.is_timed:
                self._schedule.targets.replied(answer, self._clock())
            return self._response(bound, found)
        return self._response(bound, answer)

    def post(
        self, request: InferRequest, deadline: float | None, told: ReplyCallback, standing: Standing = ANYBODY
    ) -> Callable[[], None]:
        """See :class:`~salver.kernel.serving.capabilities.Post`; arguments and errors as of :meth:`infer`."""
        bound = self._admission.bind(request)
        if self._max_rows and bound.rows > self._max_rows and not self._executor.is_closed:
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
        self, told: ReplyCallback, waiting: QueuedRequest, answer: RunAnswer | None, error: Exception | None
    ) -> None:
        if self._schedule.is_timed and error is None:
            self._schedule.targets.replied(waiting, self._clock())
        told(error or self._response(waiting.payload[0], answer), None)

    def _response(self, bound: BoundRequest, answer: RunAnswer | None) -> InferResponse:
        assert answer is not None
        outputs, timing, parameters = answer
        request, types = bound.request, self._types
        tensors = tuple([Tensor(name, types[name], outputs[name]) for name in bound.outputs])
        return InferResponse(request.model, self.id.version, tensors, request.id, parameters, timing)

    @property
    def can_resize(self) -> bool:
        """Return whether the number of instances can be changed without a new engine."""
        is_plain = self._dispatcher.turns is None and self._schedule.policy != "learned"
        return is_plain and isinstance(self._executor.runner, Resizable)

    async def resize(self, slots: int) -> None:
        """Set the number of instances; removed ones finish their runs first.

        Raises:
            LoadFailed: an instance could not be added; nothing was changed.
        """
        runner = self._executor.runner
        assert isinstance(runner, Resizable)
        more = slots - runner.slots
        if more > 0:
            await runner.resize(slots)
        # Fewer: the schedule must not count on instances that are about to go, so it learns of it first.
        self._schedule.load.slots = slots
        self._dispatcher.add(more)
        if more < 0:
            await runner.resize(slots)

    def share(self, pool: "ResourcePool", limits: Sequence[RateLimit]) -> None:
        """Make runs wait for shared resources from now on.

        Raises:
            LoadFailed: it needs more than the pool has.
        """
        dispatcher = self._dispatcher
        dispatcher.turns = pool.join(limits, self._executor.runner.slots, dispatcher.pump)

    def limit_rows(self, most: int) -> None:
        """Limit the rows of a run from now on, within ``max_rows``; larger requests are split.

        What waits already is not split: such a request runs alone.
        """
        self._batcher.most_rows = most
        if self._max_rows:
            self._max_rows = most

    async def close(self) -> None:
        """Reject waiting requests, finish active runs, close the runner."""
        self._executor.is_closed = True
        for waiting in list(self._batcher):
            self._batcher.discard(waiting)
            fail(waiting, unloaded(self.id))
        self._dispatcher.stop()
        await self._executor.finish()  # a host process that hangs is then killed
        if self._dispatcher.turns is not None:
            self._dispatcher.turns.close()
        await self._executor.runner.close()

    async def run_alone(self, inputs: Mapping[str, Array]) -> Sequence[Mapping[str, Array]]:
        """Run once on each instance, bypassing the queue, for warm-up; return the outputs."""
        rows = 0
        if self.signature.batched:
            rows = next(iter(inputs.values())).shape[0]
        stack = self._executor.stack
        gave = await self._executor.runner.run_each(stack.alone(inputs))
        for outputs in gave:
            stack.check(outputs, rows)
        return gave

    async def time_alone(self, inputs: Mapping[str, Array]) -> float:
        """Run once, bypassing the queue; return the seconds in the model."""
        executor = self._executor
        return (await executor.runner.run(executor.stack.alone(inputs)))[1]

    def runs_inline(self, inputs: Mapping[str, Array]) -> bool:
        """Return whether a run is so short that it happens on the event loop's thread; run it there if so."""
        executor = self._executor
        return executor.may_inline and executor.runner.run_inline(executor.stack.alone(inputs)) is not None

    def _ask(
        self,
        bound: BoundRequest,
        deadline: float | None,
        sender: Hashable,
        standing: Standing,
        told: ReplyCallback | None = None,
    ) -> RunAnswer | QueuedRequest:
        """Return the answer if it can be computed inline, else the queued request, whose answer is told."""
        if self._executor.is_closed:
            raise closing(self.id)
        now = self._clock()
        brings_deadline = deadline is not None
        if deadline is None:
            if self._timeout:
                deadline = now + self._timeout
        elif deadline <= now:
            raise DeadlineExceeded(LATE)
        # Before anything is allocated for waiting: this is the whole path of a tiny model.
        answer = self._dispatcher.answer_now(bound, now)
        if answer is not None:
            return answer
        loop = self._loop = self._loop or asyncio.get_running_loop()
        waiting = QueuedRequest(None, bound.rows, bound.key, now, deadline, sender)
        tell = told and functools.partial(self._tell, told, waiting)
        future: asyncio.Future[RunAnswer] | Ticket = loop.create_future() if tell is None else Ticket(tell)
        waiting.payload = bound, future
        waiting.size = bound.size
        # Without promise, levels and tenants all requests are equal, and keep the defaults.
        if self._has_places or standing is not ANYBODY:
            self._schedule.targets.place(waiting, standing, brings_deadline, bound.request.came)
        until = math.inf
        if self._has_queue_policy:
            timeout = bound.request.parameters.get("timeout", 0)
            until = self._schedule.targets.limit_wait(
                waiting, timeout / 1e6 if isinstance(timeout, int) else 0.0
            )
        try:
            evicted = self._schedule.admit(waiting)
        # The queue does not know requests; only here the error can name the one that it refuses.
        except Overloaded as error:
            error.about = bound.request.id
            raise
        if evicted is not None:
            crowd_out(evicted, self._batcher.bound)
        if not self._dispatcher.is_pumping:  # else those of the same turn of the loop are together already
            self._dispatcher.pump_soon(loop)
        if deadline is not None:
            end_after(loop, deadline - now, self._expire, waiting)
        if until < math.inf:
            end_after(loop, until - now, self._give_up, waiting)
        return waiting

    async def _infer_split(
        self,
        request: InferRequest,
        bound: BoundRequest,
        deadline: float | None,
        sender: Hashable,
        standing: Standing,
    ) -> InferResponse:
        """Split a request larger than a batch, run the parts and join the outputs."""
        size = self._max_rows
        if 0 < self._most_rows < bound.rows:
            raise InvalidInput(
                f"Task size {bound.rows} is larger than maximum input batch size {self._most_rows}"
            )
        asked: list[RunAnswer | QueuedRequest] = []
        try:
            for part in bound.split(size):
                asked.append(self._ask(part, deadline, sender, standing))
            # All parts are in the queue before the first is awaited, so that they can run side by side.
            answers = [await a.payload[1] if isinstance(a, QueuedRequest) else a for a in asked]
        finally:
            for place in asked:
                if isinstance(place, QueuedRequest):
                    self._batcher.discard(place)
                    future = place.payload[1]
                    if not future.cancel() and not future.cancelled():
                        future.exception()  # mark as retrieved: one part's error has been raised for all
        outputs = self._executor.stack.joined([answer[0] for answer in answers], bound.outputs)
        # The parts run at the same time: the caller has waited for the slowest of them.
        slowest = max((answer[1] for answer in answers), key=lambda t: t.queue + t.formation + t.inference)
        return InferResponse(request.model, self.id.version, outputs, request.id, answers[-1][2], slowest)

    def _give_up(self, waiting: QueuedRequest) -> None:
        """Give up a request whose time to wait is over; an active run continues."""
        if self._batcher.discard(waiting):
            fail(waiting, WaitedTooLong(LATE))

    def _expire(self, waiting: QueuedRequest) -> None:
        error = DeadlineExceeded(LATE)
        if not self._batcher.discard(waiting):
            error.why = ""  # not a refusal: it is running
        fail(waiting, error)
