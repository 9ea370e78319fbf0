"""How does one worker run a handler that answers when it likes, several requests at a time?

Requests are begun one after the other, and each is answered beside the others (``asyncCommunication``). A
worker may have as many open as a batch may hold. It knows no queue.
"""

import asyncio
import time
from collections.abc import Callable

from salver.backends.protocol import Answer
from salver.dialects.torchserve.engine.calls import HandlerCall
from salver.dialects.torchserve.engine.form_host import FormHost
from salver.dialects.torchserve.engine.run import told
from salver.dialects.torchserve.engine.worker_pool import Worker
from salver.kernel.engine.pieces import ResponseStream
from salver.words.errors import HandlerFailed, HostDied, SalverError
from salver.words.messages import Timing

#: Takes a request that is over: its seconds, whether it went well.
Over = Callable[["HandlerFlow", HandlerCall, float, bool], None]


class HandlerFlow:
    """The requests that a worker has open.

    Args:
        patience_s: A request of which nothing is heard so long hangs: its worker is killed; 0 = none does.
        free: Called when the worker can begin another one.
    """

    def __init__(
        self, worker: Worker, most: int, patience_s: float, free: Callable[["HandlerFlow"], None], over: Over
    ) -> None:
        self.worker = worker
        self.open = 0
        self._most = most
        self._patience_s = patience_s
        self._free = free
        self._over = over
        self._beginning: HandlerCall | None = None  # one at a time
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<HandlerFlow of {self.open} on {self.worker!r}>"

    def begin(self, call: HandlerCall, now: float) -> None:
        """One more, for which the worker is free."""
        self.open += 1
        self._beginning = call
        waited = Timing(now - call.arrived, 0.0, 0.0, 1, call.ahead, "drain", call.arrived)
        task = asyncio.get_running_loop().create_task(self._run(call, waited))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, call: HandlerCall, waited: Timing) -> None:
        began = time.perf_counter()
        try:
            host = self.worker.host
            if host is None:
                raise HostDied("its worker is gone")
            (pieces,) = host.open(1)
            call.on_end = pieces.close
            try:
                await self._hand_over(host, call, pieces)
                await self._read(call, pieces, waited)
            finally:
                pieces.close()
        except SalverError as error:
            call.fail(told(error))
        finally:
            call.fail(HandlerFailed("Prediction failed", 503))  # where it has ended without an answer
            if self._beginning is call:
                self._beginning = None
            self.open -= 1
            self._over(self, call, time.perf_counter() - began, call.error is None)
            self._tell_if_free()

    async def _hand_over(self, host: FormHost, call: HandlerCall, pieces: ResponseStream) -> None:
        timer = None
        if self._patience_s:
            timer = asyncio.get_running_loop().call_later(self._patience_s, self._give_up)
        try:
            await host.stream([call.what], [pieces])
        finally:
            if timer is not None:
                timer.cancel()
            self._beginning = None
        self._tell_if_free()

    def _tell_if_free(self) -> None:
        host = self.worker.host
        if self._beginning is None and self.open < self._most and host is not None and not host.dead.done():
            self._free(self)

    async def _read(self, call: HandlerCall, pieces: ResponseStream, waited: Timing) -> None:
        while (piece := await self._next(pieces)) is not None:
            said, is_last = piece
            if isinstance(said, SalverError):
                raise said
            call.put(said, waited, is_last=is_last)

    async def _next(self, pieces: ResponseStream) -> tuple[Answer | SalverError, bool] | None:
        try:
            async with asyncio.timeout(self._patience_s or None):
                return await pieces.next()
        except TimeoutError:
            self._give_up()
            return await pieces.next()  # which its end ends

    def _give_up(self) -> None:
        if self.worker.host is not None:
            self.worker.host.kill(f"nothing was heard of a request for {self._patience_s:g} s")
