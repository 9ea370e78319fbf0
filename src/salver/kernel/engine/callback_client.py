"""Host side of the callback channel from a model to its server.

:class:`HostServerAccess` sends requests from any thread; a thread of its own receives the answers. It knows
no framework (models see :class:`~salver.backends.callbacks.ServerAccess`).
"""

import itertools
import socket
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Literal

import msgspec
import numpy as np

from salver.backends.callbacks import Hear, ModelCommand, Series
from salver.kernel.engine.callback_messages import (
    MOST_CALLS,
    CallResult,
    Change,
    Drop,
    IsGone,
    Log,
    Manage,
    ModelCall,
    More,
    OpenSeries,
    ReadSeries,
    Ready,
    Saying,
    TensorsTaken,
    read_saying,
    read_telling,
)
from salver.kernel.engine.control import Frames, ResponseHead, RunError, frame, rebuild
from salver.kernel.engine.shm import Arena, Block
from salver.words.errors import ModelFailed, NotReady, Overloaded, SalverError
from salver.words.messages import InferRequest, InferResponse
from salver.words.tensor import DATATYPES, Array, Tensor

_GONE = "the server is gone"


class _PendingRequest:
    """A pending request."""

    def __init__(self, surroundings: "HostServerAccess", id: int) -> None:
        self._surroundings = surroundings
        self._id = id

    def more(self) -> None:
        """See :class:`~salver.backends.callbacks.PendingAnswer`."""
        self._surroundings.tell(More(self._id))

    def give_up(self) -> None:
        """See :class:`~salver.backends.callbacks.PendingAnswer`."""
        self._surroundings.tell(Drop(self._id))


class HostServerAccess:
    """The server, as seen by the model in this process.

    Args:
        asks, answers: Arenas for the tensors of requests and of answers.

    Attributes:
        is_ready: Asks the model whether it is ready; None = the model does not say.
    """

    def __init__(self, sock: socket.socket, asks: Arena, answers: Arena) -> None:
        self.is_ready: Callable[[], bool] | None = None
        self.meters = _Meters(self)
        self._sock = sock
        self._asks = asks
        self._answers = answers
        self._ids = itertools.count(1)
        self._hearing: dict[int, Hear] = {}
        self._sending = threading.Lock()
        self._turn = threading.Semaphore()  # held while a message uses the arena of requests
        self._is_closed = False
        self._runs = 0
        self._run = threading.current_thread()  # the thread that creates this object also runs the model
        threading.Thread(target=self._listen, name="salver-surroundings", daemon=True).start()

    def infer(self, request: InferRequest, in_pieces: bool, hear: Hear) -> _PendingRequest:
        """See :class:`~salver.backends.callbacks.ServerAccess`."""
        try:
            return _PendingRequest(self, self._ask(request, in_pieces, hear))
        except SalverError as error:
            hear(InferResponse("", "", (), error=error), True)
            return _PendingRequest(self, 0)

    def manage(self, wish: ModelCommand) -> bool:
        """See :class:`~salver.backends.callbacks.ServerAccess`."""
        order = wish.order
        files = {path: np.frombuffer(content, np.uint8) for path, content in order.files.items()}
        said = self.question(
            lambda id, blocks: Manage(
                id, wish.kind, wish.model, wish.version, order.config, wish.dependents, blocks
            ),
            files,
        )
        return bool(said.parameters.get("value"))

    def log(self, level: int, text: str) -> None:
        """See :class:`~salver.backends.callbacks.ServerAccess`."""
        self.tell(Log(level, text))

    def begin_run(self) -> Callable[[int], Callable[[], bool]]:
        """Begin a run; return for each request a function that tells whether its caller is gone."""
        self._runs += 1
        return partial(partial, self._is_gone, self._runs)

    def _is_gone(self, run: int, index: int) -> bool:
        # The server knows the callers of the current run only.
        if run != self._runs:
            return False  # that run has ended
        return bool(self.question(lambda id, _: IsGone(id, index)).parameters["value"])

    def question(
        self, ask: Callable[[int, tuple[Block, ...]], Saying], arrays: Mapping[str, Array] | None = None
    ) -> InferResponse:
        """Send a message that has one answer, and wait for it.

        Raises:
            SalverError: from the server.
        """
        answer: SimpleQueue[InferResponse | None] = SimpleQueue()
        id = self._enter(lambda said, _: answer.put(said))
        self._hand_over(id, arrays or {}, lambda blocks: ask(id, blocks))
        said = answer.get()
        if said is None or said.error is not None:
            raise (said or _gone()).error or NotReady(_GONE)
        return said

    def tell(self, saying: Saying) -> None:
        """Send a message; do nothing if the server is gone, which the listening thread notices.

        Raises:
            TypeError: the model passed an argument of a type for which the server would end this process.
            TooLarge: the message is too long.
        """
        # Read what was written, as the server will: for what it cannot read it kills this host.
        try:
            framed = frame(saying)
            read_saying(memoryview(framed)[4:])
        except (msgspec.ValidationError, NotImplementedError, OverflowError) as error:
            raise TypeError(f"the server cannot be told that: {error}") from error
        with suppress(OSError), self._sending:
            self._sock.sendall(framed)

    def _ask(self, request: InferRequest, in_pieces: bool, hear: Hear) -> int:
        id = self._enter(hear)
        # Other threads of the model may outlive the run, whose deadline is not theirs.
        is_of_run = threading.current_thread() is self._run
        types = tuple(tensor.datatype.name for tensor in request.inputs)
        outputs = tuple(output.name for output in request.outputs)

        def ask(inputs: tuple[Block, ...]) -> ModelCall:
            return ModelCall(
                id,
                request.model,
                request.version,
                request.id,
                outputs,
                dict(request.parameters),
                inputs,
                types,
                in_pieces,
                is_of_run,
                request.trace,
            )

        self._hand_over(id, {tensor.name: tensor.array for tensor in request.inputs}, ask)
        return id

    def _enter(self, hear: Hear) -> int:
        if len(self._hearing) >= MOST_CALLS:
            raise Overloaded(
                f"{MOST_CALLS} requests of this instance to other models are under way",
                fix="Await some of them before you ask more.",
            )
        id = next(self._ids)
        self._hearing[id] = hear
        return id

    def _hand_over(
        self, id: int, arrays: Mapping[str, Array], ask: Callable[[tuple[Block, ...]], Saying]
    ) -> None:
        """Send a message with arrays as soon as the arena is free."""
        if arrays:
            self._turn.acquire()  # released when the server has copied the tensors
        if self._is_closed:
            # Pass the turn on: others wait for it who would never learn that the server is gone.
            self._turn.release()
            self._settle(id, _gone(), True)
            return
        try:
            self.tell(ask(self._asks.write(arrays) if arrays else ()))
        except BaseException as error:
            self._hearing.pop(id, None)
            if arrays:
                self._turn.release()
            if isinstance(error, OSError):
                raise ModelFailed(f"no memory to hand a request over: {error}") from error
            raise

    def _listen(self) -> None:
        frames = Frames()
        try:
            while data := self._sock.recv(1 << 16):
                for payload in frames.feed(data):
                    telling = read_telling(payload)
                    if isinstance(telling, CallResult):
                        self._hear(telling)
                    elif isinstance(telling, TensorsTaken):
                        self._turn.release()
                    else:
                        threading.Thread(target=self._probe, name="salver-probe", daemon=True).start()
        except OSError:
            pass
        finally:
            self._is_closed = True
            self._turn.release()
            for id in list(self._hearing):
                self._settle(id, _gone(), True)

    def _hear(self, told: CallResult) -> None:
        error: SalverError | None = None
        outputs: tuple[Tensor, ...] = ()
        parameters = told.answer.parameters if isinstance(told.answer, ResponseHead) else {}
        if isinstance(told.answer, RunError):
            error = rebuild(told.answer)
        elif told.outputs:
            try:
                arrays = self._answers.read(told.outputs, copy=True)
                outputs = tuple(
                    Tensor(name, DATATYPES[kind], array)
                    for kind, (name, array) in zip(told.types, arrays.items(), strict=True)
                )
            except (OSError, MemoryError) as failed:
                error = ModelFailed(f"no memory for an answer: {failed}")
            self.tell(TensorsTaken())
        said = InferResponse("", "", outputs, "", parameters, is_last=told.is_last, error=error)
        self._settle(told.id, None if told.answer is None else said, told.is_end)

    def _settle(self, id: int, said: InferResponse | None, is_end: bool) -> None:
        # Nothing there: the model has given the request up.
        hear = self._hearing.pop(id, None) if is_end else self._hearing.get(id)
        if hear is not None:
            try:
                hear(said, is_end)
            except Exception as error:
                traceback.print_exception(error)

    def _probe(self) -> None:
        try:
            is_ready = self.is_ready is None or bool(self.is_ready())
        except BaseException as error:
            traceback.print_exception(error)
            is_ready = False
        self.tell(Ready(is_ready))


def _gone() -> InferResponse:
    return InferResponse("", "", (), error=NotReady(_GONE))


class _Meters:
    """See :class:`~salver.backends.callbacks.Meters`."""

    def __init__(self, surroundings: HostServerAccess) -> None:
        self._surroundings = surroundings

    def open(self, series: Series) -> int:
        """Return a handle of a series."""
        said = self._surroundings.question(lambda id, _: OpenSeries(id, series))
        return int(said.parameters["value"])

    def change(self, handle: int, how: Literal["add", "set", "observe"], value: float) -> None:
        """Change the number without waiting."""
        self._surroundings.tell(Change(handle, how, value))

    def value(self, handle: int) -> float:
        """Return the current value, as shown on the metrics page."""
        said = self._surroundings.question(lambda id, _: ReadSeries(id, handle))
        return float(said.parameters["value"])
