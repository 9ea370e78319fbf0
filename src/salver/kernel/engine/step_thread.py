"""Thread that runs step after step of a model, and hands the results over to the event loop."""

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Protocol

from salver.kernel.engine.answer import Piece
from salver.kernel.engine.run_limit import RunLimit
from salver.kernel.engine.step_run import StepRun
from salver.kernel.engine.steps import StepPlan, StepScheduler, StepSequence
from salver.words.errors import Internal
from salver.words.events import StepRan
from salver.words.messages import ModelId

_LOG = logging.getLogger("salver.engine")
_JOIN_S = 30.0


class StepOwner(Protocol):
    """Receiver of the results, on the event loop."""

    def deliver(self, pieces: list[tuple[StepSequence, Piece]], event: StepRan | None) -> None:
        """Take the pieces of a step."""
        ...

    def came_back(self) -> None:
        """Note that a step has ended, which may have counted as hanging."""
        ...


class StepThread:
    """Thread that runs the scheduler's plans.

    Args:
        id: Name of the thread, and of the model in events.
        limit: Learns from each step how long one may take.
        clock: Monotonic seconds.

    Attributes:
        changed: Guards the scheduler, except its two counters; notified when there may be something to do.
        began: Start of the current step; 0 = none.
        is_closed: No further step begins.
        hangs: The current step has taken too long, as the owner has found.
    """

    def __init__(
        self,
        id: ModelId,
        steps: StepRun,
        scheduler: StepScheduler,
        limit: RunLimit,
        clock: Callable[[], float],
        owner: StepOwner,
    ) -> None:
        self.changed = threading.Condition()
        self.began = 0.0
        self.is_closed = self.hangs = False
        self._id = id
        self._steps = steps
        self._scheduler = scheduler
        self._limit = limit
        self._clock = clock
        self._owner = owner
        self._last_end = 0.0
        self._thread: threading.Thread | None = None

    async def start(self, trial: Callable[[], None]) -> None:
        """Start the thread; return when it has run the trial, and raise what that raises."""
        loop = asyncio.get_running_loop()
        tried: asyncio.Future[None] = loop.create_future()
        self._thread = threading.Thread(
            target=self._work, args=(loop, trial, tried), name=f"salver-{self._id.name}-steps", daemon=True
        )
        self._thread.start()
        await tried

    async def join(self) -> bool:
        """Wait for the end of the current step, after ``is_closed``; return False if it hangs."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.to_thread(thread.join, _JOIN_S)
        return thread is None or not thread.is_alive()

    def _work(
        self, loop: asyncio.AbstractEventLoop, trial: Callable[[], None], tried: "asyncio.Future[None]"
    ) -> None:
        try:
            trial()
        except BaseException as error:
            loop.call_soon_threadsafe(_settle, tried, error)
            return
        loop.call_soon_threadsafe(_settle, tried, None)
        while (plan := self._next()) is not None:
            self.began = self._clock()
            try:
                pieces, event = self._run(plan)
            except Exception as error:  # a bug ends these sequences, but not later ones
                _LOG.exception("a step of %s failed", self._id, exc_info=error)
                pieces, event = [(s, Piece(error=Internal(str(error)))) for s in plan.everyone], None
            self._limit.observe(self._clock() - self.began)
            self.began = 0.0
            try:
                if self.hangs and not self.is_closed:
                    loop.call_soon_threadsafe(self._owner.came_back)
                with self.changed:
                    for sequence, piece in pieces:
                        if piece.is_last:
                            self._scheduler.finish(sequence)
                if pieces or event is not None:
                    loop.call_soon_threadsafe(self._owner.deliver, pieces, event)
            except RuntimeError:  # the loop has been closed
                return

    def _next(self) -> StepPlan | None:
        """Wait until there is something to do; return None at the end."""
        with self.changed:
            while not self._scheduler.has_work and not self.is_closed:
                self._last_end = 0.0
                self.changed.wait()
            if self.is_closed:
                return None
            now = self._clock()
            plan = self._scheduler.plan(now)
        for sequence in plan.everyone:
            sequence.payload.joined = sequence.payload.joined or now
        return plan

    def _run(self, plan: StepPlan) -> tuple[list[tuple[StepSequence, Piece]], StepRan | None]:
        outcome = self._steps.run(plan)
        for error in outcome.errors:
            _LOG.warning("a step of model %s failed", self._id, exc_info=error)
        if not plan.everyone:
            return outcome.pieces, None
        ended = self._clock()
        gap = ended - self._last_end if self._last_end else 0.0
        self._last_end = ended
        event = StepRan(
            self._id.name,
            self._id.version,
            len(plan.everyone),
            self._scheduler.waiting,
            outcome.tokens,
            outcome.prompt_tokens,
            outcome.seconds,
            gap,
            not outcome.errors,
        )
        return outcome.pieces, event


def _settle(future: "asyncio.Future[None]", error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
