"""Host processes of models, started as forks of a process that has imported what hosts import.

A process that starts hosts has one child more, from which they come: a tenth of the work of a new
interpreter. In everything else a host is as in production: a child of the process that started it, leader of
its session, ended with its parent, with its own environment and descriptors. Tests of how hosts start and end
run the real command (fixture ``executed_hosts``, or :data:`EXECUTED` in the environment).
"""

import array
import atexit
import contextlib
import ctypes
import fcntl
import gc
import importlib
import itertools
import marshal
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

#: Programs of hosts, as in their command lines.
HOSTS = ("salver.kernel.engine.host", "salver.kernel.engine.fork_server")
#: Variables that an interpreter, or a library that is loaded already, reads when it starts.
_READ_EARLY = ("PYTHON", "LD_")
#: NumPy has one thread where it is imported before a fork; what a host imports has as many as it is told.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}
#: Environment of a server whose hosts are commands, and which has no child but them.
EXECUTED = {"PYTEST_HOSTS": "exec"}
_MESSAGE_BYTES = 1 << 17
_MOST_DESCRIPTORS = 16
_MOST_OPEN = 1 << 16
#: Signals to all processes of a terminal; one more is SIGINT.
_OF_TERMINALS = (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM)
_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl


class HostFork:
    """A started host; the part of ``Popen`` that its parent uses."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._lock = threading.Lock()
        self._code: int | None = None

    def wait(self) -> int:
        """Return the exit status as ``Popen.wait`` does."""
        with self._lock:
            if self._code is None:
                self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            return self._code

    def kill(self) -> None:
        """Kill it, unless its end is known; another thread may wait for it."""
        if self._code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


class HostForks:
    """Starts hosts through the process at the other end of a socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.is_used = True
        self._sock = sock
        self._lock = threading.Lock()
        self._environment = _early(os.environ)

    def start(self, command: Sequence[str], env: Mapping[str, str], **more: Any) -> Any:
        """Start a command as ``subprocess.Popen`` does; hosts as forks, if this interpreter may run them."""
        is_host = tuple(command[:3]) == (sys.executable, "-P", "-m") and command[3] in HOSTS
        if not (is_host and self.is_used and _early(env) == self._environment):
            return subprocess.Popen(command, env=env, **more)
        passed = [int(fd) for fd in more["pass_fds"]]
        order = marshal.dumps((list(command[3:]), dict(env), str(Path.cwd()), passed))
        streams = array.array("i", [more["stdout"], *passed])
        from salver.kernel.engine.fork_client import adopting

        # A host is forked by a process that ends at once: as an orphan it becomes a child of this one.
        with self._lock, adopting():
            self._sock.sendmsg([order], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
            return HostFork(int(self._sock.recv(16)))


#: Those of this process; None = hosts are started as commands.
_forks: HostForks | None = None


def use(forks: HostForks) -> None:
    """Have this process start its hosts as forks."""
    from salver.kernel.engine import spawn

    global _forks
    _forks = forks
    spawn.subprocess = SimpleNamespace(  # type: ignore[assignment]
        Popen=forks.start, DEVNULL=subprocess.DEVNULL
    )


def begin() -> None:
    """Start the process that forks hosts for this one, as a new interpreter."""
    if _is_executing():
        return
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        subprocess.Popen(
            [sys.executable, "-P", __file__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=os.environ | ONE_THREAD,
            stdin=subprocess.DEVNULL,
        )
    use(HostForks(mine))


def begin_by_fork() -> None:
    """Fork the process that forks hosts for this one, which has imported what they need and no thread."""
    if _is_executing():
        return
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork():
        theirs.close()
        use(HostForks(mine))
        return
    mine.close()
    del sys.path[0]  # "-P" in a host's command line
    _serve(theirs)


@contextlib.contextmanager
def executed() -> Any:
    """Start hosts as commands for the time being."""
    if _forks is None:
        yield
        return
    _forks.is_used = False
    try:
        yield
    finally:
        _forks.is_used = True


def _is_executing() -> bool:
    return os.environ.items() >= EXECUTED.items()


def _early(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(_READ_EARLY)}


def _serve(orders: socket.socket) -> None:
    """Fork a host for each order until the other end is closed; never return."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    gc.collect()
    gc.freeze()
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):
        os.dup2(nothing, stream)
    for number in (signal.SIGINT, *_OF_TERMINALS):
        signal.signal(number, signal.SIG_IGN)
    while True:
        order, descriptors, _, _ = socket.recv_fds(orders, _MESSAGE_BYTES, _MOST_DESCRIPTORS)
        if not order:
            os._exit(0)
        if not (parent := os.fork()):
            if not os.fork():
                _become(orders, descriptors, *marshal.loads(order))
            os._exit(0)
        os.waitpid(parent, 0)
        for descriptor in descriptors:
            os.close(descriptor)


def _take(descriptors: list[int], targets: list[int]) -> None:
    """Give descriptors these numbers, with standard error where output goes, and close all others."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, max(targets) + 2) for fd in descriptors]
    for fd, target in zip(high, targets, strict=True):
        os.dup2(fd, target)
    os.dup2(1, 2)
    for low, following in itertools.pairwise(sorted({0, 1, 2, *targets, _MOST_OPEN})):
        os.closerange(low + 1, following)


def _become(
    orders: socket.socket,
    descriptors: list[int],
    command: list[str],
    env: dict[str, str],
    cwd: str,
    targets: list[int],
) -> None:
    """Run the host in this process, and end."""
    os.setsid()
    while os.getppid() != int(command[1]):
        time.sleep(0.0002)
    orders.send(b"%d" % os.getpid())
    _take(descriptors, [1, *targets])
    for number in _OF_TERMINALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv[:] = command
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(  # type: ignore[misc]  # noqa: SIM115
        2, "w", buffering=1, errors="backslashreplace", closefd=False
    )
    del sys.modules[command[0]]  # it is the program
    numpy_random: Any = sys.modules["numpy"].random
    numpy_random.seed()
    code: object = 0
    try:
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    for host in HOSTS:
        importlib.import_module(host)
    _serve(socket.socket(fileno=int(sys.argv[1])))
