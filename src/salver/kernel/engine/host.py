"""Main program of a host process.

``python -m salver.kernel.engine.host PARENT CONTROL REQUESTS RESPONSES [SIDE ASKS ANSWERS]``, where all but
the first are inherited descriptors. It loads one model, then runs batches, one at a time, until it is told to
stop or its parent is gone. Standard output and error belong to the model; the parent logs them. Through the
last three descriptors the model may call the server (:mod:`salver.kernel.engine.callback_client`). It knows
nothing of queues, batches or other hosts (:mod:`salver.kernel.engine.process` starts it).

An input is a view of shared memory that the next run overwrites: a model that keeps one must copy it.
"""

import contextlib
import ctypes
import faulthandler
import importlib
import io
import math
import operator
import os
import resource
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from typing import Any, Literal, Never

import msgspec
import numpy as np

from salver.backends import reshaped
from salver.backends.callbacks import Surroundings
from salver.backends.protocol import (
    Answer,
    Backend,
    FormModel,
    ReadyModel,
    RequestModel,
    RunnableModel,
    StreamModel,
    ThriftyModel,
)
from salver.dialects.torchserve.engine import forms, sharing
from salver.kernel.engine.callback_client import HostSurroundings
from salver.kernel.engine.control import (
    Failed,
    Frames,
    GiveUp,
    Handle,
    Load,
    Loaded,
    Next,
    Order,
    Ran,
    Reply,
    Run,
    Said,
    Stop,
    Taken,
    apart,
    describe,
    frame,
    numbered,
    read_order,
    stacked,
)
from salver.kernel.engine.outlets import Outlet, Outlets
from salver.kernel.engine.shm import Arena, Block
from salver.words.errors import InvalidOutput, LoadFailed, ModelFailed, SalverError, TooLarge
from salver.words.messages import InferRequest, RequestedOutput, Signature
from salver.words.tensor import Array, DataType, Tensor, tensor

_PR_SET_PDEATHSIG = 1
#: Maximum time to poll for the next order after a run for a single caller who called again immediately
#: before: sleeping and waking up costs more than a small run.
_AWAKE_S = 400e-6
#: Seconds without an order after which the model may release buffers kept for the next one.
_IDLE_S = 10.0
#: Array types that may be written unchanged.
_PLAIN = frozenset(kind.dtype for kind in DataType if kind is not DataType.BYTES)


class _Channel:
    """Child side of the control channel, blocking.

    Args:
        idle_s: Seconds without an order after which the idle callback is called.
    """

    def __init__(self, sock: socket.socket, idle_s: float = _IDLE_S) -> None:
        self.sock = sock
        self._idle_s = idle_s
        self._on_idle: Callable[[], None] | None = None
        self._sending = threading.RLock()  # an exception may interrupt a sender while it holds the lock
        self._frames = Frames()
        self._orders: deque[Order] = deque()
        self._may_wake = len(os.sched_getaffinity(0)) > 1
        self._pause = math.inf  # shortest recent pause between two orders

    def receive(self, *, is_lone: bool = False) -> Order:
        """Return the next order; Stop once the parent is gone.

        Args:
            is_lone: The last run had a single request: the next may follow as soon as before.
        """
        while not self._orders:
            began = time.perf_counter()
            data = b""
            if is_lone and self._may_wake and self._pause < _AWAKE_S:
                data = self._look(began + _AWAKE_S)
            data = data or self._wait()
            self._pause = time.perf_counter() - began
            if not data:
                return Stop()
            self._orders.extend(map(read_order, self._frames.feed(data)))
        return self._orders.popleft()

    def when_idle(self, on_idle: Callable[[], None]) -> None:
        """Set the idle callback, called once per idle period; it must not raise."""
        self._on_idle = on_idle
        self._limit(self._idle_s)

    def _wait(self) -> bytes:
        with contextlib.suppress(BlockingIOError):
            return self.sock.recv(1 << 14)
        if self._on_idle is not None:
            self._on_idle()
        self._limit(0.0)
        try:
            return self.sock.recv(1 << 14)
        finally:
            self._limit(self._idle_s)

    def _limit(self, seconds: float) -> None:
        """Set the timeout on the socket, only if it changes, because that is a system call; 0 = none."""
        whole, part = divmod(int(seconds * 1e6), 1_000_000)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", whole, part))

    def _look(self, until: float) -> bytes:
        """Poll until then, yielding to other threads; return empty if nothing arrives."""
        while time.perf_counter() < until:
            with contextlib.suppress(BlockingIOError):
                return self.sock.recv(1 << 14, socket.MSG_DONTWAIT)
            os.sched_yield()
        return b""

    def send(self, reply: Reply) -> None:
        """Send a message, from any thread; one that is too long is sent as an error."""
        try:
            framed = frame(reply)
        except TooLarge as error:
            framed = frame(describe(error))
        with self._sending:
            self.sock.sendall(framed)


def main(arguments: list[str]) -> int:
    """Run a host from start to end; return the exit status."""
    parent, *descriptors = map(int, arguments)
    for fd in descriptors:
        os.set_inheritable(fd, False)  # not inherited by processes that the model starts
    control, requests, responses, *side = descriptors
    _die_with(parent)
    faulthandler.enable()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    channel = _Channel(socket.socket(fileno=control))
    arenas = Arena(requests), Arena(responses)
    load = channel.receive()
    if not isinstance(load, Load):
        return 0
    around = None
    if side:
        sock, asks, answers = side
        around = HostSurroundings(socket.socket(fileno=sock), Arena(asks), Arena(answers))
    before = sharing.Before() if load.bears else None
    if before is not None and load.imports:
        return _found(channel, load, arenas, before)
    try:
        model = _load(load, around)
        has_opinion = around is not None and isinstance(model, ReadyModel)
        if around is not None and isinstance(model, ReadyModel):
            around.is_ready = model.is_ready
        wants_trace = around is not None and bool(getattr(model, "wants_trace", False))
        loaded = Loaded(model.signature, _asks(model), has_opinion, wants_trace)
    except BaseException as error:
        channel.send(_load_failure(error, load))
        return 1
    if before is not None:
        before.end()
        if alone := sharing.why_not(before):
            imports = sharing.imported(before, load.manifest.path)
            loaded = msgspec.structs.replace(loaded, alone=alone, imports=imports)
    channel.send(loaded)
    if before is not None and loaded.alone:
        sharing.unfold(load.variables, load.options.threads)
    elif before is not None:
        if (birth := sharing.bear(channel.sock, before, load)) is None:
            model.close()
            return 0
        channel, arenas = _born(birth, arenas)
        _live_on(channel, lambda _: (model, loaded), arenas)
    _serve(channel, model, load, *arenas, around)
    model.close()
    return 0


def _found(channel: _Channel, load: Load, arenas: tuple[Arena, Arena], before: sharing.Before) -> int:
    """Run a fork server: it has imported modules but loads no model."""
    sharing.import_all(load.imports)
    before.end()
    alone = sharing.why_not(before)
    channel.send(Loaded(Signature((), ()), alone=alone))
    if alone or (birth := sharing.bear(channel.sock, before, load)) is None:
        return 0
    channel, arenas = _born(birth, arenas)

    def load_now(load: Load) -> tuple[RunnableModel, Loaded]:
        model = _load(load, None)
        return model, Loaded(model.signature, _asks(model))

    _live_on(channel, load_now, arenas)


def _live_on(
    channel: _Channel, load: Callable[[Load], tuple[RunnableModel, Loaded]], arenas: tuple[Arena, Arena]
) -> Never:
    """Continue in a forked host; cleanup at exit belongs to the fork server."""
    code = 0
    try:
        order = channel.receive()
        if isinstance(order, Load):
            try:
                model, loaded = load(order)
            except BaseException as error:
                channel.send(_load_failure(error, order))
                raise SystemExit(1) from None
            channel.send(loaded)
            _serve(channel, model, order, *arenas, None)
            model.close()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException as error:
        traceback.print_exception(error)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _born(birth: sharing.Birth, others: tuple[Arena, Arena]) -> tuple[_Channel, tuple[Arena, Arena]]:
    """Return the channel and arenas of a forked host, replacing the inherited ones."""
    for arena in others:
        arena.close()
    for fd in birth:
        os.set_inheritable(fd, False)
    channel = _Channel(socket.socket(fileno=birth.control))
    return channel, (Arena(birth.requests), Arena(birth.responses))


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when the parent's thread ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def _load(load: Load, around: Surroundings | None) -> RunnableModel:
    if load.memory_limit_mb:
        limit = load.memory_limit_mb << 20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    if load.path:
        sys.path[:] = load.path
    module, _, attribute = load.backend.partition(":")
    found: Any = operator.attrgetter(attribute)(importlib.import_module(module))
    backend: Backend = found() if isinstance(found, type) else found
    options = msgspec.structs.replace(load.options, own_process=True, around=around)
    return reshaped.load(backend, load.manifest, options)


def _asks(model: RunnableModel) -> Literal["batch", "requests", "stream", "forms"]:
    if isinstance(model, StreamModel):
        return "stream"
    if isinstance(model, FormModel):
        return "forms"
    return "requests" if isinstance(model, RequestModel) else "batch"


def _serve(
    channel: _Channel,
    model: Any,
    load: Load,
    requests: Arena,
    responses: Arena,
    around: HostSurroundings | None,
) -> None:
    asks = _asks(model)
    if isinstance(model, ThriftyModel):
        channel.when_idle(model.on_idle)
    if asks == "stream":
        _serve_streams(channel, model, load, requests, responses)
        return
    if asks == "forms":
        _serve_forms(channel, model, load, requests, responses)
        return
    is_lone = False
    while not isinstance(order := channel.receive(is_lone=is_lone), Stop | Load):
        is_lone = isinstance(order, Run) and len(order.asked) == 1
        if not isinstance(order, Run):
            continue
        try:
            inputs = requests.read(order.inputs, copy=asks != "batch")
            if order.asked and asks == "requests":
                gone = around.begin_run() if around else None
                asking = _requests(model, order, inputs, load, gone)
                reply: Reply = _answer(model, asking, responses)
            else:
                outputs, seconds = _run(model, inputs)
                reply = Ran(_lay_out(outputs, responses), seconds)
        except BaseException as error:  # sys.exit() in a model is an error of the model, not an order
            reply = _run_failure(error, load)
        channel.send(reply)


def _serve_forms(channel: _Channel, model: FormModel, load: Load, requests: Arena, responses: Arena) -> None:
    """Serve a handler, which may send pieces of its answers while it runs."""
    id = load.manifest.id

    def send(index: int, answer: Answer) -> None:
        for bit in forms.bits(index, answer):
            channel.send(bit)

    is_lone = False
    while not isinstance(order := channel.receive(is_lone=is_lone), Stop | Load):
        if not isinstance(order, Handle):
            continue
        is_lone = order.is_lone
        try:
            asking = forms.asked(order, requests, id)
            began = time.perf_counter()
            said = model.reply(asking, send)
            reply: Reply = forms.handled(said, time.perf_counter() - began, responses)
        except SystemExit:  # a handler may end its worker, which the parent notices
            raise
        except BaseException as error:
            reply = _run_failure(error, load)
        channel.send(reply)


def _serve_streams(
    channel: _Channel, model: StreamModel, load: Load, requests: Arena, responses: Arena
) -> None:
    """Serve a model that answers asynchronously; a thread receives messages meanwhile."""
    runs: SimpleQueue[tuple[Run, list[Outlet]] | None] = SimpleQueue()
    outlets = Outlets(channel.send, lambda given: _lay_out(given, responses), lambda: runs.put(None))
    stopping = threading.Event()

    def hear() -> None:
        while not isinstance(order := channel.receive(), Stop | Load):
            if isinstance(order, Run):  # readers may leave before the model is free for their requests
                runs.put((order, [outlets.open(mark) for mark in order.marks]))
            elif isinstance(order, Next | GiveUp | Taken):
                outlets.hear(order)
        stopping.set()
        outlets.close()
        runs.put(None)

    threading.Thread(target=hear, name="salver-orders", daemon=True).start()
    while not stopping.is_set() or len(outlets):
        if (run := runs.get()) is not None:
            channel.send(_stream(model, *run, load, requests))


def _stream(model: StreamModel, order: Run, listeners: Sequence[Outlet], load: Load, requests: Arena) -> Ran:
    began = time.perf_counter()
    try:
        inputs = requests.read(order.inputs, copy=True)
        model.stream(_requests(model, order, inputs, load), listeners)
    except BaseException as error:
        why = _run_failure(error, load)
        for listener in listeners:
            listener.end(why)
    return Ran((), time.perf_counter() - began)


def _run(model: RunnableModel, inputs: dict[str, Array]) -> tuple[dict[str, Array], float]:
    began = time.perf_counter()
    outputs = model.run(inputs)
    return dict(outputs), time.perf_counter() - began


def _answer(model: RequestModel, asking: list[InferRequest], responses: Arena) -> Ran:
    """Run the model on requests, each with its own parameters."""
    began = time.perf_counter()
    answers = model.answer(asking)
    seconds = time.perf_counter() - began
    blocks, rows = _lay_out_each(answers, model.signature.batched, responses)
    return Ran(blocks, seconds, tuple(map(_told, answers)), rows)


def _told(answer: Answer | SalverError) -> Said | Failed | None:
    if isinstance(answer, SalverError):
        return describe(answer)
    is_plain = not answer.parameters and not answer.again
    return None if is_plain else Said(dict(answer.parameters), answer.again)


def _lay_out_each(
    answers: Sequence[Answer | SalverError], batched: bool, responses: Arena
) -> tuple[tuple[Block, ...], tuple[int, ...]]:
    """Write the outputs; return their positions and, if stacked, the rows of each request."""
    parts = [{} if isinstance(a, SalverError) else _plain(a.outputs) for a in answers]
    if len(parts) == 1:
        return responses.write(parts[0]), ()
    good = [list(part.items()) for part in parts if part]
    columns = stacked(good) if batched and good else None
    if columns is None:
        return responses.write(numbered(parts)), ()
    rows = tuple([len(next(iter(part.values()))) if part else 0 for part in parts])
    return responses.write_stacked(columns), rows


def _requests(
    model: RunnableModel,
    order: Run,
    inputs: dict[str, Array],
    load: Load,
    gone: Callable[[int], Callable[[], bool]] | None = None,
) -> list[InferRequest]:
    id, signature = load.manifest.id, model.signature
    types = {spec.name: spec.datatype for spec in signature.inputs}
    every = tuple([RequestedOutput(spec.name) for spec in signature.outputs])
    requests: list[InferRequest] = []
    for said, part in zip(order.asked, apart(inputs, order.rows, len(order.asked)), strict=True):
        tensors = tuple(
            [
                Tensor(name, types[name], array) if name in types else tensor(name, array)
                for name, array in part.items()
            ]
        )
        is_gone = gone(len(requests)) if gone else None
        if said is None:
            request = InferRequest(id.name, tensors, id.version, outputs=every, is_gone=is_gone)
        else:
            wanted = tuple(map(RequestedOutput, said.outputs))
            request = InferRequest(
                id.name,
                tensors,
                id.version,
                said.id,
                wanted,
                said.parameters,
                said.trace,
                is_gone=is_gone,
            )
        requests.append(request)
    return requests


def _lay_out(outputs: Mapping[str, Array], responses: Arena) -> tuple[Block, ...]:
    return responses.write(_plain(outputs))


def _plain(outputs: Mapping[str, Array]) -> dict[str, Array]:
    plain = {}
    for name, value in outputs.items():
        if type(value) is not np.ndarray or value.dtype not in _PLAIN:
            try:
                value = tensor(name, value).array
            except ValueError as error:
                raise InvalidOutput(f"output {name!r} is no tensor: {error}") from error
        plain[name] = value
    return plain


def _load_failure(error: BaseException, load: Load) -> Failed:
    if isinstance(error, SalverError):
        return describe(error)
    traceback.print_exception(error)
    name = load.manifest.id.name
    if isinstance(error, MemoryError):
        return describe(_out_of_memory(LoadFailed, f"model '{name}' ran out of memory while loading", load))
    return describe(LoadFailed(f"model '{name}' could not be loaded: {type(error).__name__}: {error}"))


def _run_failure(error: BaseException, load: Load) -> Failed:
    if isinstance(error, SalverError):
        return describe(error)
    name = load.manifest.id.name
    if isinstance(error, MemoryError):
        return describe(_out_of_memory(ModelFailed, f"model '{name}' ran out of memory", load))
    traceback.print_exception(error)
    return describe(ModelFailed(f"model '{name}' raised {type(error).__name__}: {error}"))


def _out_of_memory(kind: type[SalverError], text: str, load: Load) -> SalverError:
    if not load.memory_limit_mb:
        return kind(text)
    return kind(
        f"{text}: its host process may use {load.memory_limit_mb} MiB of address space",
        fix="Raise instances.memory_limit_mb, or lower batching.max_rows.",
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
