"""Server side of the callback channel of a model in a host process.

:class:`CallbackServer` receives the messages of :mod:`salver.kernel.engine.callback_messages`, has the server
carry out each request, and sends the answers. When the host dies, its requests are cancelled.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

from salver.backends.callbacks import ModelCommand
from salver.kernel.engine.callback_messages import (
    MOST_CALLS,
    WINDOW,
    CallResult,
    Change,
    Drop,
    IsGone,
    Log,
    Manage,
    ModelCall,
    More,
    OpenSeries,
    Probe,
    ReadSeries,
    Ready,
    Saying,
    Telling,
    TensorsTaken,
    read_saying,
)
from salver.kernel.engine.control import ResponseHead, describe, frame
from salver.kernel.engine.frame_socket import FrameSocket
from salver.kernel.engine.output_limit import LONGEST_LINE
from salver.kernel.engine.ports import CallbackProvider, CallTerms
from salver.kernel.engine.shm import Block
from salver.kernel.engine.spawn import SideChannel
from salver.words.artifacts import LoadOrder
from salver.words.errors import Cancelled, InvalidInput, ModelFailed, SalverError
from salver.words.messages import InferRequest, InferResponse, ModelId, RequestedOutput
from salver.words.tensor import DATATYPES, Array, Tensor

_log = logging.getLogger("salver.engine.host")
_T = TypeVar("_T")
_OFF_LOOP = 1 << 20  # bytes, as for the tensors of a run
_PROBE_S = 5.0  # as long as Triton waits


class _Call:
    """A pending request of the host.

    Args:
        is_of_run: The current run waits for it.
    """

    def __init__(self, is_of_run: bool) -> None:
        self.is_of_run = is_of_run
        self.window = asyncio.Semaphore(WINDOW)
        self.is_given_up = False
        # set once the task has started; before that it cannot be cancelled cleanly
        self.task: asyncio.Task[None] | None = None

    def give_up(self) -> None:
        """Cancel the request."""
        self.is_given_up = True
        if self.task is not None:
            self.task.cancel()


class CallbackServer:
    """Server of the callbacks of one host.

    Args:
        side: Descriptors of the channel; closed by this object.
        broken: Called when the host sends an invalid message.
        log_line: Logs a line of the model at a level, within the output limit.

    Attributes:
        deadline: Deadline of the current run, inherited by its requests; None = none.
        gone: For each request of the current run, tells whether its caller has gone away.
        has_loaded: The model has been loaded.
    """

    def __init__(
        self,
        side: SideChannel,
        server: CallbackProvider,
        id: ModelId,
        broken: Callable[[object], object],
        log_line: Callable[[int, str], object],
    ) -> None:
        self.deadline: float | None = None
        self.gone: Sequence[Callable[[], bool] | None] = ()
        self.has_loaded = False
        self._side = side
        self._asker = server.enter()
        self._meters = server.meters
        self._id = id
        self._broken = broken
        self._log_line = log_line
        self._calls: dict[int, _Call] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Semaphore()  # held while a message uses the arena of answers
        self._probe: asyncio.Future[bool] | None = None
        self._is_closed = False
        self._channel = FrameSocket(side.sock, self._on_frame, broken)

    def __repr__(self) -> str:
        return f"<Desk of {self._id}, {len(self._calls)} requests under way>"

    async def is_ready(self) -> bool:
        """Return whether the model says that it is ready, within the timeout."""
        if self._probe is None:
            self._probe = asyncio.get_running_loop().create_future()
            self._send(Probe())
        try:
            return await asyncio.wait_for(asyncio.shield(self._probe), _PROBE_S)
        except TimeoutError:
            _log.warning("[%s] is_ready did not answer within %g s", self._id, _PROBE_S)
            return False

    def give_up_run(self) -> None:
        """Cancel the requests of the current run, because nobody waits for its answer."""
        for call in self._calls.values():
            if call.is_of_run:
                call.give_up()

    def close(self) -> None:
        """Stop after reading the last messages of a host that is gone."""
        while self._channel.listen():
            pass
        self._is_closed = True
        self._channel.close()
        for call in self._calls.values():
            call.give_up()
        self._asker.leave()
        if self._probe is not None and not self._probe.done():
            self._probe.set_result(False)
        self._side.close()

    def _on_frame(self, payload: bytes) -> None:
        self._hear(read_saying(payload))

    def _hear(self, saying: Saying) -> None:
        match saying:
            case Change(handle, how, value):
                with suppress(InvalidInput):  # not opened by this host
                    self._meters.change(handle, how, value)
            case Log(level, text):
                self._log_line(level, text[:LONGEST_LINE])
            case TensorsTaken():
                if self._turn.locked():
                    self._turn.release()
            case Ready(is_ready):
                if self._probe is not None and not self._probe.done():
                    self._probe.set_result(is_ready)
                self._probe = None
            case More(id) if id in self._calls:
                self._calls[id].window.release()
            case Drop(id) if id in self._calls:
                self._calls[id].give_up()
            case ModelCall(id=id, inputs=inputs):
                self._begin(id, lambda given: self._infer(saying, given), inputs, saying.is_of_run)
            case Manage(id=id, files=files):
                self._begin(id, lambda given: self._manage(saying, given), files)
            case OpenSeries(id, series):
                self._begin(id, lambda _: self._say_number(id, lambda: self._meters.open(series)))
            case IsGone(id, index):
                self._begin(id, lambda _: self._say_number(id, lambda: self._is_gone(index)))
            case ReadSeries(id, handle):
                self._begin(id, lambda _: self._say_number(id, lambda: self._meters.value(handle)))

    def _begin(
        self,
        id: int,
        work: Callable[[Mapping[str, Array]], Awaitable[None]],
        blocks: tuple[Block, ...] = (),
        is_of_run: bool = False,
    ) -> None:
        if len(self._calls) > 2 * MOST_CALLS or id in self._calls:  # the host limits itself to half of that
            raise ValueError(f"request {id}, with {len(self._calls)} under way")
        self._calls[id] = call = _Call(is_of_run)
        task = asyncio.create_task(self._carry_out(id, call, blocks, work), name="a model's request")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry_out(
        self,
        id: int,
        call: _Call,
        blocks: tuple[Block, ...],
        work: Callable[[Mapping[str, Array]], Awaitable[None]],
    ) -> None:
        """Carry out a request and send its answer or error."""
        call.task = asyncio.current_task()
        error: SalverError | None = None
        try:
            given = await self._taken(blocks) if blocks else {}
            if call.is_given_up:
                raise Cancelled("the request was cancelled")
            await work(given)
        except SalverError as failed:
            error = failed
        except asyncio.CancelledError:
            error = Cancelled("the request was cancelled")
        except Exception as failed:
            _log.exception("[%s] a request of the model failed", self._id, exc_info=failed)
            error = ModelFailed("An error occurred while performing BLS request.")
        finally:
            del self._calls[id]
        if error is not None:
            self._send(CallResult(id, (), (), describe(error), True, True))

    async def _infer(self, ask: ModelCall, inputs: Mapping[str, Array]) -> None:
        kinds = [DATATYPES[kind] for kind in ask.types]
        # The host says both, and may have written either to mislead the other model.
        if [kind.dtype for kind in kinds] != [array.dtype for array in inputs.values()]:
            self._broken("inputs of other datatypes than it says")
            raise ModelFailed("tensors that make no sense")
        pairs = zip(kinds, inputs.items(), strict=True)
        tensors = tuple(Tensor(name, kind, array) for kind, (name, array) in pairs)
        outputs = tuple(map(RequestedOutput, ask.outputs))
        request = InferRequest(
            ask.model, tensors, ask.version, ask.request_id, outputs, ask.parameters, ask.trace
        )
        terms = CallTerms(self.deadline if ask.is_of_run else None, ask.is_of_run)
        if not ask.in_pieces:
            await self._tell(ask.id, await self._asker.infer(request, terms), is_end=True)
            return
        window = self._calls[ask.id].window

        async def write(response: InferResponse) -> None:
            await window.acquire()
            await self._tell(ask.id, response, is_end=False)

        await self._asker.stream(request, terms, write)
        self._send(CallResult(ask.id, (), (), None, True, True))

    async def _manage(self, manage: Manage, files: Mapping[str, Array]) -> None:
        # It would wait for itself: the load ends when its initialisation does.
        if manage.kind != "is_ready" and manage.model == self._id.name and not self.has_loaded:
            raise InvalidInput(f"model '{manage.model}' cannot {manage.kind} itself while it is being loaded")
        order = LoadOrder(manage.config, {path: array.tobytes() for path, array in files.items()})
        wish = ModelCommand(manage.kind, manage.model, manage.version, order, manage.dependents)
        is_so = await self._asker.manage(wish)
        self._send(CallResult(manage.id, (), (), ResponseHead({"value": is_so}), True, True))

    def _is_gone(self, index: int) -> bool:
        said = None
        if 0 <= index < len(self.gone):
            said = self.gone[index]
        return said is not None and said()

    async def _say_number(self, id: int, work: Callable[[], float]) -> None:
        self._send(CallResult(id, (), (), ResponseHead({"value": work()}), True, True))

    async def _taken(self, blocks: tuple[Block, ...]) -> Mapping[str, Array]:
        """Return copies of the host's arrays, after which the host may write others."""
        size = sum(block.nbytes for block in blocks)
        try:
            return await self._copy(size, lambda: self._side.asks.read(blocks, copy=True))
        except (ValueError, TypeError, OverflowError) as error:
            self._broken(error)
            raise ModelFailed("tensors that make no sense") from error
        except OSError as error:
            raise ModelFailed(f"no memory for {size} bytes of a request: {error}") from error
        finally:
            self._send(TensorsTaken())

    async def _tell(self, id: int, response: InferResponse, *, is_end: bool) -> None:
        """Send an answer as soon as the arena is free."""
        if response.error is not None or not response.outputs:
            answer = describe(response.error) if response.error else ResponseHead(dict(response.parameters))
            self._send(CallResult(id, (), (), answer, response.is_last, is_end))
            return
        await self._turn.acquire()  # released when the host has copied the tensors
        # Written completely even after a cancellation, so that no other tensors overwrite it midway.
        await asyncio.shield(asyncio.create_task(self._lay_out(id, response, is_end)))

    async def _lay_out(self, id: int, response: InferResponse, is_end: bool) -> None:
        arrays = {tensor.name: tensor.array for tensor in response.outputs}
        types = tuple(tensor.datatype.name for tensor in response.outputs)
        size = sum(array.nbytes for array in arrays.values())
        try:
            blocks = await self._copy(size, lambda: self._side.answers.write(arrays))
            said = ResponseHead(dict(response.parameters))
            self._send(CallResult(id, blocks, types, said, response.is_last, is_end))
        except (OSError, ValueError) as error:
            self._turn.release()
            raise ModelFailed(f"no memory to hand an answer of {size} bytes over: {error}") from error
        except SalverError:
            self._turn.release()
            raise

    async def _copy(self, size: int, work: Callable[[], _T]) -> _T:
        if size <= _OFF_LOOP:
            return work()
        return await asyncio.to_thread(work)

    def _send(self, telling: Telling) -> None:
        if not self._is_closed:
            self._channel.send(frame(telling))
