"""Parent side of a model host process.

:class:`HostProcess` is the counterpart of :mod:`salver.kernel.engine.host`: it owns the child's process
group, control channel, two arenas and output, and runs one batch at a time. Restarting is done by
:mod:`salver.kernel.engine.process`.

Death is detected by the end of the control channel or by the process descriptor. Then everything that waits
for the child fails immediately, its process group is killed, it is reaped, and all descriptors are closed.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, Self, TypeVar

from salver.backends.protocol import Answer
from salver.kernel.engine.callback_server import CallbackServer
from salver.kernel.engine.control import (
    EndOfPieces,
    GiveUp,
    Handle,
    Load,
    LoadResult,
    Next,
    Order,
    Piece,
    Reply,
    RequestHead,
    ResponseHead,
    Run,
    RunError,
    RunResult,
    Stop,
    TensorsTaken,
    apart,
    frame,
    numbered,
    read_reply,
    rebuild,
    stacked,
)
from salver.kernel.engine.frame_socket import FrameSocket
from salver.kernel.engine.host_output import HostOutput
from salver.kernel.engine.pieces import HostStreams, ResponseStream
from salver.kernel.engine.ports import Gave
from salver.kernel.engine.run_watch import RunWatch
from salver.kernel.engine.shm import Block
from salver.kernel.engine.spawn import THREAD_VARIABLES, HostHandles, HostPlan, spawn
from salver.words.errors import HostDied, HostGone, HostKilled, LoadFailed, ModelFailed, SalverError
from salver.words.messages import InferRequest
from salver.words.tensor import Array

_log = logging.getLogger("salver.engine.host")
_T = TypeVar("_T")
#: Receives the result of a run, or its error.
Done = Callable[[Gave | SalverError], None]
#: Input of a run: a batch, or requests for a model that takes them one by one.
Work = Mapping[str, Array] | Sequence[InferRequest]

_OFF_LOOP = 1 << 20  # bytes; copying more would block the event loop for more than 0.1 ms
GRACE_S = 5.0  # time for a host to finish its run and close its model after a stop
TERM_S = 1.0  # between SIGTERM and SIGKILL
_FROM_OUTSIDE = ("SIGKILL", "SIGTERM")  # by the system that ran out of memory, or by an operator


class HostProcess:
    """One child, created by :meth:`launch`; it is dead once :attr:`dead` is done.

    Attributes:
        dead: Result: how it died (``SIGKILL``, ``exit code 3``, …). Never cancelled.
        loaded: What the child has said of its model.
        plan: Plan of the process.
    """

    loaded: LoadResult
    watches_streams = True  # time without a sign of life after which a streaming model is killed

    def __init__(self, plan: HostPlan, ends: HostHandles) -> None:
        self.plan = plan
        self._ends = ends
        self._loop = asyncio.get_running_loop()
        self.dead: asyncio.Future[str] = self._loop.create_future()
        #: Callback for the next reply or for the child's death.
        self._heard: Callable[[Reply | HostDied], None] | None = None
        self._streams = HostStreams(self._pass_on)
        self._told: Order | None = None  # descriptors sent last; None = the order is still being written
        self._tasks: set[asyncio.Task[None]] = set()
        self._why_killed = ""
        self._deaf_timer: asyncio.TimerHandle | None = None
        self._watch = RunWatch(plan.limit, self._streams.has_untaken, self.kill)
        self._channel = FrameSocket(ends.sock, self._on_frame, self._on_broken, self._on_deaf)
        self._output = HostOutput(ends.output, plan.output, plan.manifest.id)
        self._desk: CallbackServer | None = None
        if plan.server is not None and ends.side is not None:
            self._desk = CallbackServer(
                ends.side, plan.server, plan.manifest.id, self.broken, self._output.log
            )
        self._loop.add_reader(ends.pidfd, self._on_exit)

    def __repr__(self) -> str:
        state = "busy" if self._heard else "idle"
        if self.dead.done():
            state = self.dead.result()
        return f"<HostProcess {self.pid} of {self._model}, {state}>"

    @property
    def _model(self) -> str:
        return self.plan.manifest.id.name

    @property
    def pid(self) -> int:
        """Return the child's process id."""
        return self._ends.process.pid

    @classmethod
    async def launch(cls, plan: HostPlan) -> Self:
        """Start a child and load the model in it.

        Raises:
            LoadFailed: the child could not be started, or the model could not be loaded.
        """
        try:
            ends = spawn(plan) if plan.starter is None else await plan.starter(plan)
        except OSError as error:
            raise LoadFailed(
                f"no host process could be started for model '{plan.manifest.id.name}': {error}"
            ) from error
        return await cls.take_over(plan, ends)

    @classmethod
    async def take_over(cls, plan: HostPlan, ends: HostHandles) -> Self:
        """Load the model in an existing child, or confirm that it is loaded.

        Raises:
            LoadFailed: the model could not be loaded.
        """
        child = cls(plan, ends)
        try:
            await child._load()
        except BaseException:
            await child._end("its load was given up")
            raise
        return child

    async def run(self, inputs: Mapping[str, Array]) -> tuple[Mapping[str, Array], float]:
        """Run one batch. Never two at a time, and never cancelled midway, because the arenas are in use.

        Raises:
            HostDied: the child died.
            SalverError: raised by the model; ModelFailed for any other error of the model.
        """
        ran = await self._ran(Run(await self._hand_over(inputs)))
        return await self.read(ran.outputs), ran.seconds

    async def answer(self, requests: Sequence[InferRequest]) -> tuple[Sequence[Answer | SalverError], float]:
        """Run requests one by one, for a model that answers each by itself."""
        self._inherit(requests)
        reply = await self._ran(await self._copy(size_of(requests), lambda: self._order(requests)))
        return self._answers(reply, await self.read(reply.outputs))

    def post(self, work: Work, done: Done, is_lone: bool) -> None:
        """Begin ``run`` or ``answer`` immediately and without a task, for inputs that are small
        (:func:`is_small`).

        Raises:
            SalverError: the run could not start; ``done`` is not called.
        """
        self._raise_if_dead()
        if isinstance(work, Mapping):
            order = Run(self._write(work), (None,) if is_lone else ())
        else:
            self._inherit(work)
            order = self._order(work)
        self._tell_now(order)
        self._watch.begin()

        def hear(reply: Reply | HostDied) -> None:
            self._watch.end()
            if isinstance(reply, RunResult) and sum([block.nbytes for block in reply.outputs]) > _OFF_LOOP:
                self._spawn(self._finish(reply, done))
                return
            try:
                ran = self._as_ran(reply)
                result = self._result(ran, self._read(ran.outputs))
            except SalverError as error:
                done(error)
            else:
                done(result)

        self._heard = hear

    async def _finish(self, reply: RunResult, done: Done) -> None:
        try:
            result = self._result(reply, await self.read(reply.outputs))
        except SalverError as error:
            done(error)
        else:
            done(result)

    def open(self, count: int) -> list[ResponseStream]:
        """Return streams for that many requests, to be passed to ``stream``."""
        return self._streams.open(count)

    async def stream(self, requests: Sequence[InferRequest], found: Sequence[ResponseStream]) -> None:
        """Start requests that the model answers in pieces; return when it can start others.

        Args:
            found: Streams from ``open``; an error ends them.
        """
        self._inherit(requests)
        marks = tuple([pieces.mark for pieces in found])
        try:
            order = await self._copy(size_of(requests), lambda: self._order(requests, marks))
            self._raise_if_dead()
            self._streams.under_way = found
            for pieces in found:
                pieces.begin()
            if self.watches_streams:
                self._watch.begin()
            self._as_ran(await self.ask(order))
        except SalverError as error:
            for pieces in found:
                self._streams.end(pieces.mark)
                pieces.end(_alike(error))
        finally:
            self._streams.under_way = ()
            self._watch.end()

    def _pass_on(self, order: Next | GiveUp) -> None:
        """Send a reader's message; without readers, cancel the callbacks of the run as well."""
        self._tell_now(order)
        if self._desk is not None and self._streams.is_given_up:
            self._desk.give_up_run()

    def _take(self, piece: Piece) -> None:
        """Deliver a response to its stream, unless nobody reads it any more."""
        pieces = self._streams.get(piece.mark)
        if self._streams.under_way and self.watches_streams:
            self._watch.begin()  # a host that sends responses is not hanging
        if pieces is None or pieces.is_given_up:
            self._tell_now(TensorsTaken())
        elif sum([block.nbytes for block in piece.outputs]) > _OFF_LOOP:
            self._spawn(self._take_large(pieces, piece))
        else:
            with suppress(SalverError):  # it is being killed, which ends the streams
                self._put(pieces, piece, self._read(piece.outputs))

    async def _take_large(self, pieces: ResponseStream, piece: Piece) -> None:
        with suppress(SalverError):
            self._put(pieces, piece, await self.read(piece.outputs))

    def _put(self, pieces: ResponseStream, piece: Piece, outputs: Mapping[str, Array]) -> None:
        said = piece.answer
        self._tell_now(TensorsTaken())
        try:
            whole = (
                rebuild(said) if isinstance(said, RunError) else Answer(outputs, said.parameters, said.again)
            )
            pieces.put(whole, piece.is_last)
        except ValueError as error:
            raise self.broken(error) from error

    async def read(self, blocks: tuple[Block, ...]) -> Mapping[str, Array]:
        """Return copies of the arrays that the child has written."""
        return await self._copy(sum([block.nbytes for block in blocks]), lambda: self._read(blocks))

    def _read(self, blocks: tuple[Block, ...]) -> dict[str, Array]:
        try:
            return self._ends.responses.read(blocks, copy=True)
        except (ValueError, TypeError, OverflowError, OSError) as error:
            raise self._died() if self.dead.done() else self.broken(error) from error

    async def _ran(self, order: Run) -> RunResult:
        self._watch.begin()
        try:
            return self._as_ran(await self.ask(order))
        finally:
            self._watch.end()

    def _as_ran(self, reply: Reply | HostDied) -> RunResult:
        if isinstance(reply, RunResult):
            self.plan.limit.observe(reply.seconds)
            return reply
        if isinstance(reply, HostDied):
            raise reply
        raise rebuild(reply) if isinstance(reply, RunError) else self.broken(reply)

    def _result(self, ran: RunResult, outputs: Mapping[str, Array]) -> Gave:
        if self.loaded.asks == "requests":
            return self._answers(ran, outputs)
        return (outputs, ran.seconds)

    def _answers(
        self, ran: RunResult, outputs: Mapping[str, Array]
    ) -> tuple[list[Answer | SalverError], float]:
        try:
            parts = apart(outputs, ran.rows, len(ran.answers))
        except ValueError as error:
            raise self.broken(error) from error
        return [_answer(said, part) for said, part in zip(ran.answers, parts, strict=True)], ran.seconds

    def _order(self, requests: Sequence[InferRequest], marks: tuple[int, ...] = ()) -> Run:
        """Return the order to run requests whose inputs have been written."""
        every = len(self.loaded.signature.outputs)
        asked = tuple([_asked(request, every) for request in requests])
        arena = self._ends.requests
        try:
            if len(requests) == 1:
                return Run(arena.write({t.name: t.array for t in requests[0].inputs}), asked, (), marks)
            parts = [[(tensor.name, tensor.array) for tensor in request.inputs] for request in requests]
            columns = stacked(parts) if self.loaded.signature.batched else None
            if columns is None:
                return Run(arena.write(numbered(map(dict, parts))), asked, (), marks)
            rows = tuple([len(request.inputs[0].array) for request in requests])
            return Run(arena.write_stacked(columns), asked, rows, marks)
        except (OSError, ValueError) as error:
            raise self._no_memory(size_of(requests), error) from error

    async def _hand_over(self, inputs: Mapping[str, Array]) -> tuple[Block, ...]:
        return await self._copy(size_of(inputs), lambda: self._write(inputs))

    def _write(self, inputs: Mapping[str, Array]) -> tuple[Block, ...]:
        try:
            return self._ends.requests.write(inputs)
        except (OSError, ValueError) as error:
            raise self._no_memory(size_of(inputs), error) from error

    def _no_memory(self, size: int, error: Exception) -> SalverError:
        if self.dead.done():
            return self._died(HostGone)
        return ModelFailed(f"no memory to hand {size} bytes to model '{self._model}': {error}")

    async def is_ready(self) -> bool:
        """Return whether the model says in time that it is ready; True if it never says so."""
        return self._desk is None or not self.loaded.has_opinion or await self._desk.is_ready()

    def _inherit(self, requests: Sequence[InferRequest]) -> None:
        """Pass the deadline and the callers' state of the run to its callbacks."""
        if self._desk is not None:
            self._desk.gone = [request.is_gone for request in requests]
            deadlines = [request.deadline for request in requests]
            known = [deadline for deadline in deadlines if deadline is not None]
            self._desk.deadline = max(known) if len(known) == len(deadlines) else None

    async def close(self) -> None:
        """Ask the child to stop, then kill it."""
        try:
            if not self.dead.done():
                self._tell_now(Stop())
                await asyncio.wait([self.dead], timeout=GRACE_S)
            if not self.dead.done():
                self._signal(signal.SIGTERM)
                await asyncio.wait([self.dead], timeout=TERM_S)
        finally:
            await self._end("it did not stop when told to")

    def kill(self, why: str) -> None:
        """Kill the child and all processes that it started (SIGKILL)."""
        if not self.dead.done():
            self._why_killed = self._why_killed or why
            self._signal(signal.SIGKILL)

    # -- sending -------------------------------------------------------------------------------

    async def _load(self) -> None:
        plan = self.plan
        path = () if plan.interpreter else tuple(sys.path)
        whole = plan.variables if plan.forks else {}
        threads: dict[str, str] = {name: whole[name] for name in THREAD_VARIABLES if name in whole}
        load = Load(
            plan.backend,
            plan.manifest,
            plan.options,
            path,
            plan.memory_limit_mb,
            plan.program,
            plan.forks,
            threads,
            plan.imports,
        )
        try:
            reply = await self.ask(load)
        except HostDied:
            said = "\n".join(self._output.last_lines)
            failed = HostKilled if self.dead.result() in _FROM_OUTSIDE else LoadFailed
            raise failed(
                f"the host process of model '{self._model}' died ({self.dead.result()}) while loading it"
                + (f"; it said:\n{said}" if said else "")
            ) from None
        if isinstance(reply, RunError):
            raise rebuild(reply)
        if not isinstance(reply, LoadResult):
            raise self.broken(reply)
        self.loaded = reply
        if self._desk is not None:
            self._desk.has_loaded = True

    async def ask(self, order: Order, fds: Sequence[int] = ()) -> Reply:
        """Send an order with descriptors and wait for the reply; one at a time.

        Raises:
            HostDied: the child died; HostGone if it had not read the order of a run.
            TooLarge: the order is too long.
        """
        self._raise_if_dead()
        if fds:
            socket.send_fds(self._ends.sock, [frame(order)], fds)
        else:
            self._tell_now(order)
        future: asyncio.Future[Reply] = self._loop.create_future()

        def hear(reply: Reply | HostDied) -> None:
            if future.done():
                return
            if isinstance(reply, HostDied):
                future.set_exception(reply)
            else:
                future.set_result(reply)

        self._heard = hear
        return await future

    def _tell_now(self, order: Order) -> None:
        if not self.dead.done():
            framed = frame(order)
            self._told = order
            self._channel.send(framed)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _copy(self, size: int, work: Callable[[], _T]) -> _T:
        if size <= _OFF_LOOP:
            return work()
        return await asyncio.to_thread(work)

    def _raise_if_dead(self) -> None:
        if self.dead.done():
            raise self._died(HostGone)

    def _died(self, kind: type[HostDied] = HostDied) -> HostDied:
        return kind(
            f"the host process of model '{self._model}' died ({self.dead.result()}); "
            "the request was not answered and may be retried"
        )

    def broken(self, what: object) -> ModelFailed:
        """Kill the child for an invalid reply and return the error."""
        self.kill(f"it broke the control protocol: {what}")
        return ModelFailed(f"the host process of model '{self._model}' sent an invalid answer: {what}")

    # -- receiving -----------------------------------------------------------------------------

    def _on_frame(self, payload: bytes) -> None:
        self._hear(read_reply(payload))

    def _on_broken(self, error: Exception) -> None:
        self.kill(f"it broke the control protocol: {error}")

    def _on_deaf(self) -> None:
        if self._deaf_timer is None:  # usually it is about to exit
            self._deaf_timer = self._loop.call_later(TERM_S, self.kill, "it closed its control channel")

    def _hear(self, reply: Reply | HostDied) -> None:
        if isinstance(reply, Piece):
            self._take(reply)
            return
        if isinstance(reply, EndOfPieces):
            self._streams.end(reply.mark, rebuild(reply.why) if reply.why else None)
            return
        heard, self._heard = self._heard, None
        if heard is not None:
            heard(reply)

    # -- ending --------------------------------------------------------------------------------

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    async def _end(self, why: str) -> None:
        """Kill the child if it is alive and reap it, even if the waiting task is cancelled meanwhile."""
        self.kill(why)
        while not self.dead.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([self.dead])

    def _on_exit(self) -> None:
        self._channel.listen()  # read its last message
        self._output.read()
        if self._desk is not None:
            self._desk.close()
        self._output.close()
        self._signal(signal.SIGKILL)  # its descendants; the group id stays reserved until the child is reaped
        code = self._ends.process.wait()
        how = f"exit code {code}" if code >= 0 else _signal_name(-code)
        if self._why_killed:
            how = f"{how}: {self._why_killed}"
        self._channel.close()
        self._loop.remove_reader(self._ends.pidfd)
        # after those who received the last message have read its tensors
        self._loop.call_soon(self._ends.close)
        self._watch.cancel()
        if self._deaf_timer is not None:
            self._deaf_timer.cancel()
        self.dead.set_result(how)
        is_gone = self._told is None or (self._channel.is_unread and isinstance(self._told, Run | Handle))
        self._hear(self._died(HostGone if is_gone else HostDied))
        self._streams.end_all(self._died)


def _alike(error: SalverError) -> SalverError:
    """Copy an error for each recipient: a shared exception object would collect their tracebacks."""
    return type(error)(error.message, field=error.field, fix=error.fix)


def size_of(work: Work) -> int:
    """Return the bytes of the inputs."""
    if isinstance(work, Mapping):
        return sum([array.nbytes for array in work.values()])
    return sum([tensor.array.nbytes for request in work for tensor in request.inputs])


def is_small(work: Work) -> bool:
    """Return whether the inputs are small enough to copy on the event loop."""
    return size_of(work) <= _OFF_LOOP


def _answer(said: ResponseHead | RunError | None, part: Mapping[str, Array]) -> Answer | SalverError:
    if said is None:
        return Answer(part)
    if isinstance(said, RunError):
        return rebuild(said)
    return Answer(part, said.parameters, said.again)


def _asked(request: InferRequest, every: int) -> RequestHead | None:
    if not request.id and not request.parameters and not request.trace and len(request.outputs) == every:
        return None
    outputs = tuple([output.name for output in request.outputs])
    return RequestHead(request.id, outputs, dict(request.parameters), request.trace)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
