"""Asyncio shell around the sequence scheduler of a model version.

See :class:`~salver.kernel.engine.sequences.SequenceScheduler`. Each instance has its own runner, so that a
model that remembers its sequences gets all requests of a sequence in one place. State kept by the server
(implicit state) belongs to the sequence and moves with it.

A caller that gives up while its request waits ends the sequence; once the request runs, the sequence
continues as if it had been answered. A run that fails is not repeated, unless the model cannot have
remembered it.
"""

import asyncio
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace

from salver.backends.hidden import seen
from salver.backends.protocol import Answer
from salver.kernel.engine.admission import BoundRequest
from salver.kernel.engine.ports import RequestRunner, RestartingRunner, Runner, VolatileRunner
from salver.kernel.engine.refusals import LATE, closing, due, unloaded
from salver.kernel.engine.sequence_rows import SequenceRows
from salver.kernel.engine.sequence_tensors import flag, id_of
from salver.kernel.engine.sequences import Register, SequenceBatch, SequenceScheduler, Turn
from salver.kernel.engine.turns import PoolMember, ResourcePool
from salver.kernel.engine.turns import ResourceTurn as Share
from salver.words.artifacts import ModelConfig, RateLimit, Sequences
from salver.words.errors import (
    DeadlineExceeded,
    HostDied,
    HostGone,
    InvalidInput,
    ModelFailed,
    NotReady,
    SalverError,
)
from salver.words.events import BatchRan
from salver.words.messages import (
    ANYBODY,
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

_LAST_RUN_S = 30.0  # how long ``close`` waits for active runs
_LOST = "The host process that knew it died, which ended it."


class SequencePayload(NamedTuple):
    """Payload of a :class:`~salver.kernel.engine.sequences.Turn`.

    Attributes:
        parameters: The caller's parameters, with the current ones of the sequence.
        deadline: On the engine's clock; None = none.
        future: Result: the answer, or for a streaming model the lane assigned to the request.
    """

    bound: BoundRequest
    id: int | str
    parameters: dict[str, Parameter]
    future: "asyncio.Future[Any]"
    deadline: float | None


class Lane:
    """One instance.

    Attributes:
        is_busy: A run is active.
        shares: Its shared resources; None = not counted.
        deaths: Deaths of its host process that have been handled.
        losses: Number of times that its state was lost.
    """

    def __init__(self, index: int, runner: Runner) -> None:
        self.index = index
        self.runner = runner
        self.is_busy = False
        self.shares: PoolMember | None = None
        self.deaths = 0
        self.losses = 0
        self._share: Share | None = None
        self._mortal = runner if isinstance(runner, VolatileRunner) else None

    def enter(self) -> bool:
        """Acquire shared resources for a run; False = wait to be woken."""
        if self.shares is not None:
            self._share = self.shares.enter()
            if self._share is None:
                return False
        self.is_busy = True
        return True

    def leave(self, wants_more: bool) -> None:
        """Release them."""
        self.is_busy = False
        if self.shares is not None and self._share is not None:
            self.shares.leave(self._share, wants_more)
            self._share = None

    @property
    def has_died(self) -> bool:
        """Return whether its host process has died since the last call."""
        if self._mortal is None or self._mortal.deaths == self.deaths:
            return False
        self.deaths = self._mortal.deaths
        return True


class _Departure:
    """End of a version that may still have active sequences.

    Attributes:
        by: Time at which the remaining sequences end; inf = it has not begun.
        is_over: Set when no sequence is active.
    """

    def __init__(self) -> None:
        self.by = math.inf
        self.is_over = asyncio.Event()


class _Alarm:
    """The next call of the pump: soon, at a time, or none."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None
        self._is_due = False

    def soon(self) -> None:
        """Ring in the event loop's next turn."""
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._go)

    def after(self, seconds: float) -> None:
        """Ring after so many seconds, instead of at another time; inf = never."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds < math.inf:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, seconds), self._ring)

    def _go(self) -> None:
        self._is_due = False
        self._ring()


class SequenceEngine:
    """Slots, queues and runners of a model version with sequences.

    Args:
        id: The model version.
        runners: One per instance, or one for all if the model is stateless; closed by the engine.
        config: Configuration with ``sequences``. Standing has no effect, because the order is fixed.
        clock: Monotonic seconds.
        emit: Called after every run.
        remembers: Instances may keep state of their sequences.
    """

    def __init__(
        self,
        id: ModelId,
        runners: Sequence[Runner],
        config: ModelConfig,
        *,
        clock: Callable[[], float],
        emit: Callable[[BatchRan], None],
        remembers: bool = True,
    ) -> None:
        own = runners[0].signature
        self.id = id
        self.signature: Signature = seen(own, config.sequences, id.name)
        self.running = 0  # active runs
        self._lanes = [Lane(index, runner) for index, runner in enumerate(runners)]
        self._config = config
        self._clock = clock
        self._emit = emit
        self._remembers = remembers
        self._rows = SequenceRows(id, own, self.signature, config.sequences)
        rows, plan = self._plan(config.batching.max_rows if own.batched else 1, config.sequences)
        most = config.batching.max_queue
        self._scheduler = SequenceScheduler(id.name, len(runners), rows, plan, most, self._key)
        self._count = 0  # numbers sequences without an id from their caller
        self._alarm = _Alarm(self._pump)
        self._tasks: set[asyncio.Task[None]] = set()
        self._departure = _Departure()
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}, {self.queued} queued, {self.running} running>"

    @property
    def answers_each(self) -> bool:
        """Return whether the model receives requests one by one, and may answer each as it likes."""
        return isinstance(self._lanes[0].runner, RequestRunner)

    @property
    def runners(self) -> list[Runner]:
        """Return the runners: one per instance, or one for all."""
        return list(dict.fromkeys(lane.runner for lane in self._lanes))

    @property
    def queued(self) -> int:
        """Return the number of waiting requests."""
        return self._scheduler.queued

    def insight(self) -> Insight:
        """Return figures for operators; there is no batch law and no rule."""
        scheduler = self._scheduler
        return Insight(
            limit=self._config.batching.max_queue, sequences=scheduler.live, backlog=scheduler.waiting
        )

    async def infer(
        self,
        request: InferRequest,
        deadline: float | None = None,
        sender: Hashable = None,
        standing: Standing = ANYBODY,
    ) -> InferResponse:
        """Answer one request of a sequence.

        Args:
            deadline: On the engine's clock; a request that has not started by then ends its sequence.

        Raises:
            InvalidInput: it does not match the signature, or its sequence is not active.
            Overloaded: the queue is full.
            DeadlineExceeded: the deadline passed first.
            ModelFailed: the model raised or its host died.
        """
        turn = self.offer(request, deadline)
        try:
            answer, timing = await turn.payload.future
        except asyncio.CancelledError:
            self.withdraw(turn, "A request of it was given up by its caller, which ended it.")
            raise
        types = self._rows.types
        outputs = tuple(Tensor(n, types[n], answer.outputs[n]) for n in turn.payload.bound.outputs)
        return InferResponse(request.model, self.id.version, outputs, request.id, answer.parameters, timing)

    async def run_alone(self, inputs: Mapping[str, Array]) -> None:
        """Run once on each instance, bypassing the queue, for warm-up.

        The row counts as empty unless the inputs include controls; larger batches are skipped.
        """
        if self.signature.batched and next(iter(inputs.values())).shape[0] != 1:
            return
        for runner in dict.fromkeys(lane.runner for lane in self._lanes):
            await runner.run_each({**self._rows.added.of(None, 0), **inputs})

    def share(self, pool: ResourcePool, limits: Sequence[RateLimit]) -> None:
        """Make runs wait for the shared resources of their instance from now on.

        Raises:
            LoadFailed: it needs more than the pool has.
        """
        each = [limit for limit in limits for _ in range(limit.count)]
        for lane, limit in zip(self._lanes, each, strict=False):
            lane.shares = pool.join([replace(limit, count=1)], 1, self._pump_soon)

    def join(self, register: Register) -> None:
        """Use a register of sequences that the model's versions share."""
        self._scheduler.register = register

    def knows(self, request: InferRequest) -> bool:
        """Return whether the request continues a sequence that started here.

        Raises:
            InvalidInput: its sequence parameters are malformed.
        """
        id, starts = id_of(request), flag(request.parameters, "sequence_start")
        self._reap(self._clock())
        return not starts and self._scheduler.knows(id)

    async def leave(self, seconds: float) -> None:
        """Wait until no sequence is active, while requests of active ones are still served.

        Args:
            seconds: Maximum time, but at least the idle time that the model allows; the remaining sequences
                then end after their pending requests.
        """
        self._departure.is_over.clear()
        self._departure.by = self._clock() + max(seconds, self._config.sequences.idle_ms / 1e3)
        self._pump_soon()
        await self._departure.is_over.wait()

    async def close(self) -> None:
        """Reject waiting requests, finish active runs, drop the sequences, close the runners."""
        self._is_closed = True
        self._departure.is_over.set()
        for turn in self._scheduler.clear():
            _fail(turn, unloaded(self.id))
        self._alarm.after(math.inf)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_LAST_RUN_S)
        for lane in self._lanes:
            if lane.shares is not None:
                lane.shares.close()
        await asyncio.gather(*(runner.close() for runner in self.runners))

    def offer(self, request: InferRequest, deadline: float | None) -> Turn:
        """Add a request to its sequence, or raise an error as ``infer`` does."""
        bound = self._rows.admission.bind(request)
        if bound.rows > 1:
            raise InvalidInput(
                f"inference request to model '{self.id.name}' must specify batch-size 1 due to requirements "
                "of sequence batcher"
            )
        if self._is_closed:
            raise closing(self.id)
        now = self._clock()
        self._reap(now)
        id = id_of(request)
        said = request.parameters
        starts, ends = flag(said, "sequence_start"), flag(said, "sequence_end")
        if not id:
            id, starts = self._new_id(), True
        deadline = due(deadline, now, self._config.timeout_ms)
        if deadline is not None and deadline <= now:
            raise DeadlineExceeded(LATE)
        parameters = {**said, "sequence_id": id, "sequence_start": starts, "sequence_end": ends}
        ask = SequencePayload(bound, id, parameters, asyncio.get_running_loop().create_future(), deadline)
        # an iterative sequence ends with its only request, which has no end flag
        turn = self._scheduler.offer(id, ask, starts, ends or self._config.sequences.iterative, now)
        turn.ends = ends
        self.arm(turn)
        self._pump_soon()
        return turn

    def arm(self, turn: Turn) -> None:
        """Cancel the request at its deadline unless it has been answered."""
        deadline = turn.payload.deadline
        if deadline is not None:
            loop = asyncio.get_running_loop()
            # A timer for each: expiry of one request ends a sequence, which must not wait for the next run.
            timer = loop.call_later(deadline - self._clock(), self._expire, turn)
            turn.payload.future.add_done_callback(lambda _: timer.cancel())

    def withdraw(self, turn: Turn, why: str) -> None:
        """Cancel a request that nobody waits for."""
        for other in self._scheduler.withdraw(turn, why, self._clock()):
            _fail(other, InvalidInput(f"the sequence {other.payload.id} has ended", fix=why))
        self._pump_soon()

    def _new_id(self) -> int:
        if not self._config.sequences.iterative:
            raise InvalidInput(
                f"inference request to model '{self.id.name}' must specify a non-zero or non-empty "
                "correlation ID"
            )
        self._count += 1
        return (1 << 63) + self._count

    def _plan(self, rows: int, config: Sequences) -> tuple[int, Sequences]:
        """Return the rows of a run and the batching strategy."""
        return rows, config

    def _key(self, turn: Turn) -> Hashable:
        if self.answers_each:
            return None
        return self._rows.key(turn)

    # -- the pump: from queue to runs ----------------------------------------------------------

    def _pump_soon(self) -> None:
        if not self._is_closed:
            self._alarm.soon()

    def _pump(self) -> None:
        """Start every run that is due on an idle instance, and schedule the next check."""
        if self._is_closed:
            return
        now = self._clock()
        self._reap(now)
        # Before any request is taken: a host that came back does not know the sequences of before.
        for lane in self._lanes:
            if self._remembers and lane.has_died:
                self._lose(lane)
        times = []
        if now < self._departure.by < math.inf:
            times.append(self._departure.by)
        elif now >= self._departure.by:
            # Requests that already wait are still answered; only the next ones are refused.
            why = f"Version {self.id.version}, which knew it, was replaced, and waited no longer for its end."
            self._scheduler.shut(why, now)
        if self._scheduler.is_empty:
            self._departure.is_over.set()
        for lane in self._lanes:
            due = None if lane.is_busy else self._scheduler.due(lane.index, now)
            if due is None:
                continue
            if due > now:
                times.append(due)
            elif lane.enter():
                self.running += 1
                self._start(lane, self._scheduler.take(lane.index, now), now)
        if (reap := self._scheduler.next_reap()) is not None:
            times.append(reap)
        self._alarm.after(min(times, default=math.inf) - now)

    def _start(self, lane: Lane, company: SequenceBatch, now: float) -> None:
        task = asyncio.get_running_loop().create_task(self._run(lane, company, now))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def release(self, lane: Lane) -> None:
        """Mark an instance as idle."""
        self.running -= 1
        lane.leave(wants_more=self._scheduler.due(lane.index, self._clock()) is not None)
        self._pump_soon()

    async def _run(self, lane: Lane, company: SequenceBatch, began: float) -> None:
        turns = [turn for turn in company.turns if turn is not None]
        said: Sequence[Answer | Exception]
        try:
            said, seconds = await self._ask(lane, company, began)
        except Exception as error:
            if self._is_closed:
                said, seconds = [unloaded(self.id) for _ in turns], 0.0
            elif self._remembers or len(turns) < 2 or _may_not_repeat(error, lane.runner):
                said, seconds = [_own(error) for _ in turns], 0.0
                if isinstance(error, HostDied | NotReady) and self._remembers:
                    self._lose(lane)
            else:  # it keeps no state, so only the faulty request must fail
                said, seconds = [await self._ask_alone(lane, turn) for turn in turns], 0.0
        timing = Timing(0.0, 0.0, seconds, len(turns), 0, company.reason, 0.0, self._clock())
        # Before the instance is free: the next request of a sequence needs the state of this one.
        self._deliver(turns, said, began, timing)
        self.release(lane)

    async def _ask_alone(self, lane: Lane, turn: Turn) -> Answer | Exception:
        try:
            (answer,), _ = await self._ask(lane, SequenceBatch((turn,), "drain"), self._clock())
        except Exception as error:
            return error
        return answer

    async def _ask(
        self, lane: Lane, company: SequenceBatch, began: float
    ) -> tuple[Sequence[Answer | SalverError], float]:
        """Return the answers to the requests of a run, in order, and the seconds in the model."""
        runner, merge = lane.runner, 0.0
        rows = sum(turn is not None for turn in company.turns)
        answers: Sequence[Answer | SalverError]
        try:
            if isinstance(runner, RequestRunner):
                whole, seconds = await runner.answer(self._rows.requests(company))
                answers = [a for a, t in zip(whole, company.turns, strict=True) if t is not None]
            else:
                inputs = self._rows.stacked(company)
                merge = self._clock() - began
                outputs, seconds = await runner.run(inputs)
                answers = self._rows.cut(outputs, company)
        except Exception:
            self.announce(rows, 0.0, merge, company.reason, ok=False)
            raise
        self.announce(rows, seconds, merge, company.reason)
        return answers, seconds

    def _deliver(
        self, turns: list[Turn], said: Sequence[Answer | Exception], began: float, timing: Timing
    ) -> None:
        """Store states, complete the requests, continue the sequences."""
        now = self._clock()
        for turn, answer in zip(turns, said, strict=True):
            future = turn.payload.future
            if isinstance(answer, Answer):
                try:
                    self._rows.added.keep(turn, answer)
                except ModelFailed as error:
                    answer = error
            if isinstance(answer, Answer) and answer.again:
                # A caller that has gone gets no further run.
                if not future.done() and self.repeats(turn):
                    continue
                answer = self.no_repeat()
            self.end(turn, now)
            if not isinstance(answer, Answer):
                _fail(turn, answer)
            elif not future.done():
                own = replace(timing, queue=began - turn.arrived, arrived=turn.arrived)
                future.set_result((answer, own))

    def repeats(self, turn: Turn) -> bool:
        """Run a request again if the model asks for it; return False if its sequences are not iterative."""
        if not self._config.sequences.iterative or self._is_closed:
            return False
        turn.payload.parameters.update(sequence_start=False, sequence_end=False)
        self._scheduler.again(turn, self._clock())
        return True

    def end(self, turn: Turn, now: float) -> None:
        """End a request after its last run."""
        turn.ends |= self._config.sequences.iterative
        self._scheduler.done(turn, now)

    def no_repeat(self) -> ModelFailed:
        """Fail a request that the model wants to repeat but may not."""
        name = self.id.name
        return ModelFailed(f"model '{name}' wants a request once more, and its sequences do not iterate")

    def announce(self, rows: int, seconds: float, merge: float, reason: str, ok: bool = True) -> None:
        """Report a finished run."""
        name, version = self.id.name, self.id.version
        self._emit(BatchRan(name, version, rows, rows, seconds, merge, 0.0, reason, ok))

    # -- sequences that end early --------------------------------------------------------------

    def _lose(self, lane: Lane) -> None:
        lane.losses += 1
        for turn in self._scheduler.lose(lane.index, _LOST, self._clock()):
            text = f"the sequence {turn.payload.id} of model '{self.id.name}' is lost"
            _fail(turn, HostDied(text, fix=_LOST))

    def _reap(self, now: float) -> None:
        if self._scheduler.reap(now):
            self._pump_soon()

    def _expire(self, turn: Turn) -> None:
        error = DeadlineExceeded(LATE)
        if turn.is_taken:
            error.why = ""  # not a refusal: it is running
        else:
            self.withdraw(turn, "A request of it ran out of time, which ended it.")
        _fail(turn, error)


def _fail(turn: Turn, error: Exception) -> None:
    future: asyncio.Future[Any] = turn.payload.future
    if not future.done():
        if isinstance(error, SalverError):
            error.is_late = True
        future.set_exception(error)


def _may_not_repeat(error: Exception, runner: Runner) -> bool:
    """Return whether a host died while running requests that may not be run again."""
    died = isinstance(error, HostDied) and not isinstance(error, HostGone)
    return died and not (isinstance(runner, RestartingRunner) and runner.reruns)


def _own(error: Exception) -> Exception:
    """Copy an error for each caller: a shared exception object would collect their tracebacks."""
    if isinstance(error, ModelFailed | NotReady):
        return type(error)(error.message, field=error.field, fix=error.fix)
    return error
