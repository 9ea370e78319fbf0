"""Engine of models that return any number of responses per request (Triton's decoupled models, TR-S8).

:class:`DecoupledEngine` gives waiting requests to an idle instance, oldest first and as many as a batch may
hold, and passes on responses when the model sends them. The instance is idle again when the model accepts
more requests, which a model that answers on its own threads does early. A response is requested when the
previous one has been consumed: a slow reader delays its sender and fills no memory.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Mapping
from contextlib import aclosing
from typing import TypeVar

from salver.backends.protocol import Answer
from salver.kernel.engine.admission import Admission, BoundRequest
from salver.kernel.engine.pieces import ResponseStream
from salver.kernel.engine.ports import StreamRunner
from salver.kernel.engine.refusals import LATE, closing, due, full, so_many, unloaded
from salver.words.artifacts import ModelConfig
from salver.words.errors import (
    DeadlineExceeded,
    HostDied,
    InvalidInput,
    OnlyStreams,
    SalverError,
)
from salver.words.events import BatchRan
from salver.words.messages import (
    ANYBODY,
    InferRequest,
    InferResponse,
    Insight,
    ModelId,
    Signature,
    Standing,
    Timing,
)
from salver.words.tensor import Array, Tensor

_T = TypeVar("_T")
#: Maximum unfinished requests of one instance; each may occupy a thread of the model.
_MOST_RUNNING = 1024


class _Run:
    """Requests given to an instance together, until the last of them has ended."""

    __slots__ = ("began", "left", "ok", "requests", "rows")

    def __init__(self, began: float, rows: int, requests: int) -> None:
        self.began = began
        self.rows = rows
        self.requests = self.left = requests
        self.ok = False


class _WaitingRequest:
    """A request waiting for an instance.

    Args:
        is_alone: It must not share its run.
    """

    __slots__ = ("asked", "deadline", "future", "is_alone", "rows")

    def __init__(self, asked: InferRequest, rows: int, deadline: float | None, is_alone: bool) -> None:
        self.asked = asked
        self.rows = rows
        self.deadline = deadline
        self.is_alone = is_alone
        self.future: asyncio.Future[tuple[ResponseStream, _Run]] = asyncio.get_running_loop().create_future()


class DecoupledEngine:
    """Queue and runner of a model version that answers in pieces.

    Args:
        id: The model version.
        runner: Runs the model; closed by the engine.
        config: Limits and the default deadline. Standing has no effect: requests run in order of arrival.
        clock: Monotonic seconds.
        emit: Called after every run.
    """

    def __init__(
        self,
        id: ModelId,
        runner: StreamRunner,
        config: ModelConfig,
        *,
        clock: Callable[[], float],
        emit: Callable[[BatchRan], None],
    ) -> None:
        self.id = id
        self.signature: Signature = runner.signature
        self.running = 0  # requests being answered
        self._runner = runner
        self._config = config
        self._clock = clock
        self._emit = emit
        self._admission = Admission(id.name, self.signature)
        self._types = {spec.name: spec.datatype for spec in self.signature.outputs}
        self._max_rows = config.batching.max_rows if self.signature.batched else 0
        self._waiting: deque[_WaitingRequest] = deque()
        self._idle = runner.slots  # instances that accept requests
        self._is_due = False  # the pump is scheduled for this turn of the loop
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<DecoupledEngine {self.id}, {self.queued} queued, {self.running} running>"

    @property
    def queued(self) -> int:
        """Return the number of waiting requests."""
        return len(self._waiting)

    def insight(self) -> Insight:
        """Return figures for operators; there is no batch law and no rule."""
        return Insight(limit=self._config.batching.max_queue)

    async def infer(
        self,
        request: InferRequest,
        deadline: float | None = None,
        sender: Hashable = None,
        standing: Standing = ANYBODY,
    ) -> InferResponse:
        """Reject a request for a single answer, which such a model does not give.

        Raises:
            OnlyStreams: always; its text names the available operations.
        """
        raise OnlyStreams.of(self.id.name)

    async def stream(
        self, request: InferRequest, deadline: float | None = None, standing: Standing = ANYBODY
    ) -> AsyncGenerator[InferResponse, None]:
        """Yield the responses as the model sends them; one may be an error, and others may follow.

        Closing the iterator early tells the model that the request was cancelled.

        Args:
            deadline: On the engine's clock; the request is cancelled then.

        Raises:
            InvalidInput: the request does not fit.
            Overloaded: the queue is full.
            DeadlineExceeded: the deadline passed before the last response.
            ModelFailed: the model raised, or its host died.
        """
        async with aclosing(self._stream(request, deadline, is_alone=False)) as responses:
            async for response in responses:
                yield response

    async def _stream(
        self, request: InferRequest, deadline: float | None, *, is_alone: bool
    ) -> AsyncGenerator[InferResponse, None]:
        bound = self._admitted(request)
        arrived = self._clock()
        deadline = due(deadline, arrived, self._config.timeout_ms)
        asked = self._admission.asked(bound, self.id, deadline)
        pieces, run = await self._begun(_WaitingRequest(asked, bound.rows, deadline, is_alone))
        began, ok = self._clock(), False
        self.running += 1
        try:
            while (piece := await within(deadline, self._clock, pieces.next())) is not None:
                said, is_last = piece
                waited = Timing(began - arrived, 0.0, self._clock() - began, run.rows, 0, "drain")
                yield self._response(request, said, is_last, waited)
            if self._is_closed:  # the model was told to stop, but may have had more to send
                raise unloaded(self.id)
            ok = True
        except HostDied as error:
            raise unloaded(self.id) if self._is_closed else error from None
        finally:
            pieces.close()
            self.running -= 1
            self._leave(run, ok)

    async def _begun(self, waiting: "_WaitingRequest") -> tuple[ResponseStream, "_Run"]:
        """Return the stream of responses once an instance has accepted the request."""
        self._waiting.append(waiting)
        self._pump_soon()
        future = waiting.future
        try:
            return await within(waiting.deadline, self._clock, future)
        except BaseException:
            if future.done() and not future.cancelled() and future.exception() is None:  # at the same moment
                pieces, run = future.result()
                pieces.close()
                self._leave(run, ok=False)
            elif waiting in self._waiting:
                self._waiting.remove(waiting)
            raise

    def _leave(self, run: "_Run", ok: bool) -> None:
        """Note the end of a request; report the run after its last one."""
        run.left -= 1
        run.ok |= ok
        if not run.left:
            id, seconds = self.id, self._clock() - run.began
            ran = BatchRan(id.name, id.version, run.rows, run.requests, seconds, 0.0, 0.0, "drain", run.ok)
            self._emit(ran)

    def _pump_soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """Give waiting requests to idle instances, to each as many as it may have at a time."""
        self._is_due = False
        while self._idle and (company := self._taken()):
            self._idle -= 1
            task = asyncio.get_running_loop().create_task(self._run(company))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _taken(self) -> list["_WaitingRequest"]:
        company: list[_WaitingRequest] = []
        rows = 0
        most = self._max_rows if self._config.batching.enabled else 0
        while self._waiting:
            waiting = self._waiting[0]
            if not waiting.future.done():
                rows += waiting.rows
                if company and (waiting.is_alone or rows > most):
                    break
                company.append(waiting)
            self._waiting.popleft()
            if company and company[0].is_alone:
                break
        return company

    async def _run(self, company: list["_WaitingRequest"]) -> None:
        try:
            found = await self._runner.stream([waiting.asked for waiting in company], self._freed)
        except SalverError as error:
            self._freed()
            for waiting in company:
                if not waiting.future.done():
                    waiting.future.set_exception(type(error)(error.message, field=error.field, fix=error.fix))
            return
        run = _Run(self._clock(), sum(waiting.rows for waiting in company), len(company))
        for waiting, pieces in zip(company, found, strict=True):
            if waiting.future.done():  # its caller has gone away meanwhile
                pieces.close()
                self._leave(run, ok=False)
            else:
                waiting.future.set_result((pieces, run))

    def _freed(self) -> None:
        """Note that an instance accepts more requests."""
        self._idle += 1
        self._pump_soon()

    async def run_alone(self, inputs: Mapping[str, Array]) -> None:
        """Send one request to each instance, for warm-up before there is traffic; responses are discarded."""
        types = {spec.name: spec.datatype for spec in self.signature.inputs}
        tensors = tuple(Tensor(name, types[name], array) for name, array in inputs.items())
        request = InferRequest(self.id.name, tensors)
        await asyncio.gather(*(self._drop_answer(request) for _ in range(self._runner.slots)))

    async def _drop_answer(self, request: InferRequest) -> None:
        async with aclosing(self._stream(request, None, is_alone=True)) as pieces:
            async for piece in pieces:
                if piece.error is not None:
                    raise piece.error

    async def close(self) -> None:
        """Reject new requests and close the runner, which waits a while for active ones."""
        self._is_closed = True
        for waiting in self._waiting:
            if not waiting.future.done():
                waiting.future.set_exception(unloaded(self.id))
        self._waiting.clear()
        await self._runner.close()

    def _admitted(self, request: InferRequest) -> BoundRequest:
        bound = self._admission.bind(request)
        if self._is_closed:
            raise closing(self.id)
        if self._max_rows and bound.rows > self._max_rows:
            raise InvalidInput(
                f"inference request batch-size must be <= {self._max_rows} for '{self.id.name}'",
                field="inputs[0].shape",
            )
        if self.running >= _MOST_RUNNING * self._runner.slots:
            raise full(f"{self.running} requests are being answered.")
        if self.queued >= self._config.batching.max_queue:
            self._pump()
        if self.queued >= self._config.batching.max_queue:
            raise full(so_many(self.queued))
        return bound

    def _response(
        self, request: InferRequest, said: Answer | SalverError, is_last: bool, timing: Timing
    ) -> InferResponse:
        version = self.id.version
        if isinstance(said, SalverError):
            return InferResponse(
                request.model, version, (), request.id, timing=timing, is_last=is_last, error=said
            )
        types = self._types
        outputs = tuple(Tensor(name, types[name], array) for name, array in said.outputs.items())
        return InferResponse(request.model, version, outputs, request.id, said.parameters, timing, is_last)


async def within(deadline: float | None, clock: Callable[[], float], work: Awaitable[_T]) -> _T:
    """Return the result of an awaitable if it arrives by the deadline.

    Raises:
        DeadlineExceeded: it does not.
    """
    try:
        async with asyncio.timeout(None if deadline is None else deadline - clock()):
            return await work
    except TimeoutError:
        raise DeadlineExceeded(LATE) from None
