"""Runner on threads, for frameworks that release the interpreter lock.

:class:`ThreadRunner` owns the threads of one model version. Runs of a model that is native and measured to be
tiny may also happen on the caller's thread (``run_inline``).
"""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from typing import Union

from salver.backends.protocol import SIGNATURE, RunnableModel, Traits
from salver.kernel.engine.pace import Pace
from salver.kernel.engine.ports import Gave
from salver.kernel.engine.run_limit import RunLimit
from salver.words.errors import ModelFailed, NotReady, SalverError
from salver.words.messages import Signature
from salver.words.tensor import Array

_LOG = logging.getLogger("salver.engine")
_JOIN_S = 10.0
_LEAST_LOOK_S = 0.01
_Result = tuple[Mapping[str, Array], float]


class _PostedRun:
    """Interface of a future that calls back at once, and not in the event loop's next turn."""

    __slots__ = ("_callback", "_loop")

    def __init__(
        self, callback: Callable[[Gave | SalverError], None], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._callback: Callable[[Gave | SalverError], None] | None = callback
        self._loop = loop

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def done(self) -> bool:
        return self._callback is None

    def set_result(self, result: _Result) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback(result)

    def set_exception(self, error: Exception) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback(error if isinstance(error, SalverError) else ModelFailed(repr(error)))


#: Takes the result of a run.
_Recipient = Union["asyncio.Future[_Result]", _PostedRun]


class _ThreadState:
    """State of one thread, for the watchdog.

    Attributes:
        run: Start of its run, by ``perf_counter``, and the recipient of the result; written by the thread.
        hung: The run that has taken too long; written by the loop.
    """

    __slots__ = ("hung", "run")

    def __init__(self) -> None:
        self.run: tuple[float, _Recipient] | None = None
        self.hung: tuple[float, _Recipient] | None = None


#: Ends the thread that takes it, together with its model.
_Leave = asyncio.Future[tuple[threading.Thread, RunnableModel]]
_Job = tuple[Mapping[str, Array], _Recipient, threading.Barrier | None]


class ThreadRunner:
    """Runner of batches on threads of this process.

    Args:
        models: One model that all threads share (``traits.concurrent``), or one per slot.
        slots: Concurrent batches.
        threads: Threads inside one run.
        name: Name for threads and error texts.
        more: Loads one more model for an additional slot; blocking. None = the slots share one.
        limit: A run that takes longer counts as hanging: its callers get an error, and while all threads
            hang, requests are rejected. A thread cannot be ended; when the run returns, service resumes.
    """

    def __init__(
        self,
        models: Sequence[RunnableModel],
        traits: Traits,
        *,
        slots: int,
        threads: int = 1,
        name: str = "",
        more: Callable[[], RunnableModel] | None = None,
        limit: RunLimit | None = None,
    ) -> None:
        self.signature: Signature = models[0].signature
        self.slots = slots
        self._models = list(models)
        self._more = more
        self._name = name
        self._first_input = self.signature.inputs[0].name if self.signature.inputs else ""
        self._may_inline = traits.native and traits.concurrent
        self._threads_a_run = threads
        self._pace = Pace()
        self._jobs: SimpleQueue[_Job | _Leave | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._limit = limit or RunLimit()
        self._seats: dict[threading.Thread, _ThreadState] = {}
        self._hanging = 0  # threads whose runs hang
        self._timer: asyncio.TimerHandle | None = None  # one timer for the runs of all threads

    def __repr__(self) -> str:
        return f"<ThreadRunner {self._name}, {self.slots} slots>"

    async def run(self, inputs: Mapping[str, Array]) -> _Result:
        """See :class:`~salver.kernel.engine.ports.Runner`."""
        if not self._threads:
            self._start()
        if self._hanging and self.hangs:
            raise self._hung()
        future: asyncio.Future[_Result] = asyncio.get_running_loop().create_future()
        self._put(inputs, future)
        return await future

    def post(
        self, work: Mapping[str, Array], done: Callable[[Gave | SalverError], None], is_lone: bool
    ) -> bool:
        """See :class:`~salver.kernel.engine.ports.PostRunner`."""
        if not self._threads:
            self._start()
        if self._hanging and self.hangs:
            return False
        self._put(work, _PostedRun(done, asyncio.get_running_loop()))
        return True

    def _put(self, inputs: Mapping[str, Array], recipient: _Recipient) -> None:
        if self._timer is None:
            self._look_in(recipient.get_loop(), self._limit.seconds)
        self._jobs.put((inputs, recipient, None))

    async def run_each(self, inputs: Mapping[str, Array]) -> Sequence[Mapping[str, Array]]:
        """Run once on each thread, because frameworks also initialise threads."""
        if not self._threads:
            self._start()
        loop = asyncio.get_running_loop()
        if self._timer is None:
            self._look_in(loop, self._limit.seconds)
        together = threading.Barrier(self.slots)  # so that no thread takes the job of another
        futures: list[asyncio.Future[_Result]] = [loop.create_future() for _ in range(self.slots)]
        for future in futures:
            self._jobs.put((inputs, future, together))
        return [outputs for outputs, _ in await asyncio.gather(*futures)]

    def run_inline(self, inputs: Mapping[str, Array]) -> _Result | None:
        """See :class:`~salver.kernel.engine.ports.Runner`."""
        if not self._may_inline:
            return None
        rows = self._rows(inputs)
        if not self._pace.is_tiny(rows):
            return None
        return self._call(self._models[0], inputs, rows)

    async def resize(self, slots: int) -> None:
        """See :class:`~salver.kernel.engine.ports.Resizable`."""
        if slots > self.slots:
            more = slots - self.slots
            if self._more is not None:
                self._models += await asyncio.to_thread(_load, self._more, more)
            for slot in range(self.slots, slots) if self._threads else ():
                self._start_thread(slot)
            self.slots = slots
            return
        fewer, self.slots = self.slots - slots, slots
        gone: list[RunnableModel] = []
        if self._threads:
            loop = asyncio.get_running_loop()
            leaving: list[_Leave] = [loop.create_future() for _ in range(fewer)]
            for leave in leaving:
                self._jobs.put(leave)
            for thread, model in await asyncio.gather(*leaving):
                self._threads.remove(thread)
                del self._seats[thread]
                gone.append(model)
        elif self._more is not None:
            gone = self._models[slots:]
        for model in gone if self._more is not None else ():
            self._models.remove(model)
            await asyncio.to_thread(model.close)

    async def close(self) -> None:
        """Wait a while for active runs, then close the models.

        A thread cannot be ended from outside: a hanging model keeps its thread and memory until the process
        ends, which is logged.
        """
        for _ in self._threads:
            self._jobs.put(None)
        if self._timer is not None:
            self._timer.cancel()
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        until = time.monotonic() + _JOIN_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            _LOG.error("a run of model %s hangs; its memory is not released", self._name)
            return
        models, self._models = self._models, []
        for model in models:
            model.close()

    def _start(self) -> None:
        for slot in range(self.slots):
            self._start_thread(slot)

    def _start_thread(self, slot: int) -> None:
        model = self._models[slot % len(self._models)]
        seat = _ThreadState()
        thread = threading.Thread(
            target=self._work, args=(model, seat), name=f"salver-{self._name}-{slot}", daemon=True
        )
        self._threads.append(thread)
        self._seats[thread] = seat
        thread.start()

    @property
    def hangs(self) -> bool:
        """Return whether all threads hang, so that nothing can run."""
        return self._hanging >= self.slots

    def _hung(self) -> NotReady:
        return NotReady(
            f"a run of model '{self._name}' does not end, for more than {self._limit.seconds:g} s now, and "
            "keeps the model from others",
            fix="It is asked again when the run ends. Else restart the server, or give the model a host "
            'process (instances.runner = "process"), which can be ended.',
        )

    def _look_in(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        if seconds < math.inf:
            self._timer = loop.call_later(seconds, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Check for hanging runs and schedule the next check."""
        self._timer = None
        limit, now, wait = self._limit.seconds, time.perf_counter(), math.inf
        for seat in self._seats.values():
            run = seat.run
            if run is None or run is seat.hung:
                continue
            if now - run[0] < limit:
                wait = min(wait, run[0] + limit - now)
                continue
            seat.hung = run
            self._hanging += 1
            _LOG.error("a run of model %s has not ended within %g s; it hangs", self._name, limit)
            _fail(run[1], self._hung())
            if seat.run is not run:  # it ended at the same moment
                self._came_back(seat, run)
        if self.hangs:
            self._refuse_all()
        elif not self._jobs.empty():
            wait = min(wait, limit)
        self._look_in(loop, max(wait, _LEAST_LOOK_S))

    def _refuse_all(self) -> None:
        """Fail the jobs that wait for a thread."""
        while not self._jobs.empty():
            job = self._jobs.get_nowait()
            if not isinstance(job, tuple):
                self._jobs.put(job)  # an order to end a thread, always last
                return
            _fail(job[1], self._hung())

    def _came_back(self, seat: _ThreadState, run: object) -> None:
        if seat.hung is not None and seat.hung is run:
            took = time.perf_counter() - seat.hung[0]
            seat.hung = None
            self._hanging -= 1
            _LOG.warning("the run of model %s that hung has ended after %g s", self._name, took)

    def _work(self, model: RunnableModel, seat: _ThreadState) -> None:
        while (job := self._jobs.get()) is not None:
            if not isinstance(job, tuple):
                job.get_loop().call_soon_threadsafe(job.set_result, (threading.current_thread(), model))
                return
            inputs, future, together = job
            loop = future.get_loop()
            try:
                if together is not None:
                    together.wait(_JOIN_S)
                seat.run = time.perf_counter(), future
                result = self._call(model, inputs, self._rows(inputs))
            except BaseException as error:
                self._rest(loop, seat)
                loop.call_soon_threadsafe(_fail, future, error)
            else:
                self._rest(loop, seat)
                self._limit.observe(result[1])
                loop.call_soon_threadsafe(_settle, future, result)
                del result  # otherwise the last outputs would stay in memory until the next job
            del job, inputs, future

    def _rest(self, loop: asyncio.AbstractEventLoop, seat: _ThreadState) -> None:
        """Record that the thread's run has ended."""
        run, seat.run = seat.run, None
        if seat.hung is not None and seat.hung is run:  # checked last, in the opposite order of the loop
            loop.call_soon_threadsafe(self._came_back, seat, run)

    def _rows(self, inputs: Mapping[str, Array]) -> int:
        first = None
        if self.signature.batched:
            first = inputs.get(self._first_input)
        if first is None or not first.ndim:
            return 1
        rows: int = first.shape[0]
        return rows

    def _call(self, model: RunnableModel, inputs: Mapping[str, Array], rows: int) -> _Result:
        cpu = time.thread_time()
        began = time.perf_counter()
        try:
            outputs = model.run(inputs)
        except SalverError:
            raise
        except Exception as error:
            raise ModelFailed(f"model '{self._name}' raised {type(error).__name__}: {error}") from error
        seconds = time.perf_counter() - began
        if SIGNATURE in inputs:  # the pace is that of the first signature
            return outputs, seconds
        # CPU time, so that waiting for a core or the interpreter does not count; the time of helper threads
        # is bounded by that of the caller, which takes part.
        self._pace.observe(rows, min(seconds, (time.thread_time() - cpu) * self._threads_a_run))
        return outputs, seconds


def _load(more: Callable[[], RunnableModel], count: int) -> list[RunnableModel]:
    models: list[RunnableModel] = []
    try:
        for _ in range(count):
            models.append(more())
    except BaseException:
        for model in models:
            model.close()
        raise
    return models


def _settle(future: _Recipient, result: _Result) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: _Recipient, error: BaseException) -> None:
    if not future.done():
        future.set_exception(error if isinstance(error, Exception) else ModelFailed(repr(error)))
