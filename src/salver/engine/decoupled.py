"""Who asks a model that answers with any number of responses, and who gets them?

:class:`DecoupledEngine` hands each request to an idle instance, the oldest first, and passes its responses on
when the model sends them (Triton's decoupled models, TR-S8). The instance is idle again when the model wants
more requests, as one does that answers on threads of its own. A response is asked for when the one before it
has been taken: a slow reader holds up those who send to it, and fills no memory.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Mapping
from contextlib import aclosing
from typing import TypeVar

from salver.artifacts import ModelConfig
from salver.backends.protocol import Answer
from salver.engine.admission import Admission, Bound
from salver.engine.pieces import Pieces
from salver.engine.ports import StreamRunner
from salver.engine.refusals import LATE, closing, due, full, so_many, unloaded
from salver.errors import (
    DeadlineExceeded,
    HostDied,
    InvalidInput,
    OnlyStreams,
    SalverError,
)
from salver.events import BatchRan
from salver.messages import (
    ANYBODY,
    InferRequest,
    InferResponse,
    Insight,
    ModelId,
    Signature,
    Standing,
    Timing,
)
from salver.tensor import Array, Tensor

_T = TypeVar("_T")
#: Requests of one instance that may have responses yet to come; a thread of the model's may wait for each.
_MOST_RUNNING = 1024


class DecoupledEngine:
    """Queue and runner of one model version that answers in pieces.

    Args:
        id: Whose.
        runner: Asks the model; the engine closes it.
        config: Limits and the default deadline. Standing has no effect: the oldest goes first.
        clock: Monotonic seconds.
        emit: Told of every run.
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
        self.queued = 0  # requests that wait
        self.running = 0  # requests that are being answered
        self._runner = runner
        self._config = config
        self._clock = clock
        self._emit = emit
        self._admission = Admission(id.name, self.signature)
        self._types = {spec.name: spec.datatype for spec in self.signature.outputs}
        self._max_rows = config.batching.max_rows if self.signature.batched else 0
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<DecoupledEngine {self.id}, {self.queued} queued, {self.running} running>"

    def insight(self) -> Insight:
        """For operators; there is no batch law and no rule to tell of."""
        return Insight(limit=self._config.batching.max_queue)

    async def infer(
        self,
        request: InferRequest,
        deadline: float | None = None,
        sender: Hashable = None,
        standing: Standing = ANYBODY,
    ) -> InferResponse:
        """One answer to one request is not what such a model gives.

        Raises:
            OnlyStreams: always; its text names the road that there is.
        """
        raise OnlyStreams.of(self.id.name)

    async def stream(
        self, request: InferRequest, deadline: float | None = None, standing: Standing = ANYBODY
    ) -> AsyncGenerator[InferResponse, None]:
        """The responses as the model sends them; one may be an error, and others follow.

        Closing the iterator early tells the model that nobody listens any more.

        Args:
            deadline: On the engine's clock; the request is given up then.

        Raises:
            InvalidInput: the request does not fit.
            Overloaded: the queue is full.
            DeadlineExceeded: the deadline passed before the last response.
            ModelFailed: the model raised, or its host died.
        """
        bound = self._admitted(request)
        arrived = self._clock()
        deadline = due(deadline, arrived, self._config.timeout_ms)
        pieces = await self._begun(self._admission.asked(bound, self.id, deadline), deadline)
        began, ok = self._clock(), False
        self.running += 1
        try:
            while (piece := await within(deadline, self._clock, pieces.next())) is not None:
                said, is_last = piece
                waited = Timing(began - arrived, 0.0, self._clock() - began, bound.rows, 0, "drain")
                yield self._response(request, said, is_last, waited)
            if self._is_closed:  # the model was told to stop, and may have had more to say
                raise unloaded(self.id)
            ok = True
        except HostDied as error:
            raise unloaded(self.id) if self._is_closed else error from None
        finally:
            pieces.close()
            self.running -= 1
            seconds = self._clock() - began
            id = self.id
            self._emit(BatchRan(id.name, id.version, bound.rows, 1, seconds, 0.0, 0.0, "drain", ok))

    async def _begun(self, asked: InferRequest, deadline: float | None) -> Pieces:
        """The responses, once an instance has the request."""
        self.queued += 1
        try:
            (pieces,) = await within(deadline, self._clock, self._runner.stream([asked], _nothing))
        finally:
            self.queued -= 1
        return pieces

    async def run_alone(self, inputs: Mapping[str, Array]) -> None:
        """One request to each instance, for warm-up before there is traffic; the responses are dropped."""
        types = {spec.name: spec.datatype for spec in self.signature.inputs}
        tensors = tuple(Tensor(name, types[name], array) for name, array in inputs.items())
        request = InferRequest(self.id.name, tensors)
        await asyncio.gather(*(self._drop_answer(request) for _ in range(self._runner.slots)))

    async def _drop_answer(self, request: InferRequest) -> None:
        async with aclosing(self.stream(request)) as pieces:
            async for piece in pieces:
                if piece.error is not None:
                    raise piece.error

    async def close(self) -> None:
        """Refuse what comes, and let the runner go, which waits a while for what is under way."""
        self._is_closed = True
        await self._runner.close()

    def _admitted(self, request: InferRequest) -> Bound:
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
    """The work's result, if it is there by the deadline.

    Raises:
        DeadlineExceeded: it is not.
    """
    try:
        async with asyncio.timeout(None if deadline is None else deadline - clock()):
            return await work
    except TimeoutError:
        raise DeadlineExceeded(LATE) from None


def _nothing() -> None:
    """The runner itself knows who is idle."""
