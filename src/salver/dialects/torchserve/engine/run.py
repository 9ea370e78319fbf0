"""Runs of a handler on one worker.

A :class:`HandlerRun` is a batch, or the steps of a continuous one. A :class:`HandlerFlow` holds the open
requests of an asynchronous handler. Their owner decides what is run and when.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec

from salver.backends.protocol import Answer
from salver.dialects.torchserve.engine.calls import HandlerCall
from salver.dialects.torchserve.engine.form_host import FormHost
from salver.dialects.torchserve.engine.job_queue import Batch
from salver.dialects.torchserve.engine.worker_pool import Worker
from salver.kernel.engine.pieces import ResponseStream
from salver.words.errors import HandlerFailed, HostDied, HostGone, SalverError
from salver.words.messages import InferRequest, Timing

#: Takes a run or step that is over, its answers or its error, and the handler's own seconds.
Ended = Callable[["HandlerRun", Sequence[Answer] | SalverError, float], None]


class HandlerRun:
    """A batch on its worker.

    Args:
        has_steps: Whether requests may continue in further steps, identified by their ids.
        ended: Called once for the batch, or for each step of it.

    Attributes:
        calls: Calls of the batch, or of this step.
        is_first: Whether no step has run yet.
    """

    __slots__ = (
        "_began", "_ended", "_has_steps", "_idle_since", "_ids", "_is_lone", "calls", "is_first", "reason",
        "worker",
    )  # fmt: skip

    def __init__(self, worker: Worker, batch: Batch[InferRequest], has_steps: bool, ended: Ended) -> None:
        self.worker = worker
        self.calls: list[HandlerCall] = batch.jobs  # type: ignore[assignment]  # jobs here are calls
        self.is_first = True
        self.reason = batch.reason
        self._has_steps = has_steps
        self._ended = ended
        self._ids: dict[HandlerCall, str] = {}
        self._began = self._idle_since = 0.0
        self._is_lone = False

    def __repr__(self) -> str:
        return f"<HandlerRun of {len(self.calls)} on {self.worker!r}>"

    @property
    def is_dead(self) -> bool:
        """Return whether the worker's process is gone."""
        host = self.worker.host
        return host is None or host.dead.done()

    def begin(self, now: float, idle_since: float, is_lone: bool) -> None:
        """Send the batch to the worker; ``ended`` may be called at once."""
        self._is_lone = is_lone
        self._began, self._idle_since = now, idle_since
        if self._has_steps:
            self._ids = _assign_ids(self.calls, ())
            self._ask([_with_id(call.what, self._ids[call]) for call in self.calls])
        else:
            self._ask([call.what for call in self.calls])

    def go_on(self, staying: Sequence[HandlerCall], new: Sequence[HandlerCall], now: float) -> None:
        """Begin another step; of staying calls only the ids are sent."""
        self._is_lone = self.is_first = False
        ids = {call: self._ids[call] for call in staying}
        ids |= _assign_ids(new, ids.values())
        self.calls, self._ids = [*staying, *new], ids
        self._began = self._idle_since = now
        # The worker remembers the forms of staying calls by their ids.
        again = [InferRequest(call.what.model, (), call.what.version, ids[call]) for call in staying]
        self._ask([*again, *(_with_id(call.what, ids[call]) for call in new)])

    def _ask(self, requests: Sequence[InferRequest]) -> None:
        host = self.worker.host
        try:
            if host is None:
                raise HostGone("its worker is gone")
            host.handle(requests, self._piece, self._done, self._is_lone)
        except SalverError as error:
            self._done(error, 0.0)

    def _done(self, result: Sequence[Answer] | SalverError, seconds: float) -> None:
        if not isinstance(result, SalverError) and len(result) != len(self.calls):
            result = HandlerFailed("number of batch response mismatched", 503)
        self._ended(self, result, seconds)

    def _piece(self, index: int, answer: Answer) -> None:
        if 0 <= index < len(self.calls):  # the index comes from the handler's process
            call = self.calls[index]
            call.put(answer, self.timing(call, 0.0, 0.0), is_last=False)

    def timing(self, call: HandlerCall, seconds: float, ended: float) -> Timing:
        """Return the timing of one of the calls."""
        arrived, began = call.arrived, self._began
        # Comparisons instead of max() and min(): this runs for every request.
        waited = formation = began - arrived
        if self._idle_since > arrived:
            formation = began - self._idle_since  # since then the batch was being filled
        if waited < 0.0:
            waited = 0.0
        if formation < 0.0:
            formation = 0.0
        rows = len(self.calls)
        return Timing(waited - formation, formation, seconds, rows, call.ahead, self.reason, arrived, ended)


#: Takes a request that is over, its seconds, and whether it succeeded.
Over = Callable[["HandlerFlow", HandlerCall, float, bool], None]


class HandlerFlow:
    """Open requests of one worker (``asyncCommunication``).

    Requests begin one after the other, and are answered independently.

    Args:
        patience_s: Seconds without a message about a request after which the worker is killed; 0 = no limit.
        free: Called when the worker can begin another request.
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
        self._beginning: HandlerCall | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<HandlerFlow of {self.open} on {self.worker!r}>"

    def begin(self, call: HandlerCall, now: float) -> None:
        """Begin a request, for which the worker must be free."""
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
                await self._send(host, call, pieces)
                await self._read(call, pieces, waited)
            finally:
                pieces.close()
        except SalverError as error:
            call.fail(caller_error(error))
        finally:
            call.fail(HandlerFailed("Prediction failed", 503))  # without effect if it has been answered
            if self._beginning is call:
                self._beginning = None
            self.open -= 1
            self._over(self, call, time.perf_counter() - began, call.error is None)
            self._notify_if_free()

    async def _send(self, host: FormHost, call: HandlerCall, pieces: ResponseStream) -> None:
        timer = None
        if self._patience_s:
            timer = asyncio.get_running_loop().call_later(self._patience_s, self._kill)
        try:
            await host.stream([call.what], [pieces])
        finally:
            if timer is not None:
                timer.cancel()
            self._beginning = None
        self._notify_if_free()

    def _notify_if_free(self) -> None:
        host = self.worker.host
        if self._beginning is None and self.open < self._most and host is not None and not host.dead.done():
            self._free(self)

    async def _read(self, call: HandlerCall, pieces: ResponseStream, waited: Timing) -> None:
        while (piece := await self._next(pieces)) is not None:
            answer, is_last = piece
            if isinstance(answer, SalverError):
                raise answer
            call.put(answer, waited, is_last=is_last)

    async def _next(self, pieces: ResponseStream) -> tuple[Answer | SalverError, bool] | None:
        try:
            async with asyncio.timeout(self._patience_s or None):
                return await pieces.next()
        except TimeoutError:
            self._kill()
            return await pieces.next()  # ends when the host does

    def _kill(self) -> None:
        if self.worker.host is not None:
            self.worker.host.kill(f"no message about a request for {self._patience_s:g} s")


def worker_died() -> HandlerFailed:
    """Return the error for callers whose worker died during their request, in TorchServe's words."""
    return HandlerFailed("Worker died.", 500)


def caller_error(error: SalverError) -> SalverError:
    """Return a new error, for one of the callers of a failed run."""
    if isinstance(error, HostDied):
        return worker_died()
    if isinstance(error, HandlerFailed):
        return HandlerFailed(error.message, error.status)
    return type(error)(error.message, field=error.field, fix=error.fix)


def _assign_ids(calls: Sequence[HandlerCall], taken: Iterable[str]) -> dict[HandlerCall, str]:
    """Return an id for each call, its own unless another has it."""
    used = set(taken)
    ids: dict[HandlerCall, str] = {}
    for call in calls:
        id = call.what.id
        if not id or id in used:
            numbered = (f"{call.what.id or 'request'}-{n}" for n in itertools.count(1))
            id = next(name for name in numbered if name not in used)
        used.add(id)
        ids[call] = id
    return ids


def _with_id(request: InferRequest, id: str) -> InferRequest:
    if request.id == id:
        return request
    return msgspec.structs.replace(request, id=id)
