"""Parent side of a model host process.

:class:`HostProcess` is the counterpart of :mod:`salver.kernel.engine.host`: it owns the child's process
group, control channel, two arenas and output, and runs one batch at a time. Restarting is done by
:mod:`salver.kernel.engine.process`.

Death is detected by the end of the control channel or by the process descriptor. Then everything that waits
for the child fails immediately, its process group is killed, it is reaped, and all descriptors are closed.
"""

import asyncio
import itertools
import logging
import math
import os
import re
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, Self, TypeVar

import msgspec

from salver.backends.protocol import Answer
from salver.kernel.engine.callback_server import CallbackServer
from salver.kernel.engine.control import (
    EndOfPieces,
    Frames,
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
from salver.kernel.engine.output_limit import LONGEST_LINE
from salver.kernel.engine.pieces import ResponseStream
from salver.kernel.engine.ports import Gave
from salver.kernel.engine.shm import Block
from salver.kernel.engine.spawn import THREAD_VARIABLES, HostHandles, HostPlan, spawn
from salver.words.errors import HostDied, HostGone, LoadFailed, ModelFailed, SalverError
from salver.words.messages import InferRequest, Signature
from salver.words.tensor import Array

_log = logging.getLogger("salver.engine.host")
_T = TypeVar("_T")
#: Receives the result of a run, or its error.
Done = Callable[[Gave | SalverError], None]
#: Input of a run: a batch, or requests for a model that takes them one by one.
Work = Mapping[str, Array] | Sequence[InferRequest]

_OFF_LOOP = 1 << 20  # bytes; copying more would block the event loop for more than 0.1 ms
_REST_S = 0.01  # pause between two reads of a model that writes too much
_TELL_S = 1.0
_MOST_LINES = 2000  # lines examined per read
_LAST_LINES = 12  # lines included in the error of a model that could not be loaded
#: Messages that TensorFlow's libraries print on import regardless of the log level.
_CHATTER = re.compile(r"All log messages before absl::InitializeLog\(\)|oneDNN custom operations are on\.")
GRACE_S = 5.0  # time for a host to finish its run and close its model after a stop
TERM_S = 1.0  # between SIGTERM and SIGKILL


class HostProcess:
    """One child, created by :meth:`launch`; it is dead once :attr:`dead` is done.

    Attributes:
        dead: Result: how it died (``SIGKILL``, ``exit code 3``, …). Never cancelled.
        signature: Signature of the model.
        asks: Kind of input: ``batch`` (:meth:`run`), ``requests`` (:meth:`answer`), ``stream`` or ``forms``
            (of a handler).
        has_opinion: The model reports its own readiness (:meth:`is_ready`).
        wants_trace: The model needs the span of each request.
        alone: Why a fork server cannot fork; empty = it can.
        imports: Modules imported by a fork server that cannot fork.
        plan: Plan of the process.
    """

    signature: Signature
    asks: Literal["batch", "requests", "stream", "forms"]
    watches_streams = True  # time without a sign of life after which a streaming model is killed
    has_opinion = wants_trace = False
    alone = ""
    imports: tuple[str, ...] = ()

    def __init__(self, plan: HostPlan, ends: HostHandles) -> None:
        self.plan = plan
        self._model = plan.manifest.id.name
        self._ends = ends
        self._loop = asyncio.get_running_loop()
        self.dead: asyncio.Future[str] = self._loop.create_future()
        #: Callback for the next reply or for the child's death.
        self._heard: Callable[[Reply | HostDied], None] | None = None
        self._pieces: dict[
            int, ResponseStream
        ] = {}  # streams of requests that may still receive pieces, by mark
        self._under_way: Sequence[ResponseStream] = ()  # streams of the run that occupies the model
        self._marks = itertools.count(1)
        self._leaving = bytearray()  # bytes that the socket does not accept yet
        self._told: Order | None = None  # descriptors sent last; None = the order is still being written
        self._is_unread = False  # the child died before it had read the whole order
        self._tasks: set[asyncio.Task[None]] = set()
        self._frames = Frames()
        self._why_killed = ""
        self._deaf_timer: asyncio.TimerHandle | None = None
        self._hangs_at = math.inf  # time at which the current run counts as hanging
        self._looks_at = math.inf  # time of the next check: one timer serves many runs
        self._look_timer: asyncio.TimerHandle | None = None
        self._line = b""
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._desk: CallbackServer | None = None
        if plan.server is not None and ends.side is not None:
            self._desk = CallbackServer(ends.side, plan.server, plan.manifest.id, self.broken, self._log_line)
        self._loop.add_reader(ends.sock.fileno(), self._on_control)
        self._loop.add_reader(ends.output, self._on_output)
        self._loop.add_reader(ends.pidfd, self._on_exit)

    def __repr__(self) -> str:
        state = "busy" if self._heard else "idle"
        if self.dead.done():
            state = self.dead.result()
        return f"<HostProcess {self.pid} of {self._model}, {state}>"

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
            ends = spawn(plan)
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
        self._watch_from_now()

        def hear(reply: Reply | HostDied) -> None:
            self._hangs_at = math.inf
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
        found = [ResponseStream(next(self._marks), self._pass_on) for _ in range(count)]
        self._pieces.update((pieces.mark, pieces) for pieces in found)
        return found

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
            self._under_way = found
            for pieces in found:
                pieces.begin()
            if self.watches_streams:
                self._watch_from_now()
            self._as_ran(await self.ask(order))
        except SalverError as error:
            for pieces in found:
                self._pieces.pop(pieces.mark, None)
                pieces.end(_alike(error))
        finally:
            self._under_way = ()
            self._hangs_at = math.inf

    def _pass_on(self, order: Next | GiveUp) -> None:
        """Send a reader's message; without readers, cancel the callbacks of the run as well."""
        self._tell_now(order)
        if self._desk is not None and self._under_way and all(p.is_given_up for p in self._under_way):
            self._desk.give_up_run()

    def _take(self, piece: Piece) -> None:
        """Deliver a response to its stream, unless nobody reads it any more."""
        pieces = self._pieces.get(piece.mark)
        if self._under_way and self.watches_streams:
            self._watch_from_now()  # a host that sends responses is not hanging
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

    def _end_pieces(self, over: EndOfPieces) -> None:
        if (pieces := self._pieces.pop(over.mark, None)) is not None:
            pieces.end(rebuild(over.why) if over.why else None)

    async def read(self, blocks: tuple[Block, ...]) -> Mapping[str, Array]:
        """Return copies of the arrays that the child has written."""
        return await self._copy(sum([block.nbytes for block in blocks]), lambda: self._read(blocks))

    def _read(self, blocks: tuple[Block, ...]) -> dict[str, Array]:
        try:
            return self._ends.responses.read(blocks, copy=True)
        except (ValueError, TypeError, OverflowError, OSError) as error:
            raise self._died() if self.dead.done() else self.broken(error) from error

    def _watch_from_now(self) -> None:
        """Restart the hang timer: a run has started, or the child has sent something."""
        self._hangs_at = at = self._loop.time() + self.plan.limit.seconds
        if at < self._looks_at:
            if self._look_timer is not None:
                self._look_timer.cancel()
            self._looks_at, self._look_timer = at, self._loop.call_at(at, self._look)

    def _look(self) -> None:
        self._looks_at, self._look_timer = math.inf, None
        if any(pieces.is_untaken for pieces in self._under_way):  # it waits for a reader
            self._watch_from_now()
        elif self._hangs_at <= self._loop.time():
            self.kill(f"a run did not end within {self.plan.limit.seconds:g} s")
        elif self._hangs_at < math.inf:
            self._looks_at = self._hangs_at
            self._look_timer = self._loop.call_at(self._hangs_at, self._look)

    async def _ran(self, order: Run) -> RunResult:
        self._watch_from_now()
        try:
            return self._as_ran(await self.ask(order))
        finally:
            self._hangs_at = math.inf

    def _as_ran(self, reply: Reply | HostDied) -> RunResult:
        if isinstance(reply, RunResult):
            self.plan.limit.observe(reply.seconds)
            return reply
        if isinstance(reply, HostDied):
            raise reply
        raise rebuild(reply) if isinstance(reply, RunError) else self.broken(reply)

    def _result(self, ran: RunResult, outputs: Mapping[str, Array]) -> Gave:
        return self._answers(ran, outputs) if self.asks == "requests" else (outputs, ran.seconds)

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
        every = len(self.signature.outputs)
        asked = tuple([_asked(request, every) for request in requests])
        arena = self._ends.requests
        try:
            if len(requests) == 1:
                return Run(arena.write({t.name: t.array for t in requests[0].inputs}), asked, (), marks)
            parts = [[(tensor.name, tensor.array) for tensor in request.inputs] for request in requests]
            columns = stacked(parts) if self.signature.batched else None
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
        return self._desk is None or not self.has_opinion or await self._desk.is_ready()

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
            said = "\n".join(self._last_lines)
            raise LoadFailed(
                f"the host process of model '{self._model}' died ({self.dead.result()}) while loading it"
                + (f"; it said:\n{said}" if said else "")
            ) from None
        if isinstance(reply, RunError):
            raise rebuild(reply)
        if not isinstance(reply, LoadResult):
            raise self.broken(reply)
        self.signature = reply.signature
        self.asks = reply.asks
        if self._desk is not None:
            self._desk.has_loaded = True
        self.alone, self.imports = reply.alone, reply.imports
        self.has_opinion, self.wants_trace = reply.has_opinion, reply.wants_trace

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
            is_waiting = bool(self._leaving)
            self._leaving += framed
            if not is_waiting:
                self._push()
                if self._leaving:  # only long orders, such as the load order
                    self._loop.add_writer(self._ends.sock.fileno(), self._push_on)

    def _push_on(self) -> None:
        self._push()
        if not self._leaving:
            self._loop.remove_writer(self._ends.sock.fileno())

    def _push(self) -> None:
        try:
            sent = self._ends.sock.send(self._leaving)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:  # a dead child is noticed by its process descriptor
            sent, self._is_unread = len(self._leaving), True
        del self._leaving[:sent]

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _copy(self, size: int, work: Callable[[], _T]) -> _T:
        return work() if size <= _OFF_LOOP else await asyncio.to_thread(work)

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

    def _on_control(self) -> None:
        try:
            data = self._ends.sock.recv(1 << 14)
        except (BlockingIOError, InterruptedError):
            return
        except ConnectionResetError:  # the child closed its end with unread data in it
            data, self._is_unread = b"", True
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._ends.sock.fileno())
            if self._deaf_timer is None:  # usually it is about to exit
                self._deaf_timer = self._loop.call_later(TERM_S, self.kill, "it closed its control channel")
            return
        try:
            for payload in self._frames.feed(data):
                self._hear(read_reply(payload))
        except (ValueError, msgspec.MsgspecError) as error:
            self.kill(f"it broke the control protocol: {error}")

    def _hear(self, reply: Reply | HostDied) -> None:
        if isinstance(reply, Piece):
            self._take(reply)
            return
        if isinstance(reply, EndOfPieces):
            self._end_pieces(reply)
            return
        heard, self._heard = self._heard, None
        if heard is not None:
            heard(reply)

    def _on_output(self) -> None:
        try:
            data = os.read(self._ends.output, 1 << 16)
        except (BlockingIOError, InterruptedError):
            return
        if not data:
            self._loop.remove_reader(self._ends.output)
            return
        *lines, self._line = (self._line + data).split(b"\n")
        if len(self._line) > LONGEST_LINE:
            lines.append(self._line)
            self._line = b""
        left = lines[_MOST_LINES:]  # lines of one read; a line may be empty
        for index, line in enumerate(lines[:_MOST_LINES]):
            if not self._say(line):  # arrived together with a dropped line
                left = lines[index + 1 :]
                break
        else:
            if not left:
                return
        self._drop(len(left))
        self._last_lines.extend(map(_text, left[-_LAST_LINES:]))
        if not self.dead.done():  # pause reading, or the loop would do nothing else
            self._loop.remove_reader(self._ends.output)
            self._loop.call_later(_REST_S, self._read_output_again)

    def _read_output_again(self) -> None:
        if not self.dead.done():
            self._loop.add_reader(self._ends.output, self._on_output)

    def _say(self, line: bytes) -> bool:
        """Log a line; return False if it is dropped."""
        text = _text(line)
        if not text:
            return True
        self._last_lines.append(text)
        return self._log_line(logging.DEBUG if _CHATTER.search(text) else logging.INFO, text)

    def _log_line(self, level: int, text: str) -> bool:
        """Log a line within the output limit; dropped lines are reported a second later."""
        if self.plan.output.takes(len(text), self._loop.time()):
            _log.log(level, "[%s] %s", self.plan.manifest.id, text)
            return True
        self._drop(1)
        return False

    def _drop(self, lines: int) -> None:
        limit = self.plan.output
        if not limit.dropped:
            self._loop.call_later(_TELL_S, self._tell_dropped)
        limit.dropped += lines

    def _tell_dropped(self) -> None:
        if dropped := self.plan.output.told():
            id = self.plan.manifest.id
            _log.warning("[%s] %d lines dropped: the model exceeds the limit on log output", id, dropped)

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
        self._on_control()  # read its last message
        self._on_output()
        if self._desk is not None:
            self._desk.close()
        self._say(self._line)
        self._signal(signal.SIGKILL)  # its descendants; the group id stays reserved until the child is reaped
        code = self._ends.process.wait()
        how = f"exit code {code}" if code >= 0 else _signal_name(-code)
        if self._why_killed:
            how = f"{how}: {self._why_killed}"
        for fd in (self._ends.sock.fileno(), self._ends.output, self._ends.pidfd):
            self._loop.remove_reader(fd)
        self._loop.remove_writer(self._ends.sock.fileno())
        # after those who received the last message have read its tensors
        self._loop.call_soon(self._ends.close)
        for timer in (self._deaf_timer, self._look_timer):
            if timer is not None:
                timer.cancel()
        self.dead.set_result(how)
        is_gone = self._told is None or (self._is_unread and isinstance(self._told, Run | Handle))
        self._hear(self._died(HostGone if is_gone else HostDied))
        while self._pieces:
            _, pieces = self._pieces.popitem()
            pieces.end(self._died())


def _text(line: bytes) -> str:
    text = line[:LONGEST_LINE].decode(errors="backslashreplace").rstrip()
    more = len(line) - LONGEST_LINE
    return f"{text} … ({more} bytes more)" if more > 0 else text


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
