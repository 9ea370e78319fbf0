"""Memory that the workers of one model share, by forks.

A host that has loaded the model forks others on order: pages that none of them writes to lie in memory once.
That is done only where it is safe (:func:`obstacle_to_forking`): a fork has one thread, and open files must
not be shared. This is the part in the host's process; the orders come from
:mod:`salver.dialects.torchserve.engine.fork_server`.
"""

import ctypes
import fcntl
import gc
import importlib
import os
import random
import signal
import socket
import stat
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from salver.kernel.engine.control import Fork, ForkResult, Frames, Load, Reap, frame, read_order

_PR_SET_PDEATHSIG = 1
_MOST_FDS = 8
#: Devices of which all may have the same.
_DEVICES = frozenset({"/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"})


class ForkEnds(NamedTuple):
    """Descriptors of a forked host: control channel and arenas."""

    control: int
    requests: int
    responses: int


class Baseline:
    """State of a host before it loaded its model: descriptors, modules and random seeds."""

    def __init__(self) -> None:
        self.fds = _fds()
        self.modules = set(sys.modules)
        self.seeded: set[str] = set()
        self._real: dict[str, Callable[..., None]] = {"random": random.seed}
        random.seed = self._seen("random", random.seed)
        numpy_random: Any = sys.modules["numpy"].random
        self._real["numpy"] = numpy_random.seed
        numpy_random.seed = self._seen("numpy", numpy_random.seed)

    def _seen(self, what: str, seed: Callable[..., None]) -> Callable[..., None]:
        def wrapped(*args: Any, **kwargs: Any) -> None:
            self.seeded.add(what)
            seed(*args, **kwargs)

        return wrapped

    def end(self) -> None:
        """Stop watching for seeds: the model has been loaded."""
        random.seed = self._real["random"]
        numpy_random: Any = sys.modules["numpy"].random
        numpy_random.seed = self._real["numpy"]


def obstacle_to_forking(before: Baseline) -> str:
    """Return why a process with this model must not fork; empty = it may."""
    if (threads := len(list(Path("/proc/self/task").iterdir()))) > 1:
        return f"it has {threads} threads"
    for fd in sorted(_fds() - before.fds):
        if why := _obstacle_of(fd):
            return why
    torch: Any = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is not None and cuda.is_initialized():
        return "it uses CUDA"
    return ""


def imported_modules(before: Baseline, but: Path) -> tuple[str, ...]:
    """Return the installed modules that the model has imported, without those in its own folder."""
    found = []
    for name, module in [(name, sys.modules[name]) for name in sorted(set(sys.modules) - before.modules)]:
        file = getattr(module, "__file__", None)
        if "." not in name and file and "-packages" in file and not Path(file).is_relative_to(but):
            found.append(name)
    return tuple(found)


def import_all(names: Iterable[str]) -> None:
    """Import modules; those that raise are skipped."""
    for name in names:
        with suppress(Exception):
            importlib.import_module(name)


def _obstacle_of(fd: int) -> str:
    try:
        mode = os.fstat(fd).st_mode
        where = str(Path(f"/proc/self/fd/{fd}").readlink())
        can_write = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
    except OSError:  # it is closed by now
        return ""
    if stat.S_ISCHR(mode) and where in _DEVICES:
        return ""
    if not stat.S_ISREG(mode):
        return f"it has {where} open"
    return f"it writes to {where}" if can_write else ""


def _fds() -> set[int]:
    return {fd for fd in [int(path.name) for path in Path("/proc/self/fd").iterdir()] if _is_open(fd)}


def _is_open(fd: int) -> bool:
    """Return False for the descriptor by which the others were listed."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def fork_on_order(sock: socket.socket, before: Baseline, load: Load) -> ForkEnds | None:
    """Fork on order until told to stop. Return None then; in a fork, return its descriptors."""
    gc.collect()
    gc.freeze()  # so that a collection in a fork does not write to all that is there
    frames = Frames()
    fds: list[int] = []  # descriptors may arrive before the order that they belong to is complete
    while True:
        data, more, _, _ = socket.recv_fds(sock, 1 << 14, _MOST_FDS)
        fds += more
        if not data:
            return None
        for order in map(read_order, frames.feed(data)):
            if isinstance(order, Reap):
                with suppress(ChildProcessError):
                    os.waitpid(order.pid, 0)
            elif isinstance(order, Fork):
                mine, fds = fds, []
                if (ends := _fork(sock, mine, before, load)) is not None:
                    return ends
            else:
                return None


def _fork(sock: socket.socket, fds: list[int], before: Baseline, load: Load) -> ForkEnds | None:
    sys.stdout.flush()
    sys.stderr.flush()
    parent, chance = os.getpid(), random.getstate()
    try:
        pid = os.fork()
    except OSError as error:
        for fd in fds:
            os.close(fd)
        sock.sendall(frame(ForkResult(-1, str(error))))
        return None
    if pid:
        with suppress(OSError):  # it has done so itself, or is gone
            os.setpgid(pid, pid)
        for fd in fds:
            os.close(fd)
        sock.sendall(frame(ForkResult(pid)))
        return None
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent died before prctl() took effect
        os._exit(0)
    control, requests, responses, output = fds
    sock.close()
    for standard in (1, 2):
        os.dup2(output, standard)
    os.close(output)
    if "random" in before.seeded:
        random.setstate(chance)  # a fork has seeded it anew
    _renew(_fds() - before.fds - {control, requests, responses}, before.seeded)
    restore_threads(load.variables, load.options.threads)
    return ForkEnds(control, requests, responses)


def _renew(fds: set[int], seeded: set[str]) -> None:
    """Renew what two workers must not share: positions in files, and random states that nobody seeded."""
    for fd in sorted(fds):
        _reopen(fd)
    if "numpy" not in seeded:
        sys.modules["numpy"].random.seed()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.initial_seed() >= 1 << 32:  # else somebody has chosen it
        torch.seed()


def _reopen(fd: int) -> None:
    """Reopen a file at its position, so that the position is this process's own."""
    with suppress(OSError):
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return
        at = os.lseek(fd, 0, os.SEEK_CUR)
        new = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        os.lseek(new, at, os.SEEK_SET)
        os.dup2(new, fd, inheritable=os.get_inheritable(fd))
        os.close(new)


def restore_threads(variables: Mapping[str, str], threads: int) -> None:
    """Allow a host that was loaded with one thread as many as it may have."""
    os.environ.update(variables)
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        omp = variables.get("OMP_NUM_THREADS", "")
        torch.set_num_threads(int(omp) if omp.isdecimal() and int(omp) else threads)


def exit_code_of(pid: int) -> int:
    """Return the exit status of a process not yet reaped, as ``subprocess`` has it; -9 = not known."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
        return os.waitstatus_to_exitcode(int(fields[-1]))
    except (OSError, ValueError, IndexError):
        return -signal.SIGKILL
