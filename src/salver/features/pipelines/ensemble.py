"""Execution of ensembles.

The asyncio shell around :mod:`salver.features.pipelines.graph`: it calls a model as soon as its tensors are
available, several concurrently, and passes arrays on unchanged. A failure ends the other steps; no step runs
past the deadline. The models are those that were ready when the ensemble was loaded, until it is unloaded.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from salver.backends.reshaped import in_shape
from salver.features.pipelines.graph import Flow, Graph, Marks, Rescue, Step, Value
from salver.features.pipelines.one_by_one import HITS, LOOKUPS
from salver.kernel.engine.admission import Admission, BoundRequest
from salver.kernel.engine.refusals import LATE, closing, due, full
from salver.kernel.serving.capabilities import Capabilities
from salver.kernel.serving.inner import HeldInner
from salver.words.artifacts import ModelConfig
from salver.words.errors import Cancelled, DeadlineExceeded, ModelFailed, OnlyStreams, SalverError
from salver.words.events import BatchRan
from salver.words.messages import (
    ANYBODY,
    Call,
    InferRequest,
    InferResponse,
    Insight,
    ModelId,
    Signature,
    Standing,
    StepTime,
    Timing,
)
from salver.words.tensor import Tensor

if TYPE_CHECKING:
    from salver.features.pipelines.shares import Shares
    from salver.features.pipelines.watching import Watch

_NO_MARKS: Final = Marks()
_ALL: Final = ()  # nothing is missing
#: Maximum unread responses of a decoupled step, per request, unless configured.
_MOST_ON_THEIR_WAY: Final = 32


class Ensemble:
    """One version of an ensemble with one response per request.

    Args:
        inner: Leases on the models; released by the ensemble.
        config: Default deadline, and limits on concurrent requests of a step and in total.
        clock: Monotonic seconds.
        emit: Called for every request as for one run, with the sums of its steps' times, as Triton counts.

    Attributes:
        tells_sequence: Responses have the sequence's parameters, as Triton's do.
    """

    tells_sequence = True
    #: By when steps must have ended; None = by the deadline.
    shares: "Shares | None" = None
    #: Is told of every request; None = nobody is.
    watch: "Watch | None" = None

    def __init__(
        self,
        id: ModelId,
        graph: Graph,
        inner: HeldInner,
        config: ModelConfig,
        clock: Callable[[], float],
        emit: Callable[[BatchRan], None],
    ) -> None:
        self.id = id
        self.graph = graph
        self.signature: Signature = graph.signature
        self.inner = inner
        self.clock = clock
        self.running = 0
        self.queued = 0
        self._emit = emit
        self._timeout_ms = config.timeout_ms
        self._admission = Admission(id.name, graph.signature)
        self._seen = {spec.name: spec.shape for spec in graph.signature.inputs}
        self._is_closed = False
        most = config.ensemble.max_inflight_requests
        self.turns = [asyncio.Semaphore(most) for _ in graph.steps] if most else []
        self.most_on_their_way = most or _MOST_ON_THEIR_WAY
        self._most_running = config.batching.max_queue

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}, {len(self.graph.steps)} steps, {self.running} running>"

    @property
    def capabilities(self) -> Capabilities:
        """Return the engine's capabilities: its models answer on its behalf."""
        return Capabilities(asks_others=True)

    def insight(self) -> Insight:
        """Return figures for operators; an ensemble has none of its own."""
        return Insight()

    async def infer(
        self,
        request: InferRequest,
        deadline: float | None = None,
        sender: Hashable = None,
        standing: Standing = ANYBODY,
    ) -> InferResponse:
        """Answer one request.

        Raises:
            InvalidInput: it does not match the signature.
            SalverError: raised by a model, prefixed by the ensemble's name.
        """
        run = self._begin(request, deadline, sender, standing)
        ok = False
        try:
            flow = await run.go()
            response = run.response(flow)
            ok = True
            if self.watch is not None:
                self.watch.answered(run.times, flow)
            return response
        except SalverError as error:
            raise self._named(error) from None
        finally:
            self._end(run, ok)

    async def close(self) -> None:
        """Reject new requests and release the models."""
        self._is_closed = True
        self.inner.release()

    def _begin(
        self, request: InferRequest, deadline: float | None, sender: Hashable, standing: Standing
    ) -> "_Run":
        bound = self._admission.bind(request)
        if self._is_closed:
            raise closing(self.id)
        if self.turns and self.running >= self._most_running:
            raise full(f"{self.running} requests are under way.")
        now = self.clock()
        deadline = due(deadline, now, self._timeout_ms)
        run = _Run(self, request, bound, Call("ensemble", now, deadline, standing=standing), sender)
        self.running += 1
        return run

    def _end(self, run: "_Run", ok: bool) -> None:
        self.running -= 1
        id = self.id
        merge, infer, split = run.seconds
        self._emit(BatchRan(id.name, id.version, run.bound.rows, 1, infer, merge, split, "steps", ok))

    def _named(self, error: SalverError) -> SalverError:
        """Add the ensemble's name to an error, as Triton does."""
        error.message = f"in ensemble '{self.id.name}', {error.message}"
        return error

    def values(self, bound: BoundRequest, marks: Marks) -> dict[str, Value | None]:
        """Return the inputs of a request as values of the graph."""
        rows = 0
        if self.signature.batched:
            rows = bound.rows
        own = self.graph.reshape.inputs
        values: dict[str, Value | None] = {}
        for name, array, spec in zip(self._seen, bound.arrays, self.signature.inputs, strict=True):
            if array is not None and name in own:
                array = in_shape(array, self._seen[name], own[name])
            values[name] = None if array is None else Value(Tensor(name, spec.datatype, array), rows, marks)
        return values


class DecoupledEnsemble(Ensemble):
    """Ensemble with any number of responses, because one of its models is decoupled."""

    @property
    def capabilities(self) -> Capabilities:
        """Return the engine's capabilities: it streams, and its models answer on its behalf."""
        return Capabilities(stream=self.stream, gives_parts=self.graph.gives_parts, asks_others=True)

    async def infer(
        self,
        request: InferRequest,
        deadline: float | None = None,
        sender: Hashable = None,
        standing: Standing = ANYBODY,
    ) -> InferResponse:
        """Reject a request for a single answer.

        Raises:
            OnlyStreams: always; its text names the available operations.
        """
        raise OnlyStreams.of(self.id.name)

    async def stream(
        self, request: InferRequest, deadline: float | None = None, standing: Standing = ANYBODY
    ) -> AsyncGenerator[InferResponse, None]:
        """Yield the responses in the order of the decoupled models' responses that they stem from.

        Closing the iterator early cancels the request in all models.

        Raises:
            SalverError: as ``infer`` of other ensembles.
        """
        run = self._begin(request, deadline, None, standing)
        ok = False
        ready: asyncio.Queue[InferResponse | None] = asyncio.Queue()
        room = asyncio.Semaphore(1)  # a slow reader delays the models and fills no memory

        async def write(response: InferResponse) -> None:
            await room.acquire()
            ready.put_nowait(response)

        async def go() -> None:
            try:
                await run.go(write)
            finally:
                ready.put_nowait(None)

        task = asyncio.get_running_loop().create_task(go(), name=f"ensemble {self.id}")
        try:
            while (response := await ready.get()) is not None:
                yield response
                room.release()
            await task
            ok = True
        except SalverError as error:
            raise self._named(error) from None
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._end(run, ok)


_Write = Callable[[InferResponse], Coroutine[Any, Any, None]]


class _Run:
    """One active request.

    Args:
        call: Call of the request; that of a step has another arrival and span.

    Attributes:
        seconds: Totals of all steps: stacking inputs, in the models, splitting outputs.
    """

    def __init__(
        self, ensemble: Ensemble, request: InferRequest, bound: BoundRequest, call: Call, sender: Hashable
    ) -> None:
        self._ensemble = ensemble
        self._request = request
        self._call = call
        self._sender = sender
        self.bound = bound
        self.seconds = [0.0, 0.0, 0.0]
        self.times: list[StepTime] = []
        #: Steps that failed and were stood in for, and why.
        self.rescued: dict[str, str] = {}
        self._errors: dict[int, SalverError] = {}
        graph = ensemble.graph
        is_whole = len(bound.outputs) == len(graph.outputs)
        self._only = None if is_whole else graph.needed(bound.outputs)
        self._marks = Marks.of(request.parameters, _NO_MARKS)

    async def go(self, write: _Write | None = None) -> Flow:
        """Run all steps; return the flow with the answer, unless responses are written.

        Args:
            write: Receives each response of a decoupled ensemble.
        """
        flow = Flow(self._ensemble.graph, 0, self._only)
        ready = self._run_quick(flow, flow.put(self._ensemble.values(self.bound, self._marks)))
        try:
            while len(ready) == 1 and not ready[0].is_decoupled:  # most are a chain, which needs no task
                ready = self._run_quick(flow, flow.put(*await self._ask(ready[0], flow)))
            if ready:
                await asyncio.sleep(0)  # a request that was posted goes on as a task, which the group needs
                await self._follow(flow, ready, write, None)
        except BaseExceptionGroup as group:
            raise _first(group) from None
        return flow

    async def _follow(
        self, flow: Flow, ready: list[Step], write: _Write | None, before: "asyncio.Task[None] | None"
    ) -> None:
        """Run all steps of a flow and, if it holds the ensemble's outputs, write the response.

        Args:
            ready: First steps.
            before: Flow whose responses are written first.
        """
        async with asyncio.TaskGroup() as group:

            async def carry_out(step: Step) -> None:
                if step.is_decoupled:
                    await self._stream(step, flow, write, before)
                else:
                    start(self._run_quick(flow, flow.put(*await self._ask(step, flow))))

            def start(steps: list[Step]) -> None:
                for step in steps:
                    group.create_task(carry_out(step))

            start(ready)
        if write is not None and flow.reach == self._ensemble.graph.reach:
            if before is not None:
                await asyncio.wait([before])
            await write(self.response(flow))

    def _run_quick(self, flow: Flow, ready: list[Step]) -> list[Step]:
        """Run the steps that run at once, and those that follow from them; return the others.

        Raises:
            ModelFailed: a step raised something of its own.
        """
        left: list[Step] = []
        if not ready:
            return left
        clock, deadline, times = self._ensemble.clock, self._call.deadline, self.times
        began = clock()
        if deadline is not None and began >= deadline:
            raise DeadlineExceeded(LATE)
        for step in ready:  # the list grows while it is read
            if step.run is None:
                left.append(step)
                continue
            given = {port.name: flow.array(port.tensor) for port in step.inputs}
            try:
                tensors = step.run(given)
            except Exception as error:
                failed = own_error(step, error)
                if step.rescue is None:
                    self._failed(step.name, is_rescued=False)
                    raise failed from error
                self._errors[step.index] = failed
                tensors = None
            if tensors is None:
                left.append(step)
                continue
            # What lies between two steps is the time of the second one, so that they add up.
            ended = clock()
            self.seconds[1] += ended - began
            times.append((step.name, began, ended, 0.0, ended - began, 0, 0))
            began = ended
            ready += flow.put({name: Value(tensor, 1, self._marks) for name, tensor in tensors.items()})
        return left

    async def _ask(self, step: Step, flow: Flow) -> tuple[Mapping[str, Value], Sequence[str]]:
        """Run one step, or what stands in for it; return its tensors and the missing ones."""
        rescue = step.rescue
        try:
            if step.index in self._errors:  # it ran at once, and failed
                raise self._errors[step.index]
            return await self._ask_once(step, flow)
        except SalverError as error:
            deadline = self._call.deadline
            is_late = deadline is not None and self._ensemble.clock() >= deadline
            is_rescued = rescue is not None and not is_late and not isinstance(error, Cancelled)
            self._failed(error.step or step.name, is_rescued=is_rescued)
            if rescue is None or not is_rescued:
                raise
            self.rescued[step.name] = error.code.value
        if rescue.step is not None:
            found, _ = await self._ask(rescue.step, flow)
            return {own: found[other] for own, other in rescue.tensors.items()}, _ALL
        return stood_in(step, rescue, flow), _ALL

    async def _ask_once(self, step: Step, flow: Flow) -> tuple[Mapping[str, Value], Sequence[str]]:
        ensemble = self._ensemble
        turn = await self._turn(step) if ensemble.turns else None
        try:
            request, call, rows, marks = self._asked(step, flow)
            asked = (step.ask or ensemble.inner.infer)(request, call, self._sender)
            if step.rescue is None or call.deadline is None:
                response = await asked
            else:  # what stands in needs the time that is left
                response = await self._in_time(asked, call.deadline)
        finally:
            if turn is not None:
                turn.release()
        timing, ended = response.timing, ensemble.clock()
        began, took = call.arrival, timing.inference
        if ensemble.shares is not None:
            ensemble.shares.seen(step, took or ended - began)
        waited = timing.queue + timing.formation
        if step.parts:
            self.times += _times_of_parts(step, response, began, ended, waited)
        else:
            looked, had = 0, 0
            if step.is_cached:
                looked, had = (int(response.parameters[key]) for key in (LOOKUPS, HITS))
            self.times.append((step.name, began, ended, waited, took or ended - began, looked, had))
        self._count(timing)
        return _taken(step, response, rows, marks)

    async def _in_time(self, asked: Awaitable[InferResponse], end: float) -> InferResponse:
        try:
            async with asyncio.timeout(end - self._ensemble.clock()):
                return await asked
        except TimeoutError:
            raise DeadlineExceeded(LATE) from None

    async def _stream(
        self, step: Step, flow: Flow, write: _Write | None, before: "asyncio.Task[None] | None"
    ) -> None:
        """Run a decoupled step; each response continues separately, and final responses keep their order."""
        ensemble = self._ensemble
        room = asyncio.Semaphore(ensemble.most_on_their_way)
        failed: list[SalverError] = []
        timing = Timing()
        async with asyncio.TaskGroup() as group:

            async def take(piece: InferResponse) -> None:
                nonlocal before, timing
                timing = piece.timing
                if failed:
                    raise Cancelled("a response before this one was an error")
                if piece.error is not None:
                    failed.append(piece.error)
                    return
                await room.acquire()
                # Each response goes on by itself; ``before`` chains them, so that answers keep their order.
                own = Flow(ensemble.graph, step.gives, self._only)
                ready = own.put(*_taken(step, piece, rows, marks))
                before = group.create_task(self._follow(own, ready, write, before))
                before.add_done_callback(lambda _: room.release())

            turn = await self._turn(step) if ensemble.turns else None
            try:
                request, call, rows, marks = self._asked(step, flow)
                await ensemble.inner.stream(request, call, take)
            finally:
                if turn is not None:
                    turn.release()
            self._count(timing)
            if failed:
                raise failed[0]

    async def _turn(self, step: Step) -> asyncio.Semaphore:
        """Wait until the step has capacity; the caller releases it.

        Raises:
            DeadlineExceeded: the deadline passed first.
        """
        ensemble, deadline = self._ensemble, self._call.deadline
        turn = ensemble.turns[step.index]
        try:
            async with asyncio.timeout(None if deadline is None else deadline - ensemble.clock()):
                await turn.acquire()
        except TimeoutError:
            raise DeadlineExceeded(LATE) from None
        return turn

    def _asked(self, step: Step, flow: Flow) -> tuple[InferRequest, Call, int, Marks]:
        """Return the request for a step, its rows, and its sequence.

        Raises:
            DeadlineExceeded: the deadline has passed.
        """
        ensemble, mine, outer = self._ensemble, self._call, self._request
        now, deadline = ensemble.clock(), mine.deadline
        if deadline is not None:
            if now >= deadline:
                raise DeadlineExceeded(LATE)
            if ensemble.shares is not None:
                deadline = ensemble.shares.end(step, now, mine.arrival, deadline)
        tensors, marks = [], self._marks
        for port in step.inputs:
            value = flow.values.get(port.tensor)
            if value is not None:
                tensors.append(Tensor(port.name, value.tensor.datatype, value.at(port)))
                if value.marks is not self._marks:
                    marks = value.marks
        # Control parameters of a sequence come from the step before, where that changed them.
        parameters = outer.parameters
        if marks is not self._marks:
            parameters = {**parameters, **marks.parameters()}
        if deadline is not None and parameters.get("timeout"):  # the remaining time
            parameters = {**parameters, "timeout": max(1, round((deadline - now) * 1e6))}
        request = InferRequest(step.model, tuple(tensors), step.version, outer.id, step.wanted, parameters)
        call = Call("ensemble", now, deadline, outer.request_id, standing=mine.standing, parent=outer.trace)
        rows = 0
        if step.batched and tensors and tensors[0].array.ndim:
            rows = tensors[0].array.shape[0]
        return request, call, rows, marks

    def _failed(self, step: str, *, is_rescued: bool) -> None:
        if self._ensemble.watch is not None:
            self._ensemble.watch.failed(step, is_rescued=is_rescued)

    def _count(self, timing: Timing) -> None:
        infer, split = timing.inference, timing.split
        self.seconds[1] += infer
        self.seconds[2] += split
        if timing.ended:  # what is left of a step's time was spent on stacking its inputs
            began = timing.arrived + timing.queue + timing.formation
            self.seconds[0] += max(0.0, timing.ended - split - infer - began)

    def response(self, flow: Flow) -> InferResponse:
        """Return the response; outputs that no step wrote are missing."""
        ensemble, request = self._ensemble, self._request
        own, seen = ensemble.graph.reshape.outputs, ensemble.signature.outputs
        tensors, marks = [], self._marks
        for port, spec in zip(ensemble.graph.outputs, seen, strict=True):
            value = None
            if port.name in self.bound.outputs:
                value = flow.values.get(port.tensor)
            if value is None:
                continue
            array, marks = value.at(port), value.marks
            if port.name in own:
                array = in_shape(array, own[port.name], spec.shape)
            tensors.append(Tensor(port.name, value.tensor.datatype, array))
        spent = Timing(
            inference=ensemble.clock() - self._call.arrival,
            batch_rows=self.bound.rows,
            reason="steps",
            steps=tuple(self.times),
        )
        version = ensemble.id.version
        parameters = marks.parameters() if ensemble.tells_sequence else {}
        if self.rescued:
            told = (f"{step}: {code}" for step, code in self.rescued.items())
            parameters = {**parameters, "on_error": ", ".join(told)}
        return InferResponse(request.model, version, tuple(tensors), request.id, parameters, spent)


def _taken(
    step: Step, response: InferResponse, rows: int, marks: Marks
) -> tuple[Mapping[str, Value], Sequence[str]]:
    """Return the ensemble's tensors in a model's response, and the missing ones."""
    marks = Marks.of(response.parameters, marks)
    names, values = step.outputs, {}
    for tensor in response.outputs:
        if tensor.name in names:
            values[names[tensor.name]] = Value(tensor, rows, marks)
    return values, [name for name in step.writes if name not in values] if len(values) < len(names) else _ALL


def _times_of_parts(
    step: Step, response: InferResponse, began: float, ended: float, waited: float
) -> list[StepTime]:
    """Return the times of the steps of a unit, which add up: what is no step's comes before the first."""
    array = response.outputs[-1].array
    if not len(array):  # without rows, nothing ran
        return []
    # The parts of a large request ran side by side: the slowest of each step counts.
    seconds = array.reshape(-1, len(step.parts)).max(0).tolist()
    found: list[StepTime] = []
    for name, took in zip(reversed(step.parts), reversed(seconds), strict=True):
        found.append((name, ended - took, ended, 0.0, took, 0, 0))
        ended -= took
    name, _, end, _, took, *_ = found[-1]
    found[-1] = (name, min(began, end), end, waited, took, 0, 0)
    return found[::-1]


def own_error(step: Step, error: Exception) -> SalverError:
    """Return the error of a step that raised something."""
    if isinstance(error, SalverError):
        return error
    return ModelFailed(f"step '{step.model}' raised {type(error).__name__}: {error}")


def stood_in(step: Step, rescue: Rescue, flow: Flow) -> dict[str, Value]:
    """Return what stands in for the outputs of a step, where nothing has to run for that."""
    if rescue.constants is None:
        found = ((own, flow.values[other]) for own, other in rescue.tensors.items())
        return {own: value for own, value in found if value is not None}
    rows = len(flow.array(step.inputs[0].tensor))
    return {tensor.name: Value(tensor, rows, _NO_MARKS) for tensor in rescue.constants(rows)}


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error that ended the others."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
