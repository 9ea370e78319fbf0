"""Program of a fork server, which starts host processes without their imports.

``python -m salver.kernel.engine.fork_server PARENT ORDERS``: it imports what its first message names, and
forks a host process for each order until the other end of that socket is closed. It runs nothing of what it
has imported: threads that a framework starts in its first run would not survive a fork.

A host is forked by a process that ends at once, so that it becomes a child of the server, which is a
subreaper meanwhile: it is waited for, killed and bound to the server's life like one that was executed, and
it outlives this process. The server's side is :mod:`salver.kernel.engine.fork_client`.
"""

import atexit
import contextlib
import gc
import importlib
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from typing import NoReturn

import msgspec

from salver.kernel.engine import host
from salver.kernel.engine.hosting import named
from salver.lazy import load_names

#: Longest message, and most descriptors that come with one.
MOST_BYTES, MOST_FDS = 1 << 17, 16
#: First reply, when the imports are done and forks are safe.
READY = b"ready"
_ADOPTION_S = 10.0  # far longer than it takes to become a child of the server


class Preload(msgspec.Struct, frozen=True, array_like=True):
    """First message.

    Attributes:
        path: The server's ``sys.path``; empty in another Python, which has its own.
        names: Modules to import, and functions to call as ``module:function``; what raises is left to the
            hosts, whose loads raise it again.
    """

    path: tuple[str, ...]
    names: tuple[str, ...]


_DECODER = msgspec.msgpack.Decoder(Preload)


def main(arguments: Sequence[str]) -> int:
    """Fork until told to stop, and return the exit status; in a fork, run the host."""
    parent, orders = map(int, arguments)
    os.set_inheritable(orders, False)
    host.die_with(parent)
    sock = socket.socket(fileno=orders)
    message = sock.recv(MOST_BYTES)
    if not message:
        return 0
    _import(_DECODER.decode(message))
    if threading.active_count() > 1:
        sock.send(f"its imports have started {threading.active_count() - 1} threads".encode())
        return 0
    gc.collect()
    gc.freeze()  # a collection in a host would write to all that it shares with the others
    sock.send(READY)
    while True:
        message, fds, _, _ = socket.recv_fds(sock, MOST_BYTES, MOST_FDS)
        if not message:
            return 0
        pid = _fork(parent)
        if pid is None:
            sock.close()
            _host([str(parent), *map(str, _settled(fds))])
        sock.send(b"%d" % pid)
        for fd in fds:
            os.close(fd)


def _host(arguments: Sequence[str]) -> NoReturn:
    """Run a host, and end this process without freeing what it shares: that would first copy all of it."""
    status = 1
    try:
        status = host.main(list(arguments))
    except SystemExit as error:
        status = int(error.code is not None)
        if isinstance(error.code, int):
            status = error.code
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()  # what models have asked for; the module has no public way
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _import(preload: Preload) -> None:
    if preload.path:
        sys.path[:] = preload.path
    for name in preload.names:
        with contextlib.suppress(Exception):
            if ":" in name:
                named(name)()
            else:
                importlib.import_module(name)
    load_names("salver.backends")
    load_names("salver.kernel.engine")


def _fork(parent: int) -> int | None:
    """Fork a host process; return its id, 0 = the process between them was killed. In it, return None."""
    told, tells = os.pipe()
    child = os.fork()
    if child:
        os.close(tells)
        pid = int(os.read(told, 20) or 0)
        os.close(told)
        os.waitpid(child, 0)  # from now on the host is a child of the server
        return pid
    if pid := os.fork():
        os.write(tells, b"%d" % pid)
        os._exit(0)
    os.close(told)
    os.close(tells)
    until = time.monotonic() + _ADOPTION_S
    while os.getppid() != parent:
        if time.monotonic() > until:  # the server is gone
            os._exit(1)
        time.sleep(0.0002)
    os.setsid()  # a group of its own, which is killed as a whole
    return None


def _settled(fds: list[int]) -> list[int]:
    """Connect this host's output, which is the first descriptor, and return the others."""
    output, *others = fds
    for standard in (1, 2):
        os.dup2(output, standard)
    os.close(output)
    # The streams of this process know that they wrote to a file, not to a pipe.
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    random = sys.modules.get("numpy.random")
    if random is not None:
        random.seed()  # else all forks would draw the same numbers; Python's own generator does so itself
    return others


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
