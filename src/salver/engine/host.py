"""What happens inside a host process?

``python -m salver.engine.host CONTROL REQUESTS RESPONSES PARENT``, the first three being inherited
descriptors: it loads one model, then runs batches, one at a time, until it is told to stop or
its parent is gone. Standard output and error belong to the model; the parent logs them.
It knows nothing of queues, batches or other hosts (:mod:`salver.engine.process` starts it).

An input is a view of shared memory that the next run overwrites: a model that wants to keep
one copies it.
"""

import ctypes
import faulthandler
import importlib
import io
import operator
import os
import resource
import signal
import socket
import sys
import time
import traceback
from typing import Any

import msgspec

from salver.backends import reshaped
from salver.backends.protocol import Backend, RequestModel, RunnableModel
from salver.engine.control import (
    Asked,
    Failed,
    Frames,
    Load,
    Loaded,
    Order,
    Ran,
    Reply,
    Run,
    Said,
    Stop,
    by_number,
    describe,
    frame,
    numbered,
    read_order,
)
from salver.engine.shm import Arena, Block
from salver.errors import LoadFailed, ModelFailed, SalverError
from salver.messages import InferRequest, RequestedOutput
from salver.tensor import Array, Tensor, tensor

_PR_SET_PDEATHSIG = 1


class _Channel:
    """The child's end of the control channel, blocking."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._frames = Frames()

    def receive(self) -> Order:
        """The next order; Stop once the parent is gone."""
        while data := self._sock.recv(1 << 14):
            for payload in self._frames.feed(data):  # the parent sends one and waits
                return read_order(payload)
        return Stop()

    def send(self, reply: Reply) -> None:
        self._sock.sendall(frame(reply))


def main(arguments: list[str]) -> int:
    """The whole life of a host; the exit status."""
    control, requests, responses, parent = map(int, arguments)
    for fd in (control, requests, responses):
        os.set_inheritable(fd, False)  # not for what the model starts
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
    try:
        model = _load(load)
        loaded = Loaded(model.signature, isinstance(model, RequestModel))
    except BaseException as error:
        channel.send(_load_failure(error, load))
        return 1
    channel.send(loaded)
    _serve(channel, model, load, *arenas)
    model.close()
    return 0


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when the parent's thread ends, however it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def _load(load: Load) -> RunnableModel:
    if load.memory_limit_mb:
        limit = load.memory_limit_mb << 20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    sys.path[:] = load.path
    module, _, attribute = load.backend.partition(":")
    found: Any = operator.attrgetter(attribute)(importlib.import_module(module))
    backend: Backend = found() if isinstance(found, type) else found
    options = msgspec.structs.replace(load.options, own_process=True)
    return reshaped.load(backend, load.manifest, options)


def _serve(channel: _Channel, model: RunnableModel, load: Load, requests: Arena, responses: Arena) -> None:
    while isinstance(order := channel.receive(), Run):
        try:
            inputs = requests.read(order.inputs, copy=False)
            if order.asked and isinstance(model, RequestModel):
                reply: Reply = _answer(model, order.asked, inputs, responses, load)
            else:
                outputs, seconds = _run(model, inputs)
                reply = Ran(_lay_out(outputs, responses), seconds)
        except BaseException as error:  # sys.exit() in a model is its failure, not an order
            reply = _run_failure(error, load)
        channel.send(reply)


def _run(model: RunnableModel, inputs: dict[str, Array]) -> tuple[dict[str, Array], float]:
    began = time.perf_counter()
    outputs = model.run(inputs)
    return dict(outputs), time.perf_counter() - began


def _answer(
    model: RequestModel, asked: tuple[Asked, ...], inputs: dict[str, Array], responses: Arena, load: Load
) -> Ran:
    """Run it on requests, each with what it brought."""
    id, types = load.manifest.id, {spec.name: spec.datatype for spec in model.signature.inputs}
    requests = [
        InferRequest(
            id.name,
            tuple(Tensor(name, types[name], array) for name, array in part.items()),
            id.version,
            said.id,
            tuple(map(RequestedOutput, said.outputs)),
            said.parameters,
        )
        for said, part in zip(asked, by_number(inputs, len(asked)), strict=True)
    ]
    began = time.perf_counter()
    answers = model.answer(requests)
    seconds = time.perf_counter() - began
    blocks = _lay_out(numbered({} if isinstance(a, SalverError) else a.outputs for a in answers), responses)
    told = (describe(a) if isinstance(a, SalverError) else Said(dict(a.parameters)) for a in answers)
    return Ran(blocks, seconds, tuple(told))


def _lay_out(outputs: dict[str, Array], responses: Arena) -> tuple[Block, ...]:
    plain = {}
    for name, value in outputs.items():
        try:
            plain[name] = tensor(name, value).array
        except ValueError as error:
            raise ModelFailed(f"output {name!r} is no tensor: {error}") from error
    return responses.write(plain)


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
