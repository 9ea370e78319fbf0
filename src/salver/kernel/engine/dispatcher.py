"""Dispatch of a model version's batches to its idle instances.

The schedule decides when a batch is due and who is in it; the executor runs it. The dispatcher counts idle
instances, wakes up when a batch becomes due, and has the next batch ready when an instance becomes idle.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from salver.kernel.engine.admission import BoundRequest
from salver.kernel.engine.delivery import fail
from salver.kernel.engine.execution import Executor, RunAnswer, Stacked
from salver.kernel.engine.refusals import LATE
from salver.kernel.engine.schedule import Schedule
from salver.kernel.engine.waiting import Batch, Dispatch
from salver.words.errors import DeadlineExceeded, WaitedTooLong

if TYPE_CHECKING:
    from salver.kernel.engine.turns import PoolMember, ResourceTurn


#: A request that arrives this soon after an inline run was already waiting when it began: requests can share
#: a run. (Detecting it with the loop's turns would cost a turn per request.)
_SAME_TURN_S = 50e-6
#: How long before an instance becomes idle its next batch is chosen and merged, so that it does not stay idle
#: (:meth:`Schedule.looks_ahead`): maximum as a fraction of a run, and minimum run time.
_AHEAD_S, _AHEAD_SHARE, _LONG_RUN_S = 2e-3, 0.2, 3e-3


class Dispatcher:
    """Idle instances of one model version, and the batches that go to them.

    Args:
        clock: Monotonic seconds.

    Attributes:
        turns: Turns at resources that models share; None = not limited.
        is_pumping: :meth:`pump` runs in this turn of the event loop, or the next.
    """

    def __init__(self, schedule: Schedule, executor: Executor, clock: Callable[[], float]) -> None:
        self._schedule = schedule
        self._batcher = schedule.batcher
        self._executor = executor
        self._clock = clock
        self._may_inline = executor.may_inline and not schedule.waits
        self.turns: PoolMember | None = None
        self._idle = executor.runner.slots  # -1 = a batch is prepared for the next instance
        # From when an instance waits for work: what a request waits before that is queueing.
        self._idle_since = clock()
        self._ahead: Dispatch | None = None
        self.is_pumping = False
        self._is_crowded = False  # the last turn of the loop brought more than one request
        self._timer: asyncio.TimerHandle | None = None

    @property
    def running(self) -> int:
        """Return the number of running batches."""
        slots = self._executor.runner.slots
        return min(slots, slots - self._idle)

    def answer_now(self, bound: BoundRequest, now: float) -> RunAnswer | None:
        """Run a single request of a tiny model inline; return None if that is not possible."""
        if not self._may_inline or self.is_pumping or self._is_crowded or self._batcher.depth:
            return None
        if self._idle <= 0 or self.turns is not None:
            return None
        executor = self._executor
        if now - executor.inline_until <= _SAME_TURN_S:
            return None
        answer = executor.answer_now(bound, now)
        if answer is not None:
            self._schedule.passed(bound.rows, now)
        return answer

    def pump_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start batches in the event loop's next turn, when other requests of this turn have arrived."""
        self.is_pumping = True
        loop.call_soon(self.pump)

    def pump(self) -> None:
        """Start every batch that is due and has an idle instance."""
        self.is_pumping = False
        batcher = self._batcher
        self._is_crowded = batcher.depth > 1
        while self._idle > 0 and batcher.depth:
            now = self._clock()
            # Bulk work must not take the last idle instance, unless there is only one.
            spare = self._idle > 1 or self._executor.runner.slots == 1
            due = batcher.due(now, spare)
            if due is None:
                return
            if due > now:
                self._wake_at(due - now)
                return
            turn: ResourceTurn | None = None
            if self.turns is not None and (turn := self.turns.enter()) is None:
                return  # another model runs first and wakes this one
            batch = self._take(now, spare)
            if batch.members:
                self._start(Dispatch(batch, now, self._idle_since, self._release, turn))
                continue
            if self.turns is not None and turn is not None:
                self.turns.leave(turn)
            if not (batch.expired or batch.given_up):
                return  # the rule waits for more requests

    def add(self, count: int) -> None:
        """Add idle instances; a negative number is taken away as runs end."""
        self._idle += count
        if count > 0 and not self.is_pumping:
            self.pump()

    def stop(self) -> None:
        """Wake up no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _take(self, now: float, spare: bool) -> Batch:
        """Take the next batch and notify requests that expired."""
        batch = self._batcher.take(now, spare)
        for waiting in batch.expired:
            fail(waiting, (WaitedTooLong if waiting.is_policed else DeadlineExceeded)(LATE))
        for waiting in batch.given_up:
            fail(waiting, self._schedule.refusal(waiting, now))
        return batch

    def _wake_at(self, delay: float) -> None:
        self.stop()
        self._timer = asyncio.get_running_loop().call_later(delay, self.pump)

    def _start(self, dispatch: Dispatch) -> None:
        """Run a batch, on the event loop's thread if that is possible."""
        batch, now = dispatch.batch, dispatch.at
        schedule, executor = self._schedule, self._executor
        schedule.started(batch, now)
        stacked: Stacked | None = None
        try:
            stacked = executor.merge(batch)
            if not (self._ahead or self.turns):
                result = executor.run_inline(batch, stacked)
                if result is not None:
                    schedule.ended(batch.rows, now, self._clock(), size=batch.members[0].size)
                    executor.deliver(dispatch, result, stacked[1] if stacked else 0.0)
                    return
        except Exception:
            pass  # the following code runs it again, alone and in halves, and reports
        self._idle -= 1
        if self._ahead is None:
            self._plan_ahead(dispatch)
        executor.start(dispatch, stacked)

    def _release(self, dispatch: Dispatch, ok: bool) -> None:
        """Mark the instance of a batch as idle and give it the next batch."""
        ended = self._clock()
        batch = dispatch.batch
        self._schedule.ended(batch.rows, dispatch.at, ended, ok, batch.members[0].size)
        # A prepared batch waits in the runner's own queue: it has begun by now.
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead is not dispatch:
            self._schedule.began(ahead.at, ended)
            ahead.at = ahead.idle_since = ended
            self._plan_ahead(ahead)
        elif not self._idle:
            self._idle_since = ended
        self._idle += 1
        if self.turns is not None and dispatch.turn is not None:
            self.turns.leave(dispatch.turn, wants_more=self._batcher.depth > 0)
        if not self.is_pumping:
            self.pump()

    def _plan_ahead(self, dispatch: Dispatch) -> None:
        seconds = self._schedule.load.seconds(dispatch.batch)
        if seconds > _LONG_RUN_S and self.turns is None:
            early = min(_AHEAD_S, _AHEAD_SHARE * seconds)
            delay = dispatch.at + seconds - early - self._clock()
            asyncio.get_running_loop().call_later(delay, self._look_ahead, dispatch, dispatch.at + seconds)

    def _look_ahead(self, dispatch: Dispatch, expected: float) -> None:
        """Prepare the next batch for the instance that is about to become idle, unless it is idle already."""
        now = max(self._clock(), expected)
        if (
            dispatch.is_over
            or self._idle
            or self._ahead
            or not self._batcher.depth
            or not self._schedule.looks_ahead(now)
        ):
            return
        batch = self._take(now, spare=False)
        if batch.members:
            self._ahead = Dispatch(batch, now, now, self._release)
            self._start(self._ahead)
