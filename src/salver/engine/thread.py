"""Who runs a batch, when the framework lets other threads work meanwhile?

:class:`ThreadRunner` owns the threads of one model version. Runs of a model that is native
and measured to be tiny may also happen on the caller's thread (``run_inline``).
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue

from salver.backends.protocol import SIGNATURE, RunnableModel, Traits
from salver.engine.pace import Pace
from salver.errors import ModelFailed, SalverError
from salver.messages import Signature
from salver.tensor import Array

_LOG = logging.getLogger("salver.engine")
_JOIN_S = 10.0
_Result = tuple[Mapping[str, Array], float]
#: Asks a thread to end, and takes it and its model.
_Leave = asyncio.Future[tuple[threading.Thread, RunnableModel]]
_Job = tuple[Mapping[str, Array], "asyncio.Future[_Result]", threading.Barrier | None]


class ThreadRunner:
    """Runs batches on threads of this process.

    Args:
        models: One model that several threads share (``traits.concurrent``), or one a slot.
        slots: Batches at the same time.
        threads: Threads inside one run.
        name: For thread names and error texts.
        more: Loads one more model, for one more slot; blocking. None = the slots share one.
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

    def __repr__(self) -> str:
        return f"<ThreadRunner {self._name}, {self.slots} slots>"

    async def run(self, inputs: Mapping[str, Array]) -> _Result:
        """See :class:`~salver.engine.ports.Runner`."""
        if not self._threads:
            self._start()
        future: asyncio.Future[_Result] = asyncio.get_running_loop().create_future()
        self._jobs.put((inputs, future, None))
        return await future

    async def run_each(self, inputs: Mapping[str, Array]) -> Sequence[Mapping[str, Array]]:
        """See :class:`~salver.engine.ports.Runner`: on each thread, since frameworks prepare those, too."""
        if not self._threads:
            self._start()
        loop = asyncio.get_running_loop()
        together = threading.Barrier(self.slots)  # so that no thread takes the job of another
        futures: list[asyncio.Future[_Result]] = [loop.create_future() for _ in range(self.slots)]
        for future in futures:
            self._jobs.put((inputs, future, together))
        return [outputs for outputs, _ in await asyncio.gather(*futures)]

    def run_inline(self, inputs: Mapping[str, Array]) -> _Result | None:
        """See :class:`~salver.engine.ports.Runner`."""
        if not self._may_inline:
            return None
        rows = self._rows(inputs)
        if not self._pace.is_tiny(rows):
            return None
        return self._call(self._models[0], inputs, rows)

    async def resize(self, slots: int) -> None:
        """See :class:`~salver.engine.ports.Resizable`."""
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
                gone.append(model)
        elif self._more is not None:
            gone = self._models[slots:]
        for model in gone if self._more is not None else ():
            self._models.remove(model)
            await asyncio.to_thread(model.close)

    async def close(self) -> None:
        """Waits a while for the runs under way, then closes the models.

        A thread cannot be ended from outside: a model that hangs keeps its thread and its memory
        until the process ends, and the log says so.
        """
        for _ in self._threads:
            self._jobs.put(None)
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        until = time.monotonic() + _JOIN_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            _LOG.error("a run of model %s hangs; its memory is not given back", self._name)
            return
        models, self._models = self._models, []
        for model in models:
            model.close()

    def _start(self) -> None:
        for slot in range(self.slots):
            self._start_thread(slot)

    def _start_thread(self, slot: int) -> None:
        model = self._models[slot % len(self._models)]
        thread = threading.Thread(
            target=self._work, args=(model,), name=f"salver-{self._name}-{slot}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def _work(self, model: RunnableModel) -> None:
        while (job := self._jobs.get()) is not None:
            if not isinstance(job, tuple):
                job.get_loop().call_soon_threadsafe(job.set_result, (threading.current_thread(), model))
                return
            inputs, future, together = job
            loop = future.get_loop()
            try:
                if together is not None:
                    together.wait(_JOIN_S)
                result = self._call(model, inputs, self._rows(inputs))
            except BaseException as error:
                loop.call_soon_threadsafe(_fail, future, error)
            else:
                loop.call_soon_threadsafe(_settle, future, result)
                del result  # or the last outputs would live until the next job
            del job, inputs, future

    def _rows(self, inputs: Mapping[str, Array]) -> int:
        first = inputs.get(self._first_input) if self.signature.batched else None
        return 1 if first is None or not first.ndim else first.shape[0]

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
        # CPU time, so that waiting for a core or the interpreter does not count; helper threads' share
        # is bounded by the caller's own, which takes part.
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


def _settle(future: "asyncio.Future[_Result]", result: _Result) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: "asyncio.Future[_Result]", error: BaseException) -> None:
    if not future.done():
        future.set_exception(error if isinstance(error, Exception) else ModelFailed(repr(error)))
