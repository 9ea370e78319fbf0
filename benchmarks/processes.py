"""How is a server started, waited for, measured and stopped?

A server is a whole process tree: its CPU time is the tree's, and stopping it ends the tree by
process id. Linux only (``/proc``).
"""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Launch:
    """A command line, with what it adds to the environment."""

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None


class Unready(Exception):
    """The server ended, or did not answer in time; the message carries the end of its log."""


def free_port(span: int = 1) -> int:
    """A port that was free a moment ago, with ``span - 1`` more behind it."""
    for _ in range(100):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port + span < 65536 and all(_is_free(port + i) for i in range(span)):
            return port
    raise RuntimeError("no free port found")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@dataclass
class Server:
    """A running server and everything that it started."""

    process: subprocess.Popen[bytes]
    log: Path

    def tree(self) -> list[int]:
        """Process ids, parents first."""
        children: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError, IndexError):
                    parent = int(_stat(int(entry.name))[1])
                    children.setdefault(parent, []).append(int(entry.name))
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop(0)
            found.append(pid)
            todo += children.get(pid, [])
        return found

    def cpu_seconds(self) -> float:
        """User and system time of the tree so far, ended children that were waited for included."""
        total = 0
        for pid in self.tree():
            with contextlib.suppress(OSError, IndexError):
                total += sum(int(ticks) for ticks in _stat(pid)[11:15])
        return total / _TICK

    def tail(self, lines: int = 12) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """SIGTERM to the first process, then SIGKILL to whatever of its tree is left."""
        tree = self.tree()
        _signal(tree[:1], signal.SIGTERM)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and self.process.poll() is None:
            time.sleep(0.05)
        _signal(reversed([pid for pid in tree if _is_alive(pid)]), signal.SIGKILL)
        self.process.wait()


def _stat(pid: int) -> list[str]:
    """Fields of ``/proc/PID/stat`` from the state on (the name before it may hold spaces)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _is_alive(pid: int) -> bool:
    try:
        return _stat(pid)[0] != "Z"
    except OSError:
        return False


def _signal(pids: "Iterator[int] | Sequence[int]", number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@contextlib.contextmanager
def running(
    launch: Launch, log: Path, is_ready: Callable[[], bool], seconds: float = 60, look_every: float = 0.1
) -> Iterator[Server]:
    """The server, from the moment that it answers until the block ends.

    Raises:
        Unready: it ended, or did not answer within ``seconds``.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as sink:
        process = subprocess.Popen(
            list(launch.argv),
            env={**_environment(), **launch.env},
            cwd=launch.cwd or log.parent,
            stdout=sink,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    server = Server(process, log)
    try:
        deadline = time.monotonic() + seconds
        while not is_ready():
            if process.poll() is not None:
                raise Unready(f"the server ended with {process.returncode}:\n{server.tail()}")
            if time.monotonic() > deadline:
                raise Unready(f"no right answer within {seconds:g} s:\n{server.tail()}")
            time.sleep(look_every)
        yield server
    finally:
        server.stop()


def _environment() -> dict[str, str]:
    """Ours, with every numeric library on one thread and nothing of our own virtual environment."""
    kept = {k: v for k, v in os.environ.items() if k not in {"VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME"}}
    return {**kept, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
