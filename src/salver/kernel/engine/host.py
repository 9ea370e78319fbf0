"""Program of a host process.

``python -m salver.kernel.engine.host PARENT CONTROL REQUESTS RESPONSES [SIDE ASKS ANSWERS]``, all but the
first being inherited descriptors: it loads one model, then runs batches, one at a time, until it is told to
stop or its parent is gone. Standard output and error belong to the model; the parent logs them. By the last
three the model may ask the server (:mod:`salver.kernel.engine.callback_client`). A plan may name another
:class:`Program` that does the loading and running.
"""

import ctypes
import faulthandler
import io
import os
import signal
import socket
import sys
from typing import Protocol

from salver.backends.protocol import ReadyModel
from salver.kernel.engine.callback_client import HostServerAccess
from salver.kernel.engine.control import Load, LoadResult
from salver.kernel.engine.host_channel import Channel
from salver.kernel.engine.hosting import asks_of, load_failure, load_model, named, serve
from salver.kernel.engine.shm import Arena
from salver.machine import keep_one_heap, trim_heap

_PR_SET_PDEATHSIG = 1


class Program(Protocol):
    """Program of a host process that replaces :func:`host_model` if its plan names it."""

    def __call__(self, channel: Channel, load: Load, requests: Arena, responses: Arena) -> int:
        """Load and run the model until told to stop; return the exit status."""
        ...


def main(arguments: list[str]) -> int:
    """Run a host process from start to end; return the exit status."""
    parent, *descriptors = map(int, arguments)
    for fd in descriptors:
        os.set_inheritable(fd, False)  # not for processes that the model starts
    control, requests, responses, *side = descriptors
    die_with(parent)
    keep_one_heap()
    faulthandler.enable()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    channel = Channel(socket.socket(fileno=control))
    arenas = Arena(requests), Arena(responses)
    load = channel.receive()
    if not isinstance(load, Load):
        return 0
    if load.program:
        program: Program = named(load.program)
        return program(channel, load, *arenas)
    around = None
    if side:
        sock, asks, answers = side
        around = HostServerAccess(socket.socket(fileno=sock), Arena(asks), Arena(answers))
    return host_model(channel, load, *arenas, around)


def host_model(
    channel: Channel, load: Load, requests: Arena, responses: Arena, around: HostServerAccess | None
) -> int:
    """Load the model and run it until told to stop; return the exit status."""
    try:
        model = load_model(load, around)
        has_opinion = around is not None and isinstance(model, ReadyModel)
        if around is not None and isinstance(model, ReadyModel):
            around.is_ready = model.is_ready
        wants_trace = around is not None and bool(getattr(model, "wants_trace", False))
        loaded = LoadResult(model.signature, asks_of(model), has_opinion, wants_trace)
    except BaseException as error:
        channel.send(load_failure(error, load))
        return 1
    trim_heap()  # of what the load has freed
    channel.send(loaded)
    serve(channel, model, load, requests, responses, around)
    model.close()
    return 0


def die_with(parent: int) -> None:
    """Have the operating system kill this process when the parent's thread ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
