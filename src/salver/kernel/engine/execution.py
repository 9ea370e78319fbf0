"""Execution of batches on a model's runner.

Merges the requests of a batch, runs it, splits the outputs and completes the requests. A batch that fails
runs again in halves, so that only the faulty request fails; requests whose host died may run once more.
"""

import asyncio
import functools
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any

from salver.backends.protocol import Answer
from salver.kernel.engine.admission import Admission, BoundRequest
from salver.kernel.engine.delivery import NO_PARAMETERS, fail, own, settle
from salver.kernel.engine.ports import (
    Gave,
    InlineRequestRunner,
    PostRunner,
    RequestRunner,
    RestartingRunner,
    Runner,
)
from salver.kernel.engine.stack import Outputs, Stack
from salver.kernel.engine.waiting import Batch, Dispatch, QueuedRequest
from salver.words.artifacts import ModelConfig, Ragged
from salver.words.errors import HostDied, HostGone, ModelFailed, NotReady, SalverError
from salver.words.events import BatchRan
from salver.words.messages import InferRequest, ModelId, Parameter, Timing
from salver.words.tensor import Array

_LOG = logging.getLogger("salver.engine")
RunAnswer = tuple[Outputs, Timing, Mapping[str, Parameter]]
Stacked = tuple[dict[str, Array], float]

_BACK_S, _QUEUE_BACK_S = 30.0, 10.0  # how long requests wait for a host that died of them, and the others
_LAST_RUN_S = 30.0  # how long ``close`` waits for active runs


class Executor:
    """Executor of the batches of one model version.

    Args:
        runner: Closed by the executor.
        clock: Monotonic seconds.
        emit: Called after every run.

    Attributes:
        runner: The runner; it pads batches if the configuration has sizes.
        may_inline: A single request may run on the event loop's thread (:meth:`answer_now`).
        inline_until: End of the last inline run.
        is_closed: No new run begins, not even for requests that wait for a host.
    """

    def __init__(
        self,
        id: ModelId,
        runner: Runner,
        config: ModelConfig,
        *,
        clock: Callable[[], float],
        emit: Callable[[BatchRan], None],
    ) -> None:
        self._id = id
        self._clock = clock
        self._emit = emit
        self._sizes = config.batching.sizes if config.batching.enabled else ()
        # Asked of the runner itself, because one that pads does not say whether its hosts come back.
        self._returning = runner if isinstance(runner, RestartingRunner) else None
        if self._sizes:
            from salver.kernel.engine.padding import padded

            runner = padded(runner, self._sizes)
        self.runner = runner
        self._each = runner.answer if isinstance(runner, RequestRunner) else None
        self._short_runner = runner if isinstance(runner, InlineRequestRunner) else None
        self._post = runner.post if isinstance(runner, PostRunner) else None
        signature, pads = runner.signature, config.batching.pad
        # Requests of any shape may share a run of a model that takes them one by one, so it needs no stack.
        ragged = None
        if config.ragged != Ragged():
            from salver.kernel.engine.ragged import RaggedBatch

            ragged = RaggedBatch(config.ragged, signature, id.name)
        self.stack = Stack(id.name, signature, ragged if self._each is None else None, pads=pads)
        unlike = range(len(signature.inputs)) if pads else ()
        self.admission = Admission(id.name, signature, ragged.inputs if ragged else unlike)
        self.may_inline = self._returning is None and ragged is None
        if self._each is not None:
            self.may_inline = self._short_runner is not None
        self.inline_until = -1.0
        self._running: dict[Dispatch, asyncio.Task[None] | None] = {}
        self._end = asyncio.Event()  # the last run has ended after ``is_closed``
        self.is_closed = False

    @property
    def answers_each(self) -> bool:
        """Return whether the model receives requests one by one, and may answer each as it likes."""
        return self._each is not None

    def answer_now(self, bound: BoundRequest, now: float) -> RunAnswer | None:
        """Run a single request inline; return None if the runner does not do that (any more)."""
        if self._each is not None:
            return self._answer_each_now(bound, now)
        try:
            result = self.runner.run_inline(self.stack.inputs([bound]))
            if result is None:
                return None
            self.inline_until = ended = self._clock()  # also the end of the run, for its caller
            outputs, seconds = result
            self.stack.check(outputs, bound.rows)
        except ModelFailed:
            self._announce(bound.rows, 1, 0.0, 0.0, 0.0, "drain", ok=False)
            raise
        self._announce(bound.rows, 1, seconds, 0.0, 0.0, "drain")
        return outputs, Timing(0.0, 0.0, seconds, bound.rows, 0, "drain", now, ended), NO_PARAMETERS

    def _answer_each_now(self, bound: BoundRequest, now: float) -> RunAnswer | None:
        """Answer a single request inline, of a model that takes them one by one."""
        runner = self._short_runner
        if runner is None or not (size := runner.short_size([bound.request])):
            return None
        try:
            (said,), seconds = runner.answer_inline([self.admission.asked(bound, self._id, None)], size)
        except ModelFailed:
            self._announce(bound.rows, 1, 0.0, 0.0, 0.0, "drain", ok=False)
            raise
        self.inline_until = ended = self._clock()
        self._announce(bound.rows, 1, seconds, 0.0, 0.0, "drain")
        if isinstance(said, SalverError):
            raise said
        timing = Timing(0.0, 0.0, seconds, bound.rows, 0, "drain", now, ended)
        return said.outputs, timing, said.parameters

    def merge(self, batch: Batch) -> Stacked | None:
        """Return the inputs of a batch and the seconds it took to stack them.

        None = the model takes the requests one by one.
        """
        return self._stacked(batch) if self._each is None else None

    def run_inline(self, batch: Batch, stacked: Stacked | None) -> Gave | None:
        """Run a batch on the event loop's thread; return None if the runner does not do that."""
        if stacked is None:
            runner = self._short_runner
            if runner is None:
                return None
            size = runner.short_size([w.payload[0].request for w in batch.members])
            if not size:
                return None
            return runner.answer_inline(self._requests(batch), size)
        if self.stack.is_ragged:
            return None
        result = self.runner.run_inline(stacked[0])
        if result is not None:
            self.stack.check(result[0], batch.rows)
        return result

    def start(self, dispatch: Dispatch, stacked: Stacked | None) -> None:
        """Run a batch on an idle instance, which is free again when :meth:`Dispatch.free` is called.

        Args:
            stacked: Its inputs, if they have been merged.
        """
        members = dispatch.batch.members
        if self._post is not None and (stacked or self._each):
            inputs, merge = stacked or (self._requests(dispatch.batch), 0.0)
            done = functools.partial(self._posted_ended, dispatch, merge)
            if self._post(inputs, done, len(members) == 1):
                self._running[dispatch] = None
                return
        self._spawn(dispatch, self._run_or_halve(dispatch, stacked))

    async def finish(self) -> None:
        """Wait for active runs after ``is_closed``, but not for a model that hangs."""
        if self._running:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._end.wait(), _LAST_RUN_S)

    def _spawn(self, dispatch: Dispatch, work: Coroutine[Any, Any, None]) -> None:
        self._running[dispatch] = asyncio.get_running_loop().create_task(self._run(dispatch, work))

    def _posted_ended(self, dispatch: Dispatch, merge: float, result: Gave | SalverError) -> None:
        try:
            if isinstance(result, SalverError):
                raise result
            self.stack.check_batch(result[0], dispatch.batch)
        except SalverError as error:
            self._spawn(dispatch, self._halve(dispatch, error, merge))
        else:
            dispatch.free(ok=True)
            self.deliver(dispatch, result, merge)
            self._ended(dispatch)

    async def _run(self, dispatch: Dispatch, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # a bug must not leave callers waiting
            for waiting in dispatch.batch.members:
                fail(waiting, error)
        finally:
            dispatch.free(ok=False)
            self._ended(dispatch)

    def _ended(self, dispatch: Dispatch) -> None:
        del self._running[dispatch]
        if self.is_closed and not self._running:
            self._end.set()

    async def _run_or_halve(self, dispatch: Dispatch, stacked: Stacked | None = None) -> None:
        """Run a batch; if the model raises, run halves, so that only the faulty request fails."""
        batch = dispatch.batch
        merge = 0.0
        result: Gave
        try:
            if self._each is not None:
                answers, seconds = await self._each(self._requests(batch))
                result = list(answers), seconds
            else:
                inputs, merge = stacked or self._stacked(batch)
                result = await self.runner.run(inputs)
                self.stack.check_batch(result[0], batch)
        except Exception as error:
            await self._halve(dispatch, error, merge)
            return
        dispatch.free(ok=True)  # before the replies: encoding them must not delay the instance
        self.deliver(dispatch, result, merge)

    async def _halve(self, dispatch: Dispatch, error: Exception, merge: float) -> None:
        """Run the halves of a failed batch, or report the error if it has one request."""
        batch = dispatch.batch
        alive = _alive(batch.members)
        middle = len(alive) // 2
        # A request that has killed two hosts is not given a third.
        returning = self._returning if not dispatch.is_again else None
        restarts = isinstance(error, NotReady) and returning is not None and returning.reruns
        if isinstance(error, HostGone) or restarts:
            middle = 0  # the model has seen none of them: they go to its next host unchanged
            if returning is not None:
                await self._run_again(returning, dispatch, [alive], error)
                return
        else:
            self._announce(batch.rows, len(batch.members), 0.0, merge, 0.0, batch.reason, ok=False)
            if isinstance(error, HostDied) and returning is not None and returning.reruns:
                _LOG.warning(
                    "[%s] %s; running %d requests once more, alone", self._id, error.message, len(alive)
                )
                await self._run_again(returning, dispatch, [[waiting] for waiting in alive], error)
                return
            if len(alive) < 2 or isinstance(error, HostDied | NotReady):
                for waiting in alive:
                    fail(waiting, own(error, self._id))
                if isinstance(error, HostDied) and self._returning is not None:
                    await self._returning.back(_QUEUE_BACK_S)  # who waits is not refused for the culprit
                return
        for half in (alive[:middle], alive[middle:]):
            if here := _alive(half):  # some may have been cancelled meanwhile
                await self._run_or_halve(dispatch.part(here))

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
            here = _alive(group)
            if self.is_closed:
                for waiting in here:
                    fail(waiting, own(error, self._id))
            elif here:
                part = dispatch.part(here)
                part.at = self._clock()
                part.is_again = True
                await self._run_or_halve(part)

    def _stacked(self, batch: Batch) -> Stacked:
        began = self._clock()
        inputs = self.stack.inputs([w.payload[0] for w in batch.members])
        return inputs, self._clock() - began

    def _requests(self, batch: Batch) -> list[InferRequest]:
        """Return the requests of a batch, for a model that takes them one by one."""
        asked = self.admission.asked
        return [asked(w.payload[0], self._id, w.deadline, w.payload[1].done) for w in batch.members]

    def deliver(self, dispatch: Dispatch, result: Gave, merge: float) -> None:
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
            parts = self.stack.parts(outputs, members)
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
        id = self._id
        more = 0
        if self._sizes:
            from salver.kernel.engine.padding import rounded

            more = rounded(rows, self._sizes) - rows
        self._emit(BatchRan(id.name, id.version, rows, requests, seconds, merge, split, reason, ok, more))


def _alive(members: Sequence[QueuedRequest]) -> list[QueuedRequest]:
    """Return the requests that still have no answer."""
    return [waiting for waiting in members if not waiting.payload[1].done()]
