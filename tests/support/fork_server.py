"""Fork server, from which tests start ``salver`` without waiting for its imports.

What it starts is what the command would be: a process of its own with these arguments, this environment and
working directory, and real sockets. Tests of the command itself (``tests/cli``, the pages of the
documentation) start it anew.
"""

import contextlib
import functools
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from salver.testing.process import RunningProcess

COMMAND = Path(sys.executable).with_name("salver")
#: Variables that only Salver reads, when it runs; with other ones changed a process starts anew.
_READ_LATE = ("SALVER_", "SAGEMAKER_", "AIP_", "OTEL_", "AWS_", "PYTEST_")
_MESSAGE_BYTES = 1 << 17


def start(
    command: Sequence[str], *, stdout: IO[bytes], env: Mapping[str, str], cwd: Path | None = None, **more: Any
) -> RunningProcess:
    """Start a command as ``subprocess.Popen`` does, from the fork server where it may."""
    if command[0] != str(COMMAND) or not _is_alike(env, _server().env):
        return subprocess.Popen(command, stdout=stdout, env=env, cwd=cwd, **more)
    return _server().start(command, stdout, env, cwd)


def _is_alike(env: Mapping[str, str], base: Mapping[str, str]) -> bool:
    changed = {name for name, _ in env.items() ^ base.items()}
    return all(name.startswith(_READ_LATE) for name in changed)


class ForkedProcess:
    """A process that the fork server has started; the part of ``Popen`` that tests use."""

    def __init__(self, pid: int, status: int) -> None:
        self.pid = pid
        self.returncode: int | Any = None
        self._status: int | None = status
        self._lock = threading.Lock()

    def __del__(self) -> None:
        if self._status is not None:
            os.close(self._status)

    def poll(self) -> int | None:
        """Return the exit status; None = it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status; raises ``TimeoutExpired`` as ``Popen.wait`` does."""
        with self._lock:
            if self._status is not None:
                if not select.select([self._status], (), (), timeout)[0]:
                    raise subprocess.TimeoutExpired([str(COMMAND)], timeout or 0)
                told = os.read(self._status, 16)
                os.close(self._status)
                self._status = None
                assert told, "the fork server has ended"
                self.returncode = int(told)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)


@functools.cache
def _server() -> "ForkServer":
    return ForkServer()


class ForkServer:
    """The process that forks; it ends with this one."""

    def __init__(self) -> None:
        self.env = dict(os.environ)
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

    def start(
        self, command: Sequence[str], stdout: IO[bytes], env: Mapping[str, str], cwd: Path | None
    ) -> ForkedProcess:
        """Fork a process whose output goes to ``stdout``."""
        order = json.dumps([list(command), dict(env), str(cwd or Path.cwd())]).encode()
        read, write = os.pipe()
        try:
            with self._lock:
                socket.send_fds(self._control, [order], [stdout.fileno(), write])
                pid = self._control.recv(16)
        finally:
            os.close(write)
        return ForkedProcess(int(pid), read)


def _main(control: socket.socket) -> None:
    """Fork a process for each order, and tell how each has ended."""
    sys.path[0] = str(COMMAND.parent)  # as the command has it, not the folder of this file
    _import()
    gc.collect()
    gc.freeze()
    poll = select.poll()
    poll.register(control, select.POLLIN)
    running: dict[int, tuple[int, int]] = {}
    while True:
        for ready, _ in poll.poll():
            if ready in running:
                poll.unregister(ready)
                pid, status = running.pop(ready)
                os.close(ready)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with contextlib.suppress(BrokenPipeError):  # nobody asks any more
                    os.write(status, b"%d" % code)
                os.close(status)
                continue
            order, fds, _, _ = socket.recv_fds(control, _MESSAGE_BYTES, 2)
            if not order:
                return
            output, status = fds
            if not (pid := os.fork()):
                for descriptor in (*running, *(status for _, status in running.values()), status):
                    os.close(descriptor)
                control.close()
                _become(*json.loads(order), output)
            os.close(output)
            running[process := os.pidfd_open(pid)] = pid, status
            poll.register(process, select.POLLIN)
            control.send(b"%d" % pid)


def _import() -> None:
    """Import what a server with default options imports."""
    from salver.configuration import ServeConfig
    from salver.feature import discover

    for name in ("salver.cli.banner", "salver.cli.start", "salver.running", "uvloop"):
        importlib.import_module(name)
    for feature in discover():
        table = ServeConfig().table(feature.name, feature.config) if feature.config else None
        if feature.build and feature.is_used(table):
            importlib.import_module(feature.build.partition(":")[0])


def _become(command: list[str], env: dict[str, str], cwd: str, output: int) -> None:
    """Run the command line in this process, and end."""
    from salver.cli import main

    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv[:] = command
    sys.exit(main())


if __name__ == "__main__":
    _main(socket.socket(fileno=int(sys.argv[1])))
